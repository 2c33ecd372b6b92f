/** What the run view says. */

import type { BatchAccumulated, RankVitals } from "../../protocol";
import { quantity } from "../quantities";
import type { Phase } from "./state";

export const words = {
  run: "Run",
  phases: {
    live: "running",
    stopping: "stopping after this step",
    ended: "ended",
    lost: "no longer known: the kernel was restarted or has died; this is how far the run was",
  } satisfies Record<Phase, string>,
  phase: (phase: Phase, verb: string): string =>
    phase === "stopping" && verb === "distributed" ? "interrupted" : words.phases[phase],
  saved: "saved while it ran; what came after is not in this file",
  stop: "Stop",
  /** What Stop does: a training on ranks gives the notebook nothing before its end. */
  stops: (verb: string): string =>
    verb === "distributed"
      ? "Interrupt the cell; the notebook's own objects stay as they were"
      : "Stop the run; what it has so far stays",
  progress: (done: number, total: number | null, unit: string): string =>
    total === null
      ? `${count(done)} ${plural(done, unit)}`
      : `${count(done)} of ${count(total)} ${plural(total, unit)}`,
  elapsed: (seconds: number): string => `${duration(seconds)} so far`,
  took: (seconds: number): string => `took ${duration(seconds)}`,
  remaining: (seconds: number): string => `about ${duration(seconds)} left`,
  silent: (seconds: number): string => `no news for ${duration(seconds)}`,
  race: (target: string, signature: string): string =>
    signature === "" ? target : `${target} (${signature})`,
  candidates: "Candidates",
  candidate: "candidate",
  verdict: "verdict",
  speed: "against eager",
  time: "time",
  error: "largest error",
  built: "built in",
  why: "why",
  building: "being built",
  verdicts: new Map([
    ["won", "won"],
    ["lost", "slower"],
    ["refused", "refused"],
    ["failed", "failed"],
    ["skipped", "skipped"],
  ]),
  decided: (chosen: string): string => (chosen === "eager" ? "eager is kept" : `${chosen} runs now`),
  undecided: "eager runs meanwhile",
  gain: (ratio: number, low: number, high: number): string =>
    `${ratio.toFixed(2)}x, 95 % ${low.toFixed(2)} to ${high.toFixed(2)}`,
  graphs: (total: number): string => `${count(total)} graphs`,
  measured: "Measured",
  series: "series",
  last: "last",
  least: "least",
  most: "most",
  number: "values",
  values: (shown: number, total: number): string =>
    total > shown
      ? `${count(total)} values were measured, ${count(shown)} of them are kept here`
      : `${count(total)} values`,
  batch: (batch: BatchAccumulated): string =>
    `an update per ${count(batch.num_samples)} samples, in micro-batches of ${count(batch.micro_batch)}: ` +
    `${count(batch.num_updates)} ${plural(batch.num_updates, "update")}`,
  ranks: "Ranks",
  rankColumns: [
    "rank",
    "state",
    "updates",
    "updates/s",
    "samples/s",
    "waiting",
    "loss",
    "memory",
    "on the GPU",
    "link",
    "remarks",
  ],
  rankRemarks: (one: RankVitals): string =>
    [
      one.late_s === null ? "" : `the others wait for it, ${quantity(1e6 * one.late_s, "us")} an update`,
      one.why === "" ? "" : `${one.state === "dead" ? "" : "its process "}${one.why}`,
      one.num_replaced === 0
        ? ""
        : one.num_replaced === 1
          ? "replaced"
          : `replaced ${count(one.num_replaced)} times`,
    ]
      .filter((text) => text !== "")
      .join(", "),
  remarks: "Remarks",
  kinds: { note: "note", break: "graph break", fallback: "in eager mode" },
  more: (number: number): string => `and ${count(number)} more`,
  empty: "Nothing has happened yet.",
};

function count(value: number): string {
  return Math.round(value).toLocaleString("en-US");
}

function plural(value: number, noun: string): string {
  return value === 1 ? noun : `${noun}s`;
}

/** Seconds in words: `3.2 s`, `4 min 10 s`, `2 h 5 min`. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return "?";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

/** A measured value with four digits. */
export function digits(value: number | null): string {
  if (value === null || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e6 || size < 1e-3)) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
}
