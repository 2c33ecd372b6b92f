/** Packed tables for tests, as the Python records write them and as nobody who is honest would. */

import { deflateSync } from "node:zlib";
import { type Table, unpack } from "../src/core/packed";

type Values = readonly number[] | Float32Array | readonly string[];

/** Columns by name: text as words, numbers in single precision. */
export function packedTable(
  columns: Readonly<Record<string, Values>>,
  meta: Readonly<Record<string, unknown>> = {},
): string {
  const heads: unknown[] = [];
  const bodies: Buffer[] = [];
  let rows = 0;
  for (const [name, values] of Object.entries(columns)) {
    rows = values.length;
    const text = values.length > 0 && typeof values[0] === "string";
    const body = text ? codesOf(values as readonly string[]) : floatsOf(values as readonly number[]);
    const words = text ? { words: [...new Set(values as readonly string[])] } : {};
    heads.push({ name, type: text ? "text" : "float", bytes: body.length, ...words });
    bodies.push(body);
  }
  return forged({ schema: 1, rows, columns: heads, meta }, ...bodies);
}

/** A table from a header and bodies, whatever they say. */
export function forged(header: unknown, ...bodies: Buffer[]): string {
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(4);
  length.writeUInt32LE(text.length);
  return deflateSync(Buffer.concat([length, text, ...bodies]), { level: 1 }).toString("base64");
}

export function floatsOf(values: ArrayLike<number>): Buffer {
  const made = Buffer.alloc(4 * values.length);
  for (let at = 0; at < values.length; at++) made.writeFloatLE(values[at] ?? NaN, 4 * at);
  return made;
}

function codesOf(values: readonly string[]): Buffer {
  const numbers = new Map([...new Set(values)].map((word, code) => [word, code]));
  const made: number[] = [];
  for (const value of values) {
    let code = numbers.get(value) ?? 0;
    while (code >= 0x80) {
      made.push((code % 128) | 0x80);
      code = Math.floor(code / 128);
    }
    made.push(code);
  }
  return Buffer.from(made);
}

export function tableOf(...given: Parameters<typeof packedTable>): Promise<Table> {
  return unpack(packedTable(...given));
}

/** Numbers between 0 and 1 that are the same each time (mulberry32). */
export function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}
