/** The picture: areas stacked over time, axes, and marks; its cost goes with its pixels, not with the events. */

import { bytesInWords, timeInWords } from "../quantities";
import type { Surface } from "../surface";
import { alarm, type Palette } from "../theme";
import { colourOf } from "./colours";
import { columns, type Window } from "./columns";
import type { TimelineData } from "./data";
import type { Stack } from "./stack";
import { words } from "./words";

/** The room around the areas. */
export const MARGIN = { left: 64, right: 10, top: 22, bottom: 22 } as const;
const SMALL = 11;
const LEGEND_ROW = 18;

export interface Look {
  readonly palette: Palette;
  readonly stack: Stack;
  /** A module that another view speaks of. */
  readonly highlight: Stack | null;
}

export interface Size {
  readonly width: number;
  readonly height: number;
}

/** Where times and bytes are in the picture. */
export interface Scale {
  readonly window: Window;
  readonly left: number;
  readonly right: number;
  readonly bottom: number;
  x(time: number): number;
  time(x: number): number;
  y(bytes: number): number;
}

export function scaleOf(window: Window, most: number, size: Size): Scale {
  const left = MARGIN.left;
  const right = Math.max(left + 1, size.width - MARGIN.right);
  const bottom = Math.max(MARGIN.top + 1, size.height - MARGIN.bottom);
  const perSecond = (right - left) / (window.to - window.from);
  const perByte = (bottom - MARGIN.top) / Math.max(1, most);
  return {
    window,
    left,
    right,
    bottom,
    x: (time) => left + (time - window.from) * perSecond,
    time: (x) => window.from + (Math.min(right, Math.max(left, x)) - left) / perSecond,
    y: (bytes) => bottom - bytes * perByte,
  };
}

/** Draw a window of time; returns where everything is. */
export function paint(surface: Surface, data: TimelineData, window: Window, size: Size, look: Look): Scale {
  const { palette, stack } = look;
  const count = Math.max(1, Math.floor(size.width - MARGIN.left - MARGIN.right));
  const { most, least } = columns(data, window, count);
  let top = 0;
  for (const state of most) top = Math.max(top, data.totals[state] ?? 0);
  const scale = scaleOf(window, top, size);
  gridlines(surface, scale, top, palette);

  const parts = stack.size;
  const values = new Float64Array(count * parts);
  for (let column = 0; column < count; column++) {
    const before = column > 0 && most[column] === most[column - 1];
    if (before) values.copyWithin(column * parts, (column - 1) * parts, column * parts);
    else stack.read(most[column] ?? 0, values, column * parts);
  }
  const below = new Float64Array(count);
  stack.parts.forEach((part, number) => {
    const points: number[] = [];
    for (let column = count - 1; column >= 0; column--) {
      const y = scale.y(below[column] as number);
      points.push(scale.left + column + 1, y, scale.left + column, y);
    }
    const edge: number[] = [];
    for (let column = 0; column < count; column++) {
      const sum = (below[column] as number) + (values[column * parts + number] as number);
      below[column] = sum;
      edge.push(scale.left + column, scale.y(sum), scale.left + column + 1, scale.y(sum));
    }
    surface.area([...edge, ...points], colourOf(part.colour, palette));
    surface.line(edge, palette.background, 0.75);
  });
  leastLine(surface, data, most, least, scale, palette);
  if (look.highlight !== null) highlighted(surface, look.highlight, most, scale, palette);
  timeAxis(surface, scale, palette);
  marks(surface, data, scale, palette);
  return scale;
}

function gridlines(surface: Surface, scale: Scale, top: number, palette: Palette): void {
  let step = 1;
  while (top / step > 5) step *= 2;
  for (let bytes = 0; bytes <= top; bytes += step) {
    const y = scale.y(bytes);
    surface.line([scale.left, y, scale.right, y], palette.border, 0.5);
    surface.text(bytesInWords(bytes), 4, y, SMALL, palette.faint, MARGIN.left);
  }
}

/** How low it went within the pixels in which it went up and down. */
function leastLine(
  surface: Surface,
  data: TimelineData,
  most: Uint32Array,
  least: Uint32Array,
  scale: Scale,
  palette: Palette,
): void {
  const points: number[] = [];
  let differs = false;
  least.forEach((state, column) => {
    const low = data.totals[state] ?? 0;
    differs ||= low < (data.totals[most[column] ?? 0] ?? 0);
    points.push(scale.left + column, scale.y(low), scale.left + column + 1, scale.y(low));
  });
  if (differs) surface.line(points, palette.text, 0.75);
}

function highlighted(
  surface: Surface,
  stack: Stack,
  most: Uint32Array,
  scale: Scale,
  palette: Palette,
): void {
  const points: number[] = [];
  const value = new Float64Array(1);
  most.forEach((state, column) => {
    stack.read(state, value);
    const y = scale.y(value[0] as number);
    points.push(scale.left + column, y, scale.left + column + 1, y);
  });
  surface.line(points, palette.background, 4.5);
  surface.line(points, palette.accent, 2);
}

function timeAxis(surface: Surface, scale: Scale, palette: Palette): void {
  const { from, to } = scale.window;
  const room = Math.max(1, Math.floor((scale.right - scale.left) / 110));
  const rough = (to - from) / room;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((factor) => factor * power >= rough) ?? 10);
  const first = Math.ceil(from / step);
  for (let tick = first; tick * step <= to && tick - first <= 2 * room; tick++) {
    const x = scale.x(tick * step);
    surface.line([x, scale.bottom, x, scale.bottom + 4], palette.faint, 1);
    const label = timeInWords(tick * step, step);
    if (x + label.length * SMALL * 0.6 > scale.right) break; // it would be cut off
    surface.text(label, x + 3, scale.bottom + 12, SMALL, palette.faint, 100);
  }
}

function marks(surface: Surface, data: TimelineData, scale: Scale, palette: Palette): void {
  const flag = (time: number, label: string, y: number, colour: string, width: number): void => {
    if (time < scale.window.from || time > scale.window.to) return;
    const x = scale.x(time);
    const room = label.length * SMALL * 0.54 + 8;
    surface.line([x, y, x, scale.bottom], colour, width);
    surface.text(label, x + room > scale.right ? x - room : x + 4, y + 4, SMALL, colour, room + 8, true);
  };
  if (data.rows === 0) return;
  const peak = bytesInWords(data.totals[data.peak] ?? 0);
  flag(data.timeOf(data.peak), words.peakLabel(peak), 8, palette.text, 1);
  if (data.outOfMemoryAt !== null) flag(data.outOfMemoryAt, words.outOfMemory, 22, alarm(palette), 2.5);
}

/** The room that `legend` takes. */
export function legendHeight(stack: Stack, width: number): number {
  return Math.ceil(stack.size / perRow(width)) * LEGEND_ROW + 6;
}

/** What the colours mean, for pictures that stand alone. */
export function legend(surface: Surface, stack: Stack, y: number, width: number, palette: Palette): void {
  const each = (width - MARGIN.left) / perRow(width);
  stack.parts.forEach((part, number) => {
    const x = MARGIN.left + (number % perRow(width)) * each;
    const middle = y + Math.floor(number / perRow(width)) * LEGEND_ROW + LEGEND_ROW / 2;
    surface.box(
      { x, y: middle - 5, width: 10, height: 10 },
      2,
      colourOf(part.colour, palette),
      palette.border,
      0.5,
    );
    surface.text(part.label, x + 15, middle, SMALL, palette.text, each - 20);
  });
}

function perRow(width: number): number {
  return Math.max(1, Math.floor((width - MARGIN.left) / 130));
}
