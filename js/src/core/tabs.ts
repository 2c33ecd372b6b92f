/** The views of one output behind tabs, and one of them live where somebody brings news. */

import { element } from "./dom";
import { mount } from "./kinds";
import { unpack } from "./packed";
import { applyPalette, onThemeChange, paletteOf } from "./theme";
import { type Content, type Controls, isLive, type LiveView, type View } from "./view";
import { words } from "./words";

interface Tab {
  readonly content: Content;
  readonly button: HTMLButtonElement;
  readonly place: HTMLElement;
  view: Promise<View> | null;
}

/** Kinds of views that are live. */
const LIVE_KINDS: readonly string[] = ["run", "search"];
let numbered = 0;

/** Whether a view of this kind can follow what goes on. */
export function isLiveKind(kind: string): boolean {
  return LIVE_KINDS.includes(kind);
}

export class Tabs {
  readonly element = element("div", { class: "dsl-tabbed" });
  readonly #bar = element("div", { class: "dsl-tabs", role: "tablist" });
  readonly #places = element("div", { class: "dsl-places" });
  readonly #prefix = `dsl-tabs-${++numbered}`;
  readonly #endTheme: () => void;
  #tabs: Tab[] = [];
  #selected = 0;

  constructor() {
    this.#bar.addEventListener("keydown", (event) => this.#key(event));
    this.element.append(this.#bar, this.#places);
    const themed = (): void => applyPalette(this.element, paletteOf(this.element));
    themed();
    this.#endTheme = onThemeChange(this.element, themed);
  }

  /** Show these views: those that are as they were stay, with all that their reader did. */
  async take(contents: readonly Content[], options: { keepLive: boolean }): Promise<void> {
    const kept = this.#tabs;
    this.#tabs = contents.map((content, place) => {
      const old = kept[place];
      // A live view knows more than what was saved of it.
      const same =
        old?.content.kind === content.kind &&
        (old.content.packed === content.packed || (options.keepLive && isLiveKind(content.kind)));
      if (same && old !== undefined) return old;
      drop(old);
      return this.#tab(content, place);
    });
    for (const old of kept.slice(contents.length)) drop(old);
    this.#bar.hidden = this.#tabs.length < 2;
    this.#bar.replaceChildren(...this.#tabs.map((tab) => tab.button));
    this.#places.replaceChildren(...this.#tabs.map((tab) => tab.place));
    if (this.#tabs.length > 0) await this.#select(Math.min(this.#selected, this.#tabs.length - 1));
  }

  /** The view that can be live; null where no view of these is. */
  async live(): Promise<LiveView | null> {
    const tab = this.#tabs.find(({ content }) => isLiveKind(content.kind));
    if (tab === undefined) return null;
    tab.view ??= mount(tab.place, tab.content);
    const view = await tab.view;
    return isLive(view) ? view : null;
  }

  /**
   * Tell the live view what is new; `first` where `packed` holds all from the beginning.
   *
   * Throws `MalformedData` where it is no table.
   */
  async news(packed: string, first: boolean, controls: Controls): Promise<void> {
    const table = await unpack(packed);
    const view = await this.live();
    if (view === null) return;
    view.push(table, first);
    view.control(controls);
  }

  clear(): void {
    for (const tab of this.#tabs) drop(tab);
    this.#tabs = [];
    this.#bar.replaceChildren();
    this.#places.replaceChildren();
  }

  dispose(): void {
    this.#endTheme();
    this.clear();
    this.element.remove();
  }

  #tab(content: Content, number: number): Tab {
    const id = `${this.#prefix}-${number}`;
    const button = element(
      "button",
      { type: "button", role: "tab", id: `${id}-tab`, "aria-controls": id },
      words.tab(content.kind, content.title),
    );
    button.addEventListener(
      "click",
      () => void this.#select(this.#tabs.findIndex((tab) => tab.button === button)),
    );
    const place = element("div", {
      class: "dsl-place",
      role: "tabpanel",
      id,
      "aria-labelledby": `${id}-tab`,
    });
    return { content, button, place, view: null };
  }

  async #select(number: number): Promise<void> {
    const tab = this.#tabs[number];
    if (tab === undefined) return;
    this.#selected = number;
    for (const one of this.#tabs) {
      one.button.setAttribute("aria-selected", String(one === tab));
      one.button.tabIndex = one === tab ? 0 : -1;
      one.place.hidden = one !== tab;
    }
    tab.view ??= mount(tab.place, tab.content);
    await tab.view;
  }

  #key(event: KeyboardEvent): void {
    const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
    if (step === 0) return;
    event.preventDefault();
    const next = (this.#selected + step + this.#tabs.length) % this.#tabs.length;
    void this.#select(next).then(() => this.#tabs[next]?.button.focus());
  }
}

function drop(tab: Tab | undefined): void {
  void tab?.view?.then((view) => view.dispose());
  tab?.place.remove();
}

export const TABS_STYLE = `
.dsl-tabs{display:flex;flex-wrap:wrap;gap:2px;margin-bottom:-1px}
.dsl-tabs[hidden]{display:none}
.dsl-tabs button{font:inherit;font-size:12px;padding:4px 10px;min-height:26px;cursor:pointer;
border:1px solid var(--dsl-border);border-radius:5px 5px 0 0;background:var(--dsl-surface);color:var(--dsl-text)}
.dsl-tabs button[aria-selected=true]{background:var(--dsl-background);font-weight:600;
border-bottom-color:transparent}
.dsl-tabs button:focus-visible{outline:2px solid var(--dsl-accent);outline-offset:-2px}
.dsl-place[hidden]{display:none}
.dsl-place .dsl-view{height:480px}
.dsl-place .dsl-run,.dsl-place .dsl-text{height:auto;max-height:560px}
.dsl-place .dsl-search{height:auto;max-height:min(86vh,1100px)}
`;
