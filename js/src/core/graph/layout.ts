/**
 * Places for the items of a tree. Only what is open is laid out: a layered drawing of each open item's children
 * (Sugiyama, Tagawa and Toda 1981: ranks by longest path, order by barycentres, then columns), wrapped into several
 * columns where it would be much taller than wide.
 */

import { Kind, type Tree } from "./tree";

export const ROW_HEIGHT = 26;
const HEAD = 24;
const PADDING = 12;
const GAP_X = 16;
const GAP_Y = 20;
export const COLUMN_GAP = 44;
const CHARACTER = 6.9;
const MAX_WIDTH = 320;
const ORDER_SWEEPS = 4;
const COLUMN_SWEEPS = 4;
/** A drawing taller than this is wrapped. */
const TALL = 560;
/** Wires further apart than this many children pull on nothing: an order cannot make them short. */
const MANY = 2000;

/** Which items are open, and where everything that shows is: `x` and `y` from the inside of the item around. */
export class Layout {
  readonly x: Float64Array;
  readonly y: Float64Array;
  readonly width: Float64Array;
  readonly height: Float64Array;
  readonly #open: Uint8Array;
  readonly #placed: Uint8Array;

  /** `said` is the longest text that may stand in an item beside its name. */
  constructor(
    readonly tree: Tree,
    readonly said: (item: number) => string = () => "",
  ) {
    const { count } = tree;
    this.x = new Float64Array(count);
    this.y = new Float64Array(count);
    this.width = new Float64Array(count);
    this.height = new Float64Array(count);
    this.#open = new Uint8Array(count);
    this.#placed = new Uint8Array(count);
    this.#open[0] = 1;
    this.#place(0);
  }

  isOpen(item: number): boolean {
    return this.#open[item] === 1;
  }

  toggle(item: number): void {
    if (item > 0 && this.tree.isGroup(item)) this.set(item, !this.isOpen(item));
  }

  set(item: number, open: boolean): void {
    if (this.isOpen(item) === open || item === 0) return;
    this.#open[item] = open ? 1 : 0;
    for (let at = item; at >= 0; at = this.tree.parent[at] ?? -1) this.#place(at);
  }

  /** Open everything around an item. */
  reveal(item: number): void {
    const closed = this.tree.ancestors(item).filter((one) => !this.isOpen(one));
    for (const one of closed) this.#open[one] = 1;
    for (const one of closed.reverse()) this.#place(one);
    for (let at = this.tree.parent[item] ?? -1; at >= 0; at = this.tree.parent[at] ?? -1) this.#place(at);
  }

  /** Open every item down to a depth, and close those below it. */
  setDepth(depth: number): void {
    const visit = (item: number): void => {
      if (!this.tree.isGroup(item)) return;
      this.#open[item] = (this.tree.depth[item] ?? 0) < depth ? 1 : 0;
      this.#placed[item] = 0;
      for (const kid of this.tree.kids(item)) visit(kid);
    };
    visit(0);
    this.#open[0] = 1;
    this.#place(0);
  }

  /** Open level after level while no more than `limit` items show; returns the depth that was reached. */
  openUpTo(limit: number): number {
    const { tree } = this;
    const counts: number[] = [];
    const visit = (item: number): void => {
      const depth = tree.depth[item] ?? 0;
      counts[depth] = (counts[depth] ?? 0) + 1;
      for (const kid of tree.kids(item)) visit(kid);
    };
    visit(0);
    let depth = 1;
    let shown = counts[1] ?? 0;
    while (depth + 1 < counts.length && shown + (counts[depth + 1] ?? 0) <= limit)
      shown += counts[++depth] ?? 0;
    this.setDepth(depth);
    return depth;
  }

  /** The corner of an item from the corner of the whole graph. */
  origin(item: number): { x: number; y: number } {
    let x = 0;
    let y = 0;
    for (let at = item; at >= 0; at = this.tree.parent[at] ?? -1) {
      x += this.x[at] ?? 0;
      y += this.y[at] ?? 0;
    }
    return { x, y };
  }

  #place(item: number): void {
    const { tree } = this;
    if (!tree.isGroup(item) || !this.isOpen(item)) {
      this.width[item] = this.#labelWidth(item);
      this.height[item] = ROW_HEIGHT;
      return;
    }
    for (const kid of tree.kids(item)) {
      if (this.#placed[kid] === 1 && this.isOpen(kid)) continue;
      this.#place(kid);
      this.#placed[kid] = 1;
    }
    const inner = arrange(tree.kids(item), tree.wires[item] ?? [], this);
    const head = item === 0 ? PADDING : HEAD;
    for (const kid of tree.kids(item)) {
      this.x[kid] = (this.x[kid] ?? 0) + PADDING;
      this.y[kid] = (this.y[kid] ?? 0) + head;
    }
    this.width[item] = Math.max(inner.width + 2 * PADDING, item === 0 ? 0 : this.#labelWidth(item));
    this.height[item] = inner.height + head + PADDING;
  }

  #labelWidth(item: number): number {
    const { tree } = this;
    const group = tree.kind[item] !== Kind.Operation;
    const said = this.said(item).length;
    const note = Math.max(group ? 7 * String(tree.size[item]).length : 0, said > 0 ? 8 + 6.6 * said : 0);
    const extra = group ? 22 + note : note;
    const copies = (tree.repeat[item] ?? 1) > 1 ? 34 : 0;
    return Math.min(MAX_WIDTH, 20 + CHARACTER * (tree.label[item] ?? "").length + extra + copies);
  }
}

/** The number that stands at an index; indices here are in range by construction. */
function at(values: ArrayLike<number>, index: number): number {
  return values[index] ?? 0;
}

/** Put children in rows and columns; returns the size that they take. */
function arrange(
  kids: readonly number[],
  wires: readonly number[],
  out: Layout,
): { width: number; height: number } {
  if (kids.length === 0) return { width: 0, height: 0 };
  const { ins, outs } = neighbours(kids, wires);
  const rank = ranks(ins, outs);
  const rows: number[][] = [];
  for (let kid = 0; kid < kids.length; kid++) (rows[at(rank, kid)] ??= []).push(kid);
  order(rows, ins, outs);
  const widths = Float64Array.from(kids, (kid) => at(out.width, kid));
  const center = columns(rows, ins, outs, widths);
  return wrap(kids, rows, center, widths, out);
}

type Neighbours = readonly (readonly number[])[];

function neighbours(
  kids: readonly number[],
  wires: readonly number[],
): { ins: Neighbours; outs: Neighbours } {
  const index = new Map(kids.map((kid, number) => [kid, number]));
  const ins: number[][] = kids.map(() => []);
  const outs: number[][] = kids.map(() => []);
  for (let wire = 0; wire < wires.length; wire += 2) {
    const from = index.get(at(wires, wire));
    const to = index.get(at(wires, wire + 1));
    if (from === undefined || to === undefined) continue;
    outs[from]?.push(to);
    ins[to]?.push(from);
  }
  return { ins, outs };
}

/** Longest paths. A wire that closes a circle, as between modules that are used in turn, is not followed. */
function ranks(ins: Neighbours, outs: Neighbours): Int32Array {
  const count = ins.length;
  const rank = new Int32Array(count);
  const waits = Int32Array.from(ins, (list) => list.length);
  const done = new Uint8Array(count);
  const ready: number[] = [];
  for (let kid = 0; kid < count; kid++) if (at(waits, kid) === 0) ready.push(kid);
  let next = 0;
  let oldest = 0;
  for (let finished = 0; finished < count; finished++) {
    let kid = ready[next];
    if (kid === undefined) {
      while (done[oldest] === 1) oldest++;
      kid = oldest;
    } else next++;
    if (done[kid] === 1) {
      finished--;
      continue;
    }
    done[kid] = 1;
    for (const to of outs[kid] ?? []) {
      if (done[to] === 1) continue;
      rank[to] = Math.max(at(rank, to), at(rank, kid) + 1);
      waits[to] = at(waits, to) - 1;
      if (at(waits, to) === 0) ready.push(to);
    }
  }
  return rank;
}

/** Sort every row by the mean place of each child's neighbours in the row before, then after, in turn. */
function order(rows: number[][], ins: Neighbours, outs: Neighbours): void {
  const place = new Map<number, number>();
  for (const row of rows) row.forEach((kid, number) => place.set(kid, number));
  if (rows.every((row) => row.length < 2)) return;
  for (let sweep = 0; sweep < ORDER_SWEEPS; sweep++) {
    const down = sweep % 2 === 0;
    for (const row of down ? rows : [...rows].reverse()) {
      if (row.length < 2) continue;
      const wanted = new Map<number, number>();
      for (const kid of row) {
        const near = (down ? ins : outs)[kid] ?? [];
        const sum = near.reduce((total, one) => total + (place.get(one) ?? 0), 0);
        wanted.set(kid, near.length === 0 ? (place.get(kid) ?? 0) : sum / near.length);
      }
      row.sort((a, b) => (wanted.get(a) ?? 0) - (wanted.get(b) ?? 0));
      row.forEach((kid, number) => place.set(kid, number));
    }
  }
}

/** The middle of each child, from left to right without overlap and near to its neighbours. */
function columns(
  rows: readonly number[][],
  ins: Neighbours,
  outs: Neighbours,
  widths: Float64Array,
): Float64Array {
  const center = new Float64Array(widths.length);
  let widest = 0;
  const lengths = rows.map((row) => {
    let length = 0;
    for (const kid of row) {
      center[kid] = length + at(widths, kid) / 2;
      length += at(widths, kid) + GAP_X;
    }
    widest = Math.max(widest, length);
    return length;
  });
  rows.forEach((row, number) => {
    for (const kid of row) center[kid] = at(center, kid) + (widest - at(lengths, number)) / 2;
  });
  if (widths.length > MANY) return center;
  for (let sweep = 0; sweep < COLUMN_SWEEPS; sweep++) {
    const down = sweep % 2 === 0;
    for (const row of down ? rows : [...rows].reverse()) spread(row, down ? ins : outs, center, widths);
  }
  return center;
}

/** Move the children of a row towards their neighbours as far as the others of the row let them. */
function spread(row: readonly number[], near: Neighbours, center: Float64Array, widths: Float64Array): void {
  const apart = (a: number, b: number): number => (at(widths, a) + at(widths, b)) / 2 + GAP_X;
  const wanted = row.map((kid) => {
    const list = near[kid] ?? [];
    return list.length === 0
      ? at(center, kid)
      : list.reduce((total, one) => total + at(center, one), 0) / list.length;
  });
  row.forEach((kid, number) => {
    const left = row[number - 1];
    const least = left === undefined ? -Infinity : at(center, left) + apart(left, kid);
    center[kid] = Math.max(at(wanted, number), least);
  });
  for (let number = row.length - 2; number >= 0; number--) {
    const kid = at(row, number);
    const right = at(row, number + 1);
    const most = at(center, right) - apart(kid, right);
    if (at(center, kid) > most) center[kid] = Math.max(most, Math.min(at(wanted, number), most));
  }
}

/** Heights, and a new column where the drawing would become tall and thin. */
function wrap(
  kids: readonly number[],
  rows: readonly number[][],
  center: Float64Array,
  widths: Float64Array,
  out: Layout,
): { width: number; height: number } {
  const heights = rows.map((row) =>
    row.reduce((most, kid) => Math.max(most, at(out.height, at(kids, kid))), 0),
  );
  const total = heights.reduce((sum, height) => sum + height + GAP_Y, -GAP_Y);
  const [left, right] = extent(rows, center, widths);
  const fits =
    total > TALL ? Math.max(1, Math.round(Math.sqrt(total / (0.8 * (right - left + COLUMN_GAP))))) : 1;
  const limit = total / fits;
  let x = 0;
  let tallest = 0;
  for (let first = 0; first < rows.length;) {
    let last = first;
    let height = 0;
    while (last < rows.length && (last === first || height + at(heights, last) <= limit + 1)) {
      height += at(heights, last) + GAP_Y;
      last++;
    }
    const part = rows.slice(first, last);
    const [from, to] = extent(part, center, widths);
    let y = 0;
    part.forEach((row, number) => {
      for (const kid of row) {
        const item = at(kids, kid);
        out.x[item] = x + at(center, kid) - at(widths, kid) / 2 - from;
        out.y[item] = y;
      }
      y += at(heights, first + number) + GAP_Y;
    });
    tallest = Math.max(tallest, y - GAP_Y);
    x += to - from + COLUMN_GAP;
    first = last;
  }
  return { width: x - COLUMN_GAP, height: tallest };
}

function extent(rows: readonly number[][], center: Float64Array, widths: Float64Array): [number, number] {
  let left = Infinity;
  let right = -Infinity;
  for (const row of rows) {
    for (const kid of row) {
      left = Math.min(left, at(center, kid) - at(widths, kid) / 2);
      right = Math.max(right, at(center, kid) + at(widths, kid) / 2);
    }
  }
  return [left, right];
}
