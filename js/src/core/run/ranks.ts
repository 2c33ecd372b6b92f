/** How the ranks of a training are doing: a row a rank. Drawn often, so that only what has changed is written. */

import type { RankVitals } from "../../protocol";
import { element, write } from "../dom";
import { bytesInWords, quantity } from "../quantities";
import { digits, words } from "./words";

const SHOWN = 256;

interface Row {
  readonly row: HTMLElement;
  readonly cells: readonly HTMLElement[];
  readonly span: HTMLElement;
  readonly bar: HTMLElement;
  readonly share: HTMLElement;
}

/** Cells between the rank and how long it waits. */
const BEFORE = 4;

export class Ranks {
  readonly element = element("div", { hidden: true });
  readonly #more = element("p", { hidden: true });
  readonly #head: readonly HTMLElement[];
  readonly #table = element("table", { class: "dsl-ranks" });
  readonly #body = element("tbody", {});
  readonly #rows = new Map<number, Row>();

  constructor() {
    this.#head = words.rankColumns.map((title, place) =>
      element("th", { scope: "col", class: isNumber(place) ? "dsl-number" : undefined }, title),
    );
    this.#table.append(element("thead", {}, element("tr", {}, ...this.#head)), this.#body);
  }

  draw(ranks: readonly RankVitals[]): void {
    if (ranks.length > 0 && this.element.hidden) this.#show();
    this.#table.classList.toggle(
      "dsl-no-device",
      ranks.every((one) => one.device_bytes === null),
    );
    const there = new Set(ranks.map((one) => one.rank));
    for (const [rank, { row }] of this.#rows) {
      if (there.has(rank)) continue;
      row.remove(); // the others went on without it
      this.#rows.delete(rank);
    }
    for (const one of ranks.slice(0, SHOWN)) this.#write(one);
    this.#more.hidden = ranks.length <= SHOWN;
    if (ranks.length > SHOWN) write(this.#more, words.more(ranks.length - SHOWN));
  }

  /** There is nothing of it, hidden or not, in the runs that have no ranks. */
  #show(): void {
    this.element.hidden = false;
    this.element.replaceChildren(
      element("h3", {}, words.ranks),
      element(
        "div",
        { class: "dsl-scroll", tabindex: 0, role: "region", "aria-label": words.ranks },
        this.#table,
      ),
      this.#more,
    );
  }

  #write(one: RankVitals): void {
    let found = this.#rows.get(one.rank);
    if (found === undefined) {
      found = made(one.rank);
      this.#rows.set(one.rank, found);
      this.#body.append(found.row);
    }
    const rate = (value: number | null): string => (value === null ? "" : quantity(value, ""));
    const bytes = (value: number | null, after = ""): string =>
      value === null ? "" : `${bytesInWords(value)}${after}`;
    const texts = [
      one.state,
      one.num_updates.toLocaleString("en-US"),
      rate(one.updates_per_s),
      rate(one.samples_per_s),
      one.loss === null ? "" : digits(one.loss),
      bytes(one.memory_bytes),
      bytes(one.device_bytes),
      bytes(one.link_bytes_per_s, "/s"),
      words.rankRemarks(one),
    ];
    found.cells.forEach((cell, place) => write(cell, texts[place] ?? ""));
    write(found.share, one.waiting === null ? "" : `${(100 * one.waiting).toFixed(0)} %`);
    found.span.hidden = one.waiting === null;
    found.bar.style.width = `${100 * Math.min(1, Math.max(0, one.waiting ?? 0))}%`;
    found.row.classList.toggle("dsl-late", one.late_s !== null);
    found.row.classList.toggle("dsl-dead", one.state === "dead");
  }
}

function isNumber(place: number): boolean {
  return place > 1 && place < words.rankColumns.length - 1 && place !== BEFORE + 1;
}

function made(rank: number): Row {
  const cells = words.rankColumns
    .map((_, place) => place)
    .filter((place) => place > 0 && place !== BEFORE + 1)
    .map((place) =>
      element("td", {
        class: isNumber(place)
          ? "dsl-number"
          : place === words.rankColumns.length - 1
            ? "dsl-why"
            : undefined,
      }),
    );
  const bar = element("i", {});
  const share = element("span", {});
  const span = element("span", { class: "dsl-span dsl-share", "aria-hidden": "true" }, bar);
  const row = element(
    "tr",
    {},
    element("th", { scope: "row" }, String(rank)),
    ...cells.slice(0, BEFORE),
    element("td", {}, span, share),
    ...cells.slice(BEFORE),
  );
  return { row, cells, span, bar, share };
}
