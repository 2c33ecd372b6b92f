/** A captured graph, operation by operation, as `GraphNode` of `base/events.py` has it. */

import type { RaggedColumn, Table, TextColumn } from "../packed";

/** What became of an operation when the graph was rewritten; `""` where nothing did. */
export type Mark = "" | "added" | "changed" | "fused" | "removed";
export const MARKS: readonly Mark[] = ["added", "changed", "fused", "removed"];

/** The operations in the order in which they run. */
export class GraphData {
  readonly #name: readonly string[];
  readonly #op: TextColumn;
  readonly #module: TextColumn;
  readonly #shape: TextColumn;
  readonly #dtype: TextColumn;
  readonly #file: TextColumn;
  readonly #line: Float64Array;
  readonly #mark: TextColumn | undefined;
  readonly inputs: RaggedColumn;
  readonly rows: number;

  constructor(table: Table) {
    this.rows = table.rows;
    this.#name = table.names("name");
    this.#op = table.text("op");
    this.#module = table.text("module");
    this.#shape = table.text("shape");
    this.#dtype = table.text("dtype");
    this.#file = table.text("file");
    this.#line = table.integers("line");
    this.#mark = table.has("mark") ? table.text("mark") : undefined;
    this.inputs = table.references("inputs");
  }

  name(row: number): string {
    return this.#name[row] ?? "";
  }

  op(row: number): string {
    return wordAt(this.#op, row);
  }

  /** Module path with dots between its levels. */
  module(row: number): string {
    return wordAt(this.#module, row);
  }

  /** Number of the module's path among all of them. */
  moduleCode(row: number): number {
    return this.#module.codes[row] ?? 0;
  }

  get modules(): readonly string[] {
    return this.#module.words;
  }

  /** Sizes with commas between them. */
  shape(row: number): string {
    return wordAt(this.#shape, row);
  }

  dtype(row: number): string {
    return wordAt(this.#dtype, row);
  }

  /** `cell.py:3`, or empty where it is not known. */
  place(row: number): string {
    const file = wordAt(this.#file, row);
    return file === "" ? "" : `${file}:${this.#line[row] ?? 0}`;
  }

  mark(row: number): Mark {
    const mark = this.#mark === undefined ? "" : wordAt(this.#mark, row);
    return MARKS.find((one) => one === mark) ?? "";
  }

  get hasMarks(): boolean {
    return this.#mark !== undefined && this.#mark.words.some((word) => word !== "");
  }

  /** What the operation's words and wiring look like, whatever it and its module are called. */
  signature(row: number): string {
    return `${this.op(row)}|${this.shape(row)}|${this.dtype(row)}|${this.mark(row)}`;
  }

  /** Elements of the operation's result. */
  elements(row: number): number {
    const shape = this.shape(row);
    return shape === "" ? 1 : shape.split(",").reduce((product, size) => product * (Number(size) || 1), 1);
  }

  /** Bytes of the operation's result. */
  bytes(row: number): number {
    return this.elements(row) * bytesOf(this.dtype(row));
  }

  *inputsOf(row: number): IterableIterator<number> {
    const end = this.inputs.starts[row + 1] ?? 0;
    for (let at = this.inputs.starts[row] ?? 0; at < end; at++) yield this.inputs.values[at] ?? 0;
  }
}

function wordAt(column: TextColumn, row: number): string {
  return column.words[column.codes[row] ?? 0] ?? "";
}

/** Bytes of one element of a dtype by the digits in its name. */
export function bytesOf(dtype: string): number {
  if (dtype === "bool") return 1;
  const bits = /(\d+)/.exec(dtype)?.[1];
  return bits === undefined ? 0 : Math.max(1, Number(bits) / 8);
}
