/** Lines over x that may still be growing: zoomed, smoothed and read row by row. */

import uPlot from "uplot";
import { button, download, element } from "../../dom";
import { fileName, pngOf } from "../../pictures";
import { applyPalette, onThemeChange, type Palette, paletteOf } from "../../theme";
import type { Kind, View } from "../../view";
import { seriesColour, SERIES } from "../colours";
import { type Cut, cutOf } from "../columns";
import { logTicks, said, tickLabel, ticks } from "../numbers";
import { noteOf, Readout, swatch, toggle } from "../parts";
import { LINES, SHARED } from "../style";
import { Grid, MAX_ROWS as GRID_ROWS } from "../table/grid";
import { words } from "../words";
import { NOWHERE } from "./pyramid";
import { LinesData, type Series, thin } from "./series";

const FONT = "12px system-ui, sans-serif";
const DASHES = [[], [8, 4], [2, 3], [8, 3, 2, 3]] as const;
const ZOOM = 1.6;
/** Rows of one key press on Page Up and Page Down: this share of what is in sight. */
const LARGE_STEP = 0.1;
const PADDING = 0.05;
/** Lines whose values are told at the cursor. */
const MAX_TOLD = 40;

export class LinesView implements View {
  readonly #root: HTMLElement;
  readonly #plot: HTMLElement;
  readonly #legend = element("div", { class: "dsl-legend", role: "group", "aria-label": words.series });
  readonly #twin = element("div", { class: "dsl-twin", hidden: true });
  readonly #empty = element("p", { class: "dsl-message", hidden: true }, words.emptyLines);
  readonly #note = element("p", { class: "dsl-note", hidden: true });
  readonly #readout = new Readout();
  readonly #hidden = new Set<string>();
  readonly #endings: (() => void)[] = [];
  #palette: Palette;
  #chart: uPlot | undefined;
  #charted = 0;
  #grid: Grid | undefined;
  /** What was zoomed to; undefined shows all, also what is still to come. */
  #window: readonly [number, number] | undefined;
  #log = false;
  #cursor = -1;
  #frame = 0;

  constructor(
    readonly host: HTMLElement,
    readonly data: LinesData,
    readonly title: string,
    cut?: Cut,
  ) {
    this.#palette = paletteOf(host);
    this.#plot = element("div", {
      class: "dsl-plot",
      role: "slider",
      tabindex: 0,
      "aria-label": `${title}: ${words.linesKeys}`,
      "aria-orientation": "horizontal",
    });
    this.#root = element(
      "section",
      { class: "dsl-view dsl-lines", "aria-label": `${words.lines} ${title}` },
      this.#bar(),
      this.#empty,
      this.#plot,
      this.#legend,
      this.#note,
      this.#readout.element,
      this.#twin,
      ...noteOf(cut),
    );
    host.append(this.#root);
    const observer = new ResizeObserver(() => this.#draw());
    observer.observe(this.#plot);
    this.#plot.addEventListener("keydown", (event) => this.#key(event));
    this.#plot.addEventListener("pointermove", (event) => this.#hover(event));
    this.#endings.push(
      () => observer.disconnect(),
      onThemeChange(host, () => this.#retheme()),
    );
    this.#retheme();
    this.#say(false);
  }

  dispose(): void {
    cancelAnimationFrame(this.#frame);
    for (const end of this.#endings) end();
    this.#grid?.dispose();
    this.#chart?.destroy();
    this.#root.remove();
  }

  /** Append rows of a run that is still going on, see `LinesData.push`; what shows follows at the next frame. */
  push(x: ArrayLike<number>, values: ReadonlyMap<string, ArrayLike<number>>): void {
    const before = this.data.series.length;
    this.data.push(x, values);
    if (this.data.series.length !== before) this.#describe();
    this.#schedule();
  }

  /** Show what lies between two x. */
  zoom(from: number, to: number): void {
    const [low, high] = this.#whole();
    const [left, right] = [Math.max(low, Math.min(from, to)), Math.min(high, Math.max(from, to))];
    if (!(right > left)) return;
    this.#window = left <= low && right >= high ? undefined : [left, right];
    this.#schedule();
  }

  fit(): void {
    this.#window = undefined;
    this.#schedule();
  }

  #whole(): readonly [number, number] {
    const { x, rows } = this.data;
    return rows === 0 ? [0, 1] : [x.at(0), x.at(rows - 1)];
  }

  #sight(): readonly [number, number] {
    return this.#window ?? this.#whole();
  }

  #bar(): HTMLElement {
    const strength = element("input", { type: "range", min: 0, max: 0.99, step: 0.01, value: 0 });
    const said = element("span", {}, "0");
    strength.addEventListener("input", () => {
      said.textContent = strength.value;
      this.data.setSmoothing(Number(strength.value));
      this.#rebuild();
    });
    const log = toggle(words.logY, words.logY, false, (on) => {
      this.#log = on;
      this.#rebuild();
    });
    return element(
      "div",
      { class: "dsl-bar", role: "toolbar", "aria-label": words.lines },
      element("span", { class: "dsl-title" }, this.title),
      element("label", {}, words.smoothing, strength, said),
      log,
      button("−", words.zoomOut, () => this.#scale(ZOOM)),
      button("+", words.zoomIn, () => this.#scale(1 / ZOOM)),
      button("⤢", words.fit, () => this.fit()),
      toggle(words.showTable, words.showTableHelp, false, (on) => this.#showTwin(on)),
      button("PNG", words.savePng, () => this.#save()),
    );
  }

  #save(): void {
    const from = this.#chart?.ctx.canvas;
    if (from === undefined) return;
    const canvas = element("canvas", { width: from.width, height: from.height });
    const context = canvas.getContext("2d");
    if (context === null) return;
    context.fillStyle = this.#palette.background;
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(from, 0, 0);
    void pngOf(canvas).then((blob) => download(`${fileName(this.title, "lines")}.png`, blob));
  }

  #scale(factor: number): void {
    const [from, to] = this.#sight();
    const at = this.#cursor < 0 ? NaN : this.data.x.at(this.#cursor);
    const middle = at >= from && at <= to ? at : (from + to) / 2;
    this.zoom(middle - (middle - from) * factor, middle + (to - middle) * factor);
  }

  /** The rows as a table; it holds those that there are when it is opened. */
  #showTwin(on: boolean): void {
    this.#twin.hidden = !on;
    this.#grid?.dispose();
    this.#grid = undefined;
    this.#twin.replaceChildren();
    if (!on) return;
    const count = Math.min(this.data.rows, GRID_ROWS);
    const role = { better: undefined, bar: false, kind: "number" } as const;
    const column = (name: string, label: string, value: (row: number) => number) => ({
      ...role,
      name,
      label,
      values: Float64Array.from({ length: count }, (_, row) => value(row)),
    });
    const columns = [
      column("x", this.data.xLabel || words.xAxis, (row) => this.data.x.at(row)),
      ...this.data.series.map((one) => column(one.name, one.label, (row) => one.raw.values.at(row))),
    ];
    this.#grid = new Grid(columns, count, words.grid(this.title));
    this.#twin.append(this.#grid.element);
  }

  #dash(index: number): readonly number[] {
    return DASHES[Math.floor(index / SERIES) % DASHES.length] ?? [];
  }

  /** Buttons that show and hide lines. */
  #describe(): void {
    this.#empty.hidden = this.data.rows > 0 && this.data.series.length > 0;
    this.#plot.hidden = this.#legend.hidden = this.#readout.element.hidden = !this.#empty.hidden;
    this.#legend.replaceChildren(
      ...this.data.series.map((one, index) => {
        const shown = !this.#hidden.has(one.name);
        const made = toggle("", words.toggle(one.label), shown, (on) => {
          if (on) this.#hidden.delete(one.name);
          else this.#hidden.add(one.name);
          this.#say(false);
          this.#schedule();
        });
        const line = this.#dash(index).length > 0 ? " ┄" : "";
        made.append(swatch(seriesColour(index, this.#palette)), `${one.label}${line}`);
        return made;
      }),
    );
  }

  #retheme(): void {
    this.#palette = paletteOf(this.host);
    applyPalette(this.#root, this.#palette);
    this.#describe();
    this.#rebuild();
  }

  #rebuild(): void {
    this.#chart?.destroy();
    this.#chart = undefined;
    this.#schedule();
  }

  #schedule(): void {
    cancelAnimationFrame(this.#frame);
    this.#frame = requestAnimationFrame(() => this.#draw());
  }

  #visible(): Series[] {
    return this.data.series.filter((one) => !this.#hidden.has(one.name));
  }

  /** The least and the greatest value in sight, with some room; logarithmic ones above zero. */
  #range(): readonly [number, number] {
    const [from, to] = this.#sight();
    const { x } = this.data;
    const [start, end] = [x.firstFrom(from), Math.max(x.firstFrom(to) + 1, x.firstFrom(from) + 1)];
    let [low, high] = [Infinity, -Infinity];
    for (const { raw } of this.#visible()) {
      const [least, greatest] = raw.extremes(start, end);
      if (least === NOWHERE) continue;
      low = Math.min(low, raw.values.at(least));
      high = Math.max(high, raw.values.at(greatest));
    }
    if (this.#log) return this.#logRange(low, high);
    if (!(low <= high)) return [0, 1];
    const room = low === high ? Math.abs(low) * PADDING || 1 : (high - low) * PADDING;
    return [low - room, high + room];
  }

  /** Zero and below have no place on a logarithmic axis: six powers of ten below the greatest are shown then. */
  #logRange(low: number, high: number): readonly [number, number] {
    if (!(high > 0)) return [0.1, 1];
    const least = low > 0 ? low : high * 1e-6;
    const room = least === high ? 2 : (high / least) ** PADDING;
    return [least / room, high * room];
  }

  #draw(): void {
    const { clientWidth: width, clientHeight: height } = this.#plot;
    if ((this.data.rows === 0) !== this.#plot.hidden) this.#describe();
    if (width < 40 || height < 40 || this.#plot.hidden) return;
    const [from, to] = this.#sight();
    const smooth = this.data.smoothing > 0;
    const all = this.data.series.flatMap((one) => (smooth ? [one.raw, one.smooth] : [one.raw]));
    const made = thin(this.data.x, all, from, to, Math.round(width));
    if (this.#log)
      for (const line of made.lines) line.forEach((y, at) => (line[at] = (y ?? 0) > 0 ? (y ?? null) : null));
    if (this.#chart === undefined || this.#charted !== all.length) {
      this.#chart?.destroy();
      this.#chart = new uPlot(this.#options(width, height), [made.x, ...made.lines], this.#plot);
      this.#charted = all.length;
    }
    const chart = this.#chart;
    this.#note.hidden = !made.thinned;
    this.#note.textContent = words.decimated(made.rows);
    const each = smooth ? 2 : 1;
    this.data.series.forEach((one, index) => {
      for (let line = 0; line < each; line++) {
        const series = chart.series[1 + index * each + line];
        if (series !== undefined) series.show = !this.#hidden.has(one.name);
      }
    });
    if (chart.width !== width || chart.height !== height) chart.setSize({ width, height });
    chart.setData([made.x, ...made.lines], true);
    this.#mark();
  }

  #options(width: number, height: number): uPlot.Options {
    const smooth = this.data.smoothing > 0;
    const line = (one: Series, index: number, faint: boolean): uPlot.Series => ({
      label: one.label,
      stroke: seriesColour(index, this.#palette) + (faint ? "48" : ""),
      width: faint ? 1 : 1.5,
      dash: [...this.#dash(index)],
      points: { show: false, size: 5, filter: (chart, at) => alone(chart.data[at] ?? []) },
    });
    const axis = (side: 3 | 2, label: string, log: boolean): uPlot.Axis => ({
      side,
      stroke: this.#palette.faint,
      font: FONT,
      labelFont: FONT,
      ...(label === "" ? {} : { label, labelSize: 18 }),
      size: side === 3 ? 62 : 34,
      grid: { stroke: this.#palette.border, width: 0.5 },
      ticks: { stroke: this.#palette.border, width: 1, size: 5 },
      // Marks are ours, whatever uPlot would have counted: numbers may be as large or as close as they like.
      incrs: (_, __, low, high) => [Math.max(5, high - low)],
      space: 1,
      splits: (_, __, low, high) => {
        const count = Math.max(2, Math.floor(side === 3 ? height / 44 : width / 90));
        return log ? logTicks(low, high, count) : ticks(low, high, count);
      },
      filter: (_, splits) => splits,
      values: (_, splits) => splits.map((value) => tickLabel(value)),
    });
    return {
      width,
      height,
      padding: [10, 14, 0, 0],
      legend: { show: false },
      scales: {
        x: { time: false, range: () => widened(this.#sight()) },
        y: { distr: this.#log ? 3 : 1, range: () => [...this.#range()] as uPlot.Range.MinMax },
      },
      axes: [axis(2, this.data.xLabel, false), axis(3, this.data.yLabel, this.#log)],
      series: [
        {},
        ...this.data.series.flatMap((one, index) =>
          smooth ? [line(one, index, true), line(one, index, false)] : [line(one, index, false)],
        ),
      ],
      cursor: {
        y: false,
        points: { show: false },
        drag: { x: true, y: false, setScale: false },
        bind: { dblclick: () => () => (this.fit(), null) },
      },
      hooks: {
        setSelect: [
          (chart) => {
            const { left, width: across } = chart.select;
            if (across < 3) return;
            this.zoom(chart.posToVal(left, "x"), chart.posToVal(left + across, "x"));
            chart.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          },
        ],
      },
    };
  }

  #hover(event: PointerEvent): void {
    const chart = this.#chart;
    if (chart === undefined) return;
    const left = event.clientX - chart.over.getBoundingClientRect().left;
    this.#moveTo(this.#nearest(chart.posToVal(left, "x")), false);
  }

  /** The row whose x is nearest. */
  #nearest(value: number): number {
    const { x, rows } = this.data;
    const after = Math.min(rows - 1, x.firstFrom(value));
    return after > 0 && value - x.at(after - 1) < x.at(after) - value ? after - 1 : after;
  }

  #moveTo(row: number, aloud: boolean): void {
    if (row < 0 || row >= this.data.rows || (row === this.#cursor && !aloud)) return;
    this.#cursor = row;
    if (aloud) {
      this.#follow();
      this.#mark();
    }
    this.#say(aloud);
  }

  /** Move what is in sight so that the cursor is in it. */
  #follow(): void {
    const [from, to] = this.#sight();
    const at = this.data.x.at(this.#cursor);
    if (this.#window === undefined || (at >= from && at <= to)) return;
    const [low, high] = this.#whole();
    const start = Math.min(Math.max(low, at - (to - from) / 2), Math.max(low, high - (to - from)));
    this.zoom(start, start + (to - from));
  }

  #mark(): void {
    if (this.#cursor < 0 || this.#chart === undefined || this.#plot !== document.activeElement) return;
    this.#chart.setCursor({ left: this.#chart.valToPos(this.data.x.at(this.#cursor), "x"), top: 0 }, false);
  }

  #say(aloud: boolean): void {
    const [low, high] = this.#whole();
    this.#plot.setAttribute("aria-valuemin", String(low));
    this.#plot.setAttribute("aria-valuemax", String(high));
    if (this.#cursor < 0) {
      this.#plot.setAttribute("aria-valuenow", String(low));
      this.#readout.say([element("span", { class: "dsl-hint" }, words.linesHint)], aloud);
      return;
    }
    const at = this.data.x.at(this.#cursor);
    const facts: [string, string, string][] = [[this.data.xLabel || words.xAxis, said(at), ""]];
    const told = this.#visible();
    for (const one of told.slice(0, MAX_TOLD)) {
      const value = one.raw.values.at(this.#cursor);
      facts.push([
        one.label,
        said(value) || words.missing,
        seriesColour(this.data.series.indexOf(one), this.#palette),
      ]);
    }
    const parts: Node[] = facts.map(([name, value, colour]) =>
      element("span", {}, ...(colour === "" ? [] : [swatch(colour)]), `${name} ${value}`),
    );
    if (told.length > MAX_TOLD) parts.push(element("span", {}, `+ ${told.length - MAX_TOLD}`));
    this.#plot.setAttribute("aria-valuenow", String(at));
    this.#plot.setAttribute("aria-valuetext", facts.map(([name, value]) => `${name} ${value}`).join(", "));
    this.#readout.say(parts, false);
  }

  #key(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const [from, to] = this.#sight();
    const { x, rows } = this.data;
    const [first, last] = [x.firstFrom(from), Math.min(rows - 1, x.firstFrom(to))];
    const now = this.#cursor < 0 ? first - 1 : this.#cursor;
    const large = Math.max(1, Math.round((last - first) * LARGE_STEP));
    const steps: Readonly<Record<string, number>> = {
      ArrowRight: now + 1,
      ArrowUp: now + 1,
      ArrowLeft: now - 1,
      ArrowDown: now - 1,
      PageUp: now + large,
      PageDown: now - large,
      Home: 0,
      End: rows - 1,
    };
    const target = Object.hasOwn(steps, event.key) ? steps[event.key] : undefined;
    if (target !== undefined) this.#moveTo(Math.min(rows - 1, Math.max(0, target)), true);
    else if (event.key === "+" || event.key === "=") this.#scale(1 / ZOOM);
    else if (event.key === "-") this.#scale(ZOOM);
    else if (event.key === "0" || event.key === "Escape") this.fit();
    else return;
    event.preventDefault();
  }
}

/** Places of values without a neighbour, which no line shows. */
function alone(values: ArrayLike<number | null | undefined>): number[] {
  const found: number[] = [];
  for (let at = 0; at < values.length; at++) {
    if (values[at] != null && values[at - 1] == null && values[at + 1] == null) found.push(at);
  }
  return found;
}

/** A single x gets room on both sides. */
function widened([from, to]: readonly [number, number]): [number, number] {
  return to > from
    ? [from, to]
    : [from - (Math.abs(from) * PADDING || 1), to + (Math.abs(to) * PADDING || 1)];
}

export const lines: Kind = {
  make: (host, table, title) => new LinesView(host, new LinesData(table), title, cutOf(table)),
  style: SHARED + LINES,
};
