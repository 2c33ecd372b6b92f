/** What the picture shows, as tables and sentences: at the cursor, in the selected range, and block by block. */

import { button, element } from "../dom";
import { bytesInWords, timeInWords } from "../quantities";
import type { Palette } from "../theme";
import { isInside } from "../view";
import { colourOf } from "./colours";
import type { Context, TimelineData } from "./data";
import type { Stack } from "./stack";
import { words } from "./words";

const MAX_ROWS = 100;

export type AliveAt = "peak" | "cursor";

export interface Calls {
  /** A block was chosen. */
  choose(context: Context): void;
  aliveAt(which: AliveAt): void;
}

/** Where the cursor stands: a time, and the state that it tells of. */
export interface Cursor {
  readonly time: number;
  readonly state: number;
}

/** `cell.py:3`, or empty where it is not known. */
export function placeOf({ file, line }: Context): string {
  return file === "" ? "" : `${file}:${line}`;
}

export class Panel {
  readonly side: HTMLElement;
  readonly alive: HTMLElement;
  readonly #facts = element("p", { class: "dsl-facts" });
  readonly #told = element("p", { role: "status" });
  readonly #range = element("p", { role: "status" });
  readonly #parts = element("table");
  readonly #blocks = element("table");
  readonly #left = element("p");
  #module = "";

  constructor(
    readonly data: TimelineData,
    readonly calls: Calls,
  ) {
    const which = element(
      "select",
      { "aria-label": words.alive },
      ...(["peak", "cursor"] as const).map((at) => element("option", { value: at }, words.aliveAt[at])),
    );
    which.addEventListener("change", () => calls.aliveAt(which.value === "cursor" ? "cursor" : "peak"));
    this.side = element(
      "div",
      { class: "dsl-side", role: "region", "aria-label": words.series, tabindex: 0 },
      this.#facts,
      this.#range,
      this.#told,
      this.#parts,
      element(
        "p",
        { class: "dsl-hint" },
        data.folded ? `${words.folded(words.events(data.events), data.rows)} ` : "",
        words.hint,
      ),
    );
    this.alive = element(
      "div",
      { class: "dsl-alive" },
      element("header", {}, element("span", { "aria-hidden": "true" }, words.alive), which, this.#left),
      element(
        "div",
        { class: "dsl-scroll", role: "region", "aria-label": words.aliveList, tabindex: 0 },
        this.#blocks,
      ),
    );
  }

  /** Tell what happened at the cursor. */
  describe({ time, state }: Cursor, step: number): void {
    const { data } = this;
    if (data.rows === 0) {
      this.#facts.replaceChildren(words.empty);
      return;
    }
    const event = data.leading(state);
    const delta = data.delta[state - 1] ?? 0;
    const bytes = bytesInWords(Math.abs(delta));
    const happened = event === null ? words.start : delta < 0 ? words.freed(bytes) : words.allocated(bytes);
    const where = event === null ? [] : [event.operator, event.module, placeOf(event)];
    this.#facts.replaceChildren(
      element("strong", {}, timeInWords(time, step)),
      `, ${happened}`,
      element("span", {}, where.filter((part) => part !== "").join(", ")),
    );
  }

  /** List the parts of the stack with their bytes. */
  list(stack: Stack, state: number, palette: Palette): void {
    const { data } = this;
    const [now, then] = [stack.at(state), stack.at(data.peak)];
    const rows = stack.parts
      .map((part, number) => {
        const sample = element("i", { "aria-hidden": "true" });
        sample.style.background = colourOf(part.colour, palette);
        return element(
          "tr",
          {},
          element("th", { scope: "row" }, sample, part.label),
          size(now[number] ?? 0),
          size(then[number] ?? 0),
        );
      })
      .reverse(); // as they lie on each other
    this.#parts.replaceChildren(
      head([words.series, words.atCursor, words.atPeak], [1, 2], true),
      element("tbody", {}, ...rows),
      element(
        "tfoot",
        {},
        element(
          "tr",
          {},
          element("th", { scope: "row" }, words.total),
          size(data.totals[state] ?? 0),
          size(data.totals[data.peak] ?? 0),
        ),
      ),
    );
  }

  /** Tell what happened between two times; nothing where none are selected. */
  describeRange(range: { readonly from: number; readonly to: number } | null): void {
    this.#range.replaceChildren();
    if (range === null) return;
    const { data } = this;
    const from = data.stateBefore(range.from);
    const found = data.range(from, Math.max(from, data.stateAt(range.to)));
    const step = (range.to - range.from) / 100;
    const peak = Math.max(range.from, data.timeOf(found.peak));
    this.#range.append(
      element("strong", {}, words.rangeIs(timeInWords(range.from, step), timeInWords(range.to, step))),
      element("br"),
      words.rangeSays(
        bytesInWords(found.allocated),
        bytesInWords(found.freed),
        bytesInWords(data.totals[found.peak] ?? 0),
        timeInWords(peak, step),
        words.events(found.events),
      ),
    );
  }

  /** Tell of a module of which another view spoke, or of none. */
  highlight(module: string, stack: Stack | null, state: number): void {
    this.#module = stack === null ? "" : module;
    const value = (at: number): string => bytesInWords(stack?.at(at)[0] ?? 0);
    this.#told.textContent =
      stack === null ? "" : words.highlighted(module, value(state), value(this.data.peak));
    for (const row of this.#blocks.tBodies[0]?.rows ?? []) {
      const context = this.data.contexts[Number(row.dataset["context"])];
      row.classList.toggle("dsl-told", context !== undefined && isInside(context.module, this.#module));
    }
  }

  /** List what is there in a state, largest first. */
  listAlive(state: number): void {
    const { data } = this;
    const found = data.alive(state);
    const total = found.reduce((sum, one) => sum + one.bytes, 0);
    const shown = found.slice(0, MAX_ROWS);
    const rows = shown.map(({ context, bytes, blocks }) => {
      const about = data.contexts[context] as Context;
      const share = total > 0 ? `${((100 * bytes) / total).toFixed(bytes >= total / 10 ? 0 : 1)} %` : "";
      return element(
        "tr",
        { "data-context": context, class: isInside(about.module, this.#module) ? "dsl-told" : undefined },
        size(bytes),
        element("td", { class: "dsl-number" }, share),
        element("td", { class: "dsl-number" }, blocks.toLocaleString("en")),
        element("td", {}, about.category === "" ? words.noCategory : about.category),
        element("td", {}, about.file === "" ? this.#link(about, about.module) : about.module),
        element("td", {}, about.operator),
        element("td", {}, this.#link(about, placeOf(about))),
      );
    });
    const columns = [words.bytes, words.share, words.blocks, words.category, words.module, words.operator];
    this.#blocks.replaceChildren(head([...columns, words.place], [0, 1, 2]), element("tbody", {}, ...rows));
    const left = found.slice(MAX_ROWS).reduce((sum, one) => sum + one.bytes, 0);
    this.#left.textContent =
      found.length === 0
        ? data.rows === 0
          ? words.empty
          : words.nothingThere
        : found.length > MAX_ROWS
          ? words.more(found.length - MAX_ROWS, bytesInWords(left))
          : "";
  }

  #link(about: Context, name: string): Node | string {
    return name === "" ? "" : button(name, words.show(name), () => this.calls.choose(about));
  }
}

function size(bytes: number): HTMLElement {
  return element("td", { class: "dsl-number", title: words.exactly(bytes) }, bytesInWords(bytes));
}

function head(names: readonly string[], numbers: readonly number[], quiet = false): HTMLElement {
  const cells = names.map((name, at) =>
    quiet && at === 0
      ? element("td")
      : element("th", { scope: "col", class: numbers.includes(at) ? "dsl-number" : undefined }, name),
  );
  return element("thead", {}, element("tr", {}, ...cells));
}
