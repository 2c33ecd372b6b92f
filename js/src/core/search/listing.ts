/** All trials as a table below their heading: sorted as the reader likes, the best first as long as nobody said how. */

import { csv } from "../charts/table/text";
import { filtered } from "../charts/table/filter";
import { Grid } from "../charts/table/grid";
import { words as chartWords } from "../charts/words";
import { button, download, element } from "../dom";
import { fileName } from "../pictures";
import { standings } from "./ranking";
import { columnsOf, isShown, type Stage } from "./stage";
import { words } from "./words";

export class Listing {
  readonly element: HTMLDetailsElement;
  readonly #place = element("div", { class: "dsl-listing" });
  #grid: Grid | undefined;
  #drawn = -1;

  constructor(
    readonly stage: Stage,
    readonly title: string,
  ) {
    const save = button("CSV", chartWords.saveCsv, () => {
      if (this.#grid === undefined) return;
      const data = csv(this.#grid.columns, this.#grid.rows);
      download(`${fileName(title, "trials")}.csv`, new Blob([data], { type: "text/csv" }));
    });
    this.element = element(
      "details",
      { class: "dsl-panel dsl-wide" },
      element("summary", {}, words.trials),
      this.#place,
      element("div", { class: "dsl-foot" }, save),
    );
    this.element.addEventListener("toggle", () => this.draw(true));
  }

  dispose(): void {
    this.#grid?.dispose();
  }

  /** `anew` where the rows may be others though the data is the same. */
  draw(anew = false): void {
    const { state } = this.stage;
    if (!this.element.open || (!anew && this.#drawn === state.version)) return;
    this.#drawn = state.version;
    const columns = columnsOf(state);
    const count = state.trials.count;
    if (this.#grid === undefined) {
      this.#grid = new Grid(columns, count, chartWords.grid(words.trials));
      this.#grid.element.addEventListener("dsl-row", (event) => {
        const row: unknown = (event as CustomEvent<{ row: number }>).detail.row;
        if (typeof row === "number") this.stage.moveTo(row, true);
      });
      this.#place.append(this.#grid.element);
    } else this.#grid.replace(columns, count);
    this.#grid.show(this.#rows());
  }

  /** Show a trial where the table is open. */
  select(row: number): void {
    if (this.element.open) this.#grid?.select(row);
  }

  /** Configurations as they stand, then what is no result of one. */
  #rows(): Uint32Array {
    const { state, metric } = this.stage;
    const first = standings(state, metric);
    const known = new Set(first);
    const rows = [...first];
    for (let row = 0; row < state.trials.count; row++) if (!known.has(row)) rows.push(row);
    return Uint32Array.from(rows.filter((row) => isShown(this.stage, row)));
  }
}

/** Which rows a filter leaves, and what of it cannot be done; undefined where all are left. */
export function maskOf(
  stage: Stage,
  filter: string,
): { shown: Uint8Array | undefined; rows: number; problem: string } {
  const { count } = stage.state.trials;
  if (filter.trim() === "") return { shown: undefined, rows: count, problem: "" };
  const { rows, problem } = filtered(filter, columnsOf(stage.state), count);
  const shown = new Uint8Array(count);
  for (const row of rows) shown[row] = 1;
  return { shown, rows: rows.length, problem };
}
