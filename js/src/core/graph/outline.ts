/**
 * The graph as a tree of text: what the picture shows, for the keyboard and for screen readers.
 *
 * Only the rows in sight are in the page. The pattern is WAI-ARIA's tree view with `aria-activedescendant`.
 */

import { element } from "../dom";
import type { Layout } from "./layout";
import { Kind } from "./tree";
import { words } from "./words";

const HEIGHT = 24;
const INDENT = 14;
const MARGIN = 6;
/** Pause after which letters that are typed begin a new word. */
const TYPING_MS = 700;

export interface OutlineActions {
  toggle(item: number, open: boolean): void;
  select(item: number): void;
  /** What is said of an item beside its name. */
  said(item: number): string;
}

let numbered = 0;

export class Outline {
  readonly element: HTMLElement;
  readonly #rows: HTMLElement;
  readonly #prefix = `dsl-${++numbered}-`;
  #items: number[] = [];
  #active = -1;
  #selected = -1;
  #typed = "";
  #typedAt = 0;

  constructor(
    readonly layout: Layout,
    readonly actions: OutlineActions,
    label: string = words.outline,
  ) {
    this.#rows = element("div", { class: "dsl-rows", role: "presentation" });
    this.element = element(
      "div",
      { class: "dsl-outline", role: "tree", tabindex: 0, "aria-label": label },
      this.#rows,
    );
    this.element.addEventListener("scroll", () => this.#draw());
    this.element.addEventListener("keydown", (event) => this.#key(event));
    this.element.addEventListener("focus", () => {
      if (this.#active < 0) this.#activate(this.#items[0] ?? -1);
    });
    this.refresh();
  }

  /** Take over what is open now. */
  refresh(): void {
    const items: number[] = [];
    const { layout } = this;
    const visit = (item: number): void => {
      for (const kid of layout.tree.kids(item)) {
        items.push(kid);
        if (layout.tree.isGroup(kid) && layout.isOpen(kid)) visit(kid);
      }
    };
    visit(0);
    this.#items = items;
    this.#rows.style.height = `${items.length * HEIGHT}px`;
    if (this.#active >= 0 && !items.includes(this.#active)) {
      this.#active =
        layout.tree
          .ancestors(this.#active)
          .reverse()
          .find((one) => items.includes(one)) ?? -1;
    }
    this.#draw();
  }

  /** Mark an item as the one that is shown in detail, and bring it into sight. */
  select(item: number): void {
    this.#selected = item;
    this.#activate(item);
  }

  #activate(item: number): void {
    const index = this.#items.indexOf(item);
    if (index < 0) return;
    this.#active = item;
    const top = index * HEIGHT;
    const { scrollTop, clientHeight } = this.element;
    if (top < scrollTop) this.element.scrollTop = top;
    else if (top + HEIGHT > scrollTop + clientHeight) this.element.scrollTop = top + HEIGHT - clientHeight;
    this.#draw();
  }

  #draw(): void {
    const { scrollTop, clientHeight } = this.element;
    const first = Math.max(0, Math.floor(scrollTop / HEIGHT) - MARGIN);
    const last = Math.min(
      this.#items.length,
      Math.ceil((scrollTop + (clientHeight || 480)) / HEIGHT) + MARGIN,
    );
    const shown = this.#items.slice(first, last).map((item, number) => this.#row(item, first + number));
    this.#rows.replaceChildren(...shown);
    const active = this.#items.indexOf(this.#active);
    if (active >= first && active < last) {
      this.element.setAttribute("aria-activedescendant", this.#prefix + String(this.#active));
    } else this.element.removeAttribute("aria-activedescendant");
  }

  #row(item: number, index: number): HTMLElement {
    const { tree } = this.layout;
    const group = tree.isGroup(item);
    const open = group && this.layout.isOpen(item);
    const siblings = tree.kids(tree.parent[item] ?? 0);
    const row = element(
      "div",
      {
        id: this.#prefix + String(item),
        class: `dsl-row${item === this.#active ? " dsl-active" : ""}${item === this.#selected ? " dsl-selected" : ""}`,
        role: "treeitem",
        "aria-level": tree.depth[item] ?? 1,
        "aria-posinset": siblings.indexOf(item) + 1,
        "aria-setsize": siblings.length,
        "aria-selected": String(item === this.#selected),
        "aria-expanded": group ? String(open) : undefined,
      },
      element("span", { class: "dsl-sign", "aria-hidden": "true" }, group ? (open ? "▾" : "▸") : ""),
      tree.label[item] ?? "",
      element("span", { class: "dsl-note" }, this.#note(item)),
    );
    row.style.top = `${index * HEIGHT}px`;
    row.style.paddingLeft = `${INDENT * ((tree.depth[item] ?? 1) - 1) + 4}px`;
    row.addEventListener("click", (event) => {
      if (group && event.offsetX < INDENT * (tree.depth[item] ?? 1) + 8) this.actions.toggle(item, !open);
      else this.actions.select(item);
    });
    row.addEventListener("dblclick", () => {
      if (group) this.actions.toggle(item, !open);
    });
    return row;
  }

  #note(item: number): string {
    const { tree } = this.layout;
    const { data } = tree;
    const row = tree.row[item] ?? -1;
    const said = this.actions.said(item);
    const notes: string[] = [];
    if (row < 0) {
      if (tree.kind[item] === Kind.Repeat) notes.push(`× ${tree.repeat[item] ?? 1}`);
      notes.push(words.operations(tree.size[item] ?? 0));
    } else if (data.breakAt(row) !== null) notes.push(data.place(row));
    else {
      notes.push(`${data.dtype(row)}[${data.shape(row)}]`);
      if (said === "") notes.push(words.shortMarks[data.mark(row)]);
    }
    return [...notes, said].filter((note) => note !== "").join(", ");
  }

  #key(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const index = this.#items.indexOf(this.#active);
    const page = Math.max(1, Math.floor(this.element.clientHeight / HEIGHT) - 1);
    const moves: Record<string, number> = {
      ArrowDown: index + 1,
      ArrowUp: index - 1,
      Home: 0,
      End: this.#items.length - 1,
      PageDown: index + page,
      PageUp: index - page,
    };
    const target = Object.hasOwn(moves, event.key) ? moves[event.key] : undefined;
    if (target !== undefined) {
      this.#activate(this.#items[Math.min(this.#items.length - 1, Math.max(0, target))] ?? -1);
    } else if (event.key === "ArrowRight") this.#inwards();
    else if (event.key === "ArrowLeft") this.#outwards();
    else if (event.key === "Enter" || event.key === " ") this.actions.select(this.#active);
    else if (event.key.length === 1) this.#type(event.key);
    else return;
    event.preventDefault();
  }

  #inwards(): void {
    const { layout } = this;
    if (this.#active < 0 || !layout.tree.isGroup(this.#active)) return;
    if (layout.isOpen(this.#active)) this.#activate(layout.tree.kids(this.#active)[0] ?? -1);
    else this.actions.toggle(this.#active, true);
  }

  #outwards(): void {
    const { layout } = this;
    if (this.#active < 0) return;
    if (layout.tree.isGroup(this.#active) && layout.isOpen(this.#active))
      this.actions.toggle(this.#active, false);
    else this.#activate(layout.tree.parent[this.#active] ?? -1);
  }

  #type(letter: string): void {
    const now = performance.now();
    this.#typed = now - this.#typedAt < TYPING_MS ? this.#typed + letter : letter;
    this.#typedAt = now;
    const start = this.#items.indexOf(this.#active) + (this.#typed.length === 1 ? 1 : 0);
    const wanted = this.#typed.toLowerCase();
    for (let step = 0; step < this.#items.length; step++) {
      const item = this.#items[(Math.max(0, start) + step) % this.#items.length] ?? -1;
      if ((this.layout.tree.label[item] ?? "").toLowerCase().startsWith(wanted)) {
        this.#activate(item);
        return;
      }
    }
  }
}
