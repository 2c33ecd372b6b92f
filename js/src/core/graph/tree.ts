/**
 * The operations as a tree of modules. Items are numbers; what is known of them stands in arrays, for a graph may have
 * fifty thousand operations and the tree is built before anything is painted.
 */

import type { GraphData } from "./data";
import { words } from "./words";

export const enum Kind {
  Module,
  Operation,
  /** Siblings that are built alike, one after the other. */
  Repeat,
  /** A run of a module's many operations. */
  Run,
}

/** More children than this are put into runs. */
const MANY = 240;
/** Longest run of siblings that is tried as the unit of a repetition. */
const MAX_PERIOD = 6;
/** Levels of a module path that are told apart. */
const MAX_DEPTH = 32;

export class Tree {
  /** Item 0 is the whole graph. */
  readonly parent: number[] = [];
  readonly kind: Kind[] = [];
  readonly label: string[] = [];
  /** Module path of a module; for other groups one that no module has. Empty for operations. */
  readonly path: string[] = [];
  readonly children: number[][] = [];
  /** Operations inside. */
  readonly size: number[] = [];
  /** Copies that a repetition stands for, else 1. */
  readonly repeat: number[] = [];
  /** The operation's row in the data, -1 for others. */
  readonly row: number[] = [];
  readonly depth: number[] = [];
  /** Item of each row; for a parameter that belongs to one operation, that operation's. */
  readonly itemOf: Int32Array;
  /** Rows of the parameters that an operation alone reads. */
  readonly parameters = new Map<number, number[]>();
  /** For each item the wires between its children, as pairs. */
  readonly wires: number[][] = [];
  #groups: Map<string, number> | null = null;

  constructor(readonly data: GraphData) {
    this.itemOf = new Int32Array(data.rows).fill(-1);
    this.#add(Kind.Module, "", "", -1);
    this.#addOperations();
    this.#joinSingles();
    this.#foldAndSplit();
    this.#measure();
    this.#wire();
  }

  get count(): number {
    return this.parent.length;
  }

  isGroup(item: number): boolean {
    return this.kind[item] !== Kind.Operation;
  }

  /** Whether an item stands for a place at which capture stopped. */
  isBreak(item: number): boolean {
    return this.data.breaks.length > 0 && this.data.breakAt(this.row[item] ?? -1) !== null;
  }

  kids(item: number): readonly number[] {
    return this.children[item] ?? [];
  }

  /** The group of a path; -1 where there is none. */
  groupAt(path: string): number {
    if (this.#groups === null) {
      this.#groups = new Map();
      for (let item = 1; item < this.count; item++) {
        const own = this.path[item] ?? "";
        if (own !== "" && (this.parent[item] ?? -1) >= 0) this.#groups.set(own, item);
      }
    }
    return this.#groups.get(path) ?? -1;
  }

  /** The items around one, outermost first, without the whole graph and itself. */
  ancestors(item: number): number[] {
    const found: number[] = [];
    for (let at = this.parent[item] ?? -1; at > 0; at = this.parent[at] ?? -1) found.unshift(at);
    return found;
  }

  /** Every row inside of an item, in order. */
  *rowsOf(item: number): IterableIterator<number> {
    const row = this.row[item] ?? -1;
    if (row >= 0) yield row;
    for (const child of this.kids(item)) yield* this.rowsOf(child);
  }

  #add(kind: Kind, label: string, path: string, parent: number, row = -1): number {
    const item = this.parent.length;
    this.parent.push(parent);
    this.kind.push(kind);
    this.label.push(label);
    this.path.push(path);
    this.children.push([]);
    this.size.push(0);
    this.repeat.push(1);
    this.row.push(row);
    this.depth.push(0);
    this.wires.push([]);
    if (parent >= 0) this.children[parent]?.push(item);
    return item;
  }

  #addOperations(): void {
    const { data } = this;
    const byPath = new Map<string, number>([["", 0]]);
    const byCode = new Int32Array(data.modules.length).fill(-1);
    const own = this.#ownParameters();
    for (let row = 0; row < data.rows; row++) {
      if (own.has(row)) continue;
      const code = data.moduleCode(row);
      let group = byCode[code] ?? -1;
      if (group < 0) byCode[code] = group = this.#module(data.modules[code] ?? "", byPath);
      this.itemOf[row] = this.#add(Kind.Operation, this.#labelOf(row), "", group, row);
    }
    for (const [row, reader] of own) {
      const item = this.itemOf[reader] ?? -1;
      this.itemOf[row] = item;
      const rows = this.parameters.get(item);
      if (rows === undefined) this.parameters.set(item, [row]);
      else rows.push(row);
    }
  }

  #labelOf(row: number): string {
    const { data } = this;
    const stopped = data.breakAt(row);
    if (stopped !== null) return words.breakLabel(stopped.reason);
    const ends = data.op(row) === "input" || data.op(row) === "parameter";
    return ends ? `${data.op(row)} · ${data.name(row)}` : data.op(row);
  }

  #module(path: string, byPath: Map<string, number>): number {
    const known = byPath.get(path);
    if (known !== undefined) return known;
    let at = 0;
    let end = 0;
    for (let level = 0; level < MAX_DEPTH && end <= path.length; level++) {
      const dot = path.indexOf(".", end);
      end = dot < 0 ? path.length : dot;
      const prefix = path.slice(0, end);
      const item = byPath.get(prefix);
      if (item === undefined) {
        at = this.#add(Kind.Module, prefix.slice(prefix.lastIndexOf(".") + 1), prefix, at);
        byPath.set(prefix, at);
      } else at = item;
      end += 1;
    }
    return at;
  }

  /** Parameters that one operation alone reads, with its row. */
  #ownParameters(): Map<number, number> {
    const { data } = this;
    const readers = new Map<number, number>();
    for (let row = 0; row < data.rows; row++) {
      for (const input of data.inputsOf(row)) {
        if (data.op(input) !== "parameter") continue;
        const reader = readers.get(input);
        readers.set(input, reader === undefined || reader === row ? row : -1);
      }
    }
    for (const [row, reader] of readers)
      if (reader < 0 || data.op(reader) === "parameter") readers.delete(row);
    return readers;
  }

  /** A module that holds one operation alone becomes that operation. */
  #joinSingles(): void {
    for (let item = this.count - 1; item > 0; item--) {
      if (this.kind[item] !== Kind.Module || this.kids(item).length !== 1) continue;
      const child = this.kids(item)[0] ?? -1;
      const label = this.label[item] ?? "";
      const parent = this.parent[item] ?? 0;
      this.label[child] =
        this.kind[child] === Kind.Operation
          ? `${label} · ${this.label[child] ?? ""}`
          : `${label}.${this.label[child] ?? ""}`;
      this.parent[child] = parent;
      const siblings = this.children[parent] ?? [];
      siblings[siblings.indexOf(item)] = child;
      this.children[item] = [];
      this.parent[item] = -1;
    }
  }

  #foldAndSplit(): void {
    const signatures = this.#signatures();
    const modules = this.count;
    for (let item = 0; item < modules; item++) {
      if (this.kids(item).length === 0) continue;
      this.#fold(item, signatures);
      this.#split(item);
    }
  }

  /** A number for each item that is the same for items that are built alike. */
  #signatures(): Int32Array {
    const known = new Map<string, number>();
    const found = new Int32Array(this.count);
    const numbered = (word: string): number => {
      const number = known.get(word) ?? known.size;
      known.set(word, number);
      return number;
    };
    const visit = (item: number): number => {
      const row = this.row[item] ?? -1;
      const inner = this.kids(item).map(visit);
      const word = row >= 0 ? this.data.signature(row) : inner.join(" ");
      return (found[item] = numbered(word));
    };
    visit(0);
    return found;
  }

  #fold(item: number, signatures: Int32Array): void {
    const kids = this.children[item] ?? [];
    const made: number[] = [];
    for (let at = 0; at < kids.length;) {
      const { period, copies } = repetition(kids, at, signatures, (kid) => this.isGroup(kid));
      if (copies < 2) {
        made.push(kids[at] ?? 0);
        at += 1;
        continue;
      }
      const inside = kids.slice(at, at + period * copies);
      const first = this.label[inside[0] ?? 0] ?? "";
      const last = this.label[inside[inside.length - 1] ?? 0] ?? "";
      const label = `${first} … ${last}`;
      const repeat = this.#add(Kind.Repeat, label, `${this.path[item] ?? ""}/${label}`, -1);
      this.#adopt(repeat, inside);
      this.repeat[repeat] = copies;
      this.parent[repeat] = item;
      made.push(repeat);
      at += period * copies;
    }
    // A module that holds a repetition and nothing else would be one box around another.
    if (made.length === 1 && item > 0 && this.kind[made[0] ?? 0] === Kind.Repeat) {
      const repeat = made[0] ?? 0;
      this.kind[item] = Kind.Repeat;
      this.repeat[item] = this.repeat[repeat] ?? 1;
      this.label[item] = `${this.label[item] ?? ""}.${this.label[repeat] ?? ""}`;
      this.#adopt(item, this.children[repeat] ?? []);
      this.children[repeat] = [];
      this.parent[repeat] = -1;
      return;
    }
    this.children[item] = made;
  }

  #split(item: number): void {
    const kids = this.children[item] ?? [];
    if (kids.length <= MANY) return;
    const length = Math.ceil(kids.length / Math.ceil(Math.sqrt(kids.length)));
    this.children[item] = [];
    for (let start = 0; start < kids.length; start += length) {
      const part = kids.slice(start, start + length);
      const label = `${start + 1}–${start + part.length}`;
      const run = this.#add(Kind.Run, label, `${this.path[item] ?? ""}/${label}`, item);
      this.#adopt(run, part);
      this.#split(run);
    }
  }

  #adopt(item: number, kids: number[]): void {
    this.children[item] = kids;
    for (const kid of kids) this.parent[kid] = item;
  }

  #measure(): void {
    const order = [0];
    for (let at = 0; at < order.length; at++) {
      const item = order[at] ?? 0;
      for (const kid of this.kids(item)) {
        this.depth[kid] = (this.depth[item] ?? 0) + 1;
        order.push(kid);
      }
    }
    for (let at = order.length - 1; at >= 0; at--) {
      const item = order[at] ?? 0;
      if (this.kind[item] === Kind.Operation) this.size[item] = this.isBreak(item) ? 0 : 1;
      const parent = this.parent[item] ?? -1;
      if (parent >= 0) this.size[parent] = (this.size[parent] ?? 0) + (this.size[item] ?? 0);
    }
  }

  /** Each wire belongs to the innermost item around both ends, and goes between two of its children. */
  #wire(): void {
    const { data, depth, parent } = this;
    const seen = new Set<number>();
    for (let row = 0; row < data.rows; row++) {
      const target = this.itemOf[row] ?? -1;
      for (const input of data.inputsOf(row)) {
        let from = this.itemOf[input] ?? -1;
        let to = target;
        if (from === to || from < 0 || to < 0) continue;
        while ((depth[from] ?? 0) > (depth[to] ?? 0)) from = parent[from] ?? 0;
        while ((depth[to] ?? 0) > (depth[from] ?? 0)) to = parent[to] ?? 0;
        if (from === to) continue;
        while (parent[from] !== parent[to]) {
          from = parent[from] ?? 0;
          to = parent[to] ?? 0;
        }
        const key = from * this.count + to;
        if (seen.has(key)) continue;
        seen.add(key);
        this.wires[parent[from] ?? 0]?.push(from, to);
      }
    }
  }
}

/** The repetition that begins at a sibling: the shortest unit that follows itself, and how often it stands there. */
export function repetition(
  kids: readonly number[],
  start: number,
  signatures: Int32Array,
  isGroup: (kid: number) => boolean,
): { period: number; copies: number } {
  const alike = (a: number, b: number): boolean => signatures[kids[a] ?? 0] === signatures[kids[b] ?? 0];
  for (let period = 1; period <= MAX_PERIOD && start + 2 * period <= kids.length; period++) {
    let end = start + period;
    while (end < kids.length && alike(end, end - period)) end++;
    const copies = Math.floor((end - start) / period);
    const unit = kids.slice(start, start + period);
    // Two additions after each other are no block: something in it must have an inside, or it is long.
    if (copies >= 2 && (unit.some(isGroup) || (period >= 3 && copies >= 3))) return { period, copies };
  }
  return { period: 1, copies: 1 };
}
