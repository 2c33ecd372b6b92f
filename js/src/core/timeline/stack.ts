/** What memory holds in parts: each state's bytes by category, or by module. */

import type { Context, TimelineData } from "./data";
import { words } from "./words";

/** More parts than this are told apart by nobody; the smallest become one. */
const MOST = 11;
/** From what stays longest to what is gone first: the order of `base/timeline.py`. */
const KNOWN = ["parameters", "optimizer state", "gradients", "activations", "temporary"];
/** Sums are known at every so many states; between two they are added up. */
const STEP = 128;

export interface Part {
  readonly label: string;
  /** Which colour it has; -1 for what is left over. */
  readonly colour: number;
}

export class Stack {
  readonly #sums: Float64Array;
  readonly #part: Int32Array;
  readonly size: number;

  /** `part` says for every context to which of the parts its blocks belong, or -1. */
  constructor(
    readonly data: TimelineData,
    readonly parts: readonly Part[],
    part: Int32Array,
  ) {
    this.size = parts.length;
    this.#part = part;
    const { size } = this;
    const current = new Float64Array(size);
    for (let row = 0; row < data.rows; row++) {
      if (data.isUnseen(row)) this.#add(current, row, -1);
    }
    const sums = (this.#sums = new Float64Array((Math.floor(data.rows / STEP) + 1) * size));
    sums.set(current);
    for (let row = 0; row < data.rows; row++) {
      this.#add(current, row, 1);
      if ((row + 1) % STEP === 0) sums.set(current, ((row + 1) / STEP) * size);
    }
  }

  /** Bytes of every part in a state, written into `into` from `offset` on. */
  read(state: number, into: Float64Array, offset = 0): void {
    const { size } = this;
    const known = Math.floor(state / STEP);
    for (let part = 0; part < size; part++) into[offset + part] = this.#sums[known * size + part] as number;
    for (let row = known * STEP; row < state; row++) this.#add(into, row, 1, offset);
  }

  at(state: number): Float64Array {
    const found = new Float64Array(this.size);
    this.read(state, found);
    return found;
  }

  #add(into: Float64Array, row: number, sign: 1 | -1, offset = 0): void {
    const part = this.#part[this.data.charged[row] as number] as number;
    if (part < 0) return;
    into[offset + part] = (into[offset + part] as number) + sign * (this.data.delta[row] as number);
  }
}

/** Parts by category: known ones in their order, others by what they hold at the peak. */
export function byCategory(data: TimelineData): Stack {
  const rank = (name: string): number => (KNOWN.includes(name) ? KNOWN.indexOf(name) : KNOWN.length);
  const names = named(data, (context) => context.category);
  names.sort((a, b) => rank(a) - rank(b));
  let unknown = KNOWN.length;
  return stacked(
    data,
    names,
    (context) => context.category,
    (name) => ({
      label: name === "" ? words.noCategory : name,
      colour: KNOWN.includes(name) ? KNOWN.indexOf(name) : unknown++,
    }),
  );
}

/** Parts by the first levels of the module's path that tell modules apart, in the order of first use. */
export function byModule(data: TimelineData, levels: number): Stack {
  const shared = sharedLevels(data);
  const name = ({ module }: Context): string => module.split(".", shared + levels).join(".");
  const largest = named(data, name);
  const first = new Map<string, number>();
  for (const context of data.contexts) {
    if (!first.has(name(context))) first.set(name(context), first.size);
  }
  const names = largest.slice(0, largest.length > MOST ? MOST - 1 : MOST);
  names.sort((a, b) => (first.get(a) ?? 0) - (first.get(b) ?? 0));
  let colour = 0;
  return stacked(data, [...names, ...largest.slice(names.length)], name, (one) => ({
    label: one === "" ? words.noModule : one,
    colour: colour++,
  }));
}

/** The one part that a module and what is inside of it are; null where no such module is there. */
export function ofModule(data: TimelineData, module: string): Stack | null {
  if (module === "") return null;
  const part = Int32Array.from(data.contexts, (one) =>
    one.module === module || one.module.startsWith(`${module}.`) ? 0 : -1,
  );
  return part.includes(0) ? new Stack(data, [{ label: module, colour: 0 }], part) : null;
}

/** How many levels a path has beyond those that all paths share, at most. */
export function moduleLevels(data: TimelineData): number {
  const shared = sharedLevels(data);
  let most = 0;
  for (const { module } of data.contexts) {
    if (module !== "") most = Math.max(most, module.split(".", shared + 3).length - shared);
  }
  return most;
}

/** Levels with which all paths begin; they tell nothing apart. A path that is no more than those keeps them. */
function sharedLevels(data: TimelineData): number {
  let shared: string[] | null = null;
  for (const { module } of data.contexts) {
    if (module === "") continue;
    const path = module.split(".", 16).slice(0, -1);
    const before: string[] = shared ?? path;
    const differs = before.findIndex((level, at) => level !== path[at]);
    shared = differs < 0 ? before : before.slice(0, differs);
  }
  return shared?.length ?? 0;
}

/** Every name that contexts have, by what it holds at the peak and then by what it ever allocated, largest first. */
function named(data: TimelineData, name: (context: Context) => string): string[] {
  const held = new Map<string, number>(data.contexts.map((context) => [name(context), 0]));
  const contexts = data.contexts.map(name);
  const add = (context: number, bytes: number): void => {
    const key = contexts[context] ?? "";
    held.set(key, (held.get(key) ?? 0) + bytes);
  };
  const allocated = data.allocatedByContext();
  const most = Math.max(
    1,
    allocated.reduce((sum, bytes) => sum + bytes, 0),
  );
  allocated.forEach((bytes, context) => add(context, bytes / most));
  for (const { context, bytes } of data.alive(data.peak)) add(context, bytes);
  for (const [key, bytes] of held) if (bytes === 0) held.delete(key);
  return [...held].sort((a, b) => b[1] - a[1]).map(([key]) => key);
}

function stacked(
  data: TimelineData,
  names: readonly string[],
  name: (context: Context) => string,
  part: (name: string) => Part,
): Stack {
  const shown = names.slice(0, names.length > MOST ? MOST - 1 : MOST);
  const number = new Map(shown.map((one, at) => [one, at]));
  const parts = shown.map(part);
  if (names.length > shown.length) parts.push({ label: words.others, colour: -1 });
  const rest = names.length > shown.length ? shown.length : -1;
  return new Stack(
    data,
    parts,
    Int32Array.from(data.contexts, (context) => number.get(name(context)) ?? rest),
  );
}
