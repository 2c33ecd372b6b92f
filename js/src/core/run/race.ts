/** The candidates of a race as a table: what each won or why it did not, fastest first. */

import { element } from "../dom";
import type { CandidateEnded } from "../../protocol";
import type { Candidate, Race } from "./state";
import { digits, duration, words } from "./words";

export function raceTable(race: Race): HTMLElement {
  const candidates = [...race.candidates.values()].sort(
    (one, other) => rank(one) - rank(other) || one.name.localeCompare(other.name),
  );
  const spans = candidates.map((one) => spanOf(one.ended));
  const scale = 1.05 * Math.max(1, ...spans.map((span) => span?.[1] ?? 0).filter((end) => end < 1e6));
  const head = [
    words.candidate,
    words.verdict,
    words.speed,
    words.time,
    words.error,
    words.built,
    words.why,
  ].map((title, place) =>
    element("th", { scope: "col", class: place > 2 && place < 6 ? "dsl-number" : undefined }, title),
  );
  const body = candidates.map((one, place) => row(one, spans[place] ?? null, scale));
  return element(
    "div",
    { class: "dsl-scroll", tabindex: 0, role: "region", "aria-label": words.candidates },
    element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...body)),
  );
}

/** The fastest first, then what is being built, then those without a time. */
function rank(candidate: Candidate): number {
  const { ended } = candidate;
  if (ended === undefined) return 1e9;
  return Number.isFinite(ended.median_ms) ? (ended.median_ms ?? 0) : 2e9;
}

function row(candidate: Candidate, span: readonly [number, number] | null, scale: number): HTMLElement {
  const { name, ended } = candidate;
  const status = ended?.status ?? "";
  const verdict = ended === undefined ? words.building : (words.verdicts.get(status) ?? status);
  const speed = element("td", {});
  if (span !== null) speed.append(bar(span, scale));
  if (ended?.speedup != null) speed.append(`${digits(ended.speedup)}x`);
  return element(
    "tr",
    { class: words.verdicts.has(status) ? `dsl-${status}` : undefined },
    element("td", {}, name),
    element("td", {}, verdict),
    speed,
    number(ended?.median_ms == null ? "" : `${digits(ended.median_ms)} ms`),
    number(ended?.max_rel_error == null ? "" : digits(ended.max_rel_error)),
    number(ended === undefined || ended.build_s === 0 ? "" : duration(ended.build_s)),
    element("td", { class: "dsl-why" }, ended?.reason ?? ""),
  );
}

function number(text: string): HTMLElement {
  return element("td", { class: "dsl-number" }, text);
}

function spanOf(ended: CandidateEnded | undefined): readonly [number, number] | null {
  const span = ended?.speedup_ci95;
  if (span == null || !span.every((end) => Number.isFinite(end) && end >= 0) || span[0] > span[1])
    return null;
  return span;
}

/** The interval of the speed, the line being eager's 1.0. */
function bar([low, high]: readonly [number, number], scale: number): HTMLElement {
  const share = (value: number): number => Math.min(100, (value / scale) * 100);
  const interval = element("i", {});
  interval.style.left = `${share(low)}%`;
  interval.style.width = `${share(high) - share(low)}%`;
  const line = element("b", {});
  line.style.left = `${share(1)}%`;
  return element("span", { class: "dsl-span", "aria-hidden": "true" }, interval, line);
}
