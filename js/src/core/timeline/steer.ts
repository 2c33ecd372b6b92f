/** What the mouse and the keyboard do in the picture. */

import type { TimelineView } from "./view";

/** Moves of the pointer, in pixels, up to which pressing and letting go is a click. */
const STILL = 4;
const FAR = 0.1;

export function listen(picture: HTMLElement, view: TimelineView): void {
  const x = (event: MouseEvent): number => event.clientX - picture.getBoundingClientRect().left;
  picture.addEventListener("pointerdown", (event) => press(picture, view, event, x));
  picture.addEventListener("pointermove", (event) => {
    if (event.buttons === 0) view.hover(view.timeAt(x(event)));
  });
  picture.addEventListener("pointerleave", () => view.hover(null));
  picture.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || !pressed(view, event)) return;
    event.preventDefault();
  });
  picture.addEventListener(
    "wheel",
    (event) => {
      const zooms = event.ctrlKey || event.metaKey;
      const across = event.shiftKey ? event.deltaY || event.deltaX : event.deltaX;
      if (!zooms && (across === 0 || (!event.shiftKey && Math.abs(across) < Math.abs(event.deltaY)))) return;
      event.preventDefault(); // else the page scrolls
      if (zooms) view.zoom(Math.exp(-event.deltaY / 300), view.timeAt(x(event)));
      else view.pan(across / Math.max(1, picture.clientWidth));
    },
    { passive: false },
  );
}

function press(
  picture: HTMLElement,
  view: TimelineView,
  down: PointerEvent,
  x: (event: MouseEvent) => number,
): void {
  if (down.button !== 0) return;
  const start = view.timeAt(x(down));
  const before = view.range;
  let moved = false;
  const move = (event: PointerEvent): void => {
    moved ||= Math.abs(event.clientX - down.clientX) > STILL;
    if (moved) view.select({ from: start, to: view.timeAt(x(event)) }, true);
  };
  const up = (event: PointerEvent): void => {
    picture.removeEventListener("pointermove", move);
    picture.removeEventListener("pointerup", up);
    picture.removeEventListener("pointercancel", up);
    if (event.type === "pointercancel") view.select(before);
    else if (moved) view.select(view.range);
    else {
      const { time } = view.cursor;
      view.moveTo(view.pick(start));
      view.select(event.shiftKey ? { from: time, to: start } : null);
      view.tell();
    }
  };
  view.hover(null);
  picture.setPointerCapture(down.pointerId);
  picture.addEventListener("pointermove", move);
  picture.addEventListener("pointerup", up);
  picture.addEventListener("pointercancel", up);
}

/** Do what a key says; false where it says nothing here. */
function pressed(view: TimelineView, event: KeyboardEvent): boolean {
  const { from, to } = view.window;
  const far = (share: number): void =>
    view.moveTo(view.pick(bounded(view, view.cursor.time + share * (to - from))));
  const moving = (move: () => void): void => {
    const { time } = view.cursor;
    const range = view.range;
    move();
    if (!event.shiftKey) return;
    const other = range === null ? time : range.from === time ? range.to : range.from;
    view.select({ from: other, to: view.cursor.time });
  };
  const actions: Readonly<Record<string, () => void>> = {
    ArrowLeft: () => moving(() => view.moveBy(-1)),
    ArrowRight: () => moving(() => view.moveBy(1)),
    ArrowDown: () => moving(() => view.moveBy(-1)),
    ArrowUp: () => moving(() => view.moveBy(1)),
    PageDown: () => moving(() => far(-FAR)),
    PageUp: () => moving(() => far(FAR)),
    Home: () => moving(() => view.moveTo({ time: 0, state: view.data.stateBefore(0) })),
    End: () => moving(() => view.moveTo({ time: view.data.end, state: view.data.rows })),
    ",": () => view.step(-1),
    ".": () => view.step(1),
    p: () => view.toPeak(),
    P: () => view.toPeak(),
    "[": () => view.bound("from"),
    "]": () => view.bound("to"),
    "+": () => view.zoomIn(),
    "=": () => view.zoomIn(),
    "-": () => view.zoomOut(),
    "0": () => view.reset(),
    Enter: () => view.tell(),
    Escape: () => {
      view.select(null);
      view.highlight("");
    },
  };
  if (!Object.hasOwn(actions, event.key)) return false;
  actions[event.key]?.();
  return true;
}

function bounded(view: TimelineView, time: number): number {
  return Math.min(view.data.end, Math.max(0, time));
}
