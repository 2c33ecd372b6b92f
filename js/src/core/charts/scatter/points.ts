/** Points in a plane: which are best, which is nearest, and how many lie where there are too many to draw. */

import type { Better } from "../columns";
import type { Axis } from "../plane";

export interface Points {
  readonly x: ArrayLike<number>;
  readonly y: ArrayLike<number>;
}

/** Rows that have a place on both axes, whatever part of them is in sight. */
export function placed({ x, y }: Points, logX: boolean, logY: boolean): Uint32Array {
  const rows = new Uint32Array(x.length);
  let count = 0;
  for (let row = 0; row < x.length; row++) {
    const [a, b] = [x[row] ?? NaN, y[row] ?? NaN];
    if (Number.isFinite(a) && Number.isFinite(b) && (!logX || a > 0) && (!logY || b > 0)) rows[count++] = row;
  }
  return rows.subarray(0, count);
}

/** Rows that no other row beats in one column without being worse in the other, in the order of x. */
export function paretoFront(points: Points, rows: Uint32Array, betterX: Better, betterY: Better): number[] {
  const [signX, signY] = [betterX === "lower" ? 1 : -1, betterY === "lower" ? 1 : -1];
  const costX = (row: number): number => signX * (points.x[row] ?? 0);
  const costY = (row: number): number => signY * (points.y[row] ?? 0);
  const order = rows.slice().sort((a, b) => costX(a) - costX(b) || costY(a) - costY(b));
  const front: number[] = [];
  let [bestX, bestY] = [NaN, Infinity];
  for (const row of order) {
    if (costY(row) < bestY) [bestX, bestY] = [costX(row), costY(row)];
    else if (costX(row) !== bestX || costY(row) !== bestY) continue;
    front.push(row);
  }
  return front;
}

/** The row that is nearest to a place in the picture, up to a distance; -1 where there is none. */
export function nearest(
  points: Points,
  rows: Uint32Array,
  [x, y]: readonly [Axis, Axis],
  at: readonly [number, number],
  most: number,
): number {
  let [found, least] = [-1, most * most];
  const [left, right] = [x.value(at[0] - most), x.value(at[0] + most)];
  for (const row of rows) {
    const value = points.x[row] ?? NaN;
    if (value < left || value > right) continue;
    const [dx, dy] = [x.pixel(value) - at[0], y.pixel(points.y[row] ?? NaN) - at[1]];
    if (dx * dx + dy * dy > least) continue;
    [found, least] = [row, dx * dx + dy * dy];
  }
  return found;
}

/** The row that comes next by a column, rows with the same value in their order; the first one from -1, -1 at the end. */
export function following(
  values: ArrayLike<number>,
  rows: Uint32Array,
  row: number,
  forward: boolean,
): number {
  const after = (a: number, b: number): boolean => {
    const [left, right] = [values[a] ?? 0, values[b] ?? 0];
    return left === right ? (forward ? a > b : a < b) : forward ? left > right : left < right;
  };
  let found = -1;
  for (const one of rows) {
    if ((row < 0 || after(one, row)) && (found < 0 || after(found, one))) found = one;
  }
  return found;
}

/** Rows inside of a box of values. */
export function within(
  points: Points,
  rows: Uint32Array,
  [left, right]: readonly [number, number],
  [low, high]: readonly [number, number],
): Uint32Array {
  return rows.filter((row) => {
    const [x, y] = [points.x[row] ?? NaN, points.y[row] ?? NaN];
    return x >= left && x <= right && y >= low && y <= high;
  });
}

/** How many points lie in each cell of a picture, and for each cell what they stand for. */
export interface Density {
  readonly columns: number;
  readonly rows: number;
  readonly counts: Uint32Array;
  /** Sums of the values by which points are coloured, and how many points have one. */
  readonly sums: Float64Array | undefined;
  readonly valued: Uint32Array | undefined;
  /** The most frequent kind in each cell. */
  readonly kinds: Uint8Array | undefined;
  readonly largest: number;
}

/** What points are coloured by: a number each, one of a few kinds, or nothing. */
export type Shade =
  | { readonly by: "nothing" }
  | { readonly by: "number"; readonly values: ArrayLike<number> }
  | { readonly by: "kind"; readonly kinds: Uint8Array; readonly count: number };

/** Pixels as a factor and a shift, which is all that a million points should take; logarithms are taken before. */
function straight(
  values: ArrayLike<number>,
  axis: Axis,
): { values: ArrayLike<number>; factor: number; shift: number } {
  const made = axis.log ? Float64Array.from(values, (value) => Math.log10(value)) : values;
  const [low, high] = axis.log ? [Math.log10(axis.low), Math.log10(axis.high)] : [axis.low, axis.high];
  const factor = (axis.end - axis.start) / (high - low);
  return { values: made, factor, shift: axis.start - low * factor };
}

/** Count points by cells of `size` pixels. */
export function density(
  points: Points,
  rows: Uint32Array,
  [x, y]: readonly [Axis, Axis],
  size: number,
  shade: Shade,
): Density {
  const across = Math.ceil(Math.abs(x.end - x.start) / size);
  const down = Math.ceil(Math.abs(y.end - y.start) / size);
  const counts = new Uint32Array(across * down);
  const sums = shade.by === "number" ? new Float64Array(counts.length) : undefined;
  const valued = shade.by === "number" ? new Uint32Array(counts.length) : undefined;
  const byKind = shade.by === "kind" ? new Uint32Array(counts.length * shade.count) : undefined;
  let largest = 0;
  const { values: xs, factor: xFactor, shift: xShift } = straight(points.x, x);
  const { values: ys, factor: yFactor, shift: yShift } = straight(points.y, y);
  for (let at = 0; at < rows.length; at++) {
    const row = rows[at] ?? 0;
    const column = Math.floor(((xs[row] ?? NaN) * xFactor + xShift - x.start) / size);
    const line = Math.floor(((ys[row] ?? NaN) * yFactor + yShift - y.end) / size);
    if (!(column >= 0 && column < across && line >= 0 && line < down)) continue;
    const cell = line * across + column;
    const now = (counts[cell] ?? 0) + 1;
    counts[cell] = now;
    if (now > largest) largest = now;
    if (shade.by === "number" && sums !== undefined && valued !== undefined) {
      const value = shade.values[row] ?? NaN;
      if (Number.isFinite(value)) {
        sums[cell] = (sums[cell] ?? 0) + value;
        valued[cell] = (valued[cell] ?? 0) + 1;
      }
    } else if (shade.by === "kind" && byKind !== undefined) {
      const at = cell * shade.count + (shade.kinds[row] ?? 0);
      byKind[at] = (byKind[at] ?? 0) + 1;
    }
  }
  const kinds =
    byKind === undefined || shade.by !== "kind"
      ? undefined
      : Uint8Array.from(counts, (_, cell) => {
          let most = 0;
          for (let kind = 1; kind < shade.count; kind++) {
            if ((byKind[cell * shade.count + kind] ?? 0) > (byKind[cell * shade.count + most] ?? 0))
              most = kind;
          }
          return most;
        });
  return { columns: across, rows: down, counts, sums, valued, kinds, largest };
}
