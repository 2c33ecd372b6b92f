/** A window of time as columns of pixels: for each the state that held most in it, so that no peak is lost. */

import type { TimelineData } from "./data";

/** Seconds from the first event. */
export interface Window {
  readonly from: number;
  readonly to: number;
}

export interface Columns {
  /** The state that held most in each column. */
  readonly most: Uint32Array;
  /** The state that held least. */
  readonly least: Uint32Array;
}

/**
 * The states of every column. A column's states are the one in which it begins and those that its events lead to; the
 * last column includes events at its very end.
 */
export function columns(data: TimelineData, window: Window, count: number): Columns {
  const most = new Uint32Array(count);
  const least = new Uint32Array(count);
  const width = (window.to - window.from) / count;
  let from = data.stateBefore(window.from);
  for (let column = 0; column < count; column++) {
    const last = column === count - 1;
    const to = last ? data.stateAt(window.to) : data.stateBefore(window.from + (column + 1) * width);
    most[column] = data.extremes.largest(from, to + 1);
    least[column] = data.extremes.smallest(from, to + 1);
    from = to;
  }
  return { most, least };
}
