/** How a run stands: a fold over its events and over what its steps measured, the same live and from a file. */

import { clip } from "../clip";
import { MalformedData, type Table } from "../packed";
import type { AnyEvent, CandidateEnded, LiveMeasured, RankVitals } from "../../protocol";
import { checkedEvent } from "./events";
import { words } from "./words";

export type Phase = "live" | "stopping" | "ended" | "lost";

/** A candidate of the race for one graph; without `ended` it is being built. */
export interface Candidate {
  readonly name: string;
  readonly ended?: CandidateEnded;
}

export interface Race {
  readonly graph: string;
  target: string;
  signature: string;
  chosen: string;
  reason: string;
  decided: boolean;
  measured?: LiveMeasured;
  readonly candidates: Map<string, Candidate>;
  moreCandidates: number;
}

/** One series of measured values; columns grow at their end. */
export interface Curve {
  readonly step: number[];
  readonly value: number[];
  last: number;
  least: number;
  most: number;
  count: number;
}

const MAX_REMARKS = 200;
const MAX_RACES = 200;
/** Candidates of one race. */
const MAX_CANDIDATES = 100;
/** Series that are kept, as in `base/series.py`; values of more are counted. */
const MAX_CURVES = 1000;
/** Seconds that the rate of steps is taken over, for the time that remains. */
const WINDOW_S = 20;

export class RunState {
  phase: Phase;
  /** Why it ended, in the kernel's words. */
  reason = "";
  verb = "";
  done = 0;
  total: number | null = null;
  unit = "step";
  startedAt: number | null = null;
  endedAt: number | null = null;
  readonly races = new Map<string, Race>();
  readonly curves = new Map<string, Curve>();
  ranks: readonly RankVitals[] = [];
  readonly remarks: { readonly kind: "note" | "break" | "fallback"; readonly text: string }[] = [];
  moreRemarks = 0;
  /** Values that were measured, those included that were left out on the way here. */
  values = 0;
  /** The kernel's clock minus this page's, in seconds. */
  skew = 0;
  readonly #progress: { at: number; done: number }[] = [];

  /** `before` is what was known of the same run, where a new table tells it anew: the rate of its steps goes on. */
  constructor(phase: Phase, before?: RunState) {
    this.phase = phase;
    if (before !== undefined) this.#progress.push(...before.#progress);
  }

  /** Take in a table: the whole run, or what is new. `nowS` is this page's clock. */
  take(table: Table, nowS: number): void {
    const events = table.meta.get("events");
    if (!Array.isArray(events)) throw new MalformedData("the run has no events");
    const kernelNow = table.meta.get("now_s");
    if (isNumber(kernelNow)) this.skew = kernelNow - nowS;
    for (const one of events) {
      const event = checkedEvent(one);
      if (event !== null) this.#fold(event);
    }
    this.#takeRows(table);
    const { meta } = table;
    const done = meta.get("done");
    if (isNumber(done)) this.#advance(done, meta.get("total"), meta.get("unit"), nowS + this.skew);
    const state = meta.get("state");
    if (state === "stopping" && this.phase === "live") this.phase = "stopping";
    if (state === "ended") this.phase = "ended";
  }

  /** Seconds since the start, by the kernel's clock; null where no start was told. */
  elapsed(nowS: number): number | null {
    if (this.startedAt === null) return null;
    const now = this.phase === "ended" && this.endedAt !== null ? this.endedAt : nowS + this.skew;
    return Math.max(0, now - this.startedAt);
  }

  /** Seconds until the last step at the rate of the last steps; null where that is not known. */
  remaining(): number | null {
    const [first, last] = [this.#progress[0], this.#progress.at(-1)];
    if (this.total === null || first === undefined || last === undefined) return null;
    const [seconds, steps] = [last.at - first.at, last.done - first.done];
    return seconds > 0 && steps > 0 ? ((this.total - last.done) * seconds) / steps : null;
  }

  /** The race whose candidates are shown first: the one with the most of them. */
  get mainRace(): Race | undefined {
    let main: Race | undefined;
    for (const race of this.races.values()) {
      if (main === undefined || race.candidates.size > main.candidates.size) main = race;
    }
    return main;
  }

  #race(graph: string): Race {
    let race = this.races.get(graph);
    if (race === undefined) {
      race = {
        graph,
        target: "",
        signature: "",
        chosen: "eager",
        reason: "",
        decided: false,
        candidates: new Map(),
        moreCandidates: 0,
      };
      if (this.races.size < MAX_RACES) this.races.set(graph, race);
    }
    return race;
  }

  #fold(event: AnyEvent): void {
    switch (event.kind) {
      case "run_started":
        this.verb = event.verb;
        if (isNumber(event.at_s)) this.startedAt ??= event.at_s;
        break;
      case "graph_captured": {
        const race = this.#race(event.graph);
        race.target = event.target;
        race.signature = event.signature;
        break;
      }
      case "candidate_started":
        this.#candidate(event.graph, { name: event.candidate });
        this.#race(event.graph).decided = false;
        break;
      case "candidate_ended":
        this.#candidate(event.graph, { name: event.candidate, ended: event });
        break;
      case "plan_chosen":
        this.#race(event.graph).chosen = event.candidate;
        break;
      case "live_measured":
        this.#race(event.graph).measured = event;
        break;
      case "decided": {
        const race = this.#race(event.graph);
        race.decided = true;
        race.chosen = event.chosen;
        race.reason = event.reason;
        break;
      }
      case "batch_accumulated":
        for (const text of [words.batch(event), ...event.notes]) this.#remark("note", text);
        break;
      case "noted":
        this.#remark("note", event.text);
        break;
      case "graph_break":
        this.#remark(
          "break",
          event.file === "" ? event.reason : `${event.file}:${event.line}  ${event.reason}`,
        );
        break;
      case "fell_back":
        this.#remark("fallback", event.reason);
        break;
      case "progressed":
        if (isNumber(event.done)) this.#advance(event.done, event.total, event.unit, event.at_s);
        break;
      case "run_ended":
        if (this.phase !== "lost") this.phase = "ended";
        this.reason = event.reason;
        this.endedAt = isNumber(event.at_s) ? event.at_s : null;
        break;
      case "measured":
        for (const [name, value] of Object.entries(event.values)) this.#add(name, event.step, value);
        this.values += Object.keys(event.values).length;
        break;
      case "ranks_seen":
        this.ranks = event.ranks;
        break;
      case "machine_seen":
      case "target_found":
        break;
    }
  }

  #candidate(graph: string, candidate: Candidate): void {
    const race = this.#race(graph);
    const { candidates } = race;
    if (candidates.size < MAX_CANDIDATES || candidates.has(candidate.name)) {
      candidates.set(candidate.name, candidate);
    } else race.moreCandidates++;
  }

  #remark(kind: "note" | "break" | "fallback", text: string): void {
    if (this.remarks.length < MAX_REMARKS) this.remarks.push({ kind, text });
    else this.moreRemarks++;
  }

  #advance(done: number, total: unknown, unit: unknown, at: number): void {
    this.done = done;
    this.total = isNumber(total) && total >= 0 ? total : null;
    if (typeof unit === "string") this.unit = clip(unit, 60);
    const progress = this.#progress;
    const last = progress.at(-1);
    if (last !== undefined && (at < last.at || done < last.done)) progress.length = 0; // a clock was set, or it began anew
    if (progress.at(-1)?.done !== done) progress.push({ at, done });
    while (progress.length > 2 && at - (progress[0]?.at ?? at) > WINDOW_S) progress.shift();
  }

  #takeRows(table: Table): void {
    if (table.rows === 0) {
      this.#count(table.meta.get("values"), 0);
      return;
    }
    const { words: series, codes } = table.text("series");
    const words = series.map((name) => clip(name));
    const [steps, values] = [table.integers("step"), table.floats("value")];
    for (let row = 0; row < table.rows; row++) {
      this.#add(words[codes[row] ?? 0] ?? "", steps[row] ?? 0, values[row] ?? NaN);
    }
    this.#count(table.meta.get("values"), table.rows);
  }

  #count(total: unknown, rows: number): void {
    this.values = isNumber(total) && total >= this.values + rows ? total : this.values + rows;
  }

  #add(name: string, step: number, value: number | null): void {
    let curve = this.curves.get(name);
    if (curve === undefined) {
      if (this.curves.size >= MAX_CURVES) return;
      curve = { step: [], value: [], last: NaN, least: NaN, most: NaN, count: 0 };
      this.curves.set(name, curve);
    }
    const number = value ?? NaN;
    curve.step.push(step);
    curve.value.push(number);
    curve.last = number;
    curve.count++;
    if (Number.isFinite(number)) {
      curve.least = curve.least <= number ? curve.least : number;
      curve.most = curve.most >= number ? curve.most : number;
    }
  }
}

function isNumber(value: unknown): value is number {
  return typeof value === "number" && Number.isFinite(value);
}
