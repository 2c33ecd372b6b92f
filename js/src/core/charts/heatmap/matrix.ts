/** A matrix with labels, and what of it a picture of fewer pixels shows. */

import { MalformedData, type Table } from "../../packed";
import { entries, labelsOf, textOf } from "../columns";
import { extent } from "../numbers";

export const MAX_SIDE = 16_384;

export type Pool = "mean" | "max";

/** A part of the matrix: rows and columns from, and up to but not including. */
export interface Part {
  readonly top: number;
  readonly bottom: number;
  readonly left: number;
  readonly right: number;
}

export class Matrix {
  readonly rows: number;
  readonly columns: number;
  readonly rowLabels: readonly string[];
  readonly columnLabels: readonly string[];
  /** What the numbers are. */
  readonly label: string;
  readonly range: readonly [number, number] | undefined;
  /** Row after row, in one or several pieces of equal length. */
  readonly #pieces: readonly (Float32Array | Float64Array)[];
  readonly #length: number;

  constructor(table: Table) {
    const shape = table.meta.get("shape");
    const [rows, columns] = (Array.isArray(shape) ? shape : []) as unknown[];
    if (!isSide(rows) || !isSide(columns)) throw new MalformedData("the matrix has no usable shape");
    const names = table.columns.filter((name) => table.isNumber(name));
    if (names.length * table.rows < rows * columns)
      throw new MalformedData("the matrix has fewer values than its shape says");
    this.rows = rows;
    this.columns = columns;
    this.#length = Math.max(1, table.rows);
    this.#pieces = rows * columns === 0 ? [] : names.map((name) => table.numbers(name));
    const labels = entries(table.meta.get("labels"));
    this.rowLabels = labelsOf(labels.get("rows"), rows, "rows");
    this.columnLabels = labelsOf(labels.get("columns"), columns, "columns");
    this.label = textOf(table.meta.get("label"));
    this.range = this.#extent();
  }

  at(row: number, column: number): number {
    const place = row * this.columns + column;
    if (this.#pieces.length === 1) return this.#pieces[0]?.[place] ?? NaN;
    const piece = Math.floor(place / this.#length);
    return this.#pieces[piece]?.[place - piece * this.#length] ?? NaN;
  }

  get whole(): Part {
    return { top: 0, bottom: this.rows, left: 0, right: this.columns };
  }

  /** Values with both signs have a scale around zero; others go from the least to the greatest. */
  get diverging(): boolean {
    return this.range !== undefined && this.range[0] < 0 && this.range[1] > 0;
  }

  /** What the ends of the colours stand for. */
  get bound(): readonly [number, number] {
    const [low, high] = this.range ?? [0, 1];
    if (!this.diverging) return [low, high];
    const most = Math.max(-low, high);
    return [-most, most];
  }

  #extent(): readonly [number, number] | undefined {
    let [low, high] = [Infinity, -Infinity];
    let left = this.rows * this.columns;
    for (const piece of this.#pieces) {
      const found = extent(left < piece.length ? piece.subarray(0, left) : piece);
      left -= piece.length;
      if (found === undefined) continue;
      low = Math.min(low, found[0]);
      high = Math.max(high, found[1]);
    }
    return low <= high ? [low, high] : undefined;
  }
}

/**
 * A part of the matrix on `across` times `down` pixels, row after row. A pixel over several cells has their mean, or the
 * value that is furthest from zero; NaN where none of them has one. A cell over several pixels fills them all.
 */
export function pooled(matrix: Matrix, part: Part, across: number, down: number, pool: Pool): Float64Array {
  const made = new Float64Array(across * down);
  const columns = edges(part.left, part.right, across);
  const rows = edges(part.top, part.bottom, down);
  for (let y = 0; y < down; y++) {
    const [top, bottom] = [rows[2 * y] ?? 0, rows[2 * y + 1] ?? 0];
    if (y > 0 && top === rows[2 * y - 2] && bottom === rows[2 * y - 1]) {
      made.copyWithin(y * across, (y - 1) * across, y * across);
      continue;
    }
    for (let x = 0; x < across; x++) {
      made[y * across + x] = poolOf(matrix, top, bottom, columns[2 * x] ?? 0, columns[2 * x + 1] ?? 0, pool);
    }
  }
  return made;
}

function poolOf(
  matrix: Matrix,
  top: number,
  bottom: number,
  left: number,
  right: number,
  pool: Pool,
): number {
  let [sum, count, extreme] = [0, 0, NaN];
  for (let row = top; row < bottom; row++) {
    for (let column = left; column < right; column++) {
      const value = matrix.at(row, column);
      if (Number.isNaN(value)) continue;
      sum += value;
      count++;
      if (!(Math.abs(value) <= Math.abs(extreme))) extreme = value;
    }
  }
  return count === 0 ? NaN : pool === "mean" ? sum / count : extreme;
}

/** For each pixel the first cell and the one after the last; at least one cell each. */
function edges(from: number, to: number, pixels: number): Uint32Array {
  const made = new Uint32Array(2 * pixels);
  for (let pixel = 0; pixel < pixels; pixel++) {
    const first = Math.min(to - 1, from + Math.floor(((to - from) * pixel) / pixels));
    made[2 * pixel] = first;
    made[2 * pixel + 1] = Math.max(first + 1, from + Math.floor(((to - from) * (pixel + 1)) / pixels));
  }
  return made;
}

function isSide(value: unknown): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= MAX_SIDE;
}
