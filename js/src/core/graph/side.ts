/** One graph of the view: its tree, its outline, its picture, and what of it is found and selected. */

import { button, element } from "../dom";
import { Layout } from "./layout";
import { Outline, type OutlineActions } from "./outline";
import { Pane, type PaneCalls } from "./pane";
import type { Tree } from "./tree";
import { words } from "./words";

/** Levels are opened at the start while what shows is no more than this. */
const GLANCE = 48;

export interface SideCalls extends Omit<OutlineActions, "toggle">, PaneCalls {
  toggle(item: number, open: boolean): void;
  /** The reader turns to this graph. */
  activate(): void;
  /** The longest text that may stand in an item beside its name. */
  longest(item: number): string;
}

export class Side {
  readonly layout: Layout;
  readonly outline: Outline;
  readonly pane: Pane;
  /** The picture with a heading, which is a button that turns to this graph. */
  readonly element: HTMLElement;
  readonly depth: number;
  readonly #heading: HTMLButtonElement;
  found: ReadonlySet<number> = new Set();
  selected: ReadonlySet<number> = new Set();

  constructor(
    readonly tree: Tree,
    /** What the graph is called beside another; empty where there is no other. */
    readonly name: string,
    calls: SideCalls,
  ) {
    this.layout = new Layout(tree, (item) => calls.longest(item));
    this.depth = this.layout.openUpTo(GLANCE);
    const said = name === "" ? "" : `, ${name}`;
    this.outline = new Outline(this.layout, calls, words.outline + said);
    this.pane = new Pane(this.layout, calls, words.picture + said);
    const title = `${name}, ${words.operations(tree.size[0] ?? 0)}`;
    this.#heading = button(title, title, () => calls.activate());
    this.element = element("div", { class: "dsl-pane" }, this.#heading, this.pane.element);
  }

  /** Show, or hide, the picture under its heading and the outline. */
  show(visible: boolean, heading: boolean, active: boolean): void {
    this.element.hidden = !visible;
    this.#heading.hidden = !heading;
    this.#heading.setAttribute("aria-pressed", String(active));
    this.outline.element.hidden = !active;
    if (active) this.outline.refresh();
  }

  setOpen(item: number, open: boolean): void {
    this.pane.keeping(item, () => this.layout.set(item, open));
    this.outline.refresh();
  }

  /** Mark items as those that are shown in detail; the outline goes to the first. */
  select(items: readonly number[]): void {
    this.selected = new Set(items);
    for (const item of items) this.layout.reveal(item);
    this.outline.refresh();
    this.outline.select(items[0] ?? -1);
    this.pane.schedule();
  }

  /** Items whose operation, name or module holds a text. */
  find(text: string): number[] {
    const { tree } = this;
    const { data } = tree;
    const found = new Set<number>();
    for (let row = 0; text !== "" && row < data.rows; row++) {
      const said = `${data.op(row)}\n${data.name(row)}\n${data.module(row)}`.toLowerCase();
      if (said.includes(text)) found.add(tree.itemOf[row] ?? -1);
    }
    found.delete(-1);
    this.found = found;
    this.pane.schedule();
    return [...found];
  }
}
