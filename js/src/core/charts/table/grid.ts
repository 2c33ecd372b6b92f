/**
 * Rows and columns for the eye, the keyboard and screen readers: WAI-ARIA's grid with `aria-activedescendant`.
 *
 * Only the rows in sight are in the page. Charts show their rows with it as well.
 */

import { clip } from "../../clip";
import { element } from "../../dom";
import { type Column, isMissing, textAt } from "../columns";
import { words } from "../words";
import { bestOf, type Direction, sorted } from "./order";

const HEIGHT = 24;
const HEAD = 28;
const MARGIN = 6;
const CHARACTER = 7.3;
const MOST_WIDTH = 340;
/** Rows from which the width of a column is guessed. */
const SAMPLED = 300;
/** A cell shows this much of a text; copies and files hold all of it. */
const SHOWN = 200;
/** Pages cannot be higher than some ten million pixels. */
export const MAX_ROWS = 1_000_000;

let numbered = 0;

interface Shown {
  readonly column: Column;
  readonly width: number;
  readonly best: number;
  readonly largest: number;
}

export class Grid {
  readonly element: HTMLElement;
  readonly #head = element("div", { class: "dsl-ghead", role: "row", "aria-rowindex": 1 });
  readonly #body = element("div", { class: "dsl-gbody", role: "rowgroup" });
  readonly #prefix = `dsl-grid${++numbered}-`;
  #all: readonly Shown[];
  readonly #hidden = new Set<string>();
  #columns: readonly Shown[];
  #given: Uint32Array;
  #rows: Uint32Array;
  #sort: { column: Column; direction: Direction } | undefined;
  /** Place of the active cell: -1 is the row of headings. */
  #active = { at: -1, column: 0 };
  #selected = -1;

  constructor(columns: readonly Column[], count: number, label: string) {
    this.#given = this.#rows = Uint32Array.from({ length: Math.min(count, MAX_ROWS) }, (_, row) => row);
    this.#all = columns.map((column) => measured(column, count));
    this.#columns = this.#all;
    this.element = element(
      "div",
      { class: "dsl-grid", role: "grid", tabindex: 0, "aria-label": label },
      this.#head,
      this.#body,
    );
    this.element.addEventListener("scroll", () => this.#draw());
    this.element.addEventListener("keydown", (event) => this.#key(event));
    this.element.addEventListener("click", (event) => this.#click(event));
    this.element.addEventListener("copy", (event) => this.#copy(event));
    const observer = new ResizeObserver(() => this.#draw());
    observer.observe(this.element);
    this.dispose = () => observer.disconnect();
    this.#refresh();
  }

  readonly dispose: () => void;

  /** The rows that show, in their order. */
  get rows(): Uint32Array {
    return this.#rows;
  }

  get columns(): readonly Column[] {
    return this.#columns.map((one) => one.column);
  }

  /** Show these rows, in the order of the column that was chosen. */
  show(rows: Uint32Array): void {
    this.#given = rows.length > MAX_ROWS ? rows.subarray(0, MAX_ROWS) : rows;
    this.#rows =
      this.#sort === undefined ? this.#given : sorted(this.#given, this.#sort.column, this.#sort.direction);
    this.#active = { ...this.#active, at: Math.min(this.#active.at, this.#rows.length - 1) };
    this.#refresh();
  }

  /** Have other columns, or the same ones grown; what is hidden and how rows are sorted stays, by the column's name. */
  replace(columns: readonly Column[], count: number): void {
    this.#all = columns.map((column) => measured(column, count));
    this.#columns = this.#all.filter((one) => !this.#hidden.has(one.column.name));
    const column = columns.find((one) => one.name === this.#sort?.column.name);
    if (this.#sort !== undefined) this.#sort = column === undefined ? undefined : { ...this.#sort, column };
    this.show(this.#given);
  }

  /** Sort by a column, and show what comes first: upwards, then downwards, then as the rows came. */
  sort(column: Column): void {
    const now = this.#sort;
    if (now?.column !== column) this.#sort = { column, direction: "ascending" };
    else this.#sort = now.direction === "ascending" ? { column, direction: "descending" } : undefined;
    this.element.scrollTop = 0;
    this.show(this.#given);
  }

  setHidden(name: string, hidden: boolean): void {
    if (hidden) this.#hidden.add(name);
    else this.#hidden.delete(name);
    this.#columns = this.#all.filter((one) => !this.#hidden.has(one.column.name));
    this.#active = { ...this.#active, column: Math.min(this.#active.column, this.#columns.length - 1) };
    this.#refresh();
  }

  /** Mark a row, say so to whoever listens, and bring it into sight. */
  select(row: number): void {
    this.#selected = row;
    const at = this.#rows.indexOf(row);
    if (at >= 0) this.#activate(at, this.#active.column);
    else this.#draw();
    this.element.dispatchEvent(
      new CustomEvent("dsl-row", { bubbles: true, composed: true, detail: { row } }),
    );
  }

  #refresh(): void {
    this.element.setAttribute("aria-rowcount", String(this.#rows.length + 1));
    this.element.setAttribute("aria-colcount", String(this.#columns.length));
    this.element.style.setProperty(
      "--dsl-columns",
      this.#columns
        .map((one) => `minmax(${one.width}px,${one.column.kind === "text" ? "2fr" : "1fr"})`)
        .join(" "),
    );
    this.element.style.setProperty(
      "--dsl-width",
      `${this.#columns.reduce((sum, one) => sum + one.width, 0)}px`,
    );
    this.#body.style.height = `${this.#rows.length * HEIGHT}px`;
    this.#head.replaceChildren(...this.#columns.map((one, index) => this.#heading(one.column, index)));
    this.#draw();
  }

  #heading(column: Column, index: number): HTMLElement {
    const direction = this.#sort?.column === column ? this.#sort.direction : undefined;
    const sign = direction === undefined ? "" : direction === "ascending" ? " ▲" : " ▼";
    return element(
      "div",
      {
        id: this.#id(-1, index),
        role: "columnheader",
        class: column.kind === "number" ? "dsl-cell dsl-number" : "dsl-cell",
        "aria-colindex": index + 1,
        "aria-sort": direction,
        title: `${column.label}: ${words.sortable}`,
        "data-column": index,
      },
      element("span", {}, column.label),
      element("span", { class: "dsl-sign", "aria-hidden": "true" }, sign),
    );
  }

  #id(at: number, column: number): string {
    return `${this.#prefix}${at < 0 ? "h" : String(this.#rows[at] ?? 0)}-${column}`;
  }

  #draw(): void {
    const { scrollTop, clientHeight } = this.element;
    const first = Math.max(0, Math.floor(scrollTop / HEIGHT) - MARGIN);
    const last = Math.min(
      this.#rows.length,
      Math.ceil((scrollTop + (clientHeight || 480)) / HEIGHT) + MARGIN,
    );
    const shown: HTMLElement[] = [];
    for (let at = first; at < last; at++) shown.push(this.#row(at));
    this.#body.replaceChildren(...shown);
    const { at, column } = this.#active;
    for (const heading of this.#head.children) heading.classList.remove("dsl-active");
    if (at < 0) this.#head.children[column]?.classList.add("dsl-active");
    if (this.#columns.length > 0 && (at < 0 || (at >= first && at < last))) {
      this.element.setAttribute("aria-activedescendant", this.#id(at, column));
    } else this.element.removeAttribute("aria-activedescendant");
  }

  #row(at: number): HTMLElement {
    const row = this.#rows[at] ?? 0;
    const made = element("div", {
      role: "row",
      class: row === this.#selected ? "dsl-grow dsl-selected" : "dsl-grow",
      "aria-rowindex": at + 2,
      "aria-selected": String(row === this.#selected),
      "data-at": at,
    });
    made.style.top = `${at * HEIGHT}px`;
    this.#columns.forEach((one, index) => made.append(this.#cell(one, row, at, index)));
    return made;
  }

  #cell({ column, best, largest }: Shown, row: number, at: number, index: number): HTMLElement {
    const active = at === this.#active.at && index === this.#active.column ? " dsl-active" : "";
    const numeric = column.kind === "number" ? " dsl-number" : "";
    const made = element("div", {
      id: this.#id(at, index),
      role: "gridcell",
      class: `dsl-cell${numeric}${active}`,
      "aria-colindex": index + 1,
      "data-column": index,
    });
    if (isMissing(column, row)) {
      made.append(element("span", { class: "dsl-missing", title: words.missing }, "–"));
      return made;
    }
    const text = clip(textAt(column, row), SHOWN);
    const value = column.kind === "number" ? (column.values[row] ?? NaN) : NaN;
    if (column.bar && value > 0 && largest > 0) {
      const bar = element("span", { class: "dsl-cellbar", "aria-hidden": "true" });
      bar.style.width = `${(100 * value) / largest}%`;
      made.append(bar);
    }
    if (value === best) {
      made.classList.add("dsl-best");
      made.append(
        element("span", { "aria-hidden": "true", title: words.best }, "★ "),
        element("span", { class: "dsl-unseen" }, `${words.best} `),
      );
    }
    made.append(element("span", {}, text));
    if (column.kind === "text" && text.length * CHARACTER > 60) made.title = text;
    return made;
  }

  #activate(at: number, column: number): void {
    this.#active = {
      at: Math.min(this.#rows.length - 1, Math.max(-1, at)),
      column: Math.min(this.#columns.length - 1, Math.max(0, column)),
    };
    const top = this.#active.at * HEIGHT;
    const { scrollTop, clientHeight } = this.element;
    if (this.#active.at >= 0 && top < scrollTop) this.element.scrollTop = top;
    else if (top + HEIGHT + HEAD > scrollTop + clientHeight) {
      this.element.scrollTop = top + HEIGHT + HEAD - clientHeight;
    }
    const heading = this.#head.children[this.#active.column];
    if (heading instanceof HTMLElement) {
      const { scrollLeft, clientWidth } = this.element;
      const [left, right] = [heading.offsetLeft, heading.offsetLeft + heading.offsetWidth];
      if (left < scrollLeft) this.element.scrollLeft = left;
      else if (right > scrollLeft + clientWidth)
        this.element.scrollLeft = Math.min(left, right - clientWidth);
    }
    this.#draw();
  }

  #choose(): void {
    const { at, column } = this.#active;
    const heading = this.#columns[column]?.column;
    if (at >= 0) this.select(this.#rows[at] ?? -1);
    else if (heading !== undefined) this.sort(heading);
  }

  #click(event: MouseEvent): void {
    const cell = (event.target as Element).closest("[data-column]");
    if (!(cell instanceof HTMLElement)) return;
    const at = cell.parentElement?.dataset["at"];
    this.#activate(at === undefined ? -1 : Number(at), Number(cell.dataset["column"]));
    this.#choose();
  }

  #copy(event: ClipboardEvent): void {
    const column = this.#columns[this.#active.column]?.column;
    if (column === undefined || getSelection()?.isCollapsed === false) return;
    const row = this.#rows[this.#active.at];
    event.clipboardData?.setData("text/plain", row === undefined ? column.label : textAt(column, row));
    event.preventDefault();
  }

  #key(event: KeyboardEvent): void {
    if (event.altKey) return;
    const { at, column } = this.#active;
    const [last, across] = [this.#rows.length - 1, this.#columns.length - 1];
    const page = Math.max(1, Math.floor((this.element.clientHeight - HEAD) / HEIGHT) - 1);
    const far = event.ctrlKey || event.metaKey;
    const moves: Readonly<Record<string, readonly [number, number]>> = {
      ArrowDown: [far ? last : at + 1, column],
      ArrowUp: [far ? 0 : at - 1, column],
      ArrowRight: [at, far ? across : column + 1],
      ArrowLeft: [at, far ? 0 : column - 1],
      Home: [far ? -1 : at, 0],
      End: [far ? last : at, across],
      PageDown: [at + page, column],
      PageUp: [Math.max(Math.min(at, 0), at - page), column],
    };
    const move = Object.hasOwn(moves, event.key) ? moves[event.key] : undefined;
    if (move !== undefined) this.#activate(...move);
    else if ((event.key === "Enter" || event.key === " ") && !far) this.#choose();
    else return;
    event.preventDefault();
  }
}

/** A column with how wide it is and what its marks go by. */
function measured(column: Column, count: number): Shown {
  let longest = Math.min(column.label.length, 24) + 2;
  const step = Math.max(1, Math.floor(count / SAMPLED));
  for (let row = 0; row < count; row += step) {
    longest = Math.max(longest, Math.min(60, textAt(column, row).length));
  }
  let largest = 0;
  if (column.bar && column.kind === "number") {
    for (const value of column.values) if (Number.isFinite(value) && value > largest) largest = value;
  }
  const width = Math.round(
    Math.min(MOST_WIDTH, 20 + CHARACTER * longest + (column.better === undefined ? 0 : 16)),
  );
  return { column, width, best: bestOf(column), largest };
}
