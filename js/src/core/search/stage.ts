/** What all pictures of a search share: the data, the colours, and the trial under the cursor. */

import { seriesColour } from "../charts/colours";
import type { Column, NumberColumn, WordColumn } from "../charts/columns";
import { alarm, type Palette } from "../theme";
import { Dots } from "./dots";
import type { SearchState } from "./state";
import { STATUSES } from "./trials";
import { words } from "./words";

/** How trials are told apart in every picture. */
export type Look = "whole" | "small" | "stopped" | "running" | "failed" | "best";

export interface Stage {
  readonly state: SearchState;
  readonly palette: Palette;
  /** The metric that pictures show. */
  readonly metric: number;
  /** Whether rows are to be shown; undefined where all are. */
  readonly shown: Uint8Array | undefined;
  /** The row under the cursor; -1 where there is none. */
  readonly cursor: number;
  /** Move the cursor: `aloud` where the reader asked for it by a key. */
  moveTo(row: number, aloud: boolean): void;
  /** A row was chosen. */
  choose(row: number): void;
  /** Show only what has a value between two; of a choice, one of its options. */
  narrow(column: string, from: string, to: string): void;
}

export function isShown(stage: Stage, row: number): boolean {
  return stage.shown === undefined || stage.shown[row] === 1;
}

export function colourOf(look: Look, palette: Palette): string {
  switch (look) {
    case "whole":
      return seriesColour(0, palette);
    case "best":
      return seriesColour(1, palette);
    case "stopped":
      return seriesColour(5, palette);
    case "running":
      return seriesColour(4, palette);
    case "failed":
      return alarm(palette);
    case "small":
      return palette.wire;
  }
}

/** Points of the looks that trials with a value have, those on top last; whole ones are larger. */
export function dotsOf(palette: Palette, small: number, whole: number): ReadonlyMap<Look, Dots> {
  const looks: readonly Look[] = ["small", "stopped", "whole", "running"];
  return new Map(
    looks.map((look) => [
      look,
      new Dots(colourOf(look, palette), look === "whole" || look === "running" ? whole : small),
    ]),
  );
}

export function lookOf(state: SearchState, row: number): Look {
  const { trials } = state;
  const status = trials.statusOf(row);
  if (status === "failed") return "failed";
  if (status === "stopped" || status === "running") return status;
  return trials.isWhole(row) && status === "complete" ? "whole" : "small";
}

/** The columns of all trials, as the table shows and the filter reads them. */
export function columnsOf(state: SearchState): Column[] {
  const { trials } = state;
  const { count } = trials;
  const made: Column[] = [];
  const used = new Set<string>();
  const named = (name: string): string => {
    let free = name;
    while (used.has(free)) free += "'";
    used.add(free);
    return free;
  };
  const role = (name: string): { name: string; label: string; better: undefined; bar: false } => {
    const free = named(name);
    return { name: free, label: free, better: undefined, bar: false };
  };
  const number = (name: string, values: Float64Array): NumberColumn => ({
    kind: "number",
    ...role(name),
    values,
  });
  const text = (name: string, list: readonly string[], codes: Float64Array): WordColumn => ({
    kind: "text",
    ...role(name),
    words: list,
    codes: Uint32Array.from(codes),
  });
  made.push(number(words.column.trial, trials.trial.upTo(count)));
  state.metrics.forEach((metric, at) => {
    const values = trials.values[at]?.upTo(count) ?? new Float64Array(count).fill(NaN);
    const better = state.direction(at) === "max" ? "higher" : "lower";
    made.push({ ...number(metric, values), better });
  });
  made.push(number(words.column.size, trials.cost.upTo(count)));
  for (const param of trials.params) {
    const values = param.values.upTo(count);
    made.push(
      param.words === undefined ? number(param.name, values) : text(param.name, param.words.list, values),
    );
  }
  made.push(
    text(words.column.status, STATUSES, trials.status.upTo(count)),
    text(words.column.purpose, words.purposes, trials.purpose.upTo(count)),
    number(words.column.seconds, trials.seconds.upTo(count)),
    text(words.column.error, trials.errors.list, trials.error.upTo(count)),
  );
  return made;
}

/** The name by which a range is known to the filter. */
export function filterName(state: SearchState, place: number): string {
  return columnsOf(state)[2 + state.metrics.length + place]?.name ?? "";
}
