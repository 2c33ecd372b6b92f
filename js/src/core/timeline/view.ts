/** Memory over time: a picture to look at and to steer, and beside it in tables what the picture shows. */

import { button, element } from "../dom";
import { pngOf, savers } from "../pictures";
import { bytesInWords, timeInWords } from "../quantities";
import { CanvasSurface, SvgSurface } from "../surface";
import { applyPalette, onThemeChange, type Palette, paletteOf } from "../theme";
import { type Kind, onPlace, type Place, tellPlace, type View } from "../view";
import type { Window } from "./columns";
import { type Context, TimelineData } from "./data";
import { legend, legendHeight, MARGIN, paint, type Scale, scaleOf } from "./paint";
import { cleared, paintOver } from "./overlay";
import { type AliveAt, type Cursor, Panel, placeOf } from "./panel";
import { stateOf } from "./places";
import { byCategory, byModule, moduleLevels, ofModule, type Stack } from "./stack";
import { listen } from "./steer";
import { STYLE } from "./style";
import { words } from "./words";

/** The narrowest window, in seconds, and as a part of the whole: below it the numbers for time end. */
const NARROWEST = { seconds: 1e-9, share: 1e-12 };
const STEP = 1.6;
const MAX_LEVELS = 3;
const SAVED_HEIGHT = 420;

export class TimelineView implements View {
  readonly #root: HTMLElement;
  readonly #picture: HTMLElement;
  readonly #canvas = element("canvas", { "aria-hidden": "true" });
  readonly #overlay = element("canvas", { "aria-hidden": "true" });
  readonly #panel: Panel;
  readonly #stacks = new Map<string, Stack>();
  readonly #endings: (() => void)[] = [];
  #stack: Stack;
  #palette: Palette;
  #scale: Scale;
  #window: Window;
  #cursor: Cursor;
  #hover: Cursor | null = null;
  #range: Window | null = null;
  #aliveAt: AliveAt = "peak";
  #highlight: { module: string; stack: Stack } | null = null;
  #size = { width: 0, height: 0 };
  #frame = 0;
  #stale = true;

  constructor(
    readonly host: HTMLElement,
    readonly data: TimelineData,
    readonly title: string,
  ) {
    this.#window = { from: 0, to: data.end };
    this.#scale = scaleOf(this.#window, 1, { width: 100, height: 100 });
    this.#cursor = { time: data.timeOf(data.peak), state: data.peak };
    this.#stack = this.#stackOf("category");
    this.#panel = new Panel(data, {
      choose: (context) => this.#choose(context),
      aliveAt: (which) => {
        this.#aliveAt = which;
        this.#listAlive();
      },
    });
    const keys = element(
      "p",
      { hidden: true, id: `dsl-keys-${Math.random().toString(36).slice(2)}` },
      words.keys,
    );
    this.#picture = element(
      "div",
      {
        class: "dsl-picture",
        role: "slider",
        tabindex: 0,
        "aria-label": words.picture,
        "aria-describedby": keys.id,
        "aria-valuemin": 0,
        "aria-valuemax": data.end,
      },
      this.#canvas,
      this.#overlay,
    );
    this.#root = element(
      "section",
      { class: "dsl-view dsl-timeline", "aria-label": `${words.timeline} ${title}` },
      this.#bar(),
      element("div", { class: "dsl-main" }, this.#picture, this.#panel.side),
      this.#panel.alive,
      keys,
    );
    this.#palette = paletteOf(host);
    host.append(this.#root);
    const observer = new ResizeObserver(() => this.#resize());
    observer.observe(this.#picture);
    this.#endings.push(
      () => observer.disconnect(),
      onThemeChange(host, () => this.#retheme()),
      onPlace(this.#root, (place) => this.hear(place)),
    );
    listen(this.#picture, this);
    this.#retheme();
    this.#listAlive();
    this.#resize();
  }

  dispose(): void {
    cancelAnimationFrame(this.#frame);
    for (const end of this.#endings) end();
    this.#root.remove();
  }

  get window(): Window {
    return this.#window;
  }

  get cursor(): Cursor {
    return this.#cursor;
  }

  get range(): Window | null {
    return this.#range;
  }

  /** The time at a place in the picture. */
  timeAt(x: number): number {
    return this.#scale.time(x);
  }

  /** Show a part of time, as far as there is any. */
  show(from: number, to: number): void {
    const { end } = this.data;
    const span = Math.min(end, Math.max(to - from, NARROWEST.seconds, end * NARROWEST.share));
    const start = Math.min(end - span, Math.max(0, from));
    this.#window = { from: start, to: start + span };
    this.#rescale();
    this.#draw();
  }

  /** Show more or less of time, around a time that stays where it is. */
  zoom(factor: number, around: number = this.#middle()): void {
    const { from, to } = this.#window;
    this.show(around - (around - from) / factor, around + (to - around) / factor);
  }

  /** Show what is selected, or some less than before. */
  zoomIn(): void {
    const { from, to } = this.#window;
    const range = this.#range;
    if (range !== null && range.to > range.from && (range.from > from || range.to < to)) {
      this.show(range.from, range.to);
    } else this.zoom(STEP);
  }

  zoomOut(): void {
    this.zoom(1 / STEP);
  }

  reset(): void {
    this.show(0, this.data.end);
  }

  /** Show what was before or after, by a part of the window. */
  pan(share: number): void {
    const { from, to } = this.#window;
    this.show(from + share * (to - from), to + share * (to - from));
  }

  /** What stands in a column of the picture: the state that held most, and when. */
  pick(time: number): Cursor {
    const { data } = this;
    const pixel = this.#pixel();
    const column = Math.floor((time - this.#window.from) / pixel + 1e-6);
    const from = Math.max(0, this.#window.from + column * pixel);
    const first = data.stateBefore(from);
    const last = from + pixel >= data.end ? data.rows : data.stateBefore(from + pixel);
    const state = data.extremes.largest(first, Math.max(first, last) + 1);
    return { time: Math.min(data.end, Math.max(from, data.timeOf(state))), state };
  }

  /** Set the cursor, and bring it into the window. */
  moveTo(cursor: Cursor): void {
    this.#cursor = cursor;
    const { from, to } = this.#window;
    if (cursor.time < from || cursor.time > to) {
      const span = to - from;
      this.show(cursor.time - span / 2, cursor.time + span / 2);
    }
    this.#describe();
    this.#draw(false);
  }

  /** Move the cursor by pixels. */
  moveBy(pixels: number): void {
    const time = this.#cursor.time + pixels * this.#pixel();
    this.moveTo(this.pick(Math.min(this.data.end, Math.max(0, time))));
  }

  /** Move the cursor to the event after or before it. */
  step(by: 1 | -1): void {
    const { data } = this;
    const { state } = this.#cursor;
    let next = Math.min(data.rows, Math.max(0, state + by));
    if (data.folded) next = by > 0 ? data.stateAt(data.timeOf(next)) : data.stateBefore(data.timeOf(state));
    this.moveTo({ time: data.timeOf(next), state: next });
  }

  toPeak(): void {
    const { peak } = this.data;
    this.moveTo({ time: this.data.timeOf(peak), state: peak });
  }

  /** Select what is between two times, in either order, or nothing; while it is `moving` only the picture tells. */
  select(range: Window | null, moving = false): void {
    this.#range =
      range === null ? null : { from: Math.min(range.from, range.to), to: Math.max(range.from, range.to) };
    if (!moving) this.#panel.describeRange(this.#range);
    this.#draw(false);
  }

  /** Let the range begin or end at the cursor. */
  bound(which: "from" | "to"): void {
    const { time } = this.#cursor;
    const other = which === "from" ? (this.#range?.to ?? this.data.end) : (this.#range?.from ?? 0);
    this.select(
      which === "from"
        ? { from: time, to: Math.max(time, other) }
        : { from: Math.min(time, other), to: time },
    );
  }

  /** Tell other views of the place at the cursor. */
  tell(): void {
    const context = this.data.leading(this.#cursor.state);
    if (context !== null) tellPlace(this.#root, context);
  }

  /** Let a module stand out; what is not known lets none stand out. */
  highlight(module: string): void {
    const stack = ofModule(this.data, module);
    this.#highlight = stack === null ? null : { module, stack };
    this.#panel.highlight(module, stack, this.#cursor.state);
    this.#draw();
  }

  /** Another view told of a place: let its module stand out, and go to where it first allocates. */
  hear(place: Place): void {
    this.highlight(place.module);
    const state = stateOf(this.data, place);
    if (state > 0) this.moveTo({ time: this.data.timeOf(state), state });
  }

  hover(time: number | null): void {
    this.#hover = time === null ? null : this.pick(time);
    this.#draw(false);
  }

  /** How memory is divided: `category`, or a number of levels of modules. */
  divide(by: string): void {
    this.#stack = this.#stackOf(by);
    this.#describe();
    this.#draw();
  }

  /** What shows, as an SVG file. */
  svg(): string {
    const width = Math.max(480, this.#size.width);
    const surface = new SvgSurface(
      width,
      SAVED_HEIGHT + legendHeight(this.#stack, width),
      this.#palette.background,
    );
    this.#paintSaved(surface, width);
    return surface.toString();
  }

  /** What shows, as a picture. */
  png(): Promise<Blob> {
    const width = Math.max(480, this.#size.width);
    const height = SAVED_HEIGHT + legendHeight(this.#stack, width);
    const canvas = element("canvas", { width: 2 * width, height: 2 * height });
    const context = canvas.getContext("2d");
    if (context === null) return Promise.reject(new Error("no picture"));
    context.scale(2, 2);
    context.fillStyle = this.#palette.background;
    context.fillRect(0, 0, width, height);
    this.#paintSaved(new CanvasSurface(context), width);
    return pngOf(canvas);
  }

  #paintSaved(surface: CanvasSurface | SvgSurface, width: number): void {
    paint(surface, this.data, this.#window, { width, height: SAVED_HEIGHT }, this.#look());
    legend(surface, this.#stack, SAVED_HEIGHT, width, this.#palette);
  }

  #bar(): HTMLElement {
    const { data } = this;
    const levels = Math.min(MAX_LEVELS, moduleLevels(data));
    const ways: [string, string][] = [["category", words.category]];
    for (let level = 1; level <= levels; level++) ways.push([String(level), words.levels(level)]);
    const by = element("select", {}, ...ways.map(([value, label]) => element("option", { value }, label)));
    by.addEventListener("change", () => this.divide(by.value));
    const peak = bytesInWords(data.totals[data.peak] ?? 0);
    const events = data.folded ? words.foldedEvents(data.events) : words.events(data.events);
    const said = [words.summary(peak, timeInWords(data.timeOf(data.peak)), events)];
    if (data.device !== "") said.push(data.device);
    if (data.outOfMemoryAt !== null) said.push(words.outOfMemory);
    const summary = element("span", {}, data.rows === 0 ? words.empty : said.join(", "));
    return element(
      "div",
      { class: "dsl-bar", role: "toolbar", "aria-label": words.tools },
      element("div", { class: "dsl-title" }, this.title, summary),
      element("label", {}, words.stackBy, by),
      button("▲", words.peak, () => this.toPeak()),
      button("[", words.begin, () => this.bound("from")),
      button("]", words.end, () => this.bound("to")),
      button("‹", words.earlier, () => this.pan(-0.5)),
      button("›", words.later, () => this.pan(0.5)),
      button("−", words.zoomOut, () => this.zoomOut()),
      button("+", words.zoomIn, () => this.zoomIn()),
      button("⤢", words.all, () => this.reset()),
      ...savers(
        this.title,
        "memory",
        () => this.svg(),
        () => this.png(),
      ),
    );
  }

  #stackOf(by: string): Stack {
    const known = this.#stacks.get(by);
    if (known !== undefined) return known;
    const made = by === "category" ? byCategory(this.data) : byModule(this.data, Number(by));
    this.#stacks.set(by, made);
    return made;
  }

  #choose(context: Context): void {
    this.highlight(this.#highlight?.module === context.module ? "" : context.module);
    tellPlace(this.#root, context);
  }

  #middle(): number {
    const { from, to } = this.#window;
    const { time } = this.#cursor;
    return time >= from && time <= to ? time : (from + to) / 2;
  }

  /** Seconds that a column of the picture is wide. */
  #pixel(): number {
    const { from, to } = this.#window;
    return (to - from) / Math.max(1, Math.floor(this.#size.width - MARGIN.left - MARGIN.right));
  }

  #listAlive(): void {
    this.#panel.listAlive(this.#aliveAt === "peak" ? this.data.peak : this.#cursor.state);
  }

  #describe(): void {
    const { data } = this;
    const { time, state } = this.#cursor;
    this.#panel.describe(this.#cursor, this.#pixel());
    this.#panel.list(this.#stack, state, this.#palette);
    if (this.#highlight !== null) {
      this.#panel.highlight(this.#highlight.module, this.#highlight.stack, state);
    }
    if (this.#aliveAt === "cursor") this.#listAlive();
    this.#picture.setAttribute("aria-valuenow", String(time));
    this.#picture.setAttribute("aria-valuetext", this.#said(this.#cursor));
    if (data.rows === 0) this.#picture.setAttribute("aria-valuetext", words.empty);
  }

  #said({ time, state }: Cursor): string {
    const context = this.data.leading(state);
    const total = bytesInWords(this.data.totals[state] ?? 0);
    return words.value(timeInWords(time, this.#pixel()), total, context === null ? "" : placeOf(context));
  }

  #retheme(): void {
    this.#palette = paletteOf(this.host);
    applyPalette(this.#root, this.#palette);
    this.#describe();
    this.#draw();
  }

  #resize(): void {
    const { clientWidth: width, clientHeight: height } = this.#picture;
    if (width === 0 || height === 0) return;
    this.#size = { width, height };
    this.#rescale();
    this.#describe();
    this.#stale = true;
    this.#render();
  }

  #rescale(): void {
    this.#scale = scaleOf(this.#window, 1, this.#size);
  }

  #look(): Parameters<typeof paint>[4] {
    return { palette: this.#palette, stack: this.#stack, highlight: this.#highlight?.stack ?? null };
  }

  /** Draw with the next frame, and only what lies over the areas where these stay as they are. */
  #draw(all = true): void {
    this.#stale ||= all;
    cancelAnimationFrame(this.#frame);
    this.#frame = requestAnimationFrame(() => this.#render());
  }

  #render(): void {
    if (this.#size.width === 0) return;
    if (this.#stale) {
      const context = cleared(this.#canvas, this.#size);
      if (context === null) return;
      context.fillStyle = this.#palette.background;
      context.fillRect(0, 0, this.#size.width, this.#size.height);
      this.#scale = paint(new CanvasSurface(context), this.data, this.#window, this.#size, this.#look());
      this.#stale = false;
    }
    const context = cleared(this.#overlay, this.#size);
    if (context === null) return;
    const hover = this.#hover;
    paintOver(context, this.#scale, this.#palette, {
      cursor: this.#cursor.time,
      range: this.#range,
      hover: hover === null ? null : { time: hover.time, said: this.#said(hover) },
    });
  }
}

export const timeline: Kind = {
  make: (host, table, title) => new TimelineView(host, new TimelineData(table), title),
  style: STYLE,
};
