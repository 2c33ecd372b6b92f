/** Recordings of memory for tests, packed as a page gets them, and a slow way to know what is there. */

import { deflateSync } from "node:zlib";
import { unpack } from "../src/core/packed";
import { TimelineData } from "../src/core/timeline/data";
import { varints, zigzag } from "./graphs";

export interface Event {
  at: number;
  bytes: number;
  /** The event that allocated what this one frees. */
  frees?: number;
  category?: string;
  module?: string;
  operator?: string;
  file?: string;
  line?: number;
}

export type Meta = Record<string, unknown>;

function steps(values: readonly number[]): number[] {
  return varints(values.map((value, row) => zigzag(value - (values[row - 1] ?? 0))));
}

/** The events as a packed table; `meta` and `more` take the place of what it would have or add to it. */
export function packedTimeline(
  events: readonly Event[],
  meta: Meta = {},
  more: Record<string, number[]> = {},
): string {
  const codes = new Map<string, number>();
  const code = (word: string): number => {
    if (!codes.has(word)) codes.set(word, codes.size);
    return codes.get(word) ?? 0;
  };
  const columns: Record<string, number[]> = {
    at: steps(events.map((event) => event.at)),
    bytes: steps(events.map((event) => event.bytes)),
    context: steps(events.map((_, row) => row)),
    ...Object.fromEntries(Object.entries(more).map(([name, values]) => [name, steps(values)])),
  };
  const frees = events.map((event) => (event.frees === undefined ? [] : [event.frees]));
  const bodies = [
    ...Object.values(columns),
    [
      ...varints(frees.map((list) => list.length)),
      ...varints(frees.flatMap((list, row) => list.map((freed) => zigzag(row - freed)))),
    ],
  ];
  const contexts = {
    category: events.map((event) => code(event.category ?? "")),
    module: events.map((event) => code(event.module ?? "")),
    operator: events.map((event) => code(event.operator ?? "")),
    file: events.map((event) => code(event.file ?? "")),
    line: events.map((event) => event.line ?? 0),
  };
  const header = Buffer.from(
    JSON.stringify({
      schema: 1,
      rows: events.length,
      columns: [...Object.keys(columns), "frees"].map((name, at) => ({
        name,
        type: name === "frees" ? "ragged" : "int",
        bytes: bodies[at]?.length ?? 0,
      })),
      meta: { words: [...codes.keys()], contexts, tick_s: 1, events: events.length, ...meta },
    }),
  );
  const length = Buffer.alloc(4);
  length.writeUInt32LE(header.length);
  const whole = Buffer.concat([length, header, ...bodies.map((body) => Buffer.from(body))]);
  return deflateSync(whole).toString("base64");
}

export async function timelineOf(
  events: readonly Event[],
  meta: Meta = {},
  more: Record<string, number[]> = {},
): Promise<TimelineData> {
  return new TimelineData(await unpack(packedTimeline(events, meta, more)));
}

/** Numbers from 0 to 1, the same for the same seed (mulberry32). */
export function chances(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Events of any kind: frees of blocks that were and were not seen, blocks of no bytes, many at the same time. */
export function randomEvents(seed: number, count: number): Event[] {
  const chance = chances(seed);
  const pick = <Value>(values: readonly Value[]): Value =>
    values[Math.floor(chance() * values.length)] as Value;
  const categories = ["parameters", "temporary", "mine", "", "__proto__", "activations"];
  const modules = ["", "net.a", "net.a.b", "net.c.d.e", "net.ab", "constructor"];
  const events: Event[] = [];
  const alive: number[] = [];
  let at = 0;
  for (let row = 0; row < count; row++) {
    if (chance() < 0.4) at += Math.floor(chance() * 20);
    const about = { at, category: pick(categories), module: pick(modules), file: "cell.py", line: row };
    if (alive.length > 0 && chance() < 0.48) {
      const [frees = 0] = alive.splice(Math.floor(chance() * alive.length), 1);
      events.push({ ...about, bytes: -(events[frees]?.bytes ?? 0), frees });
    } else if (chance() < 0.05) events.push({ ...about, bytes: -1 - Math.floor(chance() * 1000) });
    else {
      alive.push(row);
      events.push({ ...about, bytes: chance() < 0.05 ? 0 : Math.floor(chance() ** 4 * 1e6) });
    }
  }
  return events;
}

/** The events whose blocks are there after the first `state` of them. */
export function aliveAfter(events: readonly Event[], state: number): Event[] {
  const found = new Set<Event>();
  for (const event of events) if (event.frees === undefined && event.bytes < 0) found.add(event);
  for (const event of events.slice(0, state)) {
    if (event.frees !== undefined) found.delete(events[event.frees] as Event);
    else if (event.bytes < 0) found.delete(event);
    else found.add(event);
  }
  return [...found];
}

export const bytesOf = (events: readonly Event[]): number =>
  events.reduce((sum, event) => sum + Math.abs(event.bytes), 0);
