/** Graphs for tests, packed and read back as a view gets them. */

import { deflateSync } from "node:zlib";
import { type GraphData, graphOf } from "../src/core/graph/data";
import { type Table, unpack } from "../src/core/packed";

export interface Operation {
  op: string;
  name?: string;
  module?: string;
  inputs?: number[];
  shape?: string;
  dtype?: string;
  mark?: string;
  file?: string;
  line?: number;
}

export function varints(values: Iterable<number>): number[] {
  const made: number[] = [];
  for (let value of values) {
    while (value >= 0x80) {
      made.push((value % 128) | 0x80);
      value = Math.floor(value / 128);
    }
    made.push(value);
  }
  return made;
}

export const zigzag = (value: number): number => (value >= 0 ? 2 * value : -2 * value - 1);

/** What a table holds beside the operations: its meta data, and further columns. */
export interface More {
  meta?: Record<string, unknown>;
  /** Single precision; NaN where there is none. */
  numbers?: Record<string, readonly number[]>;
  texts?: Record<string, readonly string[]>;
}

/** The operations as a packed table. */
export function packed(operations: readonly Operation[], more: More = {}): string {
  const columns: { name: string; type: string; bytes: number; words?: string[] }[] = [];
  const bodies: number[][] = [];
  const add = (name: string, type: string, body: number[], words?: string[]): void => {
    columns.push({ name, type, bytes: body.length, ...(words === undefined ? {} : { words }) });
    bodies.push(body);
  };
  const text = (name: string, values: string[]): void => {
    const numbers = new Map<string, number>();
    const codes = values.map((value) => {
      const code = numbers.get(value) ?? numbers.size;
      numbers.set(value, code);
      return code;
    });
    add(name, "text", varints(codes), [...numbers.keys()]);
  };
  const names = operations.map((one, row) => one.name ?? `${one.op}_${row}`);
  // Every name as a stem without a number.
  add("name", "numbered", [...varints(names.map((_, row) => row)), ...names.map(() => 0)], names);
  text(
    "op",
    operations.map((one) => one.op),
  );
  text(
    "module",
    operations.map((one) => one.module ?? ""),
  );
  text(
    "shape",
    operations.map((one) => one.shape ?? "2,3"),
  );
  text(
    "dtype",
    operations.map((one) => one.dtype ?? "float32"),
  );
  text(
    "file",
    operations.map((one) => one.file ?? ""),
  );
  add(
    "line",
    "int",
    varints(operations.map((one, row) => zigzag((one.line ?? 0) - (operations[row - 1]?.line ?? 0)))),
  );
  const inputs = operations.map((one) => one.inputs ?? []);
  add("inputs", "ragged", [
    ...varints(inputs.map((list) => list.length)),
    ...varints(inputs.flatMap((list, row) => list.map((input) => zigzag(row - input)))),
  ]);
  if (operations.some((one) => one.mark))
    text(
      "mark",
      operations.map((one) => one.mark ?? ""),
    );
  for (const [name, values] of Object.entries(more.numbers ?? {}))
    add(name, "float", [...new Uint8Array(Float32Array.from(values).buffer)]);
  for (const [name, values] of Object.entries(more.texts ?? {})) text(name, [...values]);
  const meta = more.meta ?? {};
  const header = Buffer.from(JSON.stringify({ schema: 1, rows: operations.length, columns, meta }));
  const length = Buffer.alloc(4);
  length.writeUInt32LE(header.length);
  return deflateSync(Buffer.concat([length, header, ...bodies.map((body) => Buffer.from(body))])).toString(
    "base64",
  );
}

export async function graph(operations: readonly Operation[], more: More = {}): Promise<GraphData> {
  const table: Table = await unpack(packed(operations, more));
  return graphOf(table);
}

/** A transformer as it is captured: blocks of attention and a perceptron, with module paths. */
export function transformer(blocks: number, prefix = "model"): Operation[] {
  const made: Operation[] = [{ op: "input", name: "ids" }];
  const add = (op: string, module: string, ...inputs: number[]): number => {
    made.push({ op, module: `${prefix}.${module}`, inputs });
    return made.length - 1;
  };
  const linear = (module: string, input: number): number => {
    made.push({ op: "parameter", module: "", name: `${module}.weight`, shape: "3,3" });
    return add("linear", module, input, made.length - 1);
  };
  let hidden = add("embedding", "embed", 0);
  for (let block = 0; block < blocks; block++) {
    const at = `layers.${block}`;
    const normed = add("layer_norm", `${at}.norm1`, hidden);
    const heads = ["q", "k", "v"].map((name) => linear(`${at}.attention.${name}`, normed));
    const mixed = add("scaled_dot_product_attention", `${at}.attention`, ...heads);
    const out = linear(`${at}.attention.out`, mixed);
    const first = add("add", at, hidden, out);
    const up = linear(`${at}.mlp.up`, add("layer_norm", `${at}.norm2`, first));
    const down = linear(`${at}.mlp.down`, add("gelu", `${at}.mlp`, up));
    hidden = add("add", at, first, down);
  }
  made.push({ op: "output", inputs: [add("layer_norm", "norm", hidden)] });
  return made;
}
