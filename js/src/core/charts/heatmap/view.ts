/** A matrix as colours: read cell by cell, zoomed to a part. */

import { button, element } from "../../dom";
import { pngOf, savers, sized } from "../../pictures";
import { type Box, CanvasSurface } from "../../surface";
import { applyPalette, onThemeChange, type Palette, paletteOf } from "../../theme";
import type { Kind, View } from "../../view";
import { Ramp } from "../colours";
import { type Column, type Cut, cutOf } from "../columns";
import { said } from "../numbers";
import { choice, follow, noteOf, Readout, toggle } from "../parts";
import { SHARED } from "../style";
import { Grid } from "../table/grid";
import { words } from "../words";
import { Matrix, type Part, type Pool } from "./matrix";
import { image, innerOf, labels, svg } from "./paint";

type Cell = readonly [number, number];

const ZOOM = 1.6;
/** Rows and columns that the table shows of what is in sight. */
const TWIN = { rows: 500, columns: 60 } as const;
/** A page of the keyboard: this share of what is in sight. */
const LARGE_STEP = 0.1;

export class HeatmapView implements View {
  readonly #root: HTMLElement;
  readonly #canvas = element("canvas", { "aria-hidden": "true" });
  readonly #marks = element("canvas", { "aria-hidden": "true" });
  readonly #plot: HTMLElement;
  readonly #legend = element("div", { class: "dsl-legend" });
  readonly #readout = new Readout();
  readonly #twin = element("div", { class: "dsl-twin", hidden: true });
  readonly #endings: (() => void)[] = [];
  #grid: Grid | undefined;
  #palette: Palette;
  #ramp: Ramp;
  #part: Part;
  #pool: Pool = "mean";
  #cursor: Cell | undefined;
  #corner: Cell | undefined;
  #frame = 0;

  constructor(
    readonly host: HTMLElement,
    readonly matrix: Matrix,
    readonly title: string,
    cut?: Cut,
  ) {
    this.#part = matrix.whole;
    this.#palette = paletteOf(host);
    this.#ramp = new Ramp(matrix.diverging ? "diverging" : "sequential", this.#palette);
    const empty = matrix.rows === 0 || matrix.columns === 0;
    this.#plot = element(
      "div",
      {
        class: "dsl-plot",
        role: "application",
        tabindex: 0,
        "aria-label": `${title}: ${words.heatmapKeys}`,
        hidden: empty,
      },
      this.#canvas,
      this.#marks,
    );
    this.#root = element(
      "section",
      { class: "dsl-view dsl-heatmap", "aria-label": `${words.heatmap} ${title}` },
      this.#bar(),
      ...(empty ? [element("p", { class: "dsl-message" }, words.emptyHeatmap)] : []),
      this.#plot,
      this.#legend,
      this.#readout.element,
      this.#twin,
      ...noteOf(cut),
    );
    this.#legend.hidden = this.#readout.element.hidden = empty;
    host.append(this.#root);
    this.#listen();
    this.#retheme();
    this.#describe(false);
  }

  dispose(): void {
    cancelAnimationFrame(this.#frame);
    for (const end of this.#endings) end();
    this.#grid?.dispose();
    this.#root.remove();
  }

  /** Show these cells, or those of them that there are. */
  zoom({ top, bottom, left, right }: Part): void {
    const { rows, columns } = this.matrix;
    const span = (from: number, to: number, most: number): readonly [number, number] => {
      const start = Math.max(0, Math.min(most - 1, Math.floor(from)));
      return [start, Math.max(start + 1, Math.min(most, Math.ceil(to)))];
    };
    if (rows === 0 || columns === 0) return;
    const [[first, last], [start, end]] = [span(top, bottom, rows), span(left, right, columns)];
    this.#part = { top: first, bottom: last, left: start, right: end };
    this.#corner = undefined;
    this.#refreshTwin();
    this.#schedule();
  }

  fit(): void {
    this.zoom(this.matrix.whole);
  }

  svg(): string {
    return svg(this.matrix, this.#part, this.#pool, this.#ramp, this.#palette);
  }

  #bar(): HTMLElement {
    const pools = [
      ["mean", words.mean],
      ["max", words.max],
    ] as const;
    return element(
      "div",
      { class: "dsl-bar", role: "toolbar", "aria-label": words.heatmap },
      element("span", { class: "dsl-title" }, this.title),
      choice(words.pool, pools, "mean", (value) => {
        this.#pool = value === "max" ? "max" : "mean";
        this.#schedule();
      }),
      button("−", words.zoomOut, () => this.#scale(ZOOM)),
      button("+", words.zoomIn, () => this.#scale(1 / ZOOM)),
      button("⤢", words.fit, () => this.fit()),
      toggle(words.showTable, words.showTableHelp, false, (on) => {
        this.#twin.hidden = !on;
        this.#refreshTwin();
      }),
      ...savers(
        this.title,
        "heatmap",
        () => this.svg(),
        () => pngOf(this.#canvas),
      ),
    );
  }

  /** The cells in sight as a table. */
  #refreshTwin(): void {
    this.#grid?.dispose();
    this.#grid = undefined;
    this.#twin.replaceChildren();
    if (this.#twin.hidden) return;
    const { top, bottom, left, right } = this.#part;
    const rows = Math.min(bottom - top, TWIN.rows);
    const across = Math.min(right - left, TWIN.columns);
    const role = { better: undefined, bar: false } as const;
    const columns: Column[] = [
      {
        kind: "text",
        name: "",
        label: words.rowLabel,
        ...role,
        words: this.matrix.rowLabels.slice(top, top + rows),
        codes: Uint32Array.from({ length: rows }, (_, row) => row),
      },
    ];
    for (let column = left; column < left + across; column++) {
      columns.push({
        kind: "number",
        name: String(column),
        label: this.matrix.columnLabels[column] ?? "",
        ...role,
        values: Float64Array.from({ length: rows }, (_, row) => this.matrix.at(top + row, column)),
      });
    }
    this.#grid = new Grid(columns, rows, words.grid(this.title));
    this.#twin.append(this.#grid.element);
    if (rows < bottom - top || across < right - left) {
      this.#twin.append(element("p", { class: "dsl-note" }, words.twinCut(rows, across)));
    }
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
        this.#scale(Math.exp(event.deltaY / 300), this.#under(event));
      },
      { passive: false },
    );
  }

  #inner(): Box {
    return innerOf(this.matrix, this.#plot.clientWidth, this.#plot.clientHeight);
  }

  /** The cell at the pointer; undefined beside the cells. */
  #under(event: MouseEvent): Cell | undefined {
    const box = this.#plot.getBoundingClientRect();
    const inner = this.#inner();
    const { top, bottom, left, right } = this.#part;
    const x = (event.clientX - box.left - inner.x) / inner.width;
    const y = (event.clientY - box.top - inner.y) / inner.height;
    if (!(x >= 0 && x < 1 && y >= 0 && y < 1)) return undefined;
    return [top + Math.floor(y * (bottom - top)), left + Math.floor(x * (right - left))];
  }

  #press(down: PointerEvent): void {
    const from = this.#under(down);
    if (down.button !== 0 || from === undefined) return;
    let to = from;
    follow(
      this.#plot,
      down,
      (event, dragged) => {
        to = this.#under(event) ?? to;
        this.#corner = dragged ? from : undefined;
        this.#moveTo(to, false);
      },
      (event, dragged) => {
        this.#corner = undefined;
        if (dragged && event.type === "pointerup") this.#zoomBetween(from, to);
        else this.#moveTo(from, true);
      },
    );
  }

  #zoomBetween(a: Cell, b: Cell): void {
    this.zoom({
      top: Math.min(a[0], b[0]),
      bottom: Math.max(a[0], b[0]) + 1,
      left: Math.min(a[1], b[1]),
      right: Math.max(a[1], b[1]) + 1,
    });
  }

  #scale(factor: number, around = this.#cursor): void {
    const { top, bottom, left, right } = this.#part;
    const [row, column] = around ?? [(top + bottom - 1) / 2, (left + right - 1) / 2];
    const part = {
      top: row + 0.5 - (row + 0.5 - top) * factor,
      bottom: row + 0.5 + (bottom - row - 0.5) * factor,
      left: column + 0.5 - (column + 0.5 - left) * factor,
      right: column + 0.5 + (right - column - 0.5) * factor,
    };
    this.zoom(part);
  }

  #key(event: KeyboardEvent): void {
    if (event.altKey) return;
    const far = event.ctrlKey || event.metaKey;
    const { rows, columns } = this.matrix;
    const { top, bottom, left } = this.#part;
    const page = Math.max(1, Math.round((bottom - top) * LARGE_STEP));
    const by = (down: number, across: number): (() => void) => {
      const [row, column] = this.#cursor ?? [top - Math.max(0, down), left - Math.max(0, across)];
      return () => this.#step(row + down, column + across);
    };
    const ends = this.#cursor ?? [top, left];
    const actions: Readonly<Record<string, () => void>> = {
      ArrowDown: by(1, 0),
      ArrowUp: by(-1, 0),
      ArrowRight: by(0, 1),
      ArrowLeft: by(0, -1),
      PageDown: by(page, 0),
      PageUp: by(-page, 0),
      Home: () => this.#step(far ? 0 : ends[0], 0),
      End: () => this.#step(far ? rows - 1 : ends[0], columns - 1),
    };
    const zooms: Readonly<Record<string, () => void>> = {
      " ": () => this.#markCorner(),
      "+": () => this.#scale(1 / ZOOM),
      "=": () => this.#scale(1 / ZOOM),
      "-": () => this.#scale(ZOOM),
      "0": () => this.fit(),
      Escape: () => this.fit(),
    };
    const all = far ? actions : { ...actions, ...zooms };
    const action = Object.hasOwn(all, event.key) ? all[event.key] : undefined;
    if (action === undefined) return;
    event.preventDefault();
    action();
  }

  /** Go to a cell, and let what is in sight follow. */
  #step(row: number, column: number): void {
    const cell = [
      Math.max(0, Math.min(this.matrix.rows - 1, row)),
      Math.max(0, Math.min(this.matrix.columns - 1, column)),
    ] as const;
    const { top, bottom, left, right } = this.#part;
    const [down, across] = [outside(cell[0], top, bottom), outside(cell[1], left, right)];
    if (down !== 0 || across !== 0) {
      const corner = this.#corner;
      this.zoom({ top: top + down, bottom: bottom + down, left: left + across, right: right + across });
      this.#corner = corner;
    }
    this.#moveTo(cell, true);
  }

  #markCorner(): void {
    const cell = this.#cursor;
    if (cell === undefined) return;
    if (this.#corner !== undefined) this.#zoomBetween(this.#corner, cell);
    else {
      this.#corner = cell;
      this.#readout.say([words.cellCorner], true);
      this.#mark();
    }
  }

  #moveTo(cell: Cell | undefined, aloud: boolean): void {
    if (!aloud && cell?.[0] === this.#cursor?.[0] && cell?.[1] === this.#cursor?.[1]) return;
    this.#cursor = cell;
    this.#describe(aloud);
    this.#mark();
  }

  #describe(aloud: boolean): void {
    const { matrix } = this;
    if (this.#cursor === undefined) {
      this.#readout.say([element("span", { class: "dsl-hint" }, words.heatmapHint)], aloud);
      return;
    }
    const [row, column] = this.#cursor;
    const value = said(matrix.at(row, column)) || words.missing;
    this.#readout.say(
      [words.cell(matrix.rowLabels[row] ?? "", matrix.columnLabels[column] ?? "", value)],
      aloud,
    );
  }

  #describeColours(pooling: boolean): void {
    const [low, high] = this.matrix.bound;
    const strip = element("span", { class: "dsl-ramp", "aria-hidden": "true" });
    strip.style.background = this.#ramp.gradient();
    const { top, bottom, left, right } = this.#part;
    const parts = [
      element("span", {}, `${this.matrix.label} ${said(low)}`, strip, said(high)),
      ...(this.matrix.diverging ? [element("span", {}, words.around)] : []),
      element("span", {}, words.hatched),
      element("span", {}, words.inSight(bottom - top, right - left)),
      ...(pooling ? [element("span", {}, this.#pool === "mean" ? words.poolMean : words.poolMax)] : []),
    ];
    this.#legend.replaceChildren(...parts);
  }

  #retheme(): void {
    this.#palette = paletteOf(this.host);
    applyPalette(this.#root, this.#palette);
    this.#ramp = new Ramp(this.matrix.diverging ? "diverging" : "sequential", this.#palette);
    this.#schedule();
  }

  #schedule(): void {
    cancelAnimationFrame(this.#frame);
    this.#frame = requestAnimationFrame(() => this.#draw());
  }

  #draw(): void {
    const { clientWidth: width, clientHeight: height } = this.#plot;
    if (width < 20 || height < 20) return;
    const ratio = this.host.ownerDocument.defaultView?.devicePixelRatio ?? 1;
    const context = sized(this.#canvas, width, height, ratio);
    if (context === null) return;
    context.fillStyle = this.#palette.background;
    context.fillRect(0, 0, width, height);
    const inner = this.#inner();
    const [across, down] = [Math.round(inner.width * ratio), Math.round(inner.height * ratio)];
    const { matrix } = this;
    const shown = image(matrix, this.#part, across, down, this.#pool, this.#ramp, this.#palette);
    context.putImageData(shown, Math.round(inner.x * ratio), Math.round(inner.y * ratio));
    labels(new CanvasSurface(context), matrix, this.#part, inner, this.#palette);
    const { top, bottom, left, right } = this.#part;
    this.#describeColours(right - left > across || bottom - top > down);
    this.#mark();
  }

  /** Only what the cursor marks: the cells stay as they are. */
  #mark(): void {
    const { clientWidth: width, clientHeight: height } = this.#plot;
    if (width < 20 || height < 20) return;
    const ratio = this.host.ownerDocument.defaultView?.devicePixelRatio ?? 1;
    const context = sized(this.#marks, width, height, ratio);
    if (context === null) return;
    context.clearRect(0, 0, width, height);
    const inner = this.#inner();
    const { top, bottom, left, right } = this.#part;
    const [tall, wide] = [inner.height / (bottom - top), inner.width / (right - left)];
    const outline = (from: Cell, to: Cell): void => {
      const x = inner.x + (Math.min(from[1], to[1]) - left) * wide;
      const y = inner.y + (Math.min(from[0], to[0]) - top) * tall;
      const [w, h] = [(Math.abs(to[1] - from[1]) + 1) * wide, (Math.abs(to[0] - from[0]) + 1) * tall];
      // Dark within light: one of both stands out from any colour.
      for (const [colour, out] of [
        ["#ffffff", 1.5],
        ["#000000", 0],
      ] as const) {
        context.strokeStyle = colour;
        context.lineWidth = 1.5;
        context.strokeRect(x - out, y - out, Math.max(w, 3) + 2 * out, Math.max(h, 3) + 2 * out);
      }
    };
    if (this.#cursor !== undefined) outline(this.#corner ?? this.#cursor, this.#cursor);
  }
}

/** How far a place is beside a stretch. */
function outside(at: number, from: number, to: number): number {
  return at < from ? at - from : at >= to ? at - to + 1 : 0;
}

export const heatmap: Kind = {
  make: (host, table, title) => new HeatmapView(host, new Matrix(table), title, cutOf(table)),
  style: SHARED,
};
