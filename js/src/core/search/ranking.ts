/** What follows from the trials: which are best, which were for a time, which failed in the same way. */

import { paretoFront } from "../charts/scatter/points";
import type { SearchState } from "./state";

const known = new WeakMap<SearchState, { version: number; readonly found: Map<string, unknown> }>();

/** What is derived from the data is derived once, until there is more of it. */
export function once<Made>(state: SearchState, key: string, make: () => Made): Made {
  let kept = known.get(state);
  if (kept?.version !== state.version)
    known.set(state, (kept = { version: state.version, found: new Map() }));
  if (!kept.found.has(key)) kept.found.set(key, make());
  return kept.found.get(key) as Made;
}

/** Trials of the search that have a value of a metric, in the order of their rows, with these values. */
export interface Valued {
  readonly rows: Uint32Array;
  readonly values: Float64Array;
  /** From the best of them to where nearly all are. */
  readonly span: readonly [number, number];
}

export function valuedWith(state: SearchState, metric: number): Valued {
  return once(state, `valued ${metric}`, () => {
    const rows = valued(state, metric);
    const values = Float64Array.from(rows, (row) => state.trials.value(row, metric));
    // What was reached where a trial was stopped, or by now, may lie beyond.
    const ended = values.filter((_, at) => state.trials.statusOf(rows[at] ?? 0) === "complete");
    const shown = ended.length > 2 ? ended : values;
    return { rows, values, span: spanOf(shown, state.direction(metric) === "max") };
  });
}

/** Trials of the search that have a value of a metric, in the order of their rows. */
function valued(state: SearchState, metric: number): Uint32Array {
  const { trials } = state;
  const rows = new Uint32Array(trials.count);
  let count = 0;
  for (let row = 0; row < trials.count; row++) {
    if (trials.purposeOf(row) === "repeat" || trials.statusOf(row) === "failed") continue;
    if (Number.isFinite(trials.value(row, metric))) rows[count++] = row;
  }
  return rows.subarray(0, count);
}

/** Results that were the best when they ended, in the order of their numbers. */
export function records(state: SearchState, metric: number): readonly number[] {
  return once(state, `records ${metric}`, () => foundRecords(state, metric));
}

function foundRecords(state: SearchState, metric: number): number[] {
  const { trials } = state;
  const results: number[] = [];
  for (let row = 0; row < trials.count; row++) {
    if (trials.isResult(row) && Number.isFinite(trials.value(row, metric))) results.push(row);
  }
  results.sort((a, b) => trials.trial.get(a) - trials.trial.get(b));
  const found: number[] = [];
  for (const row of results) {
    const last = found.at(-1);
    if (last === undefined || state.better(trials.value(row, metric), trials.value(last, metric), metric))
      found.push(row);
  }
  return found;
}

/**
 * Of each configuration the largest trial that gave a value, the best first: larger ones were promoted for being good,
 * so they stand before smaller ones.
 */
export function standings(state: SearchState, metric: number): Uint32Array {
  return once(state, `standings ${metric}`, () => ranked(state, metric));
}

/** By metric, the last order: nearly the next one, which is then sorted in hardly more than one pass. */
const last = new WeakMap<SearchState, Map<number, Uint32Array>>();

function ranked(state: SearchState, metric: number): Uint32Array {
  const { trials } = state;
  const largest = new Map<number, number>();
  // Size and value of each row, and whether it is allowed, without a call for each of a hundred thousand comparisons.
  const sizes = new Float64Array(trials.count);
  const costs = new Float64Array(trials.count);
  const stands = new Uint8Array(trials.count);
  const sign = state.direction(metric) === "max" ? -1 : 1;
  const { rows, values } = valuedWith(state, metric);
  for (let at = 0; at < rows.length; at++) {
    const row = rows[at] ?? 0;
    if (trials.statusOf(row) !== "complete") continue;
    const [config, cost] = [trials.config.get(row), trials.cost.get(row)];
    const other = largest.get(config);
    if (other !== undefined && !(cost >= trials.cost.get(other))) continue;
    if (other !== undefined) stands[other] = 0;
    largest.set(config, row);
    stands[row] = 1;
    sizes[row] = -cost - (trials.allowed.get(row) !== 0 ? 1e6 : 0);
    costs[row] = sign * (values[at] ?? NaN);
  }
  const ordered: number[] = [];
  for (const row of last.get(state)?.get(metric) ?? []) {
    if (stands[row] !== 1) continue;
    stands[row] = 0;
    ordered.push(row);
  }
  for (const row of largest.values()) if (stands[row] === 1) ordered.push(row);
  ordered.sort((a, b) => {
    const [one, other] = [sizes[a] ?? 0, sizes[b] ?? 0];
    return one === other ? (costs[a] ?? 0) - (costs[b] ?? 0) || a - b : one - other;
  });
  const made = Uint32Array.from(ordered);
  last.set(state, (last.get(state) ?? new Map<number, Uint32Array>()).set(metric, made));
  return made;
}

/** Results that no other one beats in one of two metrics without being worse in the other, in the order of the first. */
export function front(state: SearchState, first: number, second: number): readonly number[] {
  return once(state, `front ${first} ${second}`, () => foundFront(state, first, second));
}

function foundFront(state: SearchState, first: number, second: number): number[] {
  const { trials } = state;
  const rows: number[] = [];
  for (let row = 0; row < trials.count; row++) {
    if (!trials.isResult(row)) continue;
    if (Number.isFinite(trials.value(row, first)) && Number.isFinite(trials.value(row, second)))
      rows.push(row);
  }
  const points = {
    x: trials.values[first]?.upTo(trials.count) ?? [],
    y: trials.values[second]?.upTo(trials.count) ?? [],
  };
  const way = (metric: number): "lower" | "higher" =>
    state.direction(metric) === "max" ? "higher" : "lower";
  return paretoFront(points, Uint32Array.from(rows), way(first), way(second));
}

/** The defaults, run whole; -1 where they have not come to their end. */
export function defaultsOf(state: SearchState): number {
  const { trials } = state;
  for (let row = 0; row < trials.count; row++) {
    if (trials.purposeOf(row) === "defaults" && trials.statusOf(row) === "complete") return row;
  }
  return -1;
}

export interface Failure {
  readonly error: string;
  readonly trials: readonly number[];
  readonly count: number;
}

/** Trials that are named of each failure. */
const NAMED = 6;

/** Failed trials by their error, numbers in it apart; the most frequent one first. */
export function failures(state: SearchState): Failure[] {
  const { trials } = state;
  const keys = trials.errors.list.map((error) => error.replace(/\d+(?:\.\d+)?/g, "#"));
  const found = new Map<string, { error: string; trials: number[]; count: number }>();
  for (let row = 0; row < trials.count; row++) {
    if (trials.statusOf(row) !== "failed") continue;
    const code = trials.error.get(row);
    const key = keys[code] ?? "";
    let one = found.get(key);
    if (one === undefined)
      found.set(key, (one = { error: trials.errors.list[code] ?? "", trials: [], count: 0 }));
    one.count++;
    if (one.trials.length < NAMED) one.trials.push(trials.trial.get(row));
  }
  return [...found.values()].sort((a, b) => b.count - a.count);
}

/** At most so many of the rows, evenly. */
export function sampled(rows: Uint32Array, most: number): Uint32Array {
  if (rows.length <= most) return rows;
  return Uint32Array.from(
    { length: most },
    (_, at) => rows[Math.floor((at * (rows.length - 1)) / (most - 1))] ?? 0,
  );
}

/** What lies far beyond this share of the values is drawn at the edge. */
const WORSE = 0.9;

/** From the best of the values to the worst one, or to where nearly all of them are if the worst is far away. */
export function spanOf(values: Float64Array, largest: boolean): readonly [number, number] {
  const ordered = values.filter(Number.isFinite).sort();
  if (ordered.length === 0) return [0, 1];
  const at = (share: number): number => {
    const place = Math.round((ordered.length - 1) * (largest ? 1 - share : share));
    return ordered[place] ?? 0;
  };
  const [best, most, worst] = [at(0), at(WORSE), at(1)];
  const end = Math.abs(worst - best) <= 4 * Math.abs(most - best) ? worst : most;
  return best <= end ? [best, end] : [end, best];
}
