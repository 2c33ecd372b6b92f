/** What lies over the areas and changes with every move of the mouse: the cursor, the selected range, a tip. */

import { sized } from "../pictures";
import { CanvasSurface } from "../surface";
import type { Palette } from "../theme";
import type { Window } from "./columns";
import { MARGIN, type Scale, type Size } from "./paint";

export interface Over {
  readonly cursor: number;
  readonly range: Window | null;
  readonly hover: { readonly time: number; readonly said: string } | null;
}

export function paintOver(
  context: CanvasRenderingContext2D,
  scale: Scale,
  palette: Palette,
  { cursor, range, hover }: Over,
): void {
  const { left, right, bottom } = scale;
  const height = bottom - MARGIN.top;
  const bar = (x: number, width: number, colour: string): void => {
    context.fillStyle = colour;
    context.fillRect(x - width / 2, MARGIN.top, width, height);
  };
  context.save();
  context.beginPath();
  context.rect(left, 0, right - left, bottom);
  context.clip();
  if (range !== null) {
    // What is not selected is paler: a tint would change the colours of what is.
    const [from, to] = [scale.x(range.from), scale.x(range.to)];
    context.fillStyle = palette.background;
    context.globalAlpha = 0.55;
    context.fillRect(left, MARGIN.top, from - left, height);
    context.fillRect(to, MARGIN.top, right - to, height);
    context.globalAlpha = 1;
    bar(from, 2, palette.text);
    bar(to, 2, palette.text);
  }
  bar(scale.x(cursor), 4, palette.background);
  bar(scale.x(cursor), 2, palette.accent);
  if (hover !== null) tip(context, scale, palette, scale.x(hover.time), hover.said);
  context.restore();
}

function tip(
  context: CanvasRenderingContext2D,
  { left, right, bottom }: Scale,
  palette: Palette,
  x: number,
  said: string,
): void {
  const surface = new CanvasSurface(context);
  const width = Math.min(right - left, 7 * said.length + 20);
  const at = x + width + 6 > right ? Math.max(left, x - width - 6) : x + 6;
  surface.line([x, MARGIN.top, x, bottom], palette.text, 1);
  surface.box({ x: at, y: MARGIN.top + 18, width, height: 22 }, 4, palette.raised, palette.border, 1);
  surface.text(said, at + 8, MARGIN.top + 29, 12, palette.text, width - 12);
}

/** The drawing context of an empty canvas of a size in CSS pixels. */
export function cleared(canvas: HTMLCanvasElement, { width, height }: Size): CanvasRenderingContext2D | null {
  const ratio = canvas.ownerDocument.defaultView?.devicePixelRatio ?? 1;
  const context = sized(canvas, width, height, ratio);
  context?.clearRect(0, 0, width, height);
  return context;
}
