/** How much each range matters, as bars. */

import { element } from "../dom";
import type { SearchState } from "./state";
import { words } from "./words";

const MOST = 16;

export class Importance {
  readonly element: HTMLDetailsElement;
  readonly #body = element("tbody", {});
  #drawn = "";

  constructor() {
    const head = [words.range, words.share].map((title) => element("th", { scope: "col" }, title));
    this.element = element(
      "details",
      { class: "dsl-panel", open: true, hidden: true },
      element("summary", {}, words.importance, element("small", {}, words.importanceHelp)),
      element(
        "table",
        { class: "dsl-bars" },
        element("thead", { class: "dsl-unseen" }, element("tr", {}, ...head)),
        this.#body,
      ),
    );
  }

  draw(state: SearchState): void {
    const known = state.importances.slice(0, MOST);
    this.element.hidden = known.length === 0;
    const said = JSON.stringify(known);
    if (said === this.#drawn) return;
    this.#drawn = said;
    const largest = Math.max(...known.map(([, value]) => value), 1e-12);
    const rows = known.map(([name, value]) => {
      const bar = element("i", {});
      bar.style.width = `${(100 * value) / largest}%`;
      return element(
        "tr",
        {},
        element("th", { scope: "row", title: name }, name),
        element("td", { class: "dsl-bar-cell" }, element("span", { "aria-hidden": "true" }, bar)),
        element("td", { class: "dsl-number" }, `${(100 * value).toFixed(value < 0.0995 ? 1 : 0)} %`),
      );
    });
    const more = state.importances.length - known.length;
    if (more > 0) rows.push(element("tr", {}, element("td", { colspan: 3 }, words.more(more))));
    this.#body.replaceChildren(...rows);
  }
}
