/** A matrix as colours, with its labels: on a canvas pixel by pixel, in a file cell by cell. */

import { type Box, type Surface, SvgSurface } from "../../surface";
import type { Palette } from "../../theme";
import { packedColour, type Ramp } from "../colours";
import { type Matrix, type Part, type Pool, pooled } from "./matrix";

const SIZE = 12;
const CHARACTER = 6.6;
const LINE = 15;
/** Cells of one side of a picture in a file. */
const MAX_CELLS = 128;

/** Where the cells stand: labels take as much room as they need, up to a third. */
export function innerOf(matrix: Matrix, width: number, height: number): Box {
  const longest = matrix.rowLabels.reduce((most, label) => Math.max(most, label.length), 0);
  const left = Math.round(Math.min(width / 3, Math.max(24, longest * CHARACTER + 14)));
  return { x: left, y: 8, width: Math.max(10, width - left - 12), height: Math.max(10, height - 8 - 24) };
}

/** The cells of a part as image data. Missing values are hatched. */
export function image(
  matrix: Matrix,
  part: Part,
  across: number,
  down: number,
  pool: Pool,
  ramp: Ramp,
  palette: Palette,
): ImageData {
  const values = pooled(matrix, part, across, down, pool);
  const made = new ImageData(across, down);
  const pixels = new Uint32Array(made.data.buffer);
  const [low, high] = matrix.bound;
  const scale = high > low ? 255 / (high - low) : 0;
  const [ground, line] = [packedColour(palette.background), packedColour(palette.wire)];
  for (let at = 0; at < pixels.length; at++) {
    const value = values[at] ?? NaN;
    if (Number.isNaN(value)) {
      pixels[at] = ((at % across) + Math.floor(at / across)) % 6 === 0 ? line : ground;
    } else {
      const step = scale === 0 ? 128 : Math.round((value - low) * scale);
      pixels[at] = ramp.packed[step < 0 ? 0 : step > 255 ? 255 : step] ?? 0;
    }
  }
  return made;
}

/** Labels beside and below the cells, as many as can be read. */
export function labels(surface: Surface, matrix: Matrix, part: Part, inner: Box, palette: Palette): void {
  const [rows, columns] = [part.bottom - part.top, part.right - part.left];
  if (rows === 0 || columns === 0) return;
  const [tall, wide] = [inner.height / rows, inner.width / columns];
  const every = Math.max(1, Math.ceil(LINE / tall));
  for (let row = part.top; row < part.bottom; row += every) {
    const text = matrix.rowLabels[row] ?? "";
    const y = inner.y + (row - part.top + 0.5) * tall;
    const x = Math.max(4, inner.x - 6 - text.length * CHARACTER);
    if (y + SIZE / 2 < inner.y + inner.height + LINE / 2)
      surface.text(text, x, y, SIZE, palette.faint, inner.x - 8);
  }
  const longest = matrix.columnLabels
    .slice(part.left, part.right)
    .reduce((most, label) => Math.max(most, label.length), 1);
  const room = Math.min(longest * CHARACTER + 10, 110);
  const stride = Math.max(1, Math.ceil(room / wide));
  for (let column = part.left; column < part.right; column += stride) {
    const text = matrix.columnLabels[column] ?? "";
    const shown = Math.min(text.length * CHARACTER, stride * wide - 4);
    const x = inner.x + (column - part.left + 0.5) * wide - shown / 2;
    const fits = x + shown < inner.x + inner.width + 12;
    if (fits)
      surface.text(
        text,
        Math.max(inner.x, x),
        inner.y + inner.height + 12,
        SIZE,
        palette.faint,
        stride * wide,
      );
  }
}

/** The part as an SVG file; more than 128 cells of a side are pooled. */
export function svg(matrix: Matrix, part: Part, pool: Pool, ramp: Ramp, palette: Palette): string {
  const across = Math.min(MAX_CELLS, part.right - part.left);
  const down = Math.min(MAX_CELLS, part.bottom - part.top);
  const size = Math.max(4, Math.min(24, 640 / Math.max(1, across, down)));
  const [width, height] = [across * size, down * size];
  const inner = innerOf(matrix, width + 120, height + 32);
  const room = { ...inner, width, height };
  const surface = new SvgSurface(room.x + width + 12, height + 32, palette.background);
  const values = pooled(matrix, part, across, down, pool);
  const [low, high] = matrix.bound;
  values.forEach((value, at) => {
    const box = {
      x: room.x + (at % across) * size,
      y: room.y + Math.floor(at / across) * size,
      width: size,
      height: size,
    };
    if (Number.isNaN(value)) {
      surface.box(box, 0, palette.background, palette.border, 0.5);
      surface.line([box.x, box.y + size, box.x + size, box.y], palette.wire, 1);
    } else surface.box(box, 0, ramp.css(high > low ? (value - low) / (high - low) : 0.5), null, 0);
  });
  labels(surface, matrix, part, room, palette);
  return surface.toString();
}
