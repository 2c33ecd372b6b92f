/** A scatter plot on whatever can be drawn on. */

import type { Box, Surface } from "../../surface";
import type { Palette } from "../../theme";
import { type Axis, frame } from "../plane";
import { type Density, density, type Points } from "./points";
import type { Shading } from "./shades";

/** More points in sight than this are counted by cells instead of drawn. */
export const MAX_DRAWN = 8_000;
const RADIUS = 3.5;
const CELL = 3;

export interface Scene {
  readonly points: Points;
  /** Rows that have a place on both axes. */
  readonly rows: Uint32Array;
  readonly axes: readonly [Axis, Axis];
  readonly inner: Box;
  readonly labels: readonly [string, string];
  readonly shading: Shading;
  readonly front: readonly number[];
  readonly selected: Uint32Array;
  readonly cursor: number;
}

/** Rows that are in sight, and a few pixels around. */
export function inSight({ points, rows, axes: [x, y] }: Scene): Uint32Array {
  const { low: left, high: right } = x;
  const { low, high } = y;
  return rows.filter((row) => {
    const [a, b] = [points.x[row] ?? NaN, points.y[row] ?? NaN];
    return a >= left && a <= right && b >= low && b <= high;
  });
}

/** Draw it; returns the cells in which points were counted, where they were. */
export function paint(surface: Surface, scene: Scene, palette: Palette): Density | undefined {
  const { points, axes, inner, shading } = scene;
  const [x, y] = axes;
  frame(surface, inner, axes, scene.labels, palette);
  const rows = inSight(scene);
  const dot = (row: number, radius: number, fill: string | null, stroke: string | null): void => {
    const [a, b] = [x.pixel(points.x[row] ?? NaN), y.pixel(points.y[row] ?? NaN)];
    if (a < inner.x - 1 || a > inner.x + inner.width + 1 || b < inner.y - 1 || b > inner.y + inner.height + 1)
      return;
    surface.box(
      { x: a - radius, y: b - radius, width: 2 * radius, height: 2 * radius },
      radius,
      fill,
      stroke,
      1.5,
    );
  };
  let cells: Density | undefined;
  if (rows.length > MAX_DRAWN) {
    cells = density(points, rows, axes, CELL, shading.shade);
    paintCells(surface, cells, inner, shading);
  } else for (const row of rows) dot(row, RADIUS, shading.of(row), null);
  if (scene.front.length > 1) surface.line(steps(scene), palette.text, 1);
  for (const row of scene.front) dot(row, RADIUS + 1, null, palette.text);
  if (scene.selected.length <= MAX_DRAWN)
    for (const row of scene.selected) dot(row, RADIUS + 2.5, null, palette.accent);
  if (scene.cursor >= 0) dot(scene.cursor, RADIUS + 4, null, palette.accent);
  return cells;
}

/** Cells of one colour that stand beside each other are one box. */
function paintCells(surface: Surface, cells: Density, inner: Box, shading: Shading): void {
  for (let line = 0; line < cells.rows; line++) {
    let [start, colour] = [0, ""];
    for (let column = 0; column <= cells.columns; column++) {
      const cell = line * cells.columns + column;
      const here = column < cells.columns && (cells.counts[cell] ?? 0) > 0 ? shading.ofCell(cells, cell) : "";
      if (here === colour) continue;
      if (colour !== "") {
        const width = Math.min((column - start) * CELL, inner.width - start * CELL);
        const height = Math.min(CELL, inner.height - line * CELL);
        surface.box(
          { x: inner.x + start * CELL, y: inner.y + line * CELL, width, height },
          0,
          colour,
          null,
          0,
        );
      }
      [start, colour] = [column, here];
    }
  }
}

/** The front as stairs: what lies beyond them is beaten by no point. */
function steps({ points, front, axes: [x, y], inner }: Scene): number[] {
  const clampX = (at: number): number => Math.min(inner.x + inner.width, Math.max(inner.x, at));
  const clampY = (at: number): number => Math.min(inner.y + inner.height, Math.max(inner.y, at));
  const path: number[] = [];
  front.forEach((row, at) => {
    const [a, b] = [clampX(x.pixel(points.x[row] ?? 0)), clampY(y.pixel(points.y[row] ?? 0))];
    if (at > 0) path.push(a, path.at(-1) ?? b);
    path.push(a, b);
  });
  return path;
}
