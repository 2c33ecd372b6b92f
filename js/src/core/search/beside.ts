/** The best found beside the defaults, on the same fresh seeds. */

import { said } from "../charts/numbers";
import { element } from "../dom";
import type { Compared } from "../../protocol";
import type { SearchState } from "./state";
import { words } from "./words";

const MOST_SEEDS = 20;

export class Beside {
  readonly element = element("div", { class: "dsl-beside", hidden: true });
  #drawn: Compared | null = null;

  draw(state: SearchState): void {
    const { compared } = state;
    this.element.hidden = compared === null;
    if (compared === null || compared === this.#drawn) return;
    this.#drawn = compared;
    const metric = state.metrics[0] ?? "";
    const points = isShare(compared, state.direction(0) === "max");
    const [before, after] = [mean(compared.defaults), mean(compared.found)];
    const facts = [words.seeds(compared.defaults.length), compared.unseen ? words.unseen : ""];
    const parts: Node[] = [
      element("h3", {}, words.beside, element("small", {}, facts.filter((one) => one !== "").join(", "))),
      element(
        "p",
        {},
        element("strong", {}, `${metric} ${short(before)} → ${short(after)}`),
        element("span", { class: "dsl-apart" }, words.difference(compared, points)),
      ),
    ];
    if (compared.ci95 !== null) parts.push(interval(compared, state.direction(0) === "max"));
    if (!state.better(compared.difference, 0)) parts.push(element("p", {}, words.notBeaten));
    else if (compared.ci95 !== null && compared.ci95[0] <= 0 && compared.ci95[1] >= 0)
      parts.push(element("p", {}, words.notTold));
    parts.push(table(compared, metric));
    this.element.replaceChildren(...parts);
  }
}

/** Whether the metric is a share of one, of which more is better. */
function isShare({ defaults, found }: Compared, largest: boolean): boolean {
  return largest && [...defaults, ...found].every((value) => value >= 0 && value <= 1);
}

function mean(values: readonly number[]): number {
  return values.length === 0 ? NaN : values.reduce((sum, value) => sum + value, 0) / values.length;
}

function short(value: number): string {
  return Math.abs(value) >= 1e-3 && Math.abs(value) < 1e4 ? value.toPrecision(4) : said(value);
}

/** The interval of the difference as a bar, the line being no difference. */
function interval({ difference, ci95 }: Compared, largest: boolean): HTMLElement {
  const [low, high] = ci95 ?? [difference, difference];
  const reach = 1.1 * Math.max(Math.abs(low), Math.abs(high), 1e-12);
  const place = (value: number): number => 50 + (50 * value) / reach;
  const span = element("i", {});
  span.style.left = `${place(low)}%`;
  span.style.width = `${place(high) - place(low)}%`;
  const middle = element("b", { class: "dsl-middle" });
  middle.style.left = `${place(difference)}%`;
  const good = largest ? low > 0 : high < 0;
  return element(
    "div",
    { class: good ? "dsl-interval dsl-good" : "dsl-interval", "aria-hidden": "true" },
    span,
    middle,
    element("b", {}),
  );
}

function table({ defaults, found }: Compared, metric: string): HTMLElement {
  const head = [words.seed, words.withDefaults(metric), words.withFound].map((title) =>
    element("th", { scope: "col", class: "dsl-number" }, title),
  );
  const rows = defaults
    .slice(0, MOST_SEEDS)
    .map((value, at) =>
      element(
        "tr",
        {},
        element("th", { scope: "row", class: "dsl-number" }, String(at + 1)),
        element("td", { class: "dsl-number" }, short(value)),
        element("td", { class: "dsl-number" }, short(found[at] ?? NaN)),
      ),
    );
  return element(
    "table",
    {},
    element("thead", {}, element("tr", {}, ...head)),
    element("tbody", {}, ...rows),
  );
}
