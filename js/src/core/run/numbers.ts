/** What the steps of a run measured, in numbers: a row a series. Drawn often, so that only what has changed is written. */

import { element, write } from "../dom";
import type { Curve } from "./state";
import { digits, words } from "./words";

const SHOWN = 200;

export class Numbers {
  readonly element = element("div", { hidden: true });
  readonly #shown = element("small", {});
  readonly #body = element("tbody", {});
  readonly #rows = new Map<string, { row: HTMLElement; cells: readonly HTMLElement[] }>();

  constructor() {
    const titles = [words.series, words.last, words.least, words.most, words.number];
    const head = titles.map((title, place) =>
      element("th", { scope: "col", class: place > 0 ? "dsl-number" : undefined }, title),
    );
    this.element.append(
      element("h3", {}, words.measured, this.#shown),
      element(
        "div",
        { class: "dsl-scroll", tabindex: 0, role: "region", "aria-label": words.measured },
        element("table", {}, element("thead", {}, element("tr", {}, ...head)), this.#body),
      ),
    );
  }

  /** Show the curves of a run that has `values` values in all. */
  draw(curves: ReadonlyMap<string, Curve>, values: number): void {
    this.element.hidden = false;
    let points = 0;
    for (const [name, curve] of curves) {
      points += curve.count;
      this.#write(name, [...[curve.last, curve.least, curve.most].map(digits), String(curve.count)]);
    }
    for (const [name, { row }] of this.#rows) {
      if (curves.has(name)) continue; // a run that is told anew may have others
      row.remove();
      this.#rows.delete(name);
    }
    write(this.#shown, words.values(points, values));
  }

  #write(name: string, texts: readonly string[]): void {
    let found = this.#rows.get(name);
    if (found === undefined) {
      if (this.#rows.size >= SHOWN) return;
      const cells = texts.map(() => element("td", { class: "dsl-number" }));
      found = { row: element("tr", {}, element("th", { scope: "row" }, name), ...cells), cells };
      this.#rows.set(name, found);
      this.#body.append(found.row);
    }
    found.cells.forEach((cell, place) => write(cell, texts[place] ?? ""));
  }
}
