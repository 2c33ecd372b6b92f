/** The columns of any packed table, with what its `meta` says of them: checked, and each by one and the same face. */

import { clip } from "../clip";
import { MalformedData, type Table } from "../packed";
import { said } from "./numbers";

export type Better = "lower" | "higher";

/** What the table says of a column, beside its values. */
interface Role {
  /** The column's name with its unit. */
  readonly label: string;
  readonly better: Better | undefined;
  /** Whether cells show a bar. */
  readonly bar: boolean;
}

export interface NumberColumn extends Role {
  readonly kind: "number";
  readonly name: string;
  readonly values: Float64Array | Float32Array;
}

export interface WordColumn extends Role {
  readonly kind: "text";
  readonly name: string;
  readonly words: readonly string[];
  readonly codes: Uint32Array;
}

export type Column = NumberColumn | WordColumn;

/** Every column that holds one number or one text a row. */
export function columnsOf(table: Table): Column[] {
  const roles = entries(table.meta.get("columns"));
  const found: Column[] = [];
  for (const name of table.columns) {
    const role = entries(roles.get(name));
    const unit = textOf(role.get("unit"));
    const better = role.get("better");
    const shared = {
      name,
      label: `${clip(name)}${unit === "" ? "" : ` (${unit})`}`,
      better: better === "lower" || better === "higher" ? better : undefined,
      bar: role.get("bar") === true,
    } as const;
    if (table.isNumber(name)) {
      found.push({ kind: "number", ...shared, values: shifted(table.numbers(name), role.get("offset")) });
    } else if (table.isText(name)) {
      const { words, codes } = table.words(name);
      found.push({ kind: "text", ...shared, words: words.map((word) => word.toWellFormed()), codes });
    }
  }
  return found;
}

/** Single precision holds seven digits: what is far from zero travels as its distance to a number. */
function shifted(values: Float64Array | Float32Array, offset: unknown): Float64Array | Float32Array {
  if (typeof offset !== "number" || !Number.isFinite(offset) || offset === 0) return values;
  return Float64Array.from(values, (value) => value + offset);
}

export function numberColumns(columns: readonly Column[]): NumberColumn[] {
  return columns.filter((column) => column.kind === "number");
}

/** The whole text of a cell; nothing where the value is missing. */
export function textAt(column: Column, row: number): string {
  if (column.kind === "number") return said(column.values[row] ?? NaN);
  return column.words[column.codes[row] ?? 0] ?? "";
}

export function isMissing(column: Column, row: number): boolean {
  if (column.kind === "number") return Number.isNaN(column.values[row] ?? NaN);
  return (column.words[column.codes[row] ?? 0] ?? "") === "";
}

/** What is an object in JSON, by key; nothing where it is none. */
export function entries(value: unknown): ReadonlyMap<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value)
    ? new Map(Object.entries(value))
    : new Map();
}

/** A short text, whatever was found. */
export function textOf(value: unknown): string {
  return typeof value === "string" ? clip(value) : "";
}

/** A list of labels that must have a length. */
export function labelsOf(value: unknown, length: number, what: string): readonly string[] {
  if (value === undefined || value === null) return Array.from({ length }, (_, at) => String(at));
  if (!Array.isArray(value) || value.length !== length || !value.every((one) => typeof one === "string")) {
    throw new MalformedData(`there is not one label for each of the ${what}`);
  }
  return value.map((one: string) => clip(one));
}

/** What was left out so that a notebook stays small: how many of how many are here, and how they were chosen. */
export interface Cut {
  readonly shown: number;
  readonly total: number;
  readonly how: string;
}

export function cutOf(table: Table): Cut | undefined {
  const cut = entries(table.meta.get("cut"));
  const [shown, total, how] = [cut.get("shown"), cut.get("total"), cut.get("how")];
  if (typeof shown !== "number" || typeof total !== "number") return undefined;
  return { shown, total, how: textOf(how) };
}
