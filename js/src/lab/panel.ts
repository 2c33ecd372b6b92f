/** The side panel: this notebook's runs, to go to, to stop, to compare and to take away. */

import type { TranslationBundle } from "@jupyterlab/translation";
import { Widget } from "@lumino/widgets";
import { button, download, element } from "../core/dom";
import { mount } from "../core/kinds";
import { isLive, type View } from "../core/view";
import type { IRuns, Shown } from "./runs";

export class RunsPanel extends Widget {
  readonly #runs: IRuns;
  readonly #words: TranslationBundle;
  readonly #list = element("ul", { class: "dsl-list" });
  readonly #compare: HTMLButtonElement;
  readonly #chosen = new Set<Widget>();
  #place: Widget | null = null;

  constructor(runs: IRuns, words: TranslationBundle, compare: (one: Shown, other: Shown) => void) {
    super();
    this.#runs = runs;
    this.#words = words;
    this.addClass("dsl-panel");
    this.#compare = button(words.__("Compare two"), words.__("Open two chosen runs side by side"), () => {
      const [one, other] = this.#shown().filter(({ widget }) => this.#chosen.has(widget));
      if (one !== undefined && other !== undefined) compare(one, other);
    });
    this.node.append(element("h2", {}, words.__("Runs of this notebook")), this.#list, this.#compare);
    runs.changed.connect(this.#draw, this);
    this.#draw();
  }

  /** Show the runs of another document. */
  follow(place: Widget | null): void {
    this.#place = place;
    this.#draw();
  }

  override dispose(): void {
    this.#runs.changed.disconnect(this.#draw, this);
    super.dispose();
  }

  #shown(): readonly Shown[] {
    return this.#runs.inside(this.#place);
  }

  #draw(): void {
    const words = this.#words;
    const shown = this.#shown();
    for (const widget of this.#chosen) {
      if (!shown.some((one) => one.widget === widget)) this.#chosen.delete(widget);
    }
    const items = shown.map((one) => this.#item(one));
    if (items.length === 0) {
      const hint = words.__(
        "None yet. Put %%deepseek optimize above a cell that calls your model, and run it.",
      );
      items.push(element("li", { class: "dsl-hint" }, hint));
    }
    this.#list.replaceChildren(...items);
    this.#update();
  }

  #update(): void {
    this.#compare.hidden = this.#shown().length < 2;
    this.#compare.disabled = this.#chosen.size !== 2;
  }

  #item(shown: Shown): HTMLElement {
    const words = this.#words;
    const box = element("input", { type: "checkbox", "aria-label": words.__("Choose for comparing") });
    box.checked = this.#chosen.has(shown.widget);
    box.addEventListener("change", () => {
      if (box.checked) this.#chosen.add(shown.widget);
      else this.#chosen.delete(shown.widget);
      this.#update();
    });
    const open = button(shown.summary || shown.run, words.__("Go to the output"), () => {
      shown.widget.node.scrollIntoView({ block: "center" });
      shown.widget.node.querySelector<HTMLElement>("button, [tabindex='0']")?.focus({ preventScroll: true });
    });
    open.className = "dsl-open";
    const more = element("div", { class: "dsl-actions" });
    if (shown.live) more.append(button(words.__("Stop"), words.__("Stop the run"), () => shown.stop()));
    if (shown.html !== "") {
      more.append(
        button(words.__("Save page"), words.__("Save the report as a page"), () =>
          download("report.html", asPage(shown)),
        ),
      );
    }
    return element("li", {}, element("div", { class: "dsl-head" }, box, open), more);
  }
}

function asPage(shown: Shown): Blob {
  const head =
    '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>deepseek_lab</title></head><body>';
  return new Blob([head, shown.html, "</body></html>"], { type: "text/html" });
}

/** Two runs side by side. */
export class Comparison extends Widget {
  readonly #views: Promise<View>[];

  constructor(one: Shown, other: Shown) {
    super();
    this.addClass("dsl-comparison");
    const sides = [one, other].map(() => element("div", { class: "dsl-side" }));
    this.#views = [one, other].flatMap((shown, side) => {
      const place = sides[side];
      if (place === undefined) return [];
      place.append(element("p", { class: "dsl-summary" }, shown.summary));
      return shown.views.map((content) =>
        mount(place.appendChild(element("div", { class: "dsl-place" })), content),
      );
    });
    this.node.append(...sides);
    for (const view of this.#views) void view.then((made) => isLive(made) && made.control(null));
  }

  override dispose(): void {
    for (const view of this.#views) void view.then((made) => made.dispose());
    super.dispose();
  }
}
