/** A picture of a search below its heading: drawn when it is in sight, read by pointer, keys and screen readers. */

import { element, write } from "../dom";
import { pngOf, savers, sized } from "../pictures";
import { CanvasSurface, type Surface, SvgSurface } from "../surface";
import type { Stage } from "./stage";

/** Distance in pixels up to which something is under the pointer. */
export const NEAR = 24;
/** A drag that is shorter than this is a click. */
const STILL = 5;

export abstract class Picture {
  readonly element: HTMLDetailsElement;
  readonly plot: HTMLElement;
  readonly #note = element("small", {});
  readonly #legend = element("div", { class: "dsl-legend" });
  readonly #canvas = element("canvas", { "aria-hidden": "true" });
  readonly #marks = element("canvas", { "aria-hidden": "true" });
  readonly #observer: ResizeObserver;
  readonly #sight: IntersectionObserver;
  #inSight = false;
  #drawn = -1;
  #said = "";
  /** As they were when the place was laid out: to ask for them while the page is written would lay it out again. */
  protected size = { width: 0, height: 0 };
  #ratio = 1;

  constructor(
    protected readonly stage: Stage,
    readonly heading: string,
    keys: string,
    options: { height: number; wide: boolean; open: boolean },
  ) {
    this.plot = element(
      "div",
      { class: "dsl-plot", role: "application", tabindex: 0, "aria-label": `${heading}: ${keys}` },
      this.#canvas,
      this.#marks,
    );
    this.plot.style.height = `${options.height}px`;
    const tools = savers(
      heading,
      "search",
      () => this.svg(),
      () => this.#png(),
    );
    for (const tool of tools) tool.ariaLabel = `${tool.title}: ${heading}`;
    this.element = element(
      "details",
      { class: options.wide ? "dsl-panel dsl-wide" : "dsl-panel", open: options.open },
      element("summary", {}, heading, this.#note),
      this.plot,
      element("div", { class: "dsl-foot" }, this.#legend, ...tools),
    );
    this.element.addEventListener("toggle", () => this.#refresh(true));
    this.#observer = new ResizeObserver(() => this.#refresh(true));
    this.#observer.observe(this.plot);
    this.#sight = new IntersectionObserver((entries) => {
      this.#inSight = entries.some((entry) => entry.isIntersecting);
      if (this.#inSight && this.#drawn < 0) this.#refresh(true);
    });
    this.#sight.observe(this.plot);
    this.#listen();
  }

  dispose(): void {
    this.#observer.disconnect();
    this.#sight.disconnect();
  }

  /** The data has changed, or what of it is to be shown: draw now where somebody sees it, else when somebody does. */
  draw(): void {
    this.#drawn = -1;
    if (this.#inSight && this.element.open) this.#refresh(false);
  }

  /** Only what is marked: the rest stays as it is. */
  mark(): void {
    if (this.#drawn < 0) return;
    const { width, height } = this.size;
    const context = sized(this.#marks, width, height, this.#ratio);
    context?.clearRect(0, 0, width, height);
    if (context !== null && this.stage.cursor >= 0)
      this.emphasise(new CanvasSurface(context), this.stage.cursor);
  }

  svg(): string {
    const { width, height } = this.size;
    const surface = new SvgSurface(width, height, this.stage.palette.background);
    this.paint(surface, width, height);
    if (this.stage.cursor >= 0) this.emphasise(surface, this.stage.cursor);
    return surface.toString();
  }

  /** Draw all of it; returns a note beside the heading and what the colours mean. */
  protected abstract paint(
    surface: Surface,
    width: number,
    height: number,
  ): { note: string; legend: readonly Node[] };

  /** Draw a trial over the others. */
  protected abstract emphasise(surface: Surface, row: number): void;

  /** The trial under a place; -1 where there is none. */
  protected abstract near(x: number, y: number): number;

  /** The trial to which a key leads; undefined where the key means nothing here. */
  protected abstract follow(key: string, row: number): number | undefined;

  /** What a drag from one place to another does; nothing in most pictures. */
  protected readonly dragged?: (from: readonly [number, number], to: readonly [number, number]) => void;

  #refresh(measure: boolean): void {
    if (measure) {
      this.size = { width: this.plot.clientWidth, height: this.plot.clientHeight };
      this.#ratio = this.plot.ownerDocument.defaultView?.devicePixelRatio ?? 1;
    }
    const { width, height } = this.size;
    if (!this.element.open || width < 20 || height < 20) return;
    const context = sized(this.#canvas, width, height, this.#ratio);
    if (context === null) return;
    context.fillStyle = this.stage.palette.background;
    context.fillRect(0, 0, width, height);
    const { note, legend } = this.paint(new CanvasSurface(context), width, height);
    this.#say(note, legend);
    this.#drawn = this.stage.state.version;
    this.mark();
  }

  /** Only what has changed. */
  #say(note: string, legend: readonly Node[]): void {
    write(this.#note, note);
    const said = legend.map((one) => (one as HTMLElement).outerHTML).join("");
    if (said === this.#said) return;
    this.#said = said;
    this.#legend.replaceChildren(...legend);
  }

  #png(): Promise<Blob> {
    const { width, height } = this.#canvas;
    const canvas = element("canvas", { width, height });
    const context = canvas.getContext("2d");
    for (const layer of [this.#canvas, this.#marks]) context?.drawImage(layer, 0, 0);
    return pngOf(canvas);
  }

  #place(event: MouseEvent): readonly [number, number] {
    const box = this.plot.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  #listen(): void {
    const { plot, stage } = this;
    let from: readonly [number, number] | undefined;
    plot.addEventListener("pointermove", (event) => {
      if (event.buttons === 0) stage.moveTo(this.near(...this.#place(event)), false);
    });
    plot.addEventListener("pointerdown", (event) => {
      if (event.button === 0) from = this.#place(event);
    });
    plot.addEventListener("pointerup", (event) => {
      if (from === undefined) return;
      const to = this.#place(event);
      const far = Math.hypot(to[0] - from[0], to[1] - from[1]) > STILL;
      if (far) this.dragged?.(from, to);
      else stage.choose(this.near(...to));
      from = undefined;
    });
    plot.addEventListener("pointercancel", () => (from = undefined));
    plot.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "Enter") stage.choose(stage.cursor);
      else if (event.key === "Escape") stage.moveTo(-1, true);
      else {
        const next = this.follow(event.key, stage.cursor);
        if (next === undefined) return;
        if (next >= 0) stage.moveTo(next, true);
      }
      event.preventDefault();
    });
  }
}

/** The next of some rows by a number of each; the first one from -1, -1 at the end. */
export function nextBy(
  rows: ArrayLike<number>,
  numbers: ArrayLike<number>,
  row: number,
  forward: boolean,
): number {
  const place = Array.prototype.indexOf.call(rows, row) as number;
  const here = place < 0 ? NaN : (numbers[place] ?? NaN);
  const after = (number: number, other: number, one: number, two: number): boolean =>
    number === other ? (forward ? one > two : one < two) : forward ? number > other : number < other;
  let [found, best] = [-1, NaN];
  for (let at = 0; at < rows.length; at++) {
    const [one, number] = [rows[at] ?? -1, numbers[at] ?? NaN];
    if (place >= 0 && !after(number, here, one, row)) continue;
    if (found >= 0 && !after(best, number, found, one)) continue;
    [found, best] = [one, number];
  }
  return found;
}

/** What a colour means. */
export function legendOf(colour: string, text: string, shape: "dot" | "line" | "cross" = "dot"): Node {
  const mark = element("i", { "aria-hidden": "true", class: `dsl-${shape}` });
  mark.style.setProperty("--dsl-hue", colour);
  return element("span", {}, mark, text);
}

export function noteOf(parts: readonly string[]): string {
  return parts.filter((part) => part !== "").join(", ");
}
