/** The picture as a file: everything that is open, of every graph that shows, beside each other. */

import { element } from "../dom";
import { pngOf } from "../pictures";
import { CanvasSurface, type Surface, SvgSurface } from "../surface";
import type { Layout } from "./layout";
import { type Look, paint } from "./paint";

export interface Part {
  readonly layout: Layout;
  readonly look: Look;
  /** What stands above it; empty for nothing. */
  readonly title: string;
}

const TITLE = 30;
const BETWEEN = 32;
const MAX_PICTURE = 8192;

function sizeOf(parts: readonly Part[]): { width: number; height: number; top: number } {
  const top = parts.some(({ title }) => title !== "") ? TITLE : 0;
  const width = parts.reduce((sum, { layout }) => sum + (layout.width[0] ?? 0), (parts.length - 1) * BETWEEN);
  const height = Math.max(1, ...parts.map(({ layout }) => layout.height[0] ?? 0));
  return { width: Math.max(1, width), height: height + top, top };
}

function paintAll(surface: Surface, parts: readonly Part[], scale: number): void {
  const { width, height, top } = sizeOf(parts);
  let left = 0;
  for (const { layout, look, title } of parts) {
    const own = layout.width[0] ?? 0;
    const window = { x: -left, y: -top, scale, width: width * scale, height: height * scale };
    paint(surface, layout, window, look);
    const { palette } = look;
    if (title !== "")
      surface.text(title, (left + 12) * scale, 17 * scale, 14 * scale, palette.text, own * scale, true);
    left += own + BETWEEN;
  }
}

export function svg(parts: readonly Part[]): string {
  const { width, height } = sizeOf(parts);
  const surface = new SvgSurface(width, height, parts[0]?.look.palette.background ?? "#ffffff");
  paintAll(surface, parts, 1);
  return surface.toString();
}

export function png(parts: readonly Part[]): Promise<Blob> {
  const { width, height } = sizeOf(parts);
  const scale = Math.min(2, MAX_PICTURE / Math.max(width, height));
  const canvas = element("canvas", { width: Math.ceil(width * scale), height: Math.ceil(height * scale) });
  const context = canvas.getContext("2d");
  if (context === null) return Promise.reject(new Error("no picture"));
  context.fillStyle = parts[0]?.look.palette.background ?? "#ffffff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  paintAll(new CanvasSurface(context), parts, scale);
  return pngOf(canvas);
}
