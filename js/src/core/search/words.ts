/** What the view of a search says. */

import { said } from "../charts/numbers";
import type { Compared } from "../../protocol";
import { duration } from "../run/words";
import type { Phase } from "./state";

const GROUPED = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const TENTHS = new Intl.NumberFormat("en-US", { maximumFractionDigits: 1, minimumFractionDigits: 1 });
const count = (value: number): string => GROUPED.format(Math.round(value));
const many = (value: number, noun: string): string => `${count(value)} ${noun}${value === 1 ? "" : "s"}`;

export const words = {
  search: "Search",
  phases: {
    live: "searching",
    stopping: "stopping when what runs has ended",
    ended: "ended",
    lost: "no longer known: the kernel was restarted or has died; this is how far the search was",
  } satisfies Record<Phase, string>,
  comparing: "running the best beside the defaults",
  saved: "saved while it ran; what came after is not in this file",
  endedBy: (reason: string): string =>
    ["stopped", "interrupted"].includes(reason) ? reason : `ended by ${reason}`,
  stop: "Stop",
  stops: "Stop the search; what it has found stays",
  prune: "Prune",
  prunes: (trial: number): string => `Prune trial ${trial}: it ends when it says how far it is`,
  pruning: "ends at its next step",
  prunesNow: (trial: number): string => `Trial ${trial} ends at its next step`,
  filter: "Filter: text, or lr>0.01",
  filterHelp:
    "Show only these trials in all pictures: words must all occur; comparisons are column>3, column=text, column=missing",
  shown: (rows: number, total: number): string => `${count(rows)} of ${many(total, "trial")}`,
  metric: "Metric",
  tried: (configs: number, total: number | null): string =>
    total === null ? many(configs, "configuration") : `${count(configs)} of ${many(total, "configuration")}`,
  cost: (cost: number): string => `${TENTHS.format(cost)} whole trials`,
  running: (value: number): string => `${count(value)} running`,
  failed: (value: number): string => `${count(value)} failed`,
  stopped: (value: number): string => `${count(value)} stopped early`,
  elapsed: (seconds: number): string => `${duration(seconds)} so far`,
  took: (seconds: number): string => `took ${duration(seconds)}`,
  remaining: (seconds: number): string => `about ${duration(seconds)} left`,
  silent: (seconds: number): string => `no news for ${duration(seconds)}`,
  progress: "Progress of the search",
  cut: (shown: number, total: number): string =>
    `${count(shown)} of ${many(total, "trial")} are kept here, the best ones among them.`,
  tooMany: (more: number): string => `${count(more)} more trials are not shown.`,
  nothing: "No trial has ended yet.",
  empty: "Nothing to draw yet.",
  noneMatch: "No trial matches the filter.",
  drawn: (shown: number, total: number): string => `${count(shown)} of ${count(total)} drawn`,
  beyond: (value: number): string => `${count(value)} beyond the edge`,

  column: {
    trial: "trial",
    size: "size",
    status: "status",
    purpose: "purpose",
    seconds: "seconds",
    error: "error",
  },
  /** In the order of `PURPOSES`. */
  purposes: ["search", "defaults", "repeat"],
  looks: {
    best: "best so far",
    whole: "whole trial",
    small: "small trial",
    stopped: "stopped early",
    running: "running",
    failed: "failed",
  },
  bestCurve: "best",
  defaults: "defaults",
  front: "Pareto front",
  quarters: (best: number): readonly string[] => [
    best > 1 ? `best ${best}` : "best",
    "best quarter",
    "others",
  ],
  history: "History",
  parallel: "Parallel coordinates",
  slices: "Slices",
  curves: "Curves",
  importance: "Importance",
  importanceHelp: "share of the metric's variance that each range explains (PED-ANOVA)",
  trials: "Trials",
  runningTrials: "Running",
  failures: "Failed trials",
  failureColumns: ["failed", "error", "trials"],
  agreement: "How well small trials tell what whole ones give",
  agreementColumns: ["size", "rank correlation (Spearman)", "configurations that ran as both"],
  remarks: "Remarks",
  more: (value: number): string => `and ${count(value)} more`,
  runningColumns: ["trial", "size", "purpose", "so far", "step", "for", ""],
  range: "range",
  share: "share",
  dotKeys: "arrow keys move from trial to trial by what the axes show, Enter chooses",
  sliceKeys:
    "left and right move by the value of the range, up and down by the metric, Page Down to the next range",
  lineKeys: "arrow keys move from the best trial on, Enter chooses",
  parallelKeys:
    "arrow keys move from the best configuration on, Enter chooses; drag along an axis, or use the filter, to narrow",
  hint: "Point at a trial, or use the arrow keys in a picture.",
  value: (name: string, direction: "min" | "max"): string =>
    `${name}, ${direction === "max" ? "more" : "less"} is better`,
  trial: (trial: number): string => `trial ${count(trial)}`,
  whole: "whole",
  size: (cost: number): string => {
    if (!(cost < 1)) return "whole";
    const parts = Math.round(1 / cost);
    return Number.isFinite(parts) && parts > 1 && Math.abs(1 / parts - cost) < 0.004
      ? `1/${parts}`
      : `${Number((100 * cost).toPrecision(2))} %`;
  },
  notAllowed: "constraints not met",
  isBest: "the best whole trial",
  onFront: "on the Pareto front",
  beside: "Beside the defaults",
  seeds: (value: number): string => `${many(value, "seed")} each`,
  unseen: "on data that the search never saw",
  seed: "seed",
  withDefaults: (metric: string): string => `${metric} with the defaults`,
  withFound: "with the best found",
  notBeaten: "The defaults were not beaten.",
  notTold: "Not told apart from the defaults: the interval holds zero.",
  /** The difference with its interval; shares of one, of which more is better, differ in points. */
  difference: (compared: Compared, points: boolean): string => {
    const scale = points ? 100 : 1;
    const sign = (value: number): string =>
      `${value >= 0 ? "+" : "−"}${said(Number(Math.abs(scale * value).toPrecision(3)))}`;
    const ends =
      compared.ci95 === null ? "" : ` (95 % ${sign(compared.ci95[0])} to ${sign(compared.ci95[1])})`;
    return `${sign(compared.difference)}${points ? " points" : ""}${ends}`;
  },
};
