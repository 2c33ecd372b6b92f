/** Rows as text for other programs: CSV by RFC 4180, and TSV for a clipboard. */

import type { Column } from "../columns";
import { exact } from "../numbers";

/** Spreadsheets take text that begins so for a formula, and run it. */
const FORMULA = /^[\s\0]*[=+\-@\uff1d\uff0b\uff0d\uff20]|^[\t\r\n]/;

/** Text that no spreadsheet runs. */
export function harmless(text: string): string {
  return FORMULA.test(text) ? `'${text}` : text;
}

/** A cell's whole value: numbers with all their digits, nothing where it is missing. */
function value(column: Column, row: number): string {
  if (column.kind === "text") return harmless(column.words[column.codes[row] ?? 0] ?? "");
  const number = column.values[row] ?? NaN;
  return Number.isNaN(number) ? "" : exact(number, column.values instanceof Float32Array);
}

/** A field of a CSV file: in quotes where it holds what separates fields. */
export function field(text: string): string {
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

export function csv(columns: readonly Column[], rows: Iterable<number>): string {
  const lines = [columns.map((column) => field(harmless(column.label))).join(",")];
  for (const row of rows) lines.push(columns.map((column) => field(value(column, row))).join(","));
  return lines.map((line) => `${line}\r\n`).join("");
}

export function tsv(columns: readonly Column[], rows: Iterable<number>): string {
  const plain = (text: string): string => text.replace(/[\t\r\n]+/g, " ");
  const lines = [columns.map((column) => plain(harmless(column.label))).join("\t")];
  for (const row of rows) lines.push(columns.map((column) => plain(value(column, row))).join("\t"));
  return lines.join("\n");
}
