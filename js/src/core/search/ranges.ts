/** Where the values of a range stand on its axis. */

import { said, tickLabel } from "../charts/numbers";
import type { SearchState } from "./state";

export interface RangeAxis {
  readonly name: string;
  /** Its place among the columns. */
  readonly place: number;
  /** Where a trial stands, 0 to 1; NaN where it has no value. */
  share(row: number): number;
  /** What stands at a share, as the filter reads it. */
  at(share: number): string;
  /** Marks: a share and what stands there. */
  readonly marks: readonly (readonly [number, string])[];
  readonly isChoice: boolean;
  /** The value of a trial in words. */
  said(row: number): string;
}

const MARKED_CHOICES = 8;

/** The axis of the range in a place of the columns. */
export function rangeAxis(state: SearchState, place: number): RangeAxis | undefined {
  const { trials } = state;
  const param = trials.params[place];
  if (param === undefined) return undefined;
  const { name, words, values } = param;
  const space = state.spaces.get(name);
  if (words !== undefined) {
    const labels = [...new Set([...(space?.labels ?? []), ...words.list.slice(1)])];
    const known = new Map(labels.map((label, at) => [label, at]));
    const places = words.list.map((word) =>
      word === "" ? NaN : ((known.get(word) ?? NaN) + 0.5) / labels.length,
    );
    const every = Math.max(1, Math.ceil(labels.length / MARKED_CHOICES));
    return {
      name,
      place,
      isChoice: true,
      share: (row) => places[values.get(row)] ?? NaN,
      at: (share) =>
        labels[Math.min(labels.length - 1, Math.max(0, Math.floor(share * labels.length)))] ?? "",
      marks: labels.flatMap((label, at) =>
        at % every === 0 ? [[(at + 0.5) / labels.length, label] as const] : [],
      ),
      said: (row) => words.list[values.get(row)] ?? "",
    };
  }
  const log = (space?.kind === "log" || space?.kind === "log-integer") && space.low > 0;
  let [low, high] = [space?.low ?? NaN, space?.high ?? NaN];
  if (!(Number.isFinite(low) && Number.isFinite(high) && low < high)) {
    [low, high] = [Infinity, -Infinity];
    for (const value of values.upTo(trials.count)) {
      if (Number.isFinite(value)) [low, high] = [Math.min(low, value), Math.max(high, value)];
    }
    if (!(low < high)) [low, high] = low === high ? [low - 0.5, low + 0.5] : [0, 1];
  }
  const [from, to] = log ? [Math.log(low), Math.log(high)] : [low, high];
  const share = (value: number): number => {
    const found = ((log ? Math.log(value) : value) - from) / (to - from);
    return Number.isNaN(found) ? NaN : Math.min(1, Math.max(0, found));
  };
  const at = (where: number): number => {
    const value = from + (to - from) * Math.min(1, Math.max(0, where));
    return log ? Math.exp(value) : value;
  };
  return {
    name,
    place,
    isChoice: false,
    share: (row) => share(values.get(row)),
    at: (where) => String(Number(at(where).toPrecision(4))),
    marks: [0, 0.5, 1].map((where) => [where, tickLabel(Number(at(where).toPrecision(2)))] as const),
    said: (row) => said(values.get(row)),
  };
}

/** Places of the ranges by how much they matter, as far as that is known. */
export function byImportance(state: SearchState): number[] {
  const known = new Map(state.importances);
  return state.trials.params
    .map((_, place) => place)
    .sort((a, b) => {
      const [one, other] = [a, b].map((place) => known.get(state.trials.params[place]?.name ?? "") ?? 0);
      return (other ?? 0) - (one ?? 0) || a - b;
    });
}
