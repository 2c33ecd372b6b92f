/** Draws what shows of a laid-out graph. Only what is inside of the window and large enough to be seen is visited. */

import { type Box, CanvasSurface, type Surface } from "../surface";
import { alarm, type Palette } from "../theme";
import { COLUMN_GAP, type Layout } from "./layout";
import { Kind } from "./tree";

/** The window: `scale` pixels for each unit of the layout, whose point (`x`, `y`) is at the window's corner. */
export interface Viewport {
  readonly x: number;
  readonly y: number;
  readonly scale: number;
  readonly width: number;
  readonly height: number;
}

export interface Look {
  readonly palette: Palette;
  readonly selected: ReadonlySet<number>;
  readonly found: ReadonlySet<number>;
  /** Colour of an item, or null for the usual one. */
  fill(item: number): string | null;
  /** What stands in an item beside its name, in place of how many operations it holds. */
  said(item: number): string;
}

/** Below this many pixels a box is not drawn, and nothing inside of it. */
const TOO_SMALL = 1.5;
/** Below this many pixels a label could not be read. */
const READABLE = 7;
/** Below this many pixels the inside of an open item is a plain box. */
const FLAT = 14;

export interface Painted {
  items: number;
  wires: number;
}

/** Draw; returns how much was drawn. */
export function paint(surface: Surface, layout: Layout, view: Viewport, look: Look): Painted {
  const painted: Painted = { items: 0, wires: 0 };
  new Painter(surface, layout, view, look, painted).item(0, -view.x * view.scale, -view.y * view.scale);
  return painted;
}

class Painter {
  readonly #canvas: boolean;

  constructor(
    readonly surface: Surface,
    readonly layout: Layout,
    readonly view: Viewport,
    readonly look: Look,
    readonly painted: Painted,
  ) {
    this.#canvas = surface instanceof CanvasSurface;
  }

  /** Draw an item whose corner is at (`left`, `top`) in pixels. */
  item(item: number, left: number, top: number): void {
    const { layout, view, look } = this;
    const { tree } = layout;
    const width = (layout.width[item] ?? 0) * view.scale;
    const height = (layout.height[item] ?? 0) * view.scale;
    if (left > view.width || top > view.height || left + width < 0 || top + height < 0) return;
    if (this.#canvas && (width < TOO_SMALL || height < TOO_SMALL)) return;
    const open = tree.isGroup(item) && layout.isOpen(item);
    if (item > 0) {
      this.painted.items++;
      this.#box(item, { x: left, y: top, width, height }, open);
    }
    if (!open || (this.#canvas && height < FLAT)) return;
    this.#wires(item, left, top);
    for (const kid of tree.kids(item)) {
      this.item(kid, left + (layout.x[kid] ?? 0) * view.scale, top + (layout.y[kid] ?? 0) * view.scale);
    }
    if (item > 0 && look.selected.has(item)) {
      this.surface.box({ x: left, y: top, width, height }, 6 * view.scale, null, look.palette.accent, 2);
    }
  }

  #box(item: number, box: Box, open: boolean): void {
    const { layout, look, view } = this;
    const { palette } = look;
    const { tree } = layout;
    const group = tree.isGroup(item);
    const chosen = look.selected.has(item);
    const hit = look.found.has(item);
    const radius = Math.min(6, (group ? 6 : 13) * view.scale);
    const colour = open ? null : look.fill(item);
    const fill = open ? palette.surface : (colour ?? palette.raised);
    const stroke = chosen || hit ? palette.accent : tree.isBreak(item) ? alarm(palette) : palette.border;
    if ((tree.repeat[item] ?? 1) > 1 && !open && box.height > READABLE) {
      const shift = 3 * view.scale;
      this.surface.box(
        { ...box, x: box.x + shift, y: box.y + shift },
        radius,
        palette.surface,
        palette.border,
        1,
      );
    }
    this.surface.box(box, radius, fill, stroke, chosen || tree.isBreak(item) ? 2 : 1);
    const size = 12 * view.scale;
    const line = open ? 24 * view.scale : box.height;
    if (this.#canvas && size < READABLE) return;
    const sign = group ? (open ? "▾ " : "▸ ") : "";
    const x = box.x + 8 * view.scale;
    const y = box.y + line / 2;
    const note = this.#note(item, open);
    const noteWidth = note === "" ? 0 : note.length * 6.6 * view.scale + 8 * view.scale;
    const room = box.width - 14 * view.scale - noteWidth;
    this.surface.text(sign + (tree.label[item] ?? ""), x, y, size, palette.text, room, group);
    if (note !== "" && room > 0) {
      const at = box.x + box.width - noteWidth;
      const ink = colour === null ? palette.faint : palette.text;
      this.surface.text(note, at, y, size * 0.92, ink, noteWidth + 8 * view.scale);
    }
  }

  #note(item: number, open: boolean): string {
    const { tree } = this.layout;
    const copies = tree.repeat[item] ?? 1;
    const said = open ? "" : this.look.said(item);
    if (copies > 1) return said === "" ? `× ${copies}` : `× ${copies}  ${said}`;
    if (said !== "") return said;
    return tree.kind[item] === Kind.Operation ? "" : String(tree.size[item]);
  }

  #wires(item: number, left: number, top: number): void {
    const { layout, view, look } = this;
    const wires = layout.tree.wires[item] ?? [];
    const width = Math.max(0.5, Math.min(1.5, 1.2 * view.scale));
    for (let at = 0; at < wires.length; at += 2) {
      const from = wires[at] ?? 0;
      const to = wires[at + 1] ?? 0;
      const x1 = left + ((layout.x[from] ?? 0) + (layout.width[from] ?? 0) / 2) * view.scale;
      const y1 = top + ((layout.y[from] ?? 0) + (layout.height[from] ?? 0)) * view.scale;
      const x2 = left + ((layout.x[to] ?? 0) + (layout.width[to] ?? 0) / 2) * view.scale;
      const y2 = top + (layout.y[to] ?? 0) * view.scale;
      if (Math.max(x1, x2) < 0 || Math.min(x1, x2) > view.width) continue;
      if (Math.max(y1, y2) < 0 || Math.min(y1, y2) > view.height) continue;
      const chosen = look.selected.has(from) || look.selected.has(to);
      const colour = chosen ? look.palette.accent : look.palette.wire;
      this.painted.wires++;
      if (y2 > y1) this.surface.wire(x1, y1, x2, y2, colour, chosen ? 2 * width : width);
      else {
        // Up to the next column: through the gap before it.
        const gap = x2 - ((layout.width[to] ?? 0) / 2 + COLUMN_GAP / 2) * view.scale;
        const bend = 9 * view.scale;
        const points = [x1, y1, x1, y1 + bend, gap, y1 + bend, gap, y2 - bend, x2, y2 - bend, x2, y2];
        this.surface.line(points, colour, chosen ? 2 * width : width);
      }
    }
  }
}

/** The innermost item at a point of the layout; 0 where there is none. */
export function itemAt(layout: Layout, x: number, y: number): number {
  let item = 0;
  let left = 0;
  let top = 0;
  for (;;) {
    if (!layout.tree.isGroup(item) || !layout.isOpen(item)) return item;
    const next = layout.tree.kids(item).find((kid) => {
      const kx = left + (layout.x[kid] ?? 0);
      const ky = top + (layout.y[kid] ?? 0);
      return x >= kx && y >= ky && x <= kx + (layout.width[kid] ?? 0) && y <= ky + (layout.height[kid] ?? 0);
    });
    if (next === undefined) return item;
    left += layout.x[next] ?? 0;
    top += layout.y[next] ?? 0;
    item = next;
  }
}
