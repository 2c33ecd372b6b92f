/** Any packed table: sorted, filtered, copied and saved. */

import { button, download, element } from "../../dom";
import { fileName } from "../../pictures";
import { MalformedData, type Table } from "../../packed";
import { applyPalette, onThemeChange, paletteOf } from "../../theme";
import type { Kind, View } from "../../view";
import { type Column, columnsOf, cutOf } from "../columns";
import { noteOf } from "../parts";
import { SHARED } from "../style";
import { words } from "../words";
import { filtered } from "./filter";
import { Grid, MAX_ROWS } from "./grid";
import { csv, tsv } from "./text";

/** Pause after the last letter before a large table is filtered. */
const TYPING_MS = 120;
/** Tables with more columns than this can hide some. */
const FEW = 4;

export class TableView implements View {
  readonly grid: Grid;
  readonly #columns: readonly Column[];
  readonly #root: HTMLElement;
  readonly #status = element("span", { class: "dsl-hits", role: "status" });
  readonly #empty = element("p", { class: "dsl-message", hidden: true });
  readonly #filter = element("input", {
    type: "search",
    "aria-label": words.filter,
    placeholder: words.filter,
    title: words.filterHelp,
  });
  readonly #endings: (() => void)[] = [];
  #timer = 0;

  constructor(
    readonly host: HTMLElement,
    readonly table: Table,
    readonly title: string,
  ) {
    this.#columns = columnsOf(table);
    if (this.#columns.length === 0) throw new MalformedData(words.noColumns);
    if (table.rows > MAX_ROWS) throw new MalformedData(`the table has more than ${MAX_ROWS} rows`);
    this.grid = new Grid(this.#columns, table.rows, words.grid(title));
    this.#root = element(
      "section",
      { class: "dsl-view dsl-table", "aria-label": `${words.table} ${title}` },
      this.#bar(),
      this.#empty,
      this.grid.element,
      ...noteOf(cutOf(table)),
    );
    const retheme = (): void => applyPalette(this.#root, paletteOf(host));
    retheme();
    host.append(this.#root);
    this.#endings.push(onThemeChange(host, retheme));
    this.#count("");
  }

  dispose(): void {
    clearTimeout(this.#timer);
    for (const end of this.#endings) end();
    this.grid.dispose();
    this.#root.remove();
  }

  /** Show the rows for which a filter holds. */
  filter(text: string): void {
    const { rows, problem } = filtered(text, this.#columns, this.table.rows);
    this.grid.show(rows);
    this.#count(problem);
  }

  #count(problem: string): void {
    const [shown, total] = [this.grid.rows.length, this.table.rows];
    const counted = shown === total ? words.rows(total) : words.rowsOf(shown, total);
    this.#status.textContent = problem === "" ? counted : `${counted}. ${problem}`;
    this.#empty.hidden = shown > 0;
    this.#empty.textContent = total === 0 ? words.emptyTable : words.noneMatch;
  }

  #bar(): HTMLElement {
    this.#filter.addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#timer = window.setTimeout(() => this.filter(this.#filter.value), TYPING_MS);
    });
    this.#filter.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" && event.key !== "Enter") return;
      if (event.key === "Escape") this.#filter.value = "";
      clearTimeout(this.#timer);
      this.filter(this.#filter.value);
    });
    const copy = button(words.copy, words.copyHelp, () => this.#copy());
    const save = button("CSV", words.saveCsv, () =>
      download(
        `${fileName(this.title, "table")}.csv`,
        new Blob([csv(this.grid.columns, this.grid.rows)], { type: "text/csv" }),
      ),
    );
    return element(
      "div",
      { class: "dsl-bar", role: "toolbar", "aria-label": words.table },
      element("span", { class: "dsl-title" }, this.title),
      this.#filter,
      this.#status,
      ...(this.#columns.length > FEW ? [this.#chooser()] : []),
      copy,
      save,
    );
  }

  /** Check boxes that hide and show columns. */
  #chooser(): HTMLElement {
    const boxes = this.#columns.map((column) => {
      const box = element("input", { type: "checkbox", checked: true });
      box.addEventListener("change", () => this.grid.setHidden(column.name, !box.checked));
      return element("label", {}, box, column.label);
    });
    const made = element(
      "details",
      { class: "dsl-chooser" },
      element("summary", {}, words.columns),
      element("div", { role: "group", "aria-label": words.columns, tabindex: 0 }, ...boxes),
    );
    made.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      made.open = false;
      made.querySelector("summary")?.focus();
    });
    const outside = (event: PointerEvent): void => {
      if (!made.contains(event.target as Node)) made.open = false;
    };
    this.host.ownerDocument.addEventListener("pointerdown", outside);
    this.#endings.push(() => this.host.ownerDocument.removeEventListener("pointerdown", outside));
    return made;
  }

  /** Through the event of copying, which also a frame without any permission may use. */
  #copy(): void {
    const page = this.host.ownerDocument;
    const give = (event: ClipboardEvent): void => {
      event.clipboardData?.setData("text/plain", tsv(this.grid.columns, this.grid.rows));
      event.preventDefault();
      event.stopImmediatePropagation();
    };
    page.addEventListener("copy", give, true);
    const done = page.execCommand("copy");
    page.removeEventListener("copy", give, true);
    this.#status.textContent = done ? words.copied(this.grid.rows.length) : words.notCopied;
  }
}

export const table: Kind = {
  make: (host, data, title) => new TableView(host, data, title),
  style: SHARED,
};
