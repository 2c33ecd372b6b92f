/** A search: how far it is, what it has found, what was tried, and ways to end all of it or one trial. */

import { parse } from "../charts/table/filter";
import { choice, Readout } from "../charts/parts";
import { said } from "../charts/numbers";
import { SHARED } from "../charts/style";
import { clip } from "../clip";
import { button, element, write } from "../dom";
import type { Table } from "../packed";
import { applyPalette, onThemeChange, type Palette, paletteOf } from "../theme";
import type { Controls, Kind, LiveView } from "../view";
import { Beside } from "./beside";
import { Curves } from "./curves";
import { Front } from "./front";
import { History } from "./history";
import { Importance } from "./importance";
import { Listing, maskOf } from "./listing";
import { Parallel } from "./parallel";
import type { Picture } from "./picture";
import { rangeAxis } from "./ranges";
import { front, records } from "./ranking";
import { Remarks } from "./remarks";
import { Running } from "./running";
import { Slices } from "./slices";
import type { Stage } from "./stage";
import { SearchState } from "./state";
import { STYLE } from "./style";
import { words } from "./words";

/** Pause between two drawings, in milliseconds: nobody reads numbers faster. */
const DRAWN_MS = 150;
/** Of the page's time, at most this much is spent on drawing what is new. */
const SHARE = 0.2;
/** Of one frame, pictures take at most this many milliseconds, or one picture does; the others come in the next. */
const FRAME_MS = 12;
/** Pause after the last letter before trials are filtered. */
const TYPING_MS = 150;
/** Seconds without a word after which the reader is told so. */
const SILENT_S = 10;
/** Values that are told of a trial. */
const MOST_TOLD = 14;

export class SearchView implements LiveView, Stage {
  #state: SearchState;
  palette: Palette;
  metric = 0;
  shown: Uint8Array | undefined;
  cursor = -1;
  readonly #root: HTMLElement;
  readonly #named = element("span", { class: "dsl-title" });
  readonly #phase = element("span", { class: "dsl-phase", role: "status" });
  readonly #stop: HTMLButtonElement;
  readonly #filter = element("input", {
    type: "search",
    "aria-label": words.filter,
    placeholder: words.filter,
    title: words.filterHelp,
  });
  readonly #hits = element("span", { class: "dsl-hits", role: "status" });
  readonly #metrics = element("span", {});
  readonly #bar = element("progress", { "aria-label": words.progress, max: 1 });
  readonly #far = element("span", {});
  readonly #clock = element("span", {});
  readonly #beside = new Beside();
  readonly #running: Running;
  readonly #importance = new Importance();
  readonly #curves: Curves;
  readonly #front: Front;
  readonly #pictures: readonly Picture[];
  /** Pictures that do not show yet what is new. */
  #waiting: readonly Picture[] = [];
  #next = 0;
  readonly #listing: Listing;
  readonly #remarks = new Remarks();
  readonly #cut = element("p", { class: "dsl-note", hidden: true });
  readonly #readout = new Readout();
  readonly #endings: (() => void)[] = [];
  #controls: Controls | null = null;
  #problem = "";
  #typing = 0;
  #frame = 0;
  #timer = 0;
  #drawnAt = -Infinity;
  #tookMs = 0;
  #heardAt = now();
  #beat = false;

  constructor(
    readonly host: HTMLElement,
    table: Table,
    readonly title: string,
  ) {
    const live =
      table.meta.get("live") === true || ["live", "stopping"].includes(String(table.meta.get("state")));
    this.#state = new SearchState(live ? "lost" : "ended");
    this.#state.take(table, now());
    this.palette = paletteOf(host);
    this.#stop = button(words.stop, words.stops, () => this.#controls?.stop());
    this.#stop.className = "dsl-stop";
    this.#stop.hidden = true;
    this.#running = new Running((trial) => this.#controls?.ask?.({ do: "prune", trial }));
    this.#curves = new Curves(this);
    this.#front = new Front(this);
    const [history, parallel, slices] = [new History(this), new Parallel(this), new Slices(this)];
    this.#pictures = [history, this.#front, parallel, slices, this.#curves];
    this.#listing = new Listing(this, title);
    this.#root = element(
      "section",
      { class: "dsl-view dsl-search", "aria-label": `${words.search} ${title}` },
      this.#toolbar(),
      element(
        "div",
        { class: "dsl-body" },
        element("div", { class: "dsl-progress" }, this.#bar, this.#far, this.#clock),
        element("div", { class: "dsl-top" }, this.#beside.element, this.#running.element),
        element(
          "div",
          { class: "dsl-panels" },
          history.element,
          this.#front.element,
          this.#importance.element,
          this.#curves.element,
          parallel.element,
          slices.element,
          this.#listing.element,
        ),
        this.#remarks.element,
        this.#cut,
      ),
      this.#readout.element,
    );
    this.#root.dataset["saved"] = String(live);
    const themed = (): void => {
      this.palette = paletteOf(host);
      applyPalette(this.#root, this.palette);
      for (const picture of this.#pictures) picture.draw();
    };
    themed();
    this.#endings.push(onThemeChange(host, themed));
    host.append(this.#root);
    this.#draw();
    this.#describe(false);
  }

  dispose(): void {
    cancelAnimationFrame(this.#frame);
    cancelAnimationFrame(this.#next);
    clearTimeout(this.#timer);
    clearTimeout(this.#typing);
    for (const end of this.#endings) end();
    for (const picture of this.#pictures) picture.dispose();
    this.#listing.dispose();
    this.#root.remove();
  }

  get state(): SearchState {
    return this.#state;
  }

  /** Take in what is new, or all anew where it holds everything from the beginning. */
  push(table: Table, first = false): void {
    this.#heardAt = now();
    this.#beat = !this.#beat;
    if (first) {
      const before = this.#state;
      const fresh = new SearchState(before.phase === "ended" ? "lost" : before.phase);
      fresh.take(table, now()); // a table that is malformed changes nothing
      const trial = this.cursor < 0 ? NaN : before.trials.trial.get(this.cursor);
      fresh.version += before.version;
      this.#state = fresh;
      this.cursor = fresh.trials.rowOf(trial);
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

  moveTo(row: number, aloud: boolean): void {
    if (row === this.cursor && !aloud) return;
    this.cursor = row;
    for (const picture of this.#pictures) picture.mark();
    this.#describe(aloud);
  }

  choose(row: number): void {
    this.moveTo(row, true);
    if (row >= 0) this.#listing.select(row);
  }

  narrow(column: string, from: string, to: string): void {
    const quoted = /^[^\s"<>=!]+$/.test(column) ? column : `"${column.replaceAll('"', "")}"`;
    const value = (text: string): string => (/^[^\s"]+$/.test(text) ? text : `"${text.replaceAll('"', "")}"`);
    const kept = parse(this.#filter.value)
      .filter((term) => typeof term === "string" || term.column !== column)
      .map((term) =>
        typeof term === "string" ? value(term) : `${value(term.column)}${term.operator}${value(term.value)}`,
      );
    const wanted = to === "" ? [`${quoted}=${value(from)}`] : [`${quoted}>=${from}`, `${quoted}<=${to}`];
    this.#filter.value = [...kept, ...wanted].join(" ");
    this.#refilter();
  }

  /** Show only trials for which a filter holds. */
  filter(text: string): void {
    this.#filter.value = text;
    this.#refilter();
  }

  /** Draw at once all that is new. */
  drawNow(): void {
    this.#draw();
    this.#drawWaiting(Infinity);
  }

  #toolbar(): HTMLElement {
    this.#filter.addEventListener("input", () => {
      clearTimeout(this.#typing);
      this.#typing = window.setTimeout(() => this.#refilter(), TYPING_MS);
    });
    this.#filter.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" && event.key !== "Enter") return;
      if (event.key === "Escape") this.#filter.value = "";
      clearTimeout(this.#typing);
      this.#refilter();
    });
    return element(
      "div",
      { class: "dsl-bar" },
      this.#named,
      this.#phase,
      this.#metrics,
      this.#filter,
      this.#hits,
      this.#stop,
    );
  }

  #refilter(): void {
    this.#mask();
    this.#drawPictures();
    this.#listing.draw(true);
  }

  #mask(): void {
    const { shown, rows, problem } = maskOf(this, this.#filter.value);
    this.shown = shown;
    this.#problem = problem;
    const counted = shown === undefined ? "" : words.shown(rows, this.#state.trials.count);
    write(this.#hits, [counted, this.#problem].filter((one) => one !== "").join(". "));
  }

  #schedule(): void {
    if (this.#frame !== 0) return;
    const pause = Math.max(DRAWN_MS, this.#tookMs / SHARE);
    const wait = Math.max(0, this.#drawnAt + pause - performance.now());
    clearTimeout(this.#timer);
    this.#timer = window.setTimeout(() => {
      this.#frame = requestAnimationFrame(() => {
        this.#frame = 0;
        this.#draw();
      });
    }, wait);
  }

  #drawnVersion = -1;

  #draw(): void {
    const began = (this.#drawnAt = performance.now());
    const state = this.#state;
    const running = state.phase === "live" || state.phase === "stopping";
    this.#root.dataset["phase"] = state.phase;
    this.#root.dataset["beat"] = String(this.#beat);
    write(this.#phase, this.#said(running)); // read out only when it changes
    this.#stop.hidden = !(running && this.#controls !== null);
    this.#stop.disabled = state.phase === "stopping";
    this.#drawProgress(running);
    this.#running.draw(state, now(), {
      running,
      canPrune: this.#controls?.ask !== undefined,
    });
    if (this.#drawnVersion !== state.version) {
      this.#drawnVersion = state.version;
      this.#drawData();
    }
    this.#tookMs = performance.now() - began;
    if (running) {
      clearTimeout(this.#timer);
      this.#timer = window.setTimeout(() => this.#schedule(), 1000); // the clock goes on
    }
  }

  #drawData(): void {
    const state = this.#state;
    const study = state.started?.study ?? "";
    write(this.#named, clip(this.title.includes(study) ? this.title : `${this.title} ${study}`));
    this.#drawMetrics();
    this.#beside.draw(state);
    this.#importance.draw(state);
    this.#mask();
    this.#front.element.hidden = state.metrics.length < 2;
    this.#curves.element.hidden = !this.#curves.any;
    this.#curves.element.classList.toggle("dsl-wide", this.#importance.element.hidden);
    this.#drawPictures();
    this.#listing.draw();
    this.#remarks.draw(state);
    const { more, count } = state.trials;
    const cut = state.cut !== null && state.cut > count ? words.cut(count, state.cut) : "";
    const notes = [cut, more > 0 ? words.tooMany(more) : ""].filter((one) => one !== "");
    this.#cut.hidden = notes.length === 0;
    write(this.#cut, notes.join(" "));
  }

  /** One after the other, so that the page answers in between. */
  #drawPictures(): void {
    const due = this.#pictures.filter((picture) => !picture.element.hidden);
    // Those that have waited come first: steady news would keep the last ones from ever being drawn.
    const waited = this.#waiting.filter((picture) => due.includes(picture));
    this.#waiting = [...waited, ...due.filter((picture) => !waited.includes(picture))];
    this.#drawWaiting(FRAME_MS);
  }

  #drawWaiting(mostMs: number): void {
    const began = performance.now();
    while (this.#waiting.length > 0) {
      const [picture, ...others] = this.#waiting;
      this.#waiting = others;
      picture?.draw();
      if (performance.now() - began > mostMs) break;
    }
    cancelAnimationFrame(this.#next);
    if (this.#waiting.length > 0)
      this.#next = requestAnimationFrame(() => {
        const start = performance.now();
        this.#drawWaiting(FRAME_MS);
        this.#tookMs += performance.now() - start;
      });
  }

  #said(running: boolean): string {
    const state = this.#state;
    if (this.#root.dataset["saved"] === "true" && state.phase === "lost") return words.saved;
    if (state.phase === "ended" && state.reason !== "") return words.endedBy(state.reason);
    if (running && state.phase === "live" && state.comparing) return words.comparing;
    return words.phases[state.phase];
  }

  /** A list to choose the metric from, where there are several. */
  #drawMetrics(): void {
    const { metrics } = this.#state;
    if (metrics.length < 2 || this.#metrics.childElementCount > 0) return;
    const options = metrics.map((name, at) => [String(at), clip(name, 60)] as const);
    const list = choice(words.metric, options, String(this.metric), (value) => {
      const metric = Number(value);
      this.metric = Number.isInteger(metric) && metric >= 0 && metric < metrics.length ? metric : 0;
      this.#refilter();
    });
    this.#metrics.replaceChildren(list);
  }

  #drawProgress(running: boolean): void {
    const state = this.#state;
    const { configs, cost, failed, stopped } = state.totals;
    const share = running ? state.share(now()) : null;
    this.#bar.hidden = share === null;
    if (share !== null) this.#bar.value = share;
    const under = state.trials.running.size;
    const far = [
      words.tried(configs, running ? (state.started?.num_trials ?? null) : null),
      words.cost(cost),
      running && under > 0 ? words.running(under) : "",
      failed > 0 ? words.failed(failed) : "",
      stopped > 0 ? words.stopped(stopped) : "",
    ];
    write(
      this.#far,
      configs === 0 && under === 0 ? words.nothing : far.filter((one) => one !== "").join(", "),
    );
    const elapsed = state.elapsed(now());
    const silent = now() - this.#heardAt;
    const remaining = running && silent < SILENT_S ? state.remaining(now()) : null;
    const clock = [
      elapsed === null || !(running || state.endedAt !== null)
        ? ""
        : running
          ? words.elapsed(elapsed)
          : words.took(elapsed),
      remaining === null || state.comparing ? "" : words.remaining(remaining),
      running && silent >= SILENT_S ? words.silent(silent) : "",
    ];
    write(this.#clock, clock.filter((one) => one !== "").join(", "));
  }

  /** Say what is under the cursor. */
  #describe(aloud: boolean): void {
    const { cursor, metric } = this;
    const state = this.#state;
    const { trials } = state;
    if (cursor < 0 || cursor >= trials.count) {
      this.#readout.say([element("span", { class: "dsl-hint" }, words.hint)], aloud);
      return;
    }
    const values = state.metrics.map((name, at) => [name, said(trials.value(cursor, at))] as const);
    const ranges = trials.params.map(
      (param, place) => [param.name, rangeAxis(state, place)?.said(cursor) ?? ""] as const,
    );
    const status = trials.statusOf(cursor);
    const parts: Node[] = [
      element("strong", {}, `${words.trial(trials.trial.get(cursor))} `),
      ...[words.size(trials.cost.get(cursor)), trials.purposeOf(cursor), status === "complete" ? "" : status]
        .filter((text, at) => text !== "" && !(at === 1 && text === "search"))
        .map((text) => element("span", {}, text)),
      ...[...values, ...ranges]
        .filter(([, value]) => value !== "")
        .slice(0, MOST_TOLD)
        .map(([name, value]) => element("span", {}, `${clip(name, 60)}: ${clip(value, 80)}`)),
    ];
    const error = trials.errors.list[trials.error.get(cursor)] ?? "";
    if (error !== "") parts.push(element("span", {}, clip(error, 200)));
    if (trials.allowed.get(cursor) === 0) parts.push(element("span", {}, words.notAllowed));
    if (records(state, metric).at(-1) === cursor) parts.push(element("strong", {}, words.isBest));
    if (state.metrics.length > 1 && front(state, ...this.#front.metrics).includes(cursor))
      parts.push(element("strong", {}, words.onFront));
    this.#readout.say(parts, aloud);
  }
}

function now(): number {
  return Date.now() / 1000;
}

export const search: Kind = {
  make: (host, table, title) => new SearchView(host, table, title),
  style: SHARED + STYLE,
};
