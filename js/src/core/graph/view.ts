/** The graph of a call: an outline to read and to steer by, a picture to look at, and the details of one item. */

import { button, download, element } from "../dom";
import { CanvasSurface, SvgSurface } from "../surface";
import { applyPalette, onThemeChange, type Palette, paletteOf } from "../theme";
import type { Kind, View } from "../view";
import { words } from "../words";
import { bytesInWords, type Colouring, colourings } from "./colours";
import { GraphData } from "./data";
import { Layout } from "./layout";
import { Outline } from "./outline";
import { itemAt, paint, type Viewport } from "./paint";
import { Tree } from "./tree";

const MIN_SCALE = 0.004;
const MAX_SCALE = 4;
const MAP = { width: 150, height: 100 };
/** Moves of the pointer, in pixels, up to which pressing and letting go is a click. */
const STILL = 4;
/** Levels are opened at the start while what shows is no more than this. */
const GLANCE = 48;
const MAX_LINKS = 12;
/** The scale from which on labels can be read. */
const READABLE = 0.75;
const MAX_PICTURE = 8192;

export class GraphView implements View {
  readonly tree: Tree;
  readonly layout: Layout;
  readonly #root: HTMLElement;
  readonly #picture: HTMLElement;
  readonly #canvas: HTMLCanvasElement;
  readonly #map: HTMLCanvasElement;
  readonly #detail: HTMLElement;
  readonly #legend: HTMLElement;
  readonly #hitCount: HTMLElement;
  readonly #search: HTMLInputElement;
  readonly #outline: Outline;
  readonly #colourings: readonly Colouring[];
  readonly #endings: (() => void)[] = [];
  #colouring: Colouring;
  #palette: Palette;
  #viewport: Viewport = { x: 0, y: 0, scale: 1, width: 0, height: 0 };
  #selected = -1;
  #hits: number[] = [];
  #hit = -1;
  #depth: number;
  #frame = 0;
  #fitted = false;

  constructor(
    readonly host: HTMLElement,
    readonly data: GraphData,
    readonly title: string,
  ) {
    this.tree = new Tree(data);
    this.layout = new Layout(this.tree);
    this.#depth = this.layout.openUpTo(GLANCE);
    this.#colourings = colourings(this.tree);
    this.#colouring = this.#colourings[0] as Colouring;
    this.#outline = new Outline(this.layout, {
      toggle: (item, open) => this.setOpen(item, open),
      select: (item) => this.select(item, true),
    });
    this.#canvas = element("canvas", { "aria-hidden": "true" });
    this.#map = element("canvas", { class: "dsl-map", "aria-hidden": "true" });
    this.#picture = element(
      "div",
      { class: "dsl-picture", role: "img", "aria-label": words.picture, title: words.wheel },
      this.#canvas,
      this.#map,
    );
    this.#detail = element("div", {
      class: "dsl-detail",
      role: "region",
      "aria-live": "polite",
      "aria-label": title,
    });
    this.#legend = element("div", { class: "dsl-legend" });
    this.#hitCount = element("span", { class: "dsl-hits", role: "status" });
    this.#search = element("input", {
      type: "search",
      "aria-label": words.search,
      placeholder: words.search,
    });
    this.#root = element(
      "section",
      { class: "dsl-view dsl-graph", "aria-label": `${words.graph} ${title}` },
      this.#bar(),
      element("div", { class: "dsl-main" }, this.#outline.element, this.#picture),
      this.#legend,
      this.#detail,
    );
    this.#palette = paletteOf(host);
    host.append(this.#root);
    this.#listen();
    this.#retheme();
    this.#describe();
    this.#resize();
  }

  dispose(): void {
    cancelAnimationFrame(this.#frame);
    for (const end of this.#endings) end();
    this.#root.remove();
  }

  /** Open or close an item. */
  setOpen(item: number, open: boolean): void {
    const before = this.layout.origin(item);
    this.layout.set(item, open);
    const after = this.layout.origin(item);
    const { x, y } = this.#viewport;
    this.#outline.refresh();
    this.#show({ x: x + after.x - before.x, y: y + after.y - before.y });
  }

  /** Show an item in detail, and bring it into the middle of the picture where that is asked for. */
  select(item: number, center = false): void {
    if (item <= 0) return;
    this.#selected = item;
    this.layout.reveal(item);
    this.#outline.refresh();
    this.#outline.select(item);
    this.#describe();
    if (center) this.#center(item);
    else this.#schedule();
  }

  /** Everything in the window where it can be read then, else its beginning. */
  home(): void {
    this.fit();
    const { scale, width } = this.#viewport;
    if (scale >= READABLE) return;
    const across = Math.max(READABLE, Math.min(1, width / (this.layout.width[0] ?? 1)));
    this.#show({ scale: across, x: ((this.layout.width[0] ?? 0) - width / across) / 2, y: 0 });
  }

  /** Bring everything into the window. */
  fit(): void {
    const { width, height } = this.#viewport;
    const [whole, tall] = [this.layout.width[0] ?? 1, this.layout.height[0] ?? 1];
    const scale = clamp(Math.min(width / whole, height / tall), MIN_SCALE, 1.25);
    this.#show({ scale, x: (whole - width / scale) / 2, y: Math.min(0, (tall - height / scale) / 2) });
  }

  /** Everything that is open, as an SVG file. */
  svg(): string {
    const [width, height] = [this.layout.width[0] ?? 0, this.layout.height[0] ?? 0];
    const surface = new SvgSurface(width, height, this.#palette.background);
    paint(surface, this.layout, { x: 0, y: 0, scale: 1, width, height }, this.#look());
    return surface.toString();
  }

  /** Everything that is open, as a picture. */
  png(): Promise<Blob> {
    const [width, height] = [this.layout.width[0] ?? 1, this.layout.height[0] ?? 1];
    const scale = Math.min(2, MAX_PICTURE / Math.max(width, height));
    const canvas = element("canvas", { width: Math.ceil(width * scale), height: Math.ceil(height * scale) });
    this.#drawOn(canvas, { x: 0, y: 0, scale, width: canvas.width, height: canvas.height }, 1);
    return new Promise((resolve, reject) => {
      canvas.toBlob((blob) => (blob === null ? reject(new Error("no picture")) : resolve(blob)), "image/png");
    });
  }

  #bar(): HTMLElement {
    const colour = element(
      "select",
      {},
      ...this.#colourings.map((one) => element("option", { value: one.id }, one.label)),
    );
    colour.addEventListener("change", () => {
      this.#colouring = this.#colourings.find((one) => one.id === colour.value) ?? this.#colouring;
      this.#describeColours();
      this.#schedule();
    });
    this.#search.addEventListener("input", () => this.#find(this.#search.value));
    this.#search.addEventListener("keydown", (event) => {
      if (event.key === "Enter") this.#step(event.shiftKey ? -1 : 1);
      if (event.key === "Escape") {
        this.#search.value = "";
        this.#find("");
      }
    });
    const file = this.title.replace(/[^\w.-]+/g, "_") || "graph";
    return element(
      "div",
      { class: "dsl-bar", role: "toolbar", "aria-label": words.graph },
      element("span", { class: "dsl-title" }, `${this.title}  ${words.operations(this.tree.size[0] ?? 0)}`),
      this.#search,
      button("‹", words.previous, () => this.#step(-1)),
      button("›", words.next, () => this.#step(1)),
      this.#hitCount,
      button("⊟", words.less, () => this.#level(-1)),
      button("⊞", words.more, () => this.#level(1)),
      button("−", words.zoomOut, () => this.#zoom(1 / 1.4)),
      button("+", words.zoomIn, () => this.#zoom(1.4)),
      button("⤢", words.fit, () => this.fit()),
      element("label", {}, words.colour, colour),
      button("SVG", words.saveSvg, () =>
        download(`${file}.svg`, new Blob([this.svg()], { type: "image/svg+xml" })),
      ),
      button("PNG", words.savePng, () => void this.png().then((blob) => download(`${file}.png`, blob))),
    );
  }

  #listen(): void {
    const observer = new ResizeObserver(() => this.#resize());
    observer.observe(this.#picture);
    this.#endings.push(
      () => observer.disconnect(),
      onThemeChange(this.host, () => this.#retheme()),
    );
    this.#picture.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey && !event.metaKey) return; // the page scrolls
        event.preventDefault();
        const box = this.#picture.getBoundingClientRect();
        this.#zoom(Math.exp(-event.deltaY / 300), event.clientX - box.left, event.clientY - box.top);
      },
      { passive: false },
    );
    this.#picture.addEventListener("pointerdown", (event) => this.#press(event));
    this.#map.addEventListener("pointerdown", (event) => this.#jump(event));
  }

  #press(down: PointerEvent): void {
    if (down.button !== 0) return;
    const start = this.#viewport;
    let moved = false;
    const move = (event: PointerEvent): void => {
      const [dx, dy] = [event.clientX - down.clientX, event.clientY - down.clientY];
      moved ||= Math.hypot(dx, dy) > STILL;
      if (!moved) return;
      this.#picture.classList.add("dsl-dragging");
      this.#show({ x: start.x - dx / start.scale, y: start.y - dy / start.scale });
    };
    const up = (event: PointerEvent): void => {
      this.#picture.removeEventListener("pointermove", move);
      this.#picture.removeEventListener("pointerup", up);
      this.#picture.removeEventListener("pointercancel", up);
      this.#picture.classList.remove("dsl-dragging");
      if (!moved && event.type === "pointerup") this.#click(event);
    };
    this.#picture.setPointerCapture(down.pointerId);
    this.#picture.addEventListener("pointermove", move);
    this.#picture.addEventListener("pointerup", up);
    this.#picture.addEventListener("pointercancel", up);
  }

  #click(event: PointerEvent): void {
    const box = this.#picture.getBoundingClientRect();
    const { x, y, scale } = this.#viewport;
    const item = itemAt(
      this.layout,
      x + (event.clientX - box.left) / scale,
      y + (event.clientY - box.top) / scale,
    );
    if (item === 0) return;
    if (this.tree.isGroup(item)) this.setOpen(item, !this.layout.isOpen(item));
    this.select(item);
  }

  #jump(event: PointerEvent): void {
    event.stopPropagation();
    const to = (at: PointerEvent): void => {
      const box = this.#map.getBoundingClientRect();
      const scale = this.#mapScale();
      const { width, height, scale: zoom } = this.#viewport;
      this.#show({
        x: (at.clientX - box.left) / scale - width / zoom / 2,
        y: (at.clientY - box.top) / scale - height / zoom / 2,
      });
    };
    to(event);
    this.#map.setPointerCapture(event.pointerId);
    this.#map.onpointermove = to;
    this.#map.onpointerup = () => (this.#map.onpointermove = null);
  }

  #level(step: number): void {
    this.#depth = Math.max(1, this.#depth + step);
    this.layout.setDepth(this.#depth);
    this.#outline.refresh();
    this.fit();
  }

  #zoom(factor: number, x = this.#viewport.width / 2, y = this.#viewport.height / 2): void {
    const before = this.#viewport;
    const scale = clamp(before.scale * factor, MIN_SCALE, MAX_SCALE);
    this.#show({
      scale,
      x: before.x + x / before.scale - x / scale,
      y: before.y + y / before.scale - y / scale,
    });
  }

  #center(item: number): void {
    const { x, y } = this.layout.origin(item);
    const { width, height } = this.#viewport;
    const scale = Math.max(this.#viewport.scale, 0.8);
    const across = this.layout.width[item] ?? 0;
    const down = Math.min(this.layout.height[item] ?? 0, height / scale);
    this.#show({ scale, x: x + across / 2 - width / scale / 2, y: y + down / 2 - height / scale / 2 });
  }

  #find(text: string): void {
    const wanted = text.trim().toLowerCase();
    const { data, tree } = this;
    const found = new Set<number>();
    if (wanted !== "") {
      for (let row = 0; row < data.rows; row++) {
        const said = `${data.op(row)}\n${data.name(row)}\n${data.module(row)}`.toLowerCase();
        if (said.includes(wanted)) found.add(tree.itemOf[row] ?? 0);
      }
    }
    found.delete(-1);
    this.#hits = [...found];
    this.#hit = -1;
    this.#hitCount.textContent = wanted === "" ? "" : words.hits(-1, this.#hits.length);
    this.#schedule();
  }

  #step(by: number): void {
    const count = this.#hits.length;
    if (count === 0) return;
    this.#hit = (this.#hit + by + count + (this.#hit < 0 && by < 0 ? 1 : 0)) % count;
    this.#hitCount.textContent = words.hits(this.#hit, count);
    this.select(this.#hits[this.#hit] ?? 0, true);
  }

  #describe(): void {
    const { tree, data } = this;
    const item = this.#selected;
    if (item <= 0) {
      this.#detail.replaceChildren(data.rows === 0 ? words.empty : words.nothing);
      return;
    }
    const row = tree.row[item] ?? -1;
    const facts: [string, Node | string][] = [];
    if (row >= 0) {
      const bytes = data.bytes(row);
      facts.push([
        words.result,
        `${data.dtype(row)}[${data.shape(row)}]${bytes > 0 ? `, ${bytesInWords(bytes)}` : ""}`,
      ]);
      if (data.module(row) !== "") facts.push([words.module, data.module(row)]);
      if (data.place(row) !== "") facts.push([words.cell, data.place(row)]);
      if (data.hasMarks) facts.push([words.byMark, words.marks[data.mark(row)]]);
      const weights = tree.parameters.get(item) ?? [];
      if (weights.length > 0) {
        facts.push([
          words.weights,
          weights.map((one) => `${data.name(one)} [${data.shape(one)}]`).join(", "),
        ]);
      }
      facts.push(
        [words.reads, this.#links([...data.inputsOf(row)])],
        [words.readBy, this.#links(this.#readers(row))],
      );
    } else {
      facts.push([
        words.operations(tree.size[item] ?? 0),
        (tree.repeat[item] ?? 1) > 1 ? words.copies(tree.repeat[item] ?? 1) : "",
      ]);
    }
    const heading = row >= 0 ? `${data.op(row)}  ${data.name(row)}` : (tree.label[item] ?? "");
    const list = element("dl", {});
    for (const [name, value] of facts) {
      list.append(element("div", {}, element("dt", {}, name), element("dd", {}, value)));
    }
    this.#detail.replaceChildren(element("strong", {}, heading), list);
  }

  #readers(row: number): number[] {
    const { data } = this;
    const found: number[] = [];
    for (let other = 0; other < data.rows; other++) {
      for (const input of data.inputsOf(other)) if (input === row) found.push(other);
    }
    return [...new Set(found)];
  }

  #links(rows: readonly number[]): Node | string {
    const operations = [...new Set(rows.map((row) => this.tree.itemOf[row] ?? -1))].filter(
      (item) => item > 0 && item !== this.#selected,
    );
    if (operations.length === 0) return words.none;
    const links = element("span", { class: "dsl-links" });
    for (const item of operations.slice(0, MAX_LINKS)) {
      links.append(
        button(this.tree.label[item] ?? "", this.tree.label[item] ?? "", () => this.select(item, true)),
      );
    }
    if (operations.length > MAX_LINKS) links.append(`+ ${operations.length - MAX_LINKS}`);
    return links;
  }

  #describeColours(): void {
    this.#legend.replaceChildren(
      ...this.#colouring.legend(this.#palette).map(([colour, meaning]) => {
        const sample = element("i", { "aria-hidden": "true" });
        sample.style.background = colour;
        return element("span", {}, sample, meaning);
      }),
    );
  }

  #retheme(): void {
    this.#palette = paletteOf(this.host);
    applyPalette(this.#root, this.#palette);
    this.#describeColours();
    this.#schedule();
  }

  #resize(): void {
    const { clientWidth: width, clientHeight: height } = this.#picture;
    if (width === 0 || height === 0) return;
    this.#viewport = { ...this.#viewport, width, height };
    if (this.#fitted) this.#schedule();
    else {
      this.#fitted = true;
      this.home();
    }
    this.#draw();
  }

  #show(change: Partial<Viewport>): void {
    this.#viewport = { ...this.#viewport, ...change };
    this.#schedule();
  }

  #schedule(): void {
    cancelAnimationFrame(this.#frame);
    this.#frame = requestAnimationFrame(() => this.#draw());
  }

  #draw(): void {
    const { width, height } = this.#viewport;
    if (width === 0 || height === 0) return;
    const ratio = this.host.ownerDocument.defaultView?.devicePixelRatio ?? 1;
    this.#drawOn(this.#canvas, this.#viewport, ratio);
    const scale = this.#mapScale();
    const [across, down] = [(this.layout.width[0] ?? 0) * scale, (this.layout.height[0] ?? 0) * scale];
    const map = { x: 0, y: 0, scale, width: Math.max(24, across), height: Math.max(24, down) };
    const whole =
      (this.layout.width[0] ?? 0) * this.#viewport.scale <= width &&
      (this.layout.height[0] ?? 0) * this.#viewport.scale <= height;
    this.#map.style.display = whole ? "none" : "block";
    if (whole) return;
    const context = this.#drawOn(this.#map, map, ratio);
    if (context === null) return;
    const { x, y, scale: zoom } = this.#viewport;
    context.strokeStyle = this.#palette.accent;
    context.lineWidth = 1.5;
    context.strokeRect(x * scale, y * scale, (width / zoom) * scale, (height / zoom) * scale);
  }

  #mapScale(): number {
    return Math.min(MAP.width / (this.layout.width[0] ?? 1), MAP.height / (this.layout.height[0] ?? 1));
  }

  #drawOn(canvas: HTMLCanvasElement, viewport: Viewport, ratio: number): CanvasRenderingContext2D | null {
    const [width, height] = [Math.round(viewport.width * ratio), Math.round(viewport.height * ratio)];
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
      canvas.style.width = `${viewport.width}px`;
      canvas.style.height = `${viewport.height}px`;
    }
    const context = canvas.getContext("2d");
    if (context === null) return null;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.fillStyle = this.#palette.background;
    context.fillRect(0, 0, viewport.width, viewport.height);
    paint(new CanvasSurface(context), this.layout, viewport, this.#look());
    return context;
  }

  #look(): Parameters<typeof paint>[3] {
    return {
      palette: this.#palette,
      selected: this.#selected,
      found: new Set(this.#hits),
      fill: (item) => this.#colouring.fill(item, this.#palette),
    };
  }
}

function clamp(value: number, least: number, most: number): number {
  return Math.min(most, Math.max(least, Number.isFinite(value) ? value : least));
}

export const graph: Kind = {
  make: (host, table, title) => new GraphView(host, new GraphData(table), title),
};
