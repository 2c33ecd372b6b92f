/** Events as they come from a file or a kernel: checked against the schema before anything believes them. */

import { type AnyEvent, type Shape, SHAPES } from "../../protocol";
import { clip } from "../clip";

const KINDS: ReadonlyMap<string, Readonly<Record<string, Shape>>> = new Map(Object.entries(SHAPES));
/** Characters of one text; `views/_run.py` writes no more. */
const MAX_TEXT = 2_000;
/** Instead of a value that does not fit. */
const NOTHING = Symbol();

/**
 * The event, or null where it is of a kind or a form that this version does not know.
 *
 * It is a copy with what its kind has and nothing else: texts are clipped, and a number that is not finite is NaN.
 */
export function checkedEvent(value: unknown): AnyEvent | null {
  if (!isRecord(value) || typeof value["kind"] !== "string") return null;
  const shape = KINDS.get(value["kind"]);
  const read = shape === undefined ? NOTHING : fitting(value, ["record", shape]);
  return read === NOTHING ? null : ({ ...(read as object), kind: value["kind"] } as unknown as AnyEvent);
}

/** The value as far as it has the shape, or `NOTHING`. */
function fitting(value: unknown, shape: Shape): unknown {
  // JSON says null for what is not finite, and can say 1e999.
  if (shape === "number") {
    if (value === null) return NaN;
    return typeof value !== "number" ? NOTHING : Number.isFinite(value) ? value : NaN;
  }
  if (shape === "string") return typeof value === "string" ? clip(value, MAX_TEXT) : NOTHING;
  if (shape === "boolean") return typeof value === "boolean" ? value : NOTHING;
  const [word, inner] = shape;
  switch (word) {
    case "optional":
      return value === null ? null : fitting(value, inner);
    case "list":
      return Array.isArray(value) ? whole(value.map((item) => fitting(item, inner))) : NOTHING;
    case "tuple":
      return Array.isArray(value) && value.length === inner.length
        ? whole(inner.map((one, place) => fitting(value[place], one)))
        : NOTHING;
    case "map":
      return isRecord(value) ? entries(Object.entries(value), () => inner) : NOTHING;
    case "record":
      return isRecord(value)
        ? entries(
            Object.keys(inner).map((name) => [name, Object.hasOwn(value, name) ? value[name] : NOTHING]),
            (name) => inner[name],
          )
        : NOTHING;
  }
}

function whole(items: readonly unknown[]): unknown {
  return items.includes(NOTHING) ? NOTHING : items;
}

function entries(
  found: readonly (readonly [string, unknown])[],
  shape: (name: string) => Shape | undefined,
): unknown {
  const read = found.map(([name, value]) => {
    const one = shape(name);
    return [clip(name, MAX_TEXT), one === undefined ? NOTHING : fitting(value, one)] as const;
  });
  // From entries: a key that is called __proto__ is one like any other.
  return read.some(([, value]) => value === NOTHING) ? NOTHING : Object.fromEntries(read);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
