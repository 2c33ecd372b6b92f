/** Axes: where values stand in a picture, and the marks and lines around it. */

import type { Box, Surface } from "../surface";
import type { Palette } from "../theme";
import { logTicks, tickLabel, ticks } from "./numbers";

const SIZE = 12;
/** Mean width of a digit. */
const DIGIT = 7;
const PADDING = 0.04;

export type Range = readonly [number, number];

/** A stretch of numbers along a stretch of pixels; `start` may be the larger one, as it is for y. */
export class Axis {
  readonly #from: number;
  readonly #scale: number;

  constructor(
    readonly low: number,
    readonly high: number,
    readonly log: boolean,
    readonly start: number,
    readonly end: number,
  ) {
    this.#from = log ? Math.log10(low) : low;
    const to = log ? Math.log10(high) : high;
    this.#scale = (end - start) / (to - this.#from);
  }

  /** NaN for what has no place on a logarithmic axis. */
  pixel(value: number): number {
    return this.start + ((this.log ? Math.log10(value) : value) - this.#from) * this.#scale;
  }

  value(pixel: number): number {
    const value = this.#from + (pixel - this.start) / this.#scale;
    return this.log ? 10 ** value : value;
  }

  ticks(): number[] {
    const count = Math.max(
      2,
      Math.floor(Math.abs(this.end - this.start) / (this.start < this.end ? 90 : 44)),
    );
    return this.log ? logTicks(this.low, this.high, count) : ticks(this.low, this.high, count);
  }
}

/** Some room around what is to be shown; what is a single value gets room of its own. */
export function roomy(low: number, high: number, log: boolean): readonly [number, number] {
  if (log) {
    const room = low === high ? 2 : Math.min(1e6, (high / low) ** PADDING);
    return [low / room, high * room];
  }
  const room = low === high ? Math.abs(low) * PADDING || 1 : (high - low) * PADDING;
  return [low - room, high + room];
}

/** Lines and marks of two axes around `inner`, with the names of both. */
export function frame(
  surface: Surface,
  inner: Box,
  [x, y]: readonly [Axis, Axis],
  [xLabel, yLabel]: readonly [string, string],
  palette: Palette,
): void {
  const bottom = inner.y + inner.height;
  for (const tick of x.ticks()) {
    const [at, label] = [x.pixel(tick), tickLabel(tick)];
    surface.line([at, inner.y, at, bottom], palette.border, 0.5);
    surface.text(label, at - (label.length * DIGIT) / 2, bottom + 11, SIZE, palette.faint, 90);
  }
  for (const tick of y.ticks()) {
    const [at, label] = [y.pixel(tick), tickLabel(tick)];
    surface.line([inner.x, at, inner.x + inner.width, at], palette.border, 0.5);
    surface.text(label, Math.max(2, inner.x - 6 - label.length * DIGIT), at, SIZE, palette.faint, inner.x);
  }
  surface.box(inner, 0, null, palette.border, 1);
  const width = Math.min(inner.width, xLabel.length * DIGIT);
  surface.text(xLabel, inner.x + inner.width - width, bottom + 27, SIZE, palette.text, inner.width);
  surface.text(yLabel, 4, inner.y - 11, SIZE, palette.text, inner.x + inner.width);
}

/** The room inside of the axes. */
export function innerOf(width: number, height: number): Box {
  return { x: 62, y: 24, width: Math.max(10, width - 62 - 14), height: Math.max(10, height - 24 - 38) };
}

/** A stretch between two numbers, whichever is less. */
export function ordered(a: number, b: number): Range {
  return a <= b ? [a, b] : [b, a];
}

/** The box between two corners. */
export function boxOf(a: readonly [number, number], b: readonly [number, number]): Box {
  return {
    x: Math.min(a[0], b[0]),
    y: Math.min(a[1], b[1]),
    width: Math.abs(a[0] - b[0]),
    height: Math.abs(a[1] - b[1]),
  };
}
