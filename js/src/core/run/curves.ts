/** What the steps of a run measured, one small picture a series. The table beside it says the same in numbers. */

import { element } from "../dom";
import { FONT, clipped } from "../surface";
import type { Palette } from "../theme";
import type { Curve } from "./state";
import { digits } from "./words";

const SIZE = { width: 260, height: 84 };
const TOP = 20;
const FOOT = 6;
const MAX_CURVES = 24;

export class Curves {
  readonly element = element("div", { class: "dsl-curves", "aria-hidden": "true" });
  readonly #canvases = new Map<string, HTMLCanvasElement>();

  draw(curves: ReadonlyMap<string, Curve>, palette: Palette): void {
    for (const [name, curve] of curves) {
      let canvas = this.#canvases.get(name);
      if (canvas === undefined) {
        if (this.#canvases.size >= MAX_CURVES) continue;
        canvas = element("canvas");
        canvas.style.width = `${SIZE.width}px`;
        canvas.style.height = `${SIZE.height}px`;
        this.#canvases.set(name, canvas);
        this.element.append(canvas);
      }
      paint(canvas, name, curve, palette);
    }
  }
}

function paint(canvas: HTMLCanvasElement, name: string, curve: Curve, palette: Palette): void {
  const ratio = globalThis.devicePixelRatio || 1;
  const [width, height] = [Math.round(SIZE.width * ratio), Math.round(SIZE.height * ratio)];
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  const context = canvas.getContext("2d");
  if (context === null) return;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.fillStyle = palette.background;
  context.fillRect(0, 0, SIZE.width, SIZE.height);
  context.font = `12px ${FONT}`;
  context.textBaseline = "middle";
  context.fillStyle = palette.text;
  context.fillText(clipped(name, 12, SIZE.width - 90), 2, 9);
  context.textAlign = "right";
  context.fillText(digits(curve.last), SIZE.width - 2, 9);
  context.textAlign = "left";
  context.strokeStyle = palette.border;
  context.lineWidth = 1;
  context.strokeRect(0.5, TOP - 0.5, SIZE.width - 1, SIZE.height - TOP);
  context.strokeStyle = palette.accent;
  context.lineWidth = 1.5;
  context.beginPath();
  let open = false;
  for (const { x, least, most, last } of columns(curve, SIZE.width - 4)) {
    if (Number.isNaN(last)) {
      open = false;
      continue;
    }
    const [low, high] = [up(least, curve), up(most, curve)];
    if (open) context.lineTo(x + 2, low);
    else context.moveTo(x + 2, low);
    if (high !== low) context.lineTo(x + 2, high);
    if (!open) context.lineTo(x + 2.5, high); // a lone point is a dot
    open = true;
  }
  context.stroke();
}

function up(value: number, { least, most }: Curve): number {
  const share = most > least ? (value - least) / (most - least) : 0.5;
  return SIZE.height - FOOT - Math.min(1, Math.max(0, share)) * (SIZE.height - TOP - 2 * FOOT);
}

export interface Column {
  readonly x: number;
  readonly least: number;
  readonly most: number;
  /** NaN where the column holds nothing but gaps. */
  readonly last: number;
}

/** The smallest and the largest value of each pixel's steps, so that no peak disappears; what is not finite is a gap. */
export function columns({ step, value }: Pick<Curve, "step" | "value">, width: number): Column[] {
  const made: Column[] = [];
  const [first, final] = [step[0] ?? 0, step.at(-1) ?? 0];
  const scale = final > first ? (width - 1) / (final - first) : 0;
  let [x, least, most, last] = [-1, NaN, NaN, NaN];
  const flush = (): void => {
    if (x >= 0) made.push({ x, least, most, last });
  };
  for (let row = 0; row < value.length; row++) {
    const at = Math.min(width - 1, Math.max(0, Math.round(((step[row] ?? 0) - first) * scale)));
    if (at !== x) {
      flush();
      [x, least, most, last] = [at, NaN, NaN, NaN];
    }
    const one = value[row] ?? NaN;
    if (!Number.isFinite(one)) continue;
    least = least <= one ? least : one;
    most = most >= one ? most : one;
    last = one;
  }
  flush();
  return made;
}
