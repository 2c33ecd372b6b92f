/** What was measured of the operations beside what they are: further columns, and in `meta.overlays` what they mean. */

import { clip } from "../clip";
import type { Table, TextColumn } from "../packed";
import type { Tree } from "./tree";

interface Meaning {
  /** The column. */
  readonly name: string;
  readonly label: string;
}

/** A number of each operation; NaN where it was not measured. */
export interface NumberOverlay extends Meaning {
  readonly kind: "number";
  /** `us`, `FLOP`, `bytes`, or whatever else is written behind the number. */
  readonly unit: string;
  /** Whether several operations have the sum of their numbers, else the largest of them. */
  readonly sum: boolean;
  readonly values: Float64Array | Float32Array;
}

/** A category of each operation; empty where none was found. */
export interface TextOverlay extends Meaning {
  readonly kind: "text";
  readonly column: TextColumn;
}

export type Overlay = NumberOverlay | TextOverlay;

const MAX_OVERLAYS = 32;
const MAX_LABEL = 60;

/** What a table has; records of columns that are not there, or are of another kind, are left out. */
export function overlaysOf(table: Table): Overlay[] {
  const given = table.meta.get("overlays");
  if (!Array.isArray(given)) return [];
  const found: Overlay[] = [];
  for (const one of given.slice(0, MAX_OVERLAYS) as unknown[]) {
    if (typeof one !== "object" || one === null) continue;
    const { name, label, unit, kind, sum } = one as Record<string, unknown>;
    if (typeof name !== "string" || found.some((other) => other.name === name)) continue;
    const meaning = { name, label: short(label) || short(name) };
    if (kind === "number" && table.isNumber(name)) {
      const values = table.numbers(name);
      found.push({ ...meaning, kind, unit: short(unit), sum: sum === true, values });
    } else if (kind === "text" && table.isText(name)) {
      const { words, codes } = table.words(name);
      found.push({ ...meaning, kind, column: { words: words.map((word) => clip(word)), codes } });
    }
  }
  return found;
}

/** For each item its number, and for a group that of what it holds together; NaN where nothing was measured. */
export function byItem(tree: Tree, overlay: NumberOverlay): Float64Array {
  const joined = overlay.sum
    ? (one: number, other: number): number => one + other
    : (one: number, other: number): number => Math.max(one, other);
  return folded(tree, (row) => finite(overlay.values[row]), joined);
}

/** For each item a number of its row, or those of the rows inside joined; NaN where there is none. */
export function folded(
  tree: Tree,
  value: (row: number) => number,
  join: (one: number, other: number) => number,
): Float64Array {
  const found = new Float64Array(tree.count).fill(NaN);
  const visit = (item: number): number => {
    const row = tree.row[item] ?? -1;
    let all = row >= 0 ? value(row) : NaN;
    for (const kid of tree.kids(item)) {
      const one = visit(kid);
      if (!Number.isNaN(one)) all = Number.isNaN(all) ? one : join(all, one);
    }
    return (found[item] = all);
  };
  visit(0);
  return found;
}

function finite(value: number | undefined): number {
  return value !== undefined && Number.isFinite(value) ? value : NaN;
}

function short(text: unknown): string {
  return typeof text === "string" ? text.slice(0, MAX_LABEL).toWellFormed() : "";
}
