/** What failed, how well small trials told whole ones, and what the kernel remarked. */

import { clip } from "../clip";
import { element } from "../dom";
import { failures } from "./ranking";
import type { SearchState } from "./state";
import { words } from "./words";

const MOST = 12;

export class Remarks {
  readonly element = element("div", {});
  #drawn = "";

  draw(state: SearchState): void {
    const failed = failures(state);
    const said = JSON.stringify([failed.slice(0, MOST), state.ranks, state.notes, state.moreNotes]);
    if (said === this.#drawn) return;
    this.#drawn = said;
    const parts: Node[] = [];
    if (failed.length > 0) {
      const rows = failed
        .slice(0, MOST)
        .map(({ error, trials, count }) => [
          count.toLocaleString("en-US"),
          clip(error, 200),
          `${trials.join(", ")}${count > trials.length ? ", …" : ""}`,
        ]);
      parts.push(element("h3", {}, words.failures), tableOf(words.failureColumns, rows, words.failures, 1));
      if (failed.length > MOST) parts.push(element("p", {}, words.more(failed.length - MOST)));
    }
    if (state.ranks.length > 0) {
      const rows = state.ranks.map((one) => [
        words.size(one.cost),
        Number.isFinite(one.correlation) ? one.correlation.toFixed(2) : "–",
        one.num.toLocaleString("en-US"),
      ]);
      parts.push(element("h3", {}, words.agreement), tableOf(words.agreementColumns, rows, words.agreement));
    }
    if (state.notes.length > 0) {
      const items = [...new Set(state.notes)].map((note) => element("li", {}, note));
      if (state.moreNotes > 0) items.push(element("li", {}, words.more(state.moreNotes)));
      parts.push(element("h3", {}, words.remarks), element("ul", {}, ...items));
    }
    this.element.replaceChildren(...parts);
  }
}

/** A table with its headings; the column `why` may be long. */
function tableOf(
  titles: readonly string[],
  rows: readonly (readonly string[])[],
  label: string,
  why = -1,
): HTMLElement {
  const head = titles.map((title) => element("th", { scope: "col" }, title));
  const body = rows.map((cells) =>
    element(
      "tr",
      {},
      ...cells.map((cell, at) => element("td", { class: at === why ? "dsl-why" : undefined }, cell)),
    ),
  );
  return element(
    "div",
    { class: "dsl-scroll", tabindex: 0, role: "region", "aria-label": label },
    element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...body)),
  );
}
