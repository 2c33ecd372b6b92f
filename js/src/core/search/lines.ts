/** Pictures whose trials are lines: what is under the pointer, and which comes next. */

import type { Surface } from "../surface";
import { Picture } from "./picture";

/** A line by its points, x and y in turn; NaN is a gap. */
export interface Line {
  readonly row: number;
  readonly points: readonly number[];
}

/** Distance in pixels up to which a line is under the pointer. */
const NEAR = 12;

export abstract class Lines extends Picture {
  protected lines: readonly Line[] = [];
  /** Rows in the order in which keys go through them, the best first. */
  protected order: ArrayLike<number> = [];

  protected near(x: number, y: number): number {
    let [found, least] = [-1, NEAR];
    for (const { row, points } of this.lines) {
      const height = heightAt(points, x);
      const far = Math.abs(height - y);
      if (far < least) [found, least] = [row, far];
    }
    return found;
  }

  protected follow(key: string, row: number): number | undefined {
    const { order } = this;
    const at = row < 0 ? -1 : (Array.prototype.indexOf.call(order, row) as number);
    const last = order.length - 1;
    const moves: Readonly<Record<string, number>> = {
      ArrowDown: at + 1,
      ArrowRight: at + 1,
      ArrowUp: Math.max(0, at - 1),
      ArrowLeft: Math.max(0, at - 1),
      Home: 0,
      End: last,
    };
    if (!Object.hasOwn(moves, key)) return undefined;
    return order[Math.min(last, moves[key] ?? 0)] ?? -1;
  }
}

/** Where a line is at a place across; NaN where it is not. */
function heightAt(points: readonly number[], x: number): number {
  for (let at = 0; at + 3 < points.length; at += 2) {
    const [x0, y0, x1, y1] = [points[at] ?? 0, points[at + 1] ?? 0, points[at + 2] ?? 0, points[at + 3] ?? 0];
    if (!(x >= x0 && x <= x1) || Number.isNaN(y0 + y1)) continue;
    return x1 > x0 ? y0 + ((y1 - y0) * (x - x0)) / (x1 - x0) : y0;
  }
  const [x0, y0] = [points[0] ?? NaN, points[1] ?? NaN];
  return points.length === 2 && Math.abs(x - x0) < NEAR ? y0 : NaN;
}

/** Draw a line in the stretches between its gaps. */
export function drawLine(surface: Surface, points: readonly number[], colour: string, width: number): void {
  let run: number[] = [];
  const flush = (): void => {
    if (run.length === 2) run.push((run[0] ?? 0) + 2, run[1] ?? 0); // a lone point
    if (run.length > 2) surface.line(run, colour, width);
    run = [];
  };
  for (let at = 0; at < points.length; at += 2) {
    const [x, y] = [points[at] ?? 0, points[at + 1] ?? NaN];
    if (Number.isNaN(y)) flush();
    else run.push(x, y);
  }
  flush();
}
