/** A scatter plot on whatever can be drawn on. */

import { element } from "../../dom";
import { type Box, CanvasSurface, type Surface } from "../../surface";
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

/** Rows that are in sight; undefined where they are too many to be drawn one by one. */
export function inSight({ points, rows, axes: [x, y] }: Scene): Uint32Array | undefined {
  const found = new Uint32Array(MAX_DRAWN);
  let count = 0;
  for (let at = 0; at < rows.length; at++) {
    const row = rows[at] ?? 0;
    const [a, b] = [points.x[row] ?? NaN, points.y[row] ?? NaN];
    if (!(a >= x.low && a <= x.high && b >= y.low && b <= y.high)) continue;
    if (count === MAX_DRAWN) return undefined;
    found[count++] = row;
  }
  return found.subarray(0, count);
}

/** Draw it without what is marked; returns the cells in which points were counted, where they were. */
export function paint(surface: Surface, scene: Scene, palette: Palette): Density | undefined {
  const { points, axes, inner, shading } = scene;
  frame(surface, inner, axes, scene.labels, palette);
  const rows = inSight(scene);
  if (rows !== undefined) {
    for (const row of rows) dot(surface, scene, row, RADIUS, shading.of(row), null);
    return undefined;
  }
  const cells = density(points, scene.rows, axes, CELL, shading.shade);
  if (surface instanceof CanvasSurface) stampCells(surface.context, cells, inner, shading);
  else paintCells(surface, cells, inner, shading);
  return cells;
}

/** The front, what is selected, and the cursor. */
export function mark(surface: Surface, scene: Scene, palette: Palette): void {
  if (scene.front.length > 1) surface.line(steps(scene), palette.text, 1);
  for (const row of scene.front) dot(surface, scene, row, RADIUS + 1, null, palette.text);
  if (scene.selected.length <= MAX_DRAWN) {
    for (const row of scene.selected) dot(surface, scene, row, RADIUS + 2.5, null, palette.accent);
  }
  if (scene.cursor >= 0) dot(surface, scene, scene.cursor, RADIUS + 4, null, palette.accent);
}

function dot(
  surface: Surface,
  { points, axes: [x, y], inner }: Scene,
  row: number,
  radius: number,
  fill: string | null,
  stroke: string | null,
): void {
  const [a, b] = [x.pixel(points.x[row] ?? NaN), y.pixel(points.y[row] ?? NaN)];
  if (!(a >= inner.x - 1 && a <= inner.x + inner.width + 1)) return;
  if (!(b >= inner.y - 1 && b <= inner.y + inner.height + 1)) return;
  const box = { x: a - radius, y: b - radius, width: 2 * radius, height: 2 * radius };
  surface.box(box, radius, fill, stroke, 1.5);
}

/** Cells as one image, each of its pixels as large as a cell. */
function stampCells(context: CanvasRenderingContext2D, cells: Density, inner: Box, shading: Shading): void {
  const small = element("canvas", { width: cells.columns, height: cells.rows });
  const image = new ImageData(cells.columns, cells.rows);
  new Uint32Array(image.data.buffer).set(shading.packedOf(cells));
  small.getContext("2d")?.putImageData(image, 0, 0);
  context.save();
  context.beginPath();
  context.rect(inner.x, inner.y, inner.width, inner.height);
  context.clip();
  context.imageSmoothingEnabled = false;
  context.drawImage(small, inner.x, inner.y, cells.columns * CELL, cells.rows * CELL);
  context.restore();
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
