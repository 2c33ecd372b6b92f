/** Trials that run: how far each is, and a way to end it. Drawn often, so that only what has changed is written. */

import { said } from "../charts/numbers";
import { button, element, write } from "../dom";
import { duration } from "../run/words";
import type { SearchState } from "./state";
import { words } from "./words";

const SHOWN = 64;

interface Row {
  readonly row: HTMLElement;
  readonly cells: readonly HTMLElement[];
  readonly prune: HTMLButtonElement;
}

export class Running {
  readonly element = element("div", { hidden: true });
  readonly #body = element("tbody", {});
  readonly #more = element("p", { hidden: true });
  readonly #rows = new Map<number, Row>();

  /** `prune` asks the kernel to end a trial. */
  constructor(readonly prune: (trial: number) => void) {
    const head = words.runningColumns.map((title, place) =>
      element("th", { scope: "col", class: isNumber(place) ? "dsl-number" : undefined }, title),
    );
    this.element.append(
      element("h3", {}, words.runningTrials),
      element(
        "div",
        { class: "dsl-scroll", tabindex: 0, role: "region", "aria-label": words.runningTrials },
        element("table", {}, element("thead", {}, element("tr", {}, ...head)), this.#body),
      ),
      this.#more,
    );
  }

  /** `canPrune` where there is a kernel that would hear. */
  draw(state: SearchState, nowS: number, options: { running: boolean; canPrune: boolean }): void {
    const { trials } = state;
    const rows = options.running ? [...trials.running] : [];
    this.element.hidden = rows.length === 0;
    const shown = new Set<number>();
    for (const row of rows.slice(0, SHOWN)) {
      const trial = trials.trial.get(row);
      shown.add(trial);
      this.#write(state, row, trial, nowS, options.canPrune);
    }
    for (const [trial, { row }] of this.#rows) {
      if (shown.has(trial)) continue;
      row.remove();
      this.#rows.delete(trial);
    }
    this.#more.hidden = rows.length <= SHOWN;
    if (rows.length > SHOWN) write(this.#more, words.more(rows.length - SHOWN));
  }

  #write(state: SearchState, row: number, trial: number, nowS: number, canPrune: boolean): void {
    const { trials } = state;
    let found = this.#rows.get(trial);
    if (found === undefined) {
      const cells = words.runningColumns
        .slice(1, -1)
        .map((_, place) => element("td", { class: isNumber(place + 1) ? "dsl-number" : undefined }));
      const prune = button(words.prune, words.prunes(trial), () => this.prune(trial));
      const made = element(
        "tr",
        {},
        element("th", { scope: "row", class: "dsl-number" }, String(trial)),
        ...cells,
      );
      made.append(element("td", {}, prune));
      found = { row: made, cells, prune };
      this.#rows.set(trial, found);
      this.#body.append(made);
    }
    const curve = trials.curves.get(row);
    const step = curve?.steps[curve.steps.length - 1];
    const since = nowS + state.skew - trials.at.get(row);
    const texts = [
      words.size(trials.cost.get(row)),
      trials.purposeOf(row),
      said(trials.reported.get(row)),
      step === undefined ? "" : said(step),
      Number.isFinite(since) ? duration(Math.max(0, since)) : "",
    ];
    found.cells.forEach((cell, place) => write(cell, texts[place] ?? ""));
    const asked = state.pruning.has(trial);
    write(found.prune, asked ? words.pruning : words.prune);
    found.prune.ariaLabel = found.prune.title = asked ? words.prunesNow(trial) : words.prunes(trial);
    found.prune.hidden = !canPrune || trials.purposeOf(row) !== "search";
    found.prune.disabled = asked;
  }
}

function isNumber(place: number): boolean {
  return place === 0 || (place > 2 && place < 6);
}
