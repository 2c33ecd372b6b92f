/** The picture of one graph: a canvas that is moved, zoomed and clicked, and in its corner a map of the whole. */

import { element } from "../dom";
import { sized } from "../pictures";
import { CanvasSurface } from "../surface";
import type { Layout } from "./layout";
import { itemAt, type Look, paint, type Viewport } from "./paint";
import { words } from "./words";

const MIN_SCALE = 0.004;
const MAX_SCALE = 4;
/** The map's largest size, in pixels and as a part of the window. */
const MAP = { width: 150, height: 100, share: 0.32 };
/** Moves of the pointer, in pixels, up to which pressing and letting go is a click. */
const STILL = 4;
/** The scale from which on labels can be read. */
const READABLE = 0.75;

/** What a pane asks of the view that it is in, which may have another pane do the same. */
export interface PaneCalls {
  look(): Look;
  /** An item was clicked. */
  click(item: number): void;
  /** The reader moves the picture by pixels. */
  pan(dx: number, dy: number): void;
  /** The reader zooms around a place in pixels. */
  zoom(factor: number, x: number, y: number): void;
  /** The pane has a size, for the first time or another. */
  sized(): void;
}

export class Pane {
  readonly element: HTMLElement;
  readonly #canvas = element("canvas", { "aria-hidden": "true" });
  readonly #map = element("canvas", { class: "dsl-map", "aria-hidden": "true" });
  readonly #observer = new ResizeObserver(() => this.#resize());
  #viewport: Viewport = { x: 0, y: 0, scale: 1, width: 0, height: 0 };
  #frame = 0;

  constructor(
    readonly layout: Layout,
    readonly calls: PaneCalls,
    label: string,
  ) {
    this.element = element(
      "div",
      { class: "dsl-picture", role: "img", "aria-label": label, title: words.wheel },
      this.#canvas,
      this.#map,
    );
    this.#observer.observe(this.element);
    this.element.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    this.element.addEventListener("pointerdown", (event) => this.#press(event));
    this.#map.addEventListener("pointerdown", (event) => this.#jump(event));
  }

  dispose(): void {
    cancelAnimationFrame(this.#frame);
    this.#observer.disconnect();
  }

  /** Whether the pane shows and has room. */
  get isSized(): boolean {
    return this.#viewport.width > 0;
  }

  /** The scale at which everything is in the window. */
  get fittingScale(): number {
    const { width, height } = this.#viewport;
    return clamp(Math.min(width / this.#whole, height / this.#tall), MIN_SCALE, 1.25);
  }

  /** The same where everything can be read then, else the scale at which the beginning can. */
  get homeScale(): number {
    if (this.fittingScale >= READABLE) return this.fittingScale;
    return Math.max(READABLE, Math.min(1, this.#viewport.width / this.#whole));
  }

  /** Everything in the middle of the window, or its beginning where it is higher than that. */
  showAll(scale: number): void {
    const { width, height } = this.#viewport;
    this.#show({
      scale,
      x: (this.#whole - width / scale) / 2,
      y: Math.min(0, (this.#tall - height / scale) / 2),
    });
  }

  pan(dx: number, dy: number): void {
    const { x, y, scale } = this.#viewport;
    this.#show({ x: x - dx / scale, y: y - dy / scale });
  }

  zoom(factor: number, x = this.#viewport.width / 2, y = this.#viewport.height / 2): void {
    const before = this.#viewport;
    const scale = clamp(before.scale * factor, MIN_SCALE, MAX_SCALE);
    this.#show({
      scale,
      x: before.x + x / before.scale - x / scale,
      y: before.y + y / before.scale - y / scale,
    });
  }

  /** Change what is open, while an item stays where it is in the window. */
  keeping(item: number, change: () => void): void {
    const before = this.layout.origin(item);
    change();
    const after = this.layout.origin(item);
    const { x, y } = this.#viewport;
    this.#show({ x: x + after.x - before.x, y: y + after.y - before.y });
  }

  /** Bring an item into the middle of the window, large enough to be read. */
  center(item: number): void {
    const { x, y } = this.layout.origin(item);
    const { width, height } = this.#viewport;
    const scale = Math.max(this.#viewport.scale, 0.8);
    const across = this.layout.width[item] ?? 0;
    const down = Math.min(this.layout.height[item] ?? 0, height / scale);
    this.#show({ scale, x: x + across / 2 - width / scale / 2, y: y + down / 2 - height / scale / 2 });
  }

  /** Bring an item to where another pane has one of its own, in the same size; or to the same height alone. */
  align(item: number, other: Pane, its: number, height = false): void {
    const { x, y } = this.layout.origin(item);
    const there = other.layout.origin(its);
    const from = other.#viewport;
    const across = height ? this.#viewport.x : x + from.x - there.x;
    this.#show({ scale: from.scale, x: across, y: y + from.y - there.y });
  }

  /** Draw with the next frame. */
  schedule(): void {
    cancelAnimationFrame(this.#frame);
    this.#frame = requestAnimationFrame(() => this.draw());
  }

  draw(): void {
    const { width, height } = this.#viewport;
    if (width === 0 || height === 0) return;
    const ratio = this.element.ownerDocument.defaultView?.devicePixelRatio ?? 1;
    const look = this.calls.look();
    drawOn(this.#canvas, this.layout, this.#viewport, ratio, look);
    const scale = this.#mapScale;
    const map = {
      x: 0,
      y: 0,
      scale,
      width: Math.max(24, this.#whole * scale),
      height: Math.max(24, this.#tall * scale),
    };
    const { x, y, scale: zoom } = this.#viewport;
    const whole = this.#whole * zoom <= width && this.#tall * zoom <= height;
    this.#map.style.display = whole ? "none" : "block";
    if (whole) return;
    const context = drawOn(this.#map, this.layout, map, ratio, look);
    if (context === null) return;
    context.strokeStyle = look.palette.accent;
    context.lineWidth = 1.5;
    context.strokeRect(x * scale, y * scale, (width / zoom) * scale, (height / zoom) * scale);
  }

  get #whole(): number {
    return this.layout.width[0] || 1;
  }

  get #tall(): number {
    return this.layout.height[0] || 1;
  }

  get #mapScale(): number {
    const { width, height } = this.#viewport;
    return Math.min(
      Math.min(MAP.width, MAP.share * width) / this.#whole,
      Math.min(MAP.height, MAP.share * height) / this.#tall,
    );
  }

  #show(change: Partial<Viewport>): void {
    this.#viewport = { ...this.#viewport, ...change };
    this.schedule();
  }

  #resize(): void {
    const { clientWidth: width, clientHeight: height } = this.element;
    if (width === 0 || height === 0) return;
    this.#viewport = { ...this.#viewport, width, height };
    this.calls.sized();
    this.draw();
  }

  #wheel(event: WheelEvent): void {
    if (!event.ctrlKey && !event.metaKey) return; // the page scrolls
    event.preventDefault();
    const box = this.element.getBoundingClientRect();
    this.calls.zoom(Math.exp(-event.deltaY / 300), event.clientX - box.left, event.clientY - box.top);
  }

  #press(down: PointerEvent): void {
    if (down.button !== 0) return;
    let last = down;
    let moved = false;
    const move = (event: PointerEvent): void => {
      moved ||= Math.hypot(event.clientX - down.clientX, event.clientY - down.clientY) > STILL;
      if (!moved) return;
      this.element.classList.add("dsl-dragging");
      this.calls.pan(event.clientX - last.clientX, event.clientY - last.clientY);
      last = event;
    };
    const up = (event: PointerEvent): void => {
      this.element.removeEventListener("pointermove", move);
      this.element.removeEventListener("pointerup", up);
      this.element.removeEventListener("pointercancel", up);
      this.element.classList.remove("dsl-dragging");
      if (!moved && event.type === "pointerup") this.#click(event);
    };
    this.element.setPointerCapture(down.pointerId);
    this.element.addEventListener("pointermove", move);
    this.element.addEventListener("pointerup", up);
    this.element.addEventListener("pointercancel", up);
  }

  #click(event: PointerEvent): void {
    const box = this.element.getBoundingClientRect();
    const { x, y, scale } = this.#viewport;
    const item = itemAt(
      this.layout,
      x + (event.clientX - box.left) / scale,
      y + (event.clientY - box.top) / scale,
    );
    if (item !== 0) this.calls.click(item);
  }

  #jump(down: PointerEvent): void {
    down.stopPropagation();
    const to = (at: PointerEvent): void => {
      const box = this.#map.getBoundingClientRect();
      const { x, y, width, height, scale } = this.#viewport;
      const wanted = {
        x: (at.clientX - box.left) / this.#mapScale - width / scale / 2,
        y: (at.clientY - box.top) / this.#mapScale - height / scale / 2,
      };
      this.calls.pan((x - wanted.x) * scale, (y - wanted.y) * scale);
    };
    to(down);
    this.#map.setPointerCapture(down.pointerId);
    this.#map.onpointermove = to;
    this.#map.onpointerup = () => (this.#map.onpointermove = null);
  }
}

/** Draw what a window shows, from the background on. */
function drawOn(
  canvas: HTMLCanvasElement,
  layout: Layout,
  viewport: Viewport,
  ratio: number,
  look: Look,
): CanvasRenderingContext2D | null {
  const context = sized(canvas, viewport.width, viewport.height, ratio);
  if (context === null) return null;
  context.fillStyle = look.palette.background;
  context.fillRect(0, 0, viewport.width, viewport.height);
  paint(new CanvasSurface(context), layout, viewport, look);
  return context;
}

function clamp(value: number, least: number, most: number): number {
  return Math.min(most, Math.max(least, Number.isFinite(value) ? value : least));
}
