/** Lines over one x that rows are appended to, smoothed, and thinned to what a picture can show. */

import { MalformedData, MAX_ROWS, type Table } from "../../packed";
import { columnsOf, numberColumns, textOf } from "../columns";
import { Growing, NOWHERE, Pyramid } from "./pyramid";

const MAX_SERIES = 256;

/** One line: as it was measured, and smoothed. */
export class Series {
  readonly raw = new Pyramid();
  smooth = new Pyramid();
  #weight = 0;
  #mean = 0;
  #norm = 0;

  constructor(
    readonly name: string,
    readonly label: string,
  ) {}

  push(value: number): void {
    this.raw.push(value);
    if (this.#weight > 0) this.#average(this.raw.values.at(this.raw.length - 1));
  }

  /** Smooth by an exponential moving average that forgets its beginning; 0 is not at all. */
  setSmoothing(weight: number): void {
    this.#weight = weight;
    this.smooth = new Pyramid();
    this.#mean = this.#norm = 0;
    if (weight > 0) for (let row = 0; row < this.raw.length; row++) this.#average(this.raw.values.at(row));
  }

  /** As Adam corrects its means (Kingma and Ba 2015): the start is not pulled to zero. */
  #average(value: number): void {
    if (!Number.isNaN(value)) {
      this.#mean = this.#weight * this.#mean + (1 - this.#weight) * value;
      this.#norm = this.#weight * this.#norm + (1 - this.#weight);
    }
    this.smooth.push(Number.isNaN(value) ? NaN : this.#mean / this.#norm);
  }
}

export class LinesData {
  readonly x = new Growing();
  readonly series: Series[] = [];
  readonly xLabel: string;
  readonly yLabel: string;
  #smoothing = 0;

  constructor(table?: Table) {
    this.xLabel = textOf(table?.meta.get("xLabel"));
    this.yLabel = textOf(table?.meta.get("yLabel"));
    if (table === undefined) return;
    const columns = numberColumns(columnsOf(table));
    const [x, ...ys] = columns;
    if (x === undefined) throw new MalformedData("lines need a first column of numbers, which is x");
    for (const { name, label } of ys) this.series.push(new Series(name, label));
    for (let row = 0; row < table.rows; row++) {
      this.#pushX(x.values[row] ?? NaN);
      ys.forEach(({ values }, at) => this.series[at]?.push(values[row] ?? NaN));
    }
  }

  get rows(): number {
    return this.x.length;
  }

  get smoothing(): number {
    return this.#smoothing;
  }

  /**
   * Append rows: `x` that goes on from where it was, and values by series. A series that is not given has no values
   * in these rows, one that is new had none before; numbers that are not finite are gaps.
   */
  push(x: ArrayLike<number>, values: ReadonlyMap<string, ArrayLike<number>>): void {
    if (this.rows + x.length > MAX_ROWS) throw new MalformedData(`there are more than ${MAX_ROWS} rows`);
    for (const [name, ys] of values) {
      if (ys.length !== x.length)
        throw new MalformedData(`series ${name} has ${ys.length} values for ${x.length} rows`);
    }
    const sources = new Map(values);
    for (let row = 0, last = this.x.at(this.rows - 1); row < x.length; row++) {
      const next = x[row] ?? NaN;
      if (!Number.isFinite(next) || next < last)
        throw new MalformedData(`x goes backwards at row ${this.rows + row}`);
      last = next;
    }
    for (const name of values.keys()) {
      if (!this.series.some((one) => one.name === name)) this.#add(name);
    }
    for (let row = 0; row < x.length; row++) this.#pushX(x[row] ?? NaN);
    for (const one of this.series) {
      const ys = sources.get(one.name);
      for (let row = 0; row < x.length; row++) one.push(ys?.[row] ?? NaN);
    }
  }

  setSmoothing(weight: number): void {
    this.#smoothing = weight;
    for (const one of this.series) one.setSmoothing(weight);
  }

  #add(name: string): void {
    if (this.series.length >= MAX_SERIES) throw new MalformedData(`there are more than ${MAX_SERIES} series`);
    const made = new Series(name, name.toWellFormed());
    made.setSmoothing(this.#smoothing);
    for (let row = 0; row < this.rows; row++) made.push(NaN);
    this.series.push(made);
  }

  #pushX(value: number): void {
    if (!Number.isFinite(value) || value < this.x.at(this.rows - 1)) {
      throw new MalformedData(`x goes backwards at row ${this.rows}: sort the rows by x`);
    }
    this.x.push(value);
  }
}

/** A part of the lines, thin enough to be drawn: x, and for each line values, null where there is a gap. */
export interface Thinned {
  readonly x: number[];
  readonly lines: (number | null)[][];
  /** Rows in sight. */
  readonly rows: number;
  /** Whether rows were left out between those that are drawn. */
  readonly thinned: boolean;
}

/**
 * What is in sight between two x on so many pixels. Where pixels hold several rows each, every pixel has the least and
 * the greatest value of each line in the order in which they come, and one row more on either side of the picture.
 */
export function thin(
  x: Growing,
  lines: readonly Pyramid[],
  from: number,
  to: number,
  pixels: number,
): Thinned {
  const first = Math.max(0, x.firstFrom(from) - 1);
  const inside = x.firstFrom(from);
  let last = x.firstFrom(to);
  while (last < x.length && x.at(last) === to) last++;
  const end = Math.min(x.length, last + 1);
  const rows = last - inside;
  const made: Thinned = { x: [], lines: lines.map(() => []), rows, thinned: end - first > 4 * pixels };
  const whole = (row: number): void => {
    made.x.push(x.at(row));
    lines.forEach((line, at) => {
      const value = line.values.at(row);
      made.lines[at]?.push(Number.isNaN(value) ? null : value);
    });
  };
  if (!made.thinned) {
    for (let row = first; row < end; row++) whole(row);
    return made;
  }
  if (first < inside) whole(first);
  let start = inside;
  for (let pixel = 0; pixel < pixels && start < last; pixel++) {
    const edge = from + ((to - from) * (pixel + 1)) / pixels;
    const stop = pixel === pixels - 1 ? last : Math.min(last, x.firstFrom(edge));
    if (stop <= start) continue;
    made.x.push(x.at(start), x.at(stop - 1));
    lines.forEach((line, at) => {
      const [low, high] = line.extremes(start, stop);
      const ends = low === NOWHERE ? [null, null] : low < high ? [low, high] : [high, low];
      for (const place of ends) made.lines[at]?.push(place === null ? null : line.values.at(place));
    });
    start = stop;
  }
  if (last < end) whole(last);
  return made;
}
