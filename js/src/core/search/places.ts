/** Where trials stand in a picture of points: which is under the pointer, and to which a key leads. */

import { NEAR, nextBy } from "./picture";

export class Places {
  readonly #rows: Uint32Array;
  readonly #xs: Float32Array;
  readonly #ys: Float32Array;
  #count = 0;

  /** At most so many. */
  constructor(most: number) {
    this.#rows = new Uint32Array(most);
    this.#xs = new Float32Array(most);
    this.#ys = new Float32Array(most);
  }

  add(row: number, x: number, y: number): void {
    this.#rows[this.#count] = row;
    this.#xs[this.#count] = x;
    this.#ys[this.#count++] = y;
  }

  /** Where a trial stands. */
  of(row: number): readonly [number, number] | undefined {
    const at = this.#rows.subarray(0, this.#count).indexOf(row);
    return at < 0 ? undefined : [this.#xs[at] ?? 0, this.#ys[at] ?? 0];
  }

  /** The trial that is nearest; -1 where none is near. */
  near(x: number, y: number): number {
    let [found, least] = [-1, NEAR * NEAR];
    for (let at = 0; at < this.#count; at++) {
      const [dx, dy] = [(this.#xs[at] ?? 0) - x, (this.#ys[at] ?? 0) - y];
      if (dx * dx + dy * dy <= least) [found, least] = [this.#rows[at] ?? -1, dx * dx + dy * dy];
    }
    return found;
  }

  /** Left and right go by x, up and down by y, Home and End to the outermost. */
  follow(key: string, row: number): number | undefined {
    const [rows, xs, ys] = [this.#rows, this.#xs, this.#ys].map((one) => one.subarray(0, this.#count));
    if (rows === undefined || xs === undefined || ys === undefined) return undefined;
    switch (key) {
      case "ArrowRight":
        return nextBy(rows, xs, row, true);
      case "ArrowLeft":
        return nextBy(rows, xs, row, false);
      case "ArrowDown":
        return nextBy(rows, ys, row, true);
      case "ArrowUp":
        return nextBy(rows, ys, row, false);
      case "Home":
        return nextBy(rows, xs, -1, true);
      case "End":
        return nextBy(rows, xs, -1, false);
      default:
        return undefined;
    }
  }
}
