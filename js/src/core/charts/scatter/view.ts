/** Rows as points: any two columns against each other, coloured by a third, chosen by a box. */

import { clip } from "../../clip";
import { button, element } from "../../dom";
import { pngOf, savers, sized } from "../../pictures";
import { MalformedData, type Table } from "../../packed";
import { type Box, CanvasSurface, SvgSurface } from "../../surface";
import { applyPalette, onThemeChange, type Palette, paletteOf } from "../../theme";
import type { Kind, View } from "../../view";
import {
  type Column,
  columnsOf,
  cutOf,
  entries,
  type NumberColumn,
  numberColumns,
  textAt,
  textOf,
} from "../columns";
import { extent } from "../numbers";
import { choice, follow, noteOf, Readout, toggle } from "../parts";
import { Axis, boxOf, innerOf, ordered, type Range, roomy } from "../plane";
import { SHARED } from "../style";
import { Grid } from "../table/grid";
import { words } from "../words";
import { mark, MAX_DRAWN, paint, type Scene } from "./paint";
import { following, nearest, paretoFront, placed, within } from "./points";
import { Shading } from "./shades";

/** Distance in pixels up to which a point is under the pointer. */
const NEAR = 24;
const ZOOM = 1.5;
/** Columns that are told of a point. */
const MAX_TOLD = 12;

export class ScatterView implements View {
  readonly #columns: readonly Column[];
  readonly #numbers: readonly NumberColumn[];
  readonly #root: HTMLElement;
  readonly #canvas = element("canvas", { "aria-hidden": "true" });
  readonly #marks = element("canvas", { "aria-hidden": "true" });
  readonly #band = element("div", { class: "dsl-band", hidden: true });
  readonly #plot: HTMLElement;
  readonly #legend = element("div", { class: "dsl-legend" });
  readonly #empty = element("p", { class: "dsl-message", hidden: true }, words.emptyChart);
  readonly #readout = new Readout();
  readonly #twin = element("div", { class: "dsl-twin", hidden: true });
  readonly #rowsButton: HTMLButtonElement;
  readonly #selectionTools: readonly HTMLButtonElement[];
  readonly #endings: (() => void)[] = [];
  #grid: Grid | undefined;
  #palette: Palette;
  #x: NumberColumn;
  #y: NumberColumn;
  #colour: Column | undefined;
  #shading: Shading;
  #logX = false;
  #logY = false;
  #window: readonly [Range, Range] | undefined;
  #placed: Uint32Array = new Uint32Array();
  #front: readonly number[] = [];
  #selected: Uint32Array = new Uint32Array();
  #selectedBox: readonly [Range, Range] | undefined;
  #corner = -1;
  #cursor = -1;
  #frame = 0;

  constructor(
    readonly host: HTMLElement,
    readonly table: Table,
    readonly title: string,
  ) {
    this.#columns = columnsOf(table);
    this.#numbers = numberColumns(this.#columns);
    const axes = entries(table.meta.get("axes"));
    const chosen = (axis: string): NumberColumn | undefined =>
      this.#numbers.find((one) => one.name === axes.get(axis));
    const [first, second] = this.#numbers;
    if (first === undefined) throw new MalformedData(words.tooFewNumbers);
    this.#x = chosen("x") ?? first;
    this.#y = chosen("y") ?? second ?? first;
    this.#colour = this.#columns.find((one) => one.name === textOf(axes.get("colour")));
    this.#palette = paletteOf(host);
    this.#shading = new Shading(this.#colour, this.#palette);
    this.#plot = element(
      "div",
      { class: "dsl-plot", role: "application", tabindex: 0, "aria-label": `${title}: ${words.scatterKeys}` },
      this.#canvas,
      this.#marks,
      this.#band,
    );
    this.#rowsButton = toggle(words.showTable, words.showTableHelp, false, (on) => this.#showTwin(on));
    this.#selectionTools = [
      button("⬚+", words.zoomToSelection, () => this.#zoomToSelection()),
      button("⬚×", words.clearSelection, () => this.#clear()),
    ];
    this.#root = element(
      "section",
      { class: "dsl-view dsl-scatter", "aria-label": `${words.scatter} ${title}` },
      this.#bar(),
      this.#empty,
      this.#plot,
      this.#legend,
      this.#readout.element,
      this.#twin,
      ...noteOf(cutOf(table)),
    );
    host.append(this.#root);
    this.#listen();
    this.#retheme();
    this.#recount();
    this.#describe(false);
  }

  dispose(): void {
    cancelAnimationFrame(this.#frame);
    for (const end of this.#endings) end();
    this.#grid?.dispose();
    this.#root.remove();
  }

  /** Show what lies between values. */
  zoom(x: Range, y: Range): void {
    const usable = ([low, high]: Range, log: boolean): boolean =>
      Number.isFinite(high - low) && high > low && (!log || low > 0);
    if (!usable(x, this.#logX) || !usable(y, this.#logY)) return;
    this.#window = [x, y];
    this.#schedule();
  }

  fit(): void {
    this.#window = undefined;
    this.#schedule();
  }

  /** Mark and list the rows in a box of values. */
  select(x: Range, y: Range): void {
    this.#selectedBox = [x, y];
    this.#selected = within({ x: this.#x.values, y: this.#y.values }, this.#placed, x, y);
    this.#corner = -1;
    this.#showTwin(true);
    this.#grid?.show(this.#selected);
    this.#updateTools();
    this.#readout.say([words.rowsSelected(this.#selected.length)], true);
    this.#schedule();
  }

  svg(): string {
    const { clientWidth: width, clientHeight: height } = this.#plot;
    const surface = new SvgSurface(width, height, this.#palette.background);
    const scene = this.#scene(width, height);
    paint(surface, scene, this.#palette);
    mark(surface, scene, this.#palette);
    return surface.toString();
  }

  #bar(): HTMLElement {
    const numbers = this.#numbers.map((one) => [one.name, one.label] as const);
    const column = (name: string): NumberColumn => this.#numbers.find((one) => one.name === name) ?? this.#x;
    return element(
      "div",
      { class: "dsl-bar", role: "toolbar", "aria-label": words.scatter },
      element("span", { class: "dsl-title" }, this.title),
      choice(words.xAxis, numbers, this.#x.name, (name) => this.#change(() => (this.#x = column(name)))),
      choice(words.yAxis, numbers, this.#y.name, (name) => this.#change(() => (this.#y = column(name)))),
      choice(
        words.colour,
        [["", words.noColour], ...this.#columns.map((one) => [one.name, one.label] as const)],
        this.#colour?.name ?? "",
        (name) => {
          this.#colour = this.#columns.find((one) => one.name === name);
          this.#shading = new Shading(this.#colour, this.#palette);
          this.#schedule();
        },
      ),
      toggle(words.logX, words.logX, false, (on) => this.#change(() => (this.#logX = on))),
      toggle(words.logY, words.logY, false, (on) => this.#change(() => (this.#logY = on))),
      button("−", words.zoomOut, () => this.#scale(ZOOM)),
      button("+", words.zoomIn, () => this.#scale(1 / ZOOM)),
      button("⤢", words.fit, () => this.fit()),
      ...this.#selectionTools,
      this.#rowsButton,
      ...savers(
        this.title,
        "scatter",
        () => this.svg(),
        () => this.#png(),
      ),
    );
  }

  /** Other axes: what was zoomed to or chosen by the old ones means nothing. */
  #change(change: () => void): void {
    change();
    this.#window = undefined;
    this.#recount();
    this.#clear();
  }

  #recount(): void {
    const points = { x: this.#x.values, y: this.#y.values };
    this.#placed = placed(points, this.#logX, this.#logY);
    const [betterX, betterY] = [this.#x.better, this.#y.better];
    this.#front =
      betterX !== undefined && betterY !== undefined && this.#x !== this.#y
        ? paretoFront(points, this.#placed, betterX, betterY)
        : [];
    this.#empty.hidden = this.#placed.length > 0;
    this.#plot.hidden = this.#legend.hidden = this.#readout.element.hidden = !this.#empty.hidden;
    this.#updateTools();
    this.#schedule();
  }

  #updateTools(): void {
    for (const tool of this.#selectionTools) tool.disabled = this.#selectedBox === undefined;
  }

  #clear(): void {
    this.#selected = new Uint32Array();
    this.#selectedBox = undefined;
    this.#corner = this.#cursor = -1;
    if (!this.#twin.hidden) this.#grid?.show(this.#everyRow());
    this.#updateTools();
    this.#describe(false);
    this.#schedule();
  }

  #everyRow(): Uint32Array {
    return Uint32Array.from({ length: this.table.rows }, (_, row) => row);
  }

  #zoomToSelection(): void {
    if (this.#selectedBox !== undefined) this.zoom(...this.#selectedBox);
  }

  #showTwin(on: boolean): void {
    this.#twin.hidden = !on;
    this.#rowsButton.setAttribute("aria-pressed", String(on));
    if (!on || this.#grid !== undefined) return;
    this.#grid = new Grid(this.#columns, this.table.rows, words.grid(this.title));
    this.#grid.element.addEventListener("dsl-row", (event) => {
      const row: unknown = (event as CustomEvent<{ row: number }>).detail.row;
      this.#moveTo(typeof row === "number" ? row : -1, false);
    });
    if (this.#selectedBox !== undefined) this.#grid.show(this.#selected);
    this.#twin.append(this.#grid.element);
  }

  #listen(): void {
    const observer = new ResizeObserver(() => this.#draw());
    observer.observe(this.#plot);
    this.#endings.push(
      () => observer.disconnect(),
      onThemeChange(this.host, () => this.#retheme()),
    );
    this.#plot.addEventListener("keydown", (event) => this.#key(event));
    this.#plot.addEventListener("pointerdown", (event) => this.#press(event));
    this.#plot.addEventListener("pointermove", (event) => {
      if (event.buttons === 0) this.#moveTo(this.#under(event), false);
    });
    this.#plot.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey && !event.metaKey) return; // the page scrolls
        event.preventDefault();
        this.#scale(Math.exp(event.deltaY / 300), this.#place(event));
      },
      { passive: false },
    );
  }

  #place(event: MouseEvent): readonly [number, number] {
    const box = this.#plot.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  #under(event: MouseEvent): number {
    const points = { x: this.#x.values, y: this.#y.values };
    return nearest(points, this.#placed, this.#axes(), this.#place(event), NEAR);
  }

  #press(down: PointerEvent): void {
    if (down.button !== 0) return;
    const from = this.#place(down);
    follow(
      this.#plot,
      down,
      (event, dragged) => this.#showBand(dragged ? boxOf(from, this.#place(event)) : undefined),
      (event, dragged) => {
        this.#showBand(undefined);
        if (event.type !== "pointerup") return;
        const [to, [x, y]] = [this.#place(event), this.#axes()];
        if (!dragged) this.#choose(this.#under(event));
        else
          this.select(ordered(x.value(from[0]), x.value(to[0])), ordered(y.value(from[1]), y.value(to[1])));
      },
    );
  }

  #showBand(box: Box | undefined): void {
    this.#band.hidden = box === undefined;
    if (box === undefined) return;
    const { style } = this.#band;
    [style.left, style.top, style.width, style.height] = [box.x, box.y, box.width, box.height].map(
      (one) => `${one}px`,
    ) as [string, string, string, string];
  }

  /** Say to whoever listens that a row was chosen. */
  #choose(row: number): void {
    if (row < 0) return;
    this.#moveTo(row, true);
    this.#root.dispatchEvent(new CustomEvent("dsl-row", { bubbles: true, composed: true, detail: { row } }));
  }

  #moveTo(row: number, aloud: boolean): void {
    if (row === this.#cursor && !aloud) return;
    this.#cursor = row;
    this.#describe(aloud);
    this.#mark();
  }

  #key(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = (column: NumberColumn, forward: boolean): void => {
      const next = following(column.values, this.#placed, this.#cursor, forward);
      if (next >= 0) this.#moveTo(next, true);
    };
    const actions: Readonly<Record<string, () => void>> = {
      ArrowRight: () => step(this.#x, true),
      ArrowLeft: () => step(this.#x, false),
      ArrowUp: () => step(this.#y, true),
      ArrowDown: () => step(this.#y, false),
      Home: () => this.#moveTo(following(this.#x.values, this.#placed, -1, true), true),
      End: () => this.#moveTo(following(this.#x.values, this.#placed, -1, false), true),
      Enter: () => this.#choose(this.#cursor),
      " ": () => this.#markCorner(),
      "+": () => this.#scale(1 / ZOOM),
      "=": () => this.#scale(1 / ZOOM),
      "-": () => this.#scale(ZOOM),
      "0": () => this.fit(),
      Escape: () => this.#clear(),
    };
    const action = Object.hasOwn(actions, event.key) ? actions[event.key] : undefined;
    if (action === undefined) return;
    event.preventDefault();
    action();
  }

  #markCorner(): void {
    if (this.#cursor < 0) return;
    if (this.#corner < 0) {
      this.#corner = this.#cursor;
      this.#readout.say([words.corner], true);
      return;
    }
    const [a, b] = [this.#corner, this.#cursor];
    const span = (column: NumberColumn): Range => ordered(column.values[a] ?? 0, column.values[b] ?? 0);
    this.select(span(this.#x), span(this.#y));
  }

  #describe(aloud: boolean): void {
    const row = this.#cursor;
    if (row < 0) {
      const counted = words.points(this.#placed.length);
      const front =
        this.#front.length > 0
          ? words.front(this.#front.length, clip(this.#x.name, 60), clip(this.#y.name, 60))
          : "";
      const log = this.#logX || this.#logY ? this.#belowZero() : 0;
      const facts = [counted, front, log > 0 ? words.notOnLog(log) : ""].filter((one) => one !== "");
      this.#readout.say(
        [
          ...facts.map((one) => element("span", {}, one)),
          element("span", { class: "dsl-hint" }, words.scatterHint),
        ],
        aloud,
      );
      return;
    }
    const first = [this.#x, this.#y, ...(this.#colour === undefined ? [] : [this.#colour])];
    const told = [...new Set([...first, ...this.#columns])].slice(0, MAX_TOLD);
    const parts = told.map((one) =>
      element("span", {}, `${one.label}: ${clip(textAt(one, row), 80) || words.missing}`),
    );
    if (this.#front.includes(row)) parts.push(element("strong", {}, words.onFront));
    this.#readout.say(parts, aloud);
  }

  /** Rows with two numbers of which one has no place on a logarithmic axis. */
  #belowZero(): number {
    return placed({ x: this.#x.values, y: this.#y.values }, false, false).length - this.#placed.length;
  }

  #scale(factor: number, at?: readonly [number, number]): void {
    const axes = this.#axes();
    const [x, y] = axes.map((axis, index) => {
      const fixed = at?.[index] ?? this.#cursorPixel(index, axis) ?? (axis.start + axis.end) / 2;
      const ends = [axis.start, axis.end].map((end) => axis.value(fixed + (end - fixed) * factor));
      return ordered(ends[0] ?? 0, ends[1] ?? 1);
    }) as [Range, Range];
    this.zoom(x, y);
  }

  #cursorPixel(index: number, axis: Axis): number | undefined {
    if (this.#cursor < 0) return undefined;
    const pixel = axis.pixel((index === 0 ? this.#x : this.#y).values[this.#cursor] ?? NaN);
    return Number.isFinite(pixel) ? pixel : undefined;
  }

  #axes(width = this.#plot.clientWidth, height = this.#plot.clientHeight): readonly [Axis, Axis] {
    const inner = innerOf(width, height);
    const whole = (column: NumberColumn, log: boolean): Range => {
      const values =
        this.#placed.length === column.values.length ? column.values : pick(column.values, this.#placed);
      return roomy(...(extent(values) ?? [1, 2]), log);
    };
    this.#window ??= [whole(this.#x, this.#logX), whole(this.#y, this.#logY)];
    const [x, y] = this.#window;
    return [
      new Axis(...x, this.#logX, inner.x, inner.x + inner.width),
      new Axis(...y, this.#logY, inner.y + inner.height, inner.y),
    ];
  }

  #scene(width: number, height: number): Scene {
    return {
      points: { x: this.#x.values, y: this.#y.values },
      rows: this.#placed,
      axes: this.#axes(width, height),
      inner: innerOf(width, height),
      labels: [clip(this.#x.label, 80), clip(this.#y.label, 80)],
      shading: this.#shading,
      front: this.#front.length > MAX_DRAWN ? [] : this.#front,
      selected: this.#selected,
      cursor: this.#cursor,
    };
  }

  #retheme(): void {
    this.#palette = paletteOf(this.host);
    applyPalette(this.#root, this.#palette);
    this.#shading = new Shading(this.#colour, this.#palette);
    this.#schedule();
  }

  #schedule(): void {
    cancelAnimationFrame(this.#frame);
    this.#frame = requestAnimationFrame(() => this.#draw());
  }

  #draw(): void {
    const { clientWidth: width, clientHeight: height } = this.#plot;
    if (width < 20 || height < 20) return;
    const context = sized(this.#canvas, width, height, this.#ratio);
    if (context === null) return;
    context.fillStyle = this.#palette.background;
    context.fillRect(0, 0, width, height);
    const cells = paint(new CanvasSurface(context), this.#scene(width, height), this.#palette);
    this.#legend.replaceChildren(...this.#shading.legend(cells));
    this.#legend.hidden = this.#legend.childElementCount === 0;
    this.#mark();
  }

  /** Only what is marked: the points stay as they are. */
  #mark(): void {
    const { clientWidth: width, clientHeight: height } = this.#plot;
    if (width < 20 || height < 20) return;
    const context = sized(this.#marks, width, height, this.#ratio);
    context?.clearRect(0, 0, width, height);
    if (context !== null) mark(new CanvasSurface(context), this.#scene(width, height), this.#palette);
  }

  get #ratio(): number {
    return this.host.ownerDocument.defaultView?.devicePixelRatio ?? 1;
  }

  #png(): Promise<Blob> {
    const { width, height } = this.#canvas;
    const canvas = element("canvas", { width, height });
    const context = canvas.getContext("2d");
    for (const layer of [this.#canvas, this.#marks]) context?.drawImage(layer, 0, 0);
    return pngOf(canvas);
  }
}

function pick(values: ArrayLike<number>, rows: Uint32Array): Float64Array {
  return Float64Array.from(rows, (row) => values[row] ?? NaN);
}

export const scatter: Kind = {
  make: (host, table, title) => new ScatterView(host, table, title),
  style: SHARED,
};
