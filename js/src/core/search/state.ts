/** How a search stands: a fold over what its kernel tells, the same live and from a file. */

import { MalformedData, type Table } from "../packed";
import type { Compared, Rank, SearchStarted } from "../../protocol";
import { checkedEvent } from "../run/events";
import { clip } from "../clip";
import { Trials } from "./trials";

export type Phase = "live" | "stopping" | "ended" | "lost";
export type Direction = "min" | "max";

/** A range, as the cell has it. */
export interface Space {
  readonly kind: string;
  readonly low: number;
  readonly high: number;
  readonly labels: readonly string[];
  readonly default: string;
}

/** What is known of all trials where some were left out. */
export interface Totals {
  readonly trials: number;
  readonly configs: number;
  readonly cost: number;
  readonly failed: number;
  readonly stopped: number;
}

const MAX_NOTES = 200;
const MAX_SPACES = 128;

export class SearchState {
  phase: Phase;
  /** Why it ended, in the kernel's words. */
  reason = "";
  started: SearchStarted | null = null;
  readonly spaces = new Map<string, Space>();
  readonly trials = new Trials();
  ranks: readonly Rank[] = [];
  importances: readonly (readonly [string, number])[] = [];
  compared: Compared | null = null;
  readonly notes: string[] = [];
  moreNotes = 0;
  /** Trials that the kernel was asked to end and that run still. */
  pruning: ReadonlySet<number> = new Set();
  endedAt: number | null = null;
  /** The kernel's clock minus this page's, in seconds. */
  skew = 0;
  /** Counts what was taken in: what was derived before is of an older one. */
  version = 0;
  /** Trials that there are in all, where not all are here. */
  cut: number | null = null;
  #totals: Totals | null = null;
  #counted: { version: number; totals: Totals } | null = null;

  constructor(phase: Phase) {
    this.phase = phase;
  }

  /** Take in a table: the whole search, or what is new. `nowS` is this page's clock. */
  take(table: Table, nowS: number): void {
    const { meta } = table;
    const events = meta.get("events");
    if (!Array.isArray(events)) throw new MalformedData("the search has no events");
    this.version++;
    const kernelNow = meta.get("now_s");
    if (isNumber(kernelNow)) this.skew = kernelNow - nowS;
    for (const one of events) this.#fold(one);
    this.trials.take(table);
    this.#takeTotals(meta);
    const pruning = meta.get("pruning");
    if (Array.isArray(pruning)) this.pruning = new Set(pruning.filter(isNumber));
    const state = meta.get("state");
    if (state === "stopping" && this.phase === "live") this.phase = "stopping";
    if (state === "ended") this.phase = "ended";
  }

  get metrics(): readonly string[] {
    const named = this.started?.metrics ?? [];
    return named.length > 0 ? named : ["value"];
  }

  direction(metric: number): Direction {
    return this.started?.directions[metric] === "min" ? "min" : "max";
  }

  /** Whether one value of a metric is better than another. */
  better(value: number, other: number, metric = 0): boolean {
    return this.direction(metric) === "max" ? value > other : value < other;
  }

  /** Seconds since the start, by the kernel's clock; null where no start was told. */
  elapsed(nowS: number): number | null {
    const began = this.started?.at_s;
    if (!isNumber(began) || this.started?.num_workers === 0) return null; // read from disk: nothing ran
    const now = this.phase === "ended" && this.endedAt !== null ? this.endedAt : nowS + this.skew;
    return Math.max(0, now - began);
  }

  /** Seconds until it should be over, by the pace so far and by its limit; null where neither is known. */
  remaining(nowS: number): number | null {
    const elapsed = this.elapsed(nowS);
    if (elapsed === null || this.started === null) return null;
    const { num_trials: total, limit_s: limit, num_found: found } = this.started;
    const here = this.totals.configs - Math.max(0, found);
    const byPace =
      total !== null && here > 0 && elapsed > 0 && this.totals.configs < total
        ? ((total - this.totals.configs) * elapsed) / here
        : Infinity;
    const byLimit = limit !== null && limit > 0 ? Math.max(0, limit - elapsed) : Infinity;
    const least = Math.min(byPace, byLimit);
    return Number.isFinite(least) ? least : null;
  }

  /** How far it is, 0 to 1; null where that is not known. */
  share(nowS: number): number | null {
    const { num_trials: total = null, limit_s: limit = null } = this.started ?? {};
    const elapsed = this.elapsed(nowS);
    const byTrials = total !== null && total > 0 ? this.totals.configs / total : null;
    const byTime = limit !== null && limit > 0 && elapsed !== null ? elapsed / limit : null;
    if (byTrials === null && byTime === null) return null;
    return Math.min(1, Math.max(byTrials ?? 0, byTime ?? 0));
  }

  /** Whether the best few are being run beside the defaults. */
  get comparing(): boolean {
    const { trials } = this;
    for (const row of trials.running) if (trials.purposeOf(row) === "repeat") return true;
    return false;
  }

  /** Numbers of all trials, of those included that were left out. */
  get totals(): Totals {
    if (this.#counted?.version !== this.version) {
      this.#counted = { version: this.version, totals: this.#totals ?? count(this.trials) };
    }
    return this.#counted.totals;
  }

  #takeTotals(meta: ReadonlyMap<string, unknown>): void {
    const told = meta.get("totals");
    const cut = meta.get("cut");
    this.cut = isRecord(cut) && isNumber(cut["total"]) ? cut["total"] : null;
    if (!isRecord(told)) {
      this.#totals = null;
      return;
    }
    const read = (name: string): number => (isNumber(told[name]) ? Math.max(0, told[name]) : 0);
    this.#totals = {
      trials: read("trials"),
      configs: read("configs"),
      cost: read("cost"),
      failed: read("failed"),
      stopped: read("stopped"),
    };
  }

  #fold(told: unknown): void {
    const event = checkedEvent(told);
    if (event === null) return;
    switch (event.kind) {
      case "search_started":
        this.started = {
          ...event,
          metrics: event.metrics.slice(0, 16).map((name) => clip(name)),
        };
        break;
      case "space_found":
        if (this.spaces.size < MAX_SPACES || this.spaces.has(clip(event.name))) {
          this.spaces.set(clip(event.name), {
            kind: event.space,
            low: event.low,
            high: event.high,
            labels: event.labels.slice(0, 100).map((label) => clip(label, 120)),
            default: clip(event.default, 120),
          });
        }
        break;
      case "search_judged": {
        this.ranks = event.ranks.slice(0, 16);
        const known = Object.entries(event.importances).filter(([, value]) => isNumber(value) && value >= 0);
        if (known.length > 0) {
          this.importances = known
            .sort((a, b) => b[1] - a[1])
            .slice(0, MAX_SPACES)
            .map(([name, value]) => [clip(name), value] as const);
        }
        break;
      }
      case "search_compared":
        this.compared = event.compared;
        break;
      case "noted":
        if (this.notes.length < MAX_NOTES) this.notes.push(event.text);
        else this.moreNotes++;
        break;
      case "run_ended":
        if (this.phase !== "lost") this.phase = "ended";
        this.reason = clip(event.reason, 120);
        this.endedAt = isNumber(event.at_s) ? event.at_s : null;
        break;
      default:
        break;
    }
  }
}

function count(trials: Trials): Totals {
  const configs = new Set<number>();
  const found = { trials: 0, cost: 0, failed: 0, stopped: 0 };
  for (let row = 0; row < trials.count; row++) {
    const status = trials.statusOf(row);
    if (status === "running") continue;
    configs.add(trials.config.get(row));
    if (trials.purposeOf(row) === "repeat") continue;
    found.trials++;
    const cost = trials.cost.get(row);
    if (Number.isFinite(cost)) found.cost += cost;
    if (status === "failed") found.failed++;
    if (status === "stopped") found.stopped++;
  }
  return { ...found, configs: configs.size };
}

function isNumber(value: unknown): value is number {
  return typeof value === "number" && Number.isFinite(value);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
