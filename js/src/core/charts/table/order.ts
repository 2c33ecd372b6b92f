/** Rows in the order of a column. */

import type { Column } from "../columns";

export type Direction = "ascending" | "descending";

/** Rows sorted by a column: stable, numbers by size, text as it is read, what is missing last in both directions. */
export function sorted(rows: Uint32Array, column: Column, direction: Direction): Uint32Array {
  const keys = column.kind === "number" ? column.values : textRanks(column.words, column.codes);
  const sign = direction === "ascending" ? 1 : -1;
  const present = rows.filter((row) => !Number.isNaN(keys[row] ?? NaN));
  const missing = rows.filter((row) => Number.isNaN(keys[row] ?? NaN));
  present.sort((a, b) => {
    const [left, right] = [keys[a] ?? 0, keys[b] ?? 0];
    return left < right ? -sign : left > right ? sign : 0;
  });
  const whole = new Uint32Array(rows.length);
  whole.set(present);
  whole.set(missing, present.length);
  return whole;
}

const COLLATOR = new Intl.Collator("en", { numeric: true });
/** Words up to this length are compared as they are read; nobody reads the rest of longer ones. */
const COMPARED = 200;

/** A number for each row by which its word comes before others; NaN where there is none. */
function textRanks(words: readonly string[], codes: Uint32Array): Float64Array {
  const cut = words.map((word) => word.slice(0, COMPARED));
  const order = cut.map((_, code) => code).sort((a, b) => COLLATOR.compare(cut[a] ?? "", cut[b] ?? ""));
  const ranks = new Float64Array(words.length);
  let rank = 0;
  order.forEach((code, at) => {
    const before = order[at - 1];
    if (before !== undefined && COLLATOR.compare(cut[before] ?? "", cut[code] ?? "") !== 0) rank++;
    ranks[code] = words[code] === "" ? NaN : rank;
  });
  return Float64Array.from(codes, (code) => ranks[code] ?? NaN);
}

/** The best value of a column that says which way is better; NaN where none is. */
export function bestOf(column: Column): number {
  if (column.kind !== "number" || column.better === undefined) return NaN;
  let best = NaN;
  for (const value of column.values) {
    if (Number.isNaN(value)) continue;
    if (Number.isNaN(best) || (column.better === "lower" ? value < best : value > best)) best = value;
  }
  return best;
}
