/**
 * The graph as it runs, which travels in `meta.after` as a table of what differs from the captured one, and the ways
 * from one to the other. `views/_after.py` writes it.
 *
 * A row that has the name of a captured operation is that one but for the words that are its own.
 */

import { MalformedData, MAX_ROWS, type RaggedColumn, type Table, type TextColumn, unpack } from "../packed";
import { type Columns, columnsOf, GraphData } from "./data";
import { overlaysOf } from "./overlays";
import type { Tree } from "./tree";

/** The graph as it runs, and what each captured operation became. */
export interface After {
  readonly data: GraphData;
  /** For each captured row the row that computes it now; -1 where none does. */
  readonly becomes: Int32Array;
}

/** The graph as it runs; null where the table holds none. */
export async function afterOf(table: Table, before: Columns = columnsOf(table)): Promise<After | null> {
  const packed = table.meta.get("after");
  if (packed === undefined) return null;
  if (typeof packed !== "string") throw unreadable();
  const own = await unpack(packed);
  const same = counterparts(own.integers("same"), before.rows);
  const becomes = counterparts(table.integers("becomes"), own.rows);
  const names = own.names("name");
  const line = own.integers("line");
  const patched = (name: "op" | "module" | "shape" | "dtype" | "file"): TextColumn =>
    patch(own.text(name), before[name], same);
  const columns: Columns = {
    rows: own.rows,
    name: names.map((name, row) => (isSame(same, row) ? (before.name[same[row] ?? 0] ?? "") : name)),
    op: patched("op"),
    module: patched("module"),
    shape: patched("shape"),
    dtype: patched("dtype"),
    file: patched("file"),
    line: line.map((value, row) => value + (isSame(same, row) ? (before.line[same[row] ?? 0] ?? 0) : 0)),
    mark: own.has("mark") ? own.text("mark") : null,
    inputs: rewired(own.references("inputs"), own.integers("rewired"), before.inputs, same, before.rows),
  };
  return { data: new GraphData(columns, overlaysOf(own)), becomes };
}

function unreadable(): MalformedData {
  return new MalformedData("the graph as it runs does not fit to the captured one");
}

function isSame(same: Int32Array, row: number): boolean {
  return (same[row] ?? -1) >= 0;
}

/** Rows that are written as one more, for 0 is none. */
function counterparts(values: Float64Array, rows: number): Int32Array {
  if (values.some((value) => !(value >= 0 && value <= rows))) {
    throw unreadable();
  }
  return Int32Array.from(values, (value) => value - 1);
}

/** The captured words, but where a row has one of its own: that begins with a plus. */
function patch(own: TextColumn, before: TextColumn, same: Int32Array): TextColumn {
  const none = before.words.length + own.words.length;
  const words = [...before.words, ...own.words.map((word) => word.slice(1)), ""];
  const codes = Uint32Array.from(own.codes, (code, row) => {
    if (own.words[code] !== "") return before.words.length + code;
    return isSame(same, row) ? (before.codes[same[row] ?? 0] ?? 0) : none;
  });
  if (own.words.some((word) => word !== "" && !word.startsWith("+"))) {
    throw unreadable();
  }
  return { words, codes };
}

/** What each row reads: its own list where it was wired anew, else what its counterpart reads, as it runs. */
function rewired(
  own: RaggedColumn,
  anew: Float64Array,
  before: RaggedColumn,
  same: Int32Array,
  rows: number,
): RaggedColumn {
  const now = new Int32Array(rows).fill(-1);
  for (let row = same.length - 1; row >= 0; row--) if (isSame(same, row)) now[same[row] ?? 0] = row;
  const starts = new Uint32Array(same.length + 1);
  const values: number[] = [];
  for (let row = 0; row < same.length; row++) {
    const copied = anew[row] === 0 && isSame(same, row);
    const [from, at] = copied ? [before, same[row] ?? 0] : [own, row];
    for (let place = from.starts[at] ?? 0; place < (from.starts[at + 1] ?? 0); place++) {
      const read = from.values[place] ?? 0;
      const value = copied ? (now[read] ?? -1) : read;
      if (value < 0) throw unreadable();
      values.push(value);
    }
    if (values.length > 4 * MAX_ROWS) throw unreadable();
    starts[row + 1] = values.length;
  }
  return { starts, values: Int32Array.from(values) };
}

/** From the items of one graph to those of the other. */
export class Pairing {
  readonly #forth: readonly (readonly number[])[];
  readonly #back: readonly (readonly number[])[];

  constructor(
    readonly before: Tree,
    readonly after: Tree,
    becomes: Int32Array,
  ) {
    const forth: number[][] = [];
    const back: number[][] = [];
    becomes.forEach((now, row) => {
      if (now < 0) return;
      (forth[row] ??= []).push(now);
      (back[now] ??= []).push(row);
    });
    this.#forth = forth;
    this.#back = back;
  }

  /** Items of the other side that an item of side 0 became, or that one of side 1 stands for; a module is one by its path. */
  across(side: number, item: number): number[] {
    const [own, other, rows] =
      side === 0 ? [this.before, this.after, this.#forth] : [this.after, this.before, this.#back];
    const row = own.row[item] ?? -1;
    if (row < 0) {
      const found = other.groupAt(own.path[item] ?? "");
      return found > 0 ? [found] : [];
    }
    return [...new Set((rows[row] ?? []).map((one) => other.itemOf[one] ?? -1))].filter((one) => one > 0);
  }
}
