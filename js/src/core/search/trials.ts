/** Trials in columns that grow at their end: ten thousand of them are some megabytes, and none is looked up by name. */

import { clip } from "../clip";
import { type Column, columnsOf } from "../charts/columns";
import { MalformedData, type Table } from "../packed";

/** More trials than this are counted, not kept. */
export const MAX_TRIALS = 200_000;
const MAX_PARAMS = 128;
const MAX_METRICS = 16;
/** Different errors, and different options of one choice. */
const MAX_WORDS = 5_000;

export const PURPOSES = ["search", "defaults", "repeat"] as const;
export const STATUSES = ["running", "complete", "stopped", "failed", "abandoned"] as const;
export type Purpose = (typeof PURPOSES)[number];
export type Status = (typeof STATUSES)[number];

type Numbers = Float64Array<ArrayBuffer>;

/** Numbers that grow at their end; what was never set is the filler. */
class Growing {
  #values: Numbers;

  constructor(
    readonly filler: number,
    size = 64,
  ) {
    this.#values = new Float64Array(size).fill(filler);
  }

  set(row: number, value: number): void {
    if (row >= this.#values.length) {
      const more = new Float64Array(Math.max(2 * this.#values.length, row + 1)).fill(this.filler);
      more.set(this.#values);
      this.#values = more;
    }
    this.#values[row] = value;
  }

  get(row: number): number {
    return this.#values[row] ?? this.filler;
  }

  /** The first `count` of them, as they stand now. */
  upTo(count: number): Numbers {
    if (count > this.#values.length) this.set(count - 1, this.filler);
    return this.#values.subarray(0, count);
  }
}

/** Words by number, each kept once. */
class Words {
  readonly list: string[];
  readonly #codes = new Map<string, number>();

  /** `first` have the first numbers; further words are clipped, and more than can be kept share the last one. */
  constructor(first: readonly string[] = [""]) {
    this.list = [...first];
    first.forEach((word, code) => this.#codes.set(word, code));
  }

  code(word: string): number {
    let code = this.#codes.get(word);
    if (code === undefined) {
      if (this.list.length >= MAX_WORDS) return this.list.length - 1;
      code = this.list.length;
      this.list.push(clip(word));
      this.#codes.set(word, code);
    }
    return code;
  }
}

/** The values of one range, by trial. */
export interface Param {
  readonly name: string;
  /** Options in words, where it is a choice; the first one, empty, stands for what is missing. */
  readonly words: Words | undefined;
  readonly values: Growing;
}

export interface Curve {
  readonly steps: ArrayLike<number>;
  readonly values: ArrayLike<number>;
}

export class Trials {
  count = 0;
  /** Trials beyond what can be kept. */
  more = 0;
  /** Rows of those that run. */
  readonly running = new Set<number>();
  readonly #rows = new Map<number, number>();
  readonly trial = new Growing(0);
  readonly config = new Growing(0);
  readonly purpose = new Growing(0);
  readonly status = new Growing(0);
  readonly cost = new Growing(NaN);
  /** When it began, of one that runs, or ended: seconds of the kernel's clock. */
  readonly at = new Growing(NaN);
  readonly seconds = new Growing(NaN);
  readonly allowed = new Growing(1);
  readonly error = new Growing(0);
  readonly errors = new Words();
  /** By metric. */
  readonly values: Growing[] = [new Growing(NaN)];
  /** What was reported last. */
  readonly reported = new Growing(NaN);
  readonly params: Param[] = [];
  readonly curves = new Map<number, Curve>();

  /** The row of a trial; -1 where it is not known. */
  rowOf(trial: number): number {
    return this.#rows.get(trial) ?? -1;
  }

  statusOf(row: number): Status {
    return STATUSES[this.status.get(row)] ?? "abandoned";
  }

  purposeOf(row: number): Purpose {
    return PURPOSES[this.purpose.get(row)] ?? "search";
  }

  isWhole(row: number): boolean {
    return this.cost.get(row) >= 1;
  }

  /** The value of a metric; of the first one, the last that was reached. NaN where there is none. */
  value(row: number, metric = 0): number {
    const value = this.values[metric]?.get(row) ?? NaN;
    return metric === 0 && Number.isNaN(value) ? this.reported.get(row) : value;
  }

  /** Whether it came to its end as the cell stands, within its constraints, and for the search. */
  isResult(row: number): boolean {
    return (
      this.statusOf(row) === "complete" &&
      this.isWhole(row) &&
      this.allowed.get(row) !== 0 &&
      this.purposeOf(row) !== "repeat"
    );
  }

  /** Take in rows: each is a whole trial, or points of the curve of one that is known. */
  take(table: Table): void {
    if (table.rows === 0) return;
    const columns = new Map(columnsOf(table).map((one) => [one.name, one]));
    const ids = table.integers("trial");
    const { words: statuses, codes } = table.text("status");
    const known = statuses.map((word) => (STATUSES as readonly string[]).indexOf(word));
    const [steps, curve] = [table.lists("steps"), table.lists("curve")];
    const start = seconds(table.meta.get("start_s"));
    const read = this.#readers(table, columns, start);
    for (let at = 0; at < table.rows; at++) {
      const [from, to] = [curve.starts[at] ?? 0, curve.starts[at + 1] ?? 0];
      if (to - from !== (steps.starts[at + 1] ?? 0) - (steps.starts[at] ?? 0))
        throw new MalformedData("a curve has other steps than values");
      const points: Curve = {
        steps: steps.values.subarray(steps.starts[at] ?? 0, steps.starts[at + 1] ?? 0),
        values: curve.values.subarray(from, to),
      };
      const code = codes[at] ?? 0;
      const id = ids[at] ?? 0;
      if (statuses[code] === "") this.#extend(id, points);
      else {
        const row = this.#row(id);
        if (row < 0) continue;
        const status = known[code] ?? -1;
        this.status.set(row, status < 0 ? STATUSES.indexOf("abandoned") : status);
        if (status === 0) this.running.add(row);
        else this.running.delete(row);
        for (const one of read) one(row, at);
        this.#setCurve(row, points);
      }
    }
  }

  #row(trial: number): number {
    let row = this.#rows.get(trial);
    if (row === undefined) {
      if (this.count >= MAX_TRIALS) {
        this.more++;
        return -1;
      }
      row = this.count++;
      this.#rows.set(trial, row);
      this.trial.set(row, trial);
    }
    return row;
  }

  #setCurve(row: number, points: Curve): void {
    const { length } = points.values;
    this.reported.set(row, length === 0 ? NaN : (points.values[length - 1] ?? NaN));
    if (length > 0) this.curves.set(row, points);
    else this.curves.delete(row);
  }

  #extend(trial: number, more: Curve): void {
    const row = this.rowOf(trial);
    if (row < 0 || this.statusOf(row) !== "running") return;
    const before = this.curves.get(row) ?? { steps: [], values: [] };
    this.#setCurve(row, {
      steps: [...Array.from(before.steps), ...Array.from(more.steps)],
      values: [...Array.from(before.values), ...Array.from(more.values)],
    });
  }

  /** What puts the columns of a table into a row here. */
  #readers(
    table: Table,
    columns: ReadonlyMap<string, Column>,
    start: number,
  ): ((row: number, at: number) => void)[] {
    const made: ((row: number, at: number) => void)[] = [];
    const numbers = (name: string, target: Growing, read = (value: number): number => value): void => {
      const column = columns.get(name);
      if (column?.kind !== "number") return;
      made.push((row, at) => target.set(row, read(column.values[at] ?? NaN)));
    };
    numbers("config", this.config);
    numbers("cost", this.cost);
    numbers("at_ms", this.at, (value) => start + value / 1e3);
    numbers("seconds", this.seconds);
    numbers("allowed", this.allowed);
    const purpose = columns.get("purpose");
    if (purpose?.kind === "text") {
      const found = purpose.words.map((word) => Math.max(0, (PURPOSES as readonly string[]).indexOf(word)));
      made.push((row, at) => this.purpose.set(row, found[purpose.codes[at] ?? 0] ?? 0));
    }
    const error = columns.get("error");
    if (error?.kind === "text") {
      const found = error.words.map((word) => this.errors.code(word));
      made.push((row, at) => this.error.set(row, found[error.codes[at] ?? 0] ?? 0));
    }
    for (let metric = 0; metric < MAX_METRICS; metric++) {
      if (!columns.has(`value${metric}`)) continue;
      while (this.values.length <= metric) this.values.push(new Growing(NaN));
    }
    this.values.forEach((target, metric) => {
      if (columns.has(`value${metric}`)) numbers(`value${metric}`, target);
      else made.push((row) => target.set(row, NaN));
    });
    this.#know(table.meta.get("params"));
    this.params.forEach((param, place) => {
      const column = columns.get(`param${place}`);
      const { words, values } = param;
      if (column === undefined) made.push((row) => values.set(row, values.filler));
      else if (words === undefined) numbers(`param${place}`, values);
      else if (column.kind === "text") {
        const found = column.words.map((word) => words.code(word));
        made.push((row, at) => values.set(row, found[column.codes[at] ?? 0] ?? 0));
      }
    });
    return made;
  }

  /** Ranges by the order of their columns: a list of names, and whether each is a choice. */
  #know(told: unknown): void {
    if (!Array.isArray(told)) return;
    for (const one of told.slice(this.params.length, MAX_PARAMS) as unknown[]) {
      const [name, choice] = Array.isArray(one) ? (one as unknown[]) : [];
      if (typeof name !== "string") throw new MalformedData("a range has no name");
      const words = choice === true ? new Words() : undefined;
      this.params.push({ name: clip(name), words, values: new Growing(words === undefined ? NaN : 0) });
    }
  }
}

export type { Growing };

function seconds(value: unknown): number {
  return typeof value === "number" && Number.isFinite(value) ? value : 0;
}
