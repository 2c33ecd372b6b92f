/** The toolbar of a graph. */

import { button, element } from "../dom";
import { words } from "./words";

/** What the toolbar's tools do. */
export interface Tools {
  find(text: string): void;
  /** Go to the next hit, or with -1 to the one before. */
  step(by: 1 | -1): void;
  /** Open one level more, or with -1 close one. */
  level(by: 1 | -1): void;
  zoom(factor: number): void;
  fit(): void;
  colour: (id: string) => void;
}

/** A value and what it is called. */
export type Option = readonly [string, string];

/** Tools from left to right; `shows` chooses among the graphs where there is more than one. */
export function bar(
  title: string,
  hits: HTMLElement,
  colours: readonly Option[],
  shows: HTMLSelectElement | null,
  savers: readonly HTMLElement[],
  tools: Tools,
): HTMLElement {
  const search = element("input", {
    type: "search",
    "aria-label": words.search,
    placeholder: words.searchHint,
  });
  search.addEventListener("input", () => tools.find(search.value));
  search.addEventListener("keydown", (event) => {
    if (event.key === "Enter") tools.step(event.shiftKey ? -1 : 1);
    if (event.key === "Escape") {
      search.value = "";
      tools.find("");
    }
  });
  return element(
    "div",
    { class: "dsl-bar", role: "toolbar", "aria-label": words.graph },
    element("span", { class: "dsl-title" }, title),
    search,
    button("‹", words.previous, () => tools.step(-1)),
    button("›", words.next, () => tools.step(1)),
    hits,
    button("⊟", words.less, () => tools.level(-1)),
    button("⊞", words.more, () => tools.level(1)),
    button("−", words.zoomOut, () => tools.zoom(1 / 1.4)),
    button("+", words.zoomIn, () => tools.zoom(1.4)),
    button("⤢", words.fit, () => tools.fit()),
    ...(shows === null ? [] : [element("label", {}, words.show, shows)]),
    element("label", {}, words.colour, choice(colours, tools.colour)),
    ...savers,
  );
}

/** A list of which one is chosen. */
export function choice(options: readonly Option[], chosen: (value: string) => void): HTMLSelectElement {
  const select = element("select", {}, ...options.map(([value, said]) => element("option", { value }, said)));
  select.addEventListener("change", () => chosen(select.value));
  return select;
}
