/**
 * The graph of a call: an outline to read and to steer by, a picture to look at, and the details of one item. Where it
 * was rewritten, the graph as captured and as it runs stand beside each other and move together.
 */

import { button, element } from "../dom";
import { savers } from "../pictures";
import { alarm, applyPalette, onThemeChange, type Palette, paletteOf } from "../theme";
import { type Kind, onPlace, type Place, tellPlace, type View } from "../view";
import { type After, afterOf, Pairing } from "./after";
import { bar, choice, type Tools } from "./bar";
import { type Colouring, colourings, withAlarms } from "./colours";
import { columnsOf, type GraphData, graphOf, placeInWords } from "./data";
import { detail } from "./detail";
import type { Layout } from "./layout";
import type { Look } from "./paint";
import { itemOf, placeOf } from "./places";
import { type Part, png, svg } from "./saved";
import { Side } from "./side";
import { STYLE } from "./style";
import { Tree } from "./tree";
import { words } from "./words";

/** An item of a graph: 0 is the one as captured, 1 as it runs. */
interface Choice {
  readonly side: number;
  readonly item: number;
}

export class GraphView implements View {
  readonly #root: HTMLElement;
  readonly #detail: HTMLElement;
  readonly #legend = element("div", { class: "dsl-legend" });
  readonly #hitCount = element("span", { class: "dsl-hits", role: "status" });
  readonly #sides: readonly Side[];
  readonly #pairing: Pairing | null;
  /** Chooses which graphs show; null where there is but one. */
  readonly #shows: HTMLSelectElement | null = null;
  readonly #colourings: readonly Colouring[];
  readonly #endings: (() => void)[] = [];
  #colouring: Colouring;
  #palette: Palette;
  #active = 0;
  #visible: readonly number[];
  #selected: Choice | null = null;
  #hits: readonly number[] = [];
  #hit = -1;
  #wanted = "";
  #depth: number;
  #placed = false;

  constructor(
    readonly host: HTMLElement,
    readonly data: GraphData,
    readonly title: string,
    after: After | null = null,
  ) {
    const trees = [new Tree(data), ...(after === null ? [] : [new Tree(after.data)])];
    const [before, now] = trees;
    this.#pairing =
      after !== null && before !== undefined && now !== undefined
        ? new Pairing(before, now, after.becomes)
        : null;
    const made = colourings(trees);
    this.#colourings = made.map((one) => withAlarms(one, trees));
    this.#colouring = this.#colourings[0] as Colouring;
    this.#palette = paletteOf(host);
    this.#sides = trees.map((tree, side) => this.#side(tree, side, trees.length > 1));
    this.#visible = trees.map((_, side) => side);
    this.#depth = Math.max(...this.#sides.map((side) => side.depth));
    this.#detail = element("div", {
      class: "dsl-detail",
      role: "region",
      "aria-live": "polite",
      "aria-label": title,
    });
    if (trees.length > 1) {
      const options = words.sides.map((said, side) => [String(side), said] as const);
      this.#shows = choice([["0,1", words.both], ...options], (which) =>
        this.show(which.split(",").map(Number)),
      );
    }
    this.#root = element(
      "section",
      { class: "dsl-view dsl-graph", "aria-label": `${words.graph} ${title}` },
      this.#bar(),
      ...this.#broken(),
      element(
        "div",
        { class: "dsl-main" },
        ...this.#sides.map((side) => side.outline.element),
        element("div", { class: "dsl-panes" }, ...this.#sides.map((side) => side.element)),
      ),
      this.#legend,
      this.#detail,
    );
    host.append(this.#root);
    this.#endings.push(
      onThemeChange(host, () => this.#retheme()),
      onPlace(this.#root, (place) => this.#hear(place)),
    );
    this.#retheme();
    this.#arrange();
    this.#describe();
  }

  dispose(): void {
    for (const side of this.#sides) side.pane.dispose();
    for (const end of this.#endings) end();
    this.#root.remove();
  }

  /** The graph that the reader turned to last. */
  get tree(): Tree {
    return this.#current.tree;
  }

  get layout(): Layout {
    return this.#current.layout;
  }

  /** Open or close an item, and what it is on the other side. */
  setOpen(item: number, open: boolean, side = this.#active): void {
    this.#sides[side]?.setOpen(item, open);
    const other = this.#sides[1 - side];
    for (const twin of this.#pairing?.across(side, item) ?? []) {
      if (other?.tree.isGroup(twin)) other.setOpen(twin, open);
    }
  }

  /** Show an item in detail, what it is on the other side too; bring both into the middle where that is asked for. */
  select(item: number, center = false, side = this.#active): void {
    if (item <= 0) return;
    this.#selected = { side, item };
    this.#turnTo(side);
    const twins = this.#pairing?.across(side, item) ?? [];
    this.#sides.forEach((one, number) => one.select(number === side ? [item] : twins));
    if (center) this.#sides[side]?.pane.center(item);
    this.#align();
    this.#describe();
  }

  /** Everything in the window where it can be read then, else its beginning; the first modules at the same height. */
  home(): void {
    const scale = Math.min(...this.#panes.map((pane) => pane.homeScale));
    for (const pane of this.#panes) pane.showAll(scale);
    const [before, now] = this.#sides;
    const first = before?.tree.kids(0).find((kid) => before.tree.isGroup(kid)) ?? 0;
    const [twin] = this.#pairing?.across(0, first) ?? [];
    if (before !== undefined && twin !== undefined && this.#visible.length > 1)
      now?.pane.align(twin, before.pane, first, true);
  }

  /** Bring everything into the window. */
  fit(): void {
    const scale = Math.min(...this.#panes.map((pane) => pane.fittingScale));
    for (const pane of this.#panes) pane.showAll(scale);
  }

  /** Show both graphs, or one of them. */
  show(which: readonly number[]): void {
    this.#visible = which;
    if (!which.includes(this.#active)) this.#turnTo(which[0] ?? 0);
    this.#arrange();
  }

  /** Everything that is open, as an SVG file. */
  svg(): string {
    return svg(this.#parts());
  }

  /** Everything that is open, as a picture. */
  png(): Promise<Blob> {
    return png(this.#parts());
  }

  get #current(): Side {
    return this.#sides[this.#active] as Side;
  }

  get #panes(): Side["pane"][] {
    return this.#visible.map((side) => (this.#sides[side] as Side).pane);
  }

  #side(tree: Tree, side: number, named: boolean): Side {
    return new Side(tree, named ? (words.sides[side] ?? "") : "", {
      toggle: (item, open) => this.setOpen(item, open, side),
      select: (item) => this.#choose(item, true, side),
      said: (item) => this.#colouring.said(side, item),
      longest: (item) => this.#longest(side, item),
      activate: () => this.#turnTo(side),
      look: () => this.#look(side),
      click: (item) => {
        if (tree.isGroup(item)) this.setOpen(item, !this.#sides[side]?.layout.isOpen(item), side);
        this.#choose(item, false, side);
      },
      pan: (dx, dy) => this.#panes.forEach((pane) => pane.pan(dx, dy)),
      zoom: (factor, x, y) => this.#panes.forEach((pane) => pane.zoom(factor, x, y)),
      sized: () => this.#place(),
    });
  }

  /** The longest of what colourings say of an item. */
  #longest(side: number, item: number): string {
    return this.#colourings
      .map((one) => one.said(side, item))
      .reduce((longest, said) => (said.length > longest.length ? said : longest), "");
  }

  #bar(): HTMLElement {
    const tools: Tools = {
      find: (text) => this.#find(text),
      step: (by) => this.#step(by),
      level: (by) => this.#level(by),
      zoom: (factor) => this.#panes.forEach((pane) => pane.zoom(factor)),
      fit: () => this.fit(),
      colour: (id) => {
        this.#colouring = this.#colourings.find((one) => one.id === id) ?? this.#colouring;
        this.#current.outline.refresh();
        this.#describeColours();
        for (const pane of this.#panes) pane.schedule();
      },
    };
    const size = words.operations(this.#sides[0]?.tree.size[0] ?? 0);
    return bar(
      `${this.title} · ${size}`,
      this.#hitCount,
      this.#colourings.map(({ id, label }) => [id, label] as const),
      this.#shows,
      savers(
        this.title,
        "graph",
        () => this.svg(),
        () => this.png(),
      ),
      tools,
    );
  }

  /** A line for the first place at which capture stopped, with a way to each. */
  #broken(): HTMLElement[] {
    const [first] = this.data.breaks;
    if (first === undefined) return [];
    const line = element(
      "p",
      { class: "dsl-broken", role: "note" },
      element("span", {}, words.broken(placeInWords(first.file, first.line), first.reason)),
    );
    this.data.breaks.forEach((one, number) => {
      const item = this.#sides[0]?.tree.itemOf[this.data.rowOfBreak(number)] ?? -1;
      const sign = words.showBreak(number + 1);
      const place = placeInWords(one.file, one.line) || one.reason;
      line.append(button(sign, `${sign}: ${place}`, () => this.#choose(item, true, 0)));
    });
    return [line];
  }

  /** Select what the reader chose, and tell other views of it. */
  #choose(item: number, center: boolean, side: number): void {
    if (item <= 0) return;
    this.select(item, center, side);
    tellPlace(this.#root, placeOf((this.#sides[side] as Side).tree, item));
  }

  /** Another view spoke of a place: select what is there, and tell nobody. */
  #hear(place: Place): void {
    const item = itemOf(this.tree, place);
    if (item > 0) {
      if (this.tree.isGroup(item)) this.setOpen(item, true);
      this.select(item, true);
    }
  }

  #turnTo(side: number): void {
    if (this.#active === side) return;
    this.#active = side;
    if (!this.#visible.includes(side)) this.#visible = [side];
    this.#find(this.#wanted);
    this.#arrange();
  }

  /** Let show what is to show. */
  #arrange(): void {
    if (this.#shows !== null) this.#shows.value = this.#visible.join();
    this.#sides.forEach((side, number) => {
      const visible = this.#visible.includes(number);
      side.show(visible, this.#visible.length > 1, number === this.#active);
    });
  }

  /** The beginning, or what was selected, once all panes have a size. */
  #place(): void {
    if (this.#placed || !this.#panes.every((pane) => pane.isSized)) return;
    this.#placed = true;
    this.home();
    if (this.#selected === null) return;
    this.#sides[this.#selected.side]?.pane.center(this.#selected.item);
    this.#align();
  }

  /** What is selected at the same height on both sides. */
  #align(): void {
    if (this.#selected === null || this.#pairing === null) return;
    const { side, item } = this.#selected;
    const [own, other] = [this.#sides[side], this.#sides[1 - side]];
    const [twin] = this.#pairing.across(side, item);
    if (own !== undefined && twin !== undefined) other?.pane.align(twin, own.pane, item);
  }

  #level(by: 1 | -1): void {
    this.#depth = Math.max(1, this.#depth + by);
    for (const { layout, outline } of this.#sides) {
      layout.setDepth(this.#depth);
      outline.refresh();
    }
    this.fit();
  }

  #find(text: string): void {
    this.#wanted = text.trim().toLowerCase();
    const found = this.#sides.map((side) => side.find(this.#wanted));
    this.#hits = found[this.#active] ?? [];
    this.#hit = -1;
    this.#hitCount.textContent = this.#wanted === "" ? "" : words.hits(-1, this.#hits.length);
  }

  #step(by: 1 | -1): void {
    const count = this.#hits.length;
    if (count === 0) return;
    this.#hit = (this.#hit + by + count + (this.#hit < 0 && by < 0 ? 1 : 0)) % count;
    this.#hitCount.textContent = words.hits(this.#hit, count);
    this.#choose(this.#hits[this.#hit] ?? 0, true, this.#active);
  }

  #describe(): void {
    if (this.#selected === null) {
      this.#detail.replaceChildren(this.data.rows === 0 ? words.empty : words.nothing);
      return;
    }
    this.#detail.replaceChildren(
      ...detail({
        sides: this.#sides.map(({ tree }) => tree),
        pairing: this.#pairing,
        ...this.#selected,
        go: (side, item) => this.#choose(item, true, side),
      }),
    );
  }

  #describeColours(): void {
    this.#legend.replaceChildren(
      ...this.#colouring.legend(this.#palette).map(([background, meaning]) => {
        const range = background.includes("gradient");
        const sample = element("i", { "aria-hidden": "true", class: range ? "dsl-range" : undefined });
        sample.style.background = background;
        return element("span", {}, ...(background === "" ? [] : [sample]), meaning);
      }),
    );
  }

  #retheme(): void {
    this.#palette = paletteOf(this.host);
    applyPalette(this.#root, this.#palette);
    this.#root.style.setProperty("--dsl-alarm", alarm(this.#palette));
    this.#describeColours();
    for (const { pane } of this.#sides) pane.schedule();
  }

  #look(side: number): Look {
    const { found, selected } = this.#sides[side] as Side;
    return {
      palette: this.#palette,
      selected,
      found,
      fill: (item) => this.#colouring.fill(side, item, this.#palette),
      said: (item) => this.#colouring.said(side, item),
    };
  }

  #parts(): Part[] {
    return this.#visible.map((number) => {
      const side = this.#sides[number] as Side;
      return { layout: side.layout, look: this.#look(number), title: side.name };
    });
  }
}

export const graph: Kind = {
  make: async (host, table, title) => {
    const columns = columnsOf(table);
    const after = await afterOf(table, columns);
    return new GraphView(host, graphOf(table, columns), title, after);
  },
  style: STYLE,
};
