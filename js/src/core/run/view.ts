/** A run: how far it is, its race of candidates, what its steps measured, and a way to stop it. */

import { button, element } from "../dom";
import type { Table } from "../packed";
import { applyPalette, onThemeChange, paletteOf } from "../theme";
import { Curves } from "./curves";
import { Numbers } from "./numbers";
import type { Controls, Kind, LiveView } from "../view";
import { raceTable } from "./race";
import { Ranks } from "./ranks";
import { RunState } from "./state";
import { STYLE } from "./style";
import { words } from "./words";

/** Pause between two drawings, in milliseconds: nobody reads numbers faster. */
const DRAWN_MS = 150;
/** Seconds without a word after which the reader is told so. */
const SILENT_S = 10;
const SHOWN_RACES = 20;

export class RunView implements LiveView {
  #state: RunState;
  readonly #root: HTMLElement;
  readonly #phase = element("span", { class: "dsl-phase", role: "status" });
  readonly #stop: HTMLButtonElement;
  readonly #progress = element("div", { class: "dsl-progress" });
  readonly #bar = element("progress", { "aria-label": words.run, max: 1 });
  readonly #far = element("span", {});
  readonly #clock = element("span", {});
  readonly #races = element("div", {});
  readonly #ranks = new Ranks();
  readonly #curves = new Curves();
  readonly #numbers = new Numbers();
  readonly #remarks = element("div", {});
  readonly #endings: (() => void)[] = [];
  #controls: Controls | null = null;
  #drawing = 0;
  #ticking = 0;
  #drawnAt = -Infinity;
  #heardAt = now();
  #beat = false;

  constructor(
    readonly host: HTMLElement,
    table: Table,
    readonly title: string,
  ) {
    const live =
      table.meta.get("live") === true || ["live", "stopping"].includes(String(table.meta.get("state")));
    this.#state = new RunState(live ? "lost" : "ended");
    this.#stop = button(words.stop, words.stops(""), () => this.#controls?.stop());
    this.#stop.className = "dsl-stop";
    this.#stop.hidden = true;
    this.#progress.append(this.#bar, this.#far, this.#clock);
    this.#root = element(
      "section",
      { class: "dsl-view dsl-run", "aria-label": `${words.run} ${title}` },
      element(
        "div",
        { class: "dsl-bar" },
        element("span", { class: "dsl-title" }, title),
        this.#phase,
        this.#stop,
      ),
      element(
        "div",
        { class: "dsl-body" },
        this.#progress,
        this.#races,
        this.#ranks.element,
        this.#curves.element,
        this.#numbers.element,
        this.#remarks,
      ),
    );
    this.#state.take(table, now());
    this.#root.dataset["saved"] = String(live);
    const themed = (): void => {
      applyPalette(this.#root, paletteOf(host));
      this.#curves.draw(this.#state.curves, paletteOf(host));
    };
    themed();
    this.#endings.push(onThemeChange(host, themed));
    host.append(this.#root);
    this.#draw();
  }

  dispose(): void {
    cancelAnimationFrame(this.#drawing);
    clearTimeout(this.#ticking);
    for (const end of this.#endings) end();
    this.#root.remove();
  }

  get state(): RunState {
    return this.#state;
  }

  /** Take in what is new, or all anew where it holds everything from the beginning. */
  push(table: Table, first = false): void {
    this.#heardAt = now();
    this.#beat = !this.#beat;
    if (first) {
      const before = this.#state;
      const fresh = new RunState(before.phase === "ended" ? "lost" : before.phase, before);
      fresh.take(table, now()); // a table that is malformed changes nothing
      this.#state = fresh;
    } else this.#state.take(table, now());
    this.#schedule();
  }

  /** What a kernel offers now; null where there is none any more. */
  control(controls: Controls | null): void {
    const state = this.#state;
    this.#controls = controls;
    if (controls !== null && state.phase === "lost") state.phase = "live";
    if (controls === null && (state.phase === "live" || state.phase === "stopping")) state.phase = "lost";
    this.#root.dataset["saved"] = "false";
    this.#schedule();
  }

  #schedule(): void {
    if (this.#drawing !== 0) return;
    const wait = Math.max(0, this.#drawnAt + DRAWN_MS - performance.now());
    clearTimeout(this.#ticking);
    this.#ticking = window.setTimeout(() => {
      this.#drawing = requestAnimationFrame(() => {
        this.#drawing = 0;
        this.#draw();
      });
    }, wait);
  }

  #draw(): void {
    this.#drawnAt = performance.now();
    const state = this.#state;
    const running = state.phase === "live" || state.phase === "stopping";
    this.#root.dataset["phase"] = state.phase;
    // The mark beats with the news. An animation would have the browser make sixty pictures a second beside the kernel.
    this.#root.dataset["beat"] = String(this.#beat);
    const saved = this.#root.dataset["saved"] === "true" && state.phase === "lost";
    const phase = saved
      ? words.saved
      : state.phase === "ended" && state.reason !== ""
        ? state.reason
        : words.phase(state.phase, state.verb);
    if (this.#phase.textContent !== phase) this.#phase.textContent = phase; // read out only when it changes
    this.#stop.hidden = !(running && this.#controls !== null);
    this.#stop.disabled = state.phase === "stopping";
    this.#stop.title = words.stops(state.verb);
    this.#stop.ariaLabel = this.#stop.title;
    this.#drawProgress(running);
    this.#drawRaces();
    this.#ranks.draw(state.ranks);
    this.#drawMeasured();
    this.#drawRemarks();
    if (running) this.#ticking = window.setTimeout(() => this.#schedule(), 1000); // the clock goes on
  }

  #drawProgress(running: boolean): void {
    const state = this.#state;
    const told = state.done > 0 || state.total !== null;
    this.#bar.hidden = state.total === null || state.total === 0;
    if (state.total !== null && state.total > 0) this.#bar.value = Math.min(1, state.done / state.total);
    this.#far.textContent = told ? words.progress(state.done, state.total, state.unit) : "";
    const elapsed = state.elapsed(now());
    const silent = now() - this.#heardAt;
    const remaining = running && silent < SILENT_S ? state.remaining() : null;
    this.#clock.textContent = [
      elapsed === null || !(running || state.endedAt !== null)
        ? ""
        : running
          ? words.elapsed(elapsed)
          : words.took(elapsed),
      remaining === null ? "" : words.remaining(remaining),
      running && silent >= SILENT_S ? words.silent(silent) : "",
    ]
      .filter((text) => text !== "")
      .join(", ");
  }

  #drawRaces(): void {
    const state = this.#state;
    const main = state.mainRace;
    if (main === undefined) return;
    const parts: Node[] = [];
    const races = [main, ...[...state.races.values()].filter((race) => race !== main)];
    for (const race of races.slice(0, SHOWN_RACES)) {
      const gain = race.measured;
      const said = race.decided
        ? [words.decided(race.chosen), race.reason].filter((text) => text !== "").join(": ")
        : words.undecided;
      // Why eager is kept says already what was measured.
      const told = race.decided && race.chosen === "eager" && race.reason !== "";
      const measured =
        gain === undefined || told || !Number.isFinite(gain.speedup)
          ? ""
          : `  ${words.gain(gain.speedup, gain.speedup_ci95[0], gain.speedup_ci95[1])}`;
      parts.push(
        element(
          "h3",
          {},
          words.race(race.target, race.signature),
          element("small", {}, `${said}${measured}`),
        ),
      );
      if (race.candidates.size > 0) parts.push(raceTable(race));
      if (race.moreCandidates > 0) parts.push(element("p", {}, words.more(race.moreCandidates)));
    }
    if (races.length > SHOWN_RACES) parts.push(element("p", {}, words.more(races.length - SHOWN_RACES)));
    this.#races.replaceChildren(...parts);
  }

  #drawMeasured(): void {
    const { curves, values } = this.#state;
    if (curves.size === 0) return;
    this.#curves.draw(curves, paletteOf(this.host));
    this.#numbers.draw(curves, values);
  }

  #drawRemarks(): void {
    const { remarks, moreRemarks } = this.#state;
    if (remarks.length === 0) return;
    const items = remarks.map(({ kind, text }) => element("li", {}, `${words.kinds[kind]}: ${text}`));
    if (moreRemarks > 0) items.push(element("li", {}, words.more(moreRemarks)));
    this.#remarks.replaceChildren(element("h3", {}, words.remarks), element("ul", {}, ...items));
  }
}

function now(): number {
  return Date.now() / 1000;
}

export const run: Kind = {
  make: (host, table, title) => new RunView(host, table, title),
  style: STYLE,
};
