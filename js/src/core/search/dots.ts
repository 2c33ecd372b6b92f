/** Many points at once: as one image on a canvas, as boxes in an SVG file. */

import { packedColour } from "../charts/colours";
import { element } from "../dom";
import { type Box, CanvasSurface, type Surface } from "../surface";

/** Points of one colour, x and y in turn. */
export class Dots {
  #points: Float32Array;
  #length = 0;

  /** `count` of them, or more. */
  constructor(
    readonly colour: string,
    readonly radius: number,
    count = 32,
  ) {
    this.#points = new Float32Array(Math.max(2, 2 * count));
  }

  get count(): number {
    return this.#length / 2;
  }

  get points(): Float32Array {
    return this.#points.subarray(0, this.#length);
  }

  add(x: number, y: number): void {
    if (this.#length + 2 > this.#points.length) {
      const more = new Float32Array(2 * this.#points.length);
      more.set(this.#points);
      this.#points = more;
    }
    this.#points[this.#length++] = x;
    this.#points[this.#length++] = y;
  }
}

/** Points that stand in one box, the later groups on top. */
export interface Plot {
  readonly inner: Box;
  readonly groups: readonly Dots[];
}

/** More points than this are blocks of pixels instead of circles. */
const ROUND = 1_500;
/** From so many on the blocks of a group are one or two pixels wide, and counted. */
const DENSE = 4_000;
/** Pixels around the box in which blocks may lie. */
const MARGIN = 4;

/** Draw the points of plots that stand beside each other in a picture of a size. */
export function drawDots(
  surface: Surface,
  plots: readonly Plot[],
  size: { readonly width: number; readonly height: number },
): void {
  let total = 0;
  for (const { groups } of plots) for (const one of groups) total += one.count;
  if (!(surface instanceof CanvasSurface)) {
    for (const { groups } of plots) {
      for (const { points, colour, radius } of groups) {
        for (let at = 0; at < points.length; at += 2) {
          const [x, y] = [(points[at] ?? 0) - radius, (points[at + 1] ?? 0) - radius];
          surface.box({ x, y, width: 2 * radius, height: 2 * radius }, radius, colour, null, 0);
        }
      }
    }
  } else if (total <= ROUND) {
    for (const { groups } of plots) round(surface.context, groups);
  } else stamp(surface.context, plots, size);
}

function round(context: CanvasRenderingContext2D, groups: readonly Dots[]): void {
  for (const { points, colour, radius } of groups) {
    context.fillStyle = colour;
    context.beginPath();
    for (let at = 0; at < points.length; at += 2) {
      const [x, y] = [points[at] ?? 0, points[at + 1] ?? 0];
      context.moveTo(x + radius, y);
      context.arc(x, y, radius, 0, 2 * Math.PI);
    }
    context.fill();
  }
}

/** What images are made in: one for all pictures, as large as the largest. Between two groups all counts are zero. */
let scratch: { canvas: HTMLCanvasElement; image: ImageData; counts: Uint32Array } | undefined;

function scratchOf(
  width: number,
  height: number,
): { canvas: HTMLCanvasElement; image: ImageData; counts: Uint32Array } {
  if (scratch === undefined || scratch.image.width < width || scratch.image.height < height) {
    const [across, down] = [
      Math.max(width, scratch?.image.width ?? 0),
      Math.max(height, scratch?.image.height ?? 0),
    ];
    scratch = {
      canvas: element("canvas", { width: across, height: down }),
      image: new ImageData(across, down),
      counts: new Uint32Array(across * down),
    };
  }
  return scratch;
}

/**
 * An image in which each point is a block of pixels: what takes a path seconds takes this milliseconds. Where points
 * are very many, blocks are the stronger the more of them lie there.
 */
function stamp(
  context: CanvasRenderingContext2D,
  plots: readonly Plot[],
  size: { readonly width: number; readonly height: number },
): void {
  const ratio = context.getTransform().a || 1;
  const [width, height] = [Math.ceil(size.width * ratio), Math.ceil(size.height * ratio)];
  const { canvas, image, counts } = scratchOf(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const line = image.width;
  pixels.fill(0, 0, line * height);
  for (const { inner, groups } of plots) {
    const left = Math.max(0, Math.floor((inner.x - MARGIN) * ratio));
    const top = Math.max(0, Math.floor((inner.y - MARGIN) * ratio));
    const right = Math.min(width, Math.ceil((inner.x + inner.width + MARGIN) * ratio));
    const bottom = Math.min(height, Math.ceil((inner.y + inner.height + MARGIN) * ratio));
    for (const group of groups) {
      const { points, colour, radius, count } = group;
      if (count === 0) continue;
      const dense = count > DENSE;
      const room = Math.sqrt((inner.width * inner.height) / count);
      const wide = dense ? Math.min(2, Math.max(1, Math.round(room / 2))) : 1.6 * radius;
      const block = Math.max(1, Math.round(wide * ratio));
      const packed = packedColour(colour);
      let most = 0;
      for (let at = 0; at < points.length; at += 2) {
        const x = Math.round((points[at] ?? 0) * ratio - block / 2);
        const y = Math.round((points[at + 1] ?? 0) * ratio - block / 2);
        if (!(x >= left && y >= top && x + block <= right && y + block <= bottom)) continue;
        for (let start = y * line + x, down = 0; down < block; down++, start += line) {
          if (!dense) pixels.fill(packed, start, start + block);
          else
            for (let one = start; one < start + block; one++) {
              const now = (counts[one] ?? 0) + 1;
              counts[one] = now;
              if (now > most) most = now;
            }
        }
      }
      if (most > 0) shade(pixels, counts, packed, most, line, [left, top, right, bottom]);
    }
  }
  const drawing = canvas.getContext("2d");
  drawing?.putImageData(image, 0, 0, 0, 0, width, height);
  context.drawImage(canvas, 0, 0, width, height, 0, 0, width / ratio, height / ratio);
}

/**
 * Counts up to `most` become a colour that lets the more of what lies below through the fewer they are, and nothing
 * again.
 */
function shade(
  pixels: Uint32Array,
  counts: Uint32Array,
  packed: number,
  most: number,
  line: number,
  [left, top, right, bottom]: readonly [number, number, number, number],
): void {
  const opacities = Float32Array.from(
    { length: most + 1 },
    (_, count) => 0.3 + (0.7 * Math.log1p(count)) / Math.log1p(most),
  );
  const alone = Uint32Array.from(opacities, (opacity) => over(packed, opacity, 0));
  for (let y = top; y < bottom; y++) {
    for (let at = y * line + left, end = y * line + right; at < end; at++) {
      const count = counts[at] ?? 0;
      if (count === 0) continue;
      counts[at] = 0;
      const below = pixels[at] ?? 0;
      pixels[at] = below === 0 ? (alone[count] ?? 0) : over(packed, opacities[count] ?? 1, below);
    }
  }
}

/** A colour of an opacity over another one, both as image data holds them. */
function over(colour: number, opacity: number, below: number): number {
  const under = ((below >>> 24) / 255) * (1 - opacity);
  const alpha = opacity + under;
  const mixed = (shift: number): number =>
    Math.round((((colour >>> shift) & 255) * opacity + ((below >>> shift) & 255) * under) / alpha);
  return ((Math.round(255 * alpha) << 24) | (mixed(16) << 16) | (mixed(8) << 8) | mixed(0)) >>> 0;
}

/** Crosses, x and y in turn. */
export function drawCrosses(surface: Surface, points: ArrayLike<number>, colour: string, size = 3): void {
  if (surface instanceof CanvasSurface) {
    const { context } = surface;
    context.beginPath();
    for (let at = 0; at < points.length; at += 2) {
      const [x, y] = [points[at] ?? 0, points[at + 1] ?? 0];
      context.moveTo(x - size, y - size);
      context.lineTo(x + size, y + size);
      context.moveTo(x - size, y + size);
      context.lineTo(x + size, y - size);
    }
    context.strokeStyle = colour;
    context.lineWidth = 1.5;
    context.stroke();
    return;
  }
  for (let at = 0; at < points.length; at += 2) {
    const [x, y] = [points[at] ?? 0, points[at + 1] ?? 0];
    surface.line([x - size, y - size, x + size, y + size], colour, 1.5);
    surface.line([x - size, y + size, x + size, y - size], colour, 1.5);
  }
}

/** A dashed line from left to right. */
export function drawDashes(surface: Surface, from: number, to: number, y: number, colour: string): void {
  for (let x = from; x < to; x += 9) surface.line([x, y, Math.min(to, x + 5), y], colour, 1);
}
