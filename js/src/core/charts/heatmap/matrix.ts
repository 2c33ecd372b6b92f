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

  /** The cells of a row. */
  row(row: number): Float32Array | Float64Array {
    const [start, end] = [row * this.columns, (row + 1) * this.columns];
    const piece = Math.floor(start / this.#length);
    const from = this.#pieces[piece];
    if (from !== undefined && end <= (piece + 1) * this.#length) {
      return from.subarray(start - piece * this.#length, end - piece * this.#length);
    }
    return Float64Array.from({ length: this.columns }, (_, column) => this.at(row, column));
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
  const counts = new Uint32Array(across);
  for (let y = 0; y < down; y++) {
    const [top, bottom] = [rows[2 * y] ?? 0, rows[2 * y + 1] ?? 0];
    if (y > 0 && top === rows[2 * y - 2] && bottom === rows[2 * y - 1]) {
      made.copyWithin(y * across, (y - 1) * across, y * across);
      continue;
    }
    const line = made.subarray(y * across, (y + 1) * across);
    counts.fill(0);
    for (let row = top; row < bottom; row++) addRow(matrix.row(row), columns, line, counts, pool);
    for (let x = 0; x < across; x++) {
      const count = counts[x] ?? 0;
      if (count === 0) line[x] = NaN;
      else if (pool === "mean") line[x] = (line[x] ?? 0) / count;
    }
  }
  return made;
}

/** Add the cells of a row to the pixels over them: to sums, or as what is furthest from zero. */
function addRow(
  cells: Float32Array | Float64Array,
  columns: Uint32Array,
  line: Float64Array,
  counts: Uint32Array,
  pool: Pool,
): void {
  for (let x = 0; x < line.length; x++) {
    const end = columns[2 * x + 1] ?? 0;
    let [value, count] = [line[x] ?? 0, counts[x] ?? 0];
    for (let column = columns[2 * x] ?? 0; column < end; column++) {
      const cell = cells[column] ?? NaN;
      if (Number.isNaN(cell)) continue;
      if (pool === "mean") value += cell;
      else if (count === 0 || Math.abs(cell) > Math.abs(value)) value = cell;
      count++;
    }
    line[x] = value;
    counts[x] = count;
  }
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
