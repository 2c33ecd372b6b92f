/** Places at which capture stopped and Python went on by itself, as rows of the graph that was captured until then. */

import type { TextColumn } from "../packed";
import type { Columns } from "./data";

export interface Break {
  readonly reason: string;
  readonly file: string;
  readonly line: number;
  /** The row of the last operation before it; -1 where there is none. */
  readonly after: number;
}

const MAX_BREAKS = 32;
const MAX_REASON = 300;
/** What a break's row has for an operation. */
const OPERATION = "graph break";

/** Breaks as `views/_breaks.py` writes them; what is none is left out. */
export function breaksOf(meta: ReadonlyMap<string, unknown>, rows: number): Break[] {
  const given = meta.get("breaks");
  if (!Array.isArray(given)) return [];
  const found: Break[] = [];
  for (const one of given.slice(0, MAX_BREAKS) as unknown[]) {
    if (typeof one !== "object" || one === null) continue;
    const { reason, file, line, after } = one as Record<string, unknown>;
    if (typeof reason !== "string") continue;
    const inside = typeof after === "number" && Number.isInteger(after) && after >= 0 && after < rows;
    found.push({
      reason: reason.slice(0, MAX_REASON).toWellFormed(),
      file: typeof file === "string" ? file.slice(0, MAX_REASON).toWellFormed() : "",
      line: typeof line === "number" && Number.isInteger(line) && line > 0 ? line : 0,
      after: inside ? after : -1,
    });
  }
  return found;
}

/** The columns with a row at their end for each break; it reads what stands before it. */
export function withBreaks(columns: Columns, breaks: readonly Break[]): Columns {
  if (breaks.length === 0) return columns;
  const { rows, inputs } = columns;
  const longer = (column: TextColumn, word: (one: Break) => string): TextColumn => {
    const codes = new Uint32Array(rows + breaks.length);
    codes.set(column.codes);
    breaks.forEach((_, number) => (codes[rows + number] = column.words.length + number));
    return { words: [...column.words, ...breaks.map(word)], codes };
  };
  const none = (): string => "";
  const starts = new Uint32Array(rows + 1 + breaks.length);
  starts.set(inputs.starts);
  const reads = breaks.filter((one) => one.after >= 0).map((one) => one.after);
  breaks.forEach((one, number) => {
    starts[rows + 1 + number] = (starts[rows + number] ?? 0) + (one.after >= 0 ? 1 : 0);
  });
  const values = new Int32Array(inputs.values.length + reads.length);
  values.set(inputs.values);
  values.set(reads, inputs.values.length);
  const line = new Float64Array(rows + breaks.length);
  line.set(columns.line);
  line.set(
    breaks.map((one) => one.line),
    rows,
  );
  return {
    rows: rows + breaks.length,
    name: [...columns.name, ...breaks.map((one) => one.reason)],
    op: longer(columns.op, () => OPERATION),
    module: longer(columns.module, none),
    shape: longer(columns.shape, none),
    dtype: longer(columns.dtype, none),
    file: longer(columns.file, (one) => one.file),
    line,
    mark: columns.mark === null ? null : longer(columns.mark, none),
    inputs: { starts, values },
  };
}
