/** A captured graph, operation by operation, as `GraphNode` of `base/events.py` has it. */

import { clip } from "../clip";
import { MalformedData, type RaggedColumn, type Table, type TextColumn } from "../packed";
import { type Break, breaksOf, withBreaks } from "./breaks";
import { type Overlay, overlaysOf } from "./overlays";

/** What became of an operation when the graph was rewritten; `""` where nothing did. */
export type Mark = "" | "added" | "changed" | "fused" | "removed";
export const MARKS = ["added", "changed", "fused", "removed"] as const;

/** Several times what anybody has captured; every operation becomes an item of the tree. */
const MAX_OPERATIONS = 250_000;
const MAX_WIRES = 2_000_000;

/** The facts of every operation, in the order in which they run. */
export interface Columns {
  readonly rows: number;
  readonly name: readonly string[];
  readonly op: TextColumn;
  /** Module paths with dots between their levels. */
  readonly module: TextColumn;
  /** Sizes with commas between them. */
  readonly shape: TextColumn;
  readonly dtype: TextColumn;
  readonly file: TextColumn;
  readonly line: Float64Array;
  readonly mark: TextColumn | null;
  readonly inputs: RaggedColumn;
}

/** The columns as a table holds them; throws `MalformedData` where one is missing or is another. */
export function columnsOf(table: Table): Columns {
  if (table.rows > MAX_OPERATIONS)
    throw new MalformedData(`the graph has more than ${MAX_OPERATIONS} operations`);
  const text = (name: string): TextColumn => {
    const { words, codes } = table.text(name);
    return { words: words.map((word) => clip(word)), codes };
  };
  return {
    rows: table.rows,
    name: table.names("name"),
    op: text("op"),
    module: text("module"),
    shape: text("shape"),
    dtype: text("dtype"),
    file: text("file"),
    line: table.integers("line"),
    mark: table.has("mark") ? text("mark") : null,
    inputs: table.references("inputs", MAX_WIRES),
  };
}

/** The graph that a table holds, with what was measured and where capture stopped. */
export function graphOf(table: Table, columns = columnsOf(table)): GraphData {
  return new GraphData(columns, overlaysOf(table), breaksOf(table.meta, table.rows));
}

/** The operations in the order in which they run, after them the places at which capture stopped. */
export class GraphData {
  readonly #columns: Columns;
  /** Rows of operations; those of breaks come after them. */
  readonly #captured: number;
  readonly hasMarks: boolean;

  constructor(
    columns: Columns,
    readonly overlays: readonly Overlay[] = [],
    readonly breaks: readonly Break[] = [],
  ) {
    this.#captured = columns.rows;
    this.#columns = withBreaks(columns, breaks);
    this.hasMarks = columns.mark?.words.some((word) => word !== "") ?? false;
  }

  get rows(): number {
    return this.#columns.rows;
  }

  get inputs(): RaggedColumn {
    return this.#columns.inputs;
  }

  name(row: number): string {
    return clip(this.#columns.name[row] ?? "");
  }

  op(row: number): string {
    return wordAt(this.#columns.op, row);
  }

  /** Module path with dots between its levels. */
  module(row: number): string {
    return wordAt(this.#columns.module, row);
  }

  /** Number of the module's path among all of them. */
  moduleCode(row: number): number {
    return this.#columns.module.codes[row] ?? 0;
  }

  get modules(): readonly string[] {
    return this.#columns.module.words;
  }

  /** Sizes with commas between them. */
  shape(row: number): string {
    return wordAt(this.#columns.shape, row);
  }

  dtype(row: number): string {
    return wordAt(this.#columns.dtype, row);
  }

  file(row: number): string {
    return wordAt(this.#columns.file, row);
  }

  line(row: number): number {
    return this.#columns.line[row] ?? 0;
  }

  /** `cell.py:3`, or empty where it is not known. */
  place(row: number): string {
    return placeInWords(this.file(row), this.line(row));
  }

  mark(row: number): Mark {
    const { mark: column } = this.#columns;
    const mark = column === null ? "" : wordAt(column, row);
    return MARKS.find((one) => one === mark) ?? "";
  }

  /** The break that a row stands for; null for operations. */
  breakAt(row: number): Break | null {
    return this.breaks[row - this.#captured] ?? null;
  }

  /** The row that stands for a break. */
  rowOfBreak(number: number): number {
    return this.#captured + number;
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
    const { starts, values } = this.#columns.inputs;
    const end = starts[row + 1] ?? 0;
    for (let at = starts[row] ?? 0; at < end; at++) yield values[at] ?? 0;
  }
}

/** A row's word; empty where the column has no such row. */
export function wordAt(column: TextColumn, row: number): string {
  const code = column.codes[row];
  return code === undefined ? "" : (column.words[code] ?? "");
}

/** `cell.py:3`, the file alone where the line is not known, nothing where neither is. */
export function placeInWords(file: string, line: number): string {
  return file === "" ? "" : line > 0 ? `${file}:${line}` : file;
}

/** Bytes of one element of a dtype by the digits in its name. */
export function bytesOf(dtype: string): number {
  if (dtype === "bool") return 1;
  const bits = /(\d+)/.exec(dtype)?.[1];
  return bits === undefined ? 0 : Math.max(1, Number(bits) / 8);
}
