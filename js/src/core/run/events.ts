/** Events as they come from a file or a kernel: checked against the schema before anything believes them. */

import { type AnyEvent, type Shape, SHAPES } from "../../protocol";

const KINDS: ReadonlyMap<string, Readonly<Record<string, Shape>>> = new Map(Object.entries(SHAPES));

/** The event, or null where it is of a kind or a form that this version does not know. */
export function checkedEvent(value: unknown): AnyEvent | null {
  if (!isRecord(value) || typeof value["kind"] !== "string") return null;
  const shape = KINDS.get(value["kind"]);
  if (shape === undefined || !fits(value, ["record", shape])) return null;
  return value as unknown as AnyEvent;
}

function fits(value: unknown, shape: Shape): boolean {
  if (shape === "number") return typeof value === "number" || value === null; // null: not finite
  if (typeof shape === "string") return typeof value === shape;
  const [word, inner] = shape;
  switch (word) {
    case "optional":
      return value === null || fits(value, inner);
    case "list":
      return Array.isArray(value) && value.every((item) => fits(item, inner));
    case "tuple":
      return (
        Array.isArray(value) &&
        value.length === inner.length &&
        inner.every((one, place) => fits(value[place], one))
      );
    case "map":
      return isRecord(value) && Object.values(value).every((item) => fits(item, inner));
    case "record":
      return (
        isRecord(value) &&
        Object.entries(inner).every(([name, one]) => Object.hasOwn(value, name) && fits(value[name], one))
      );
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
