/** Pieces that tables and charts share. */

import { button, element } from "../dom";
import type { Cut } from "./columns";
import { words } from "./words";

/** What was left out, where something was. */
export function noteOf(cut: Cut | undefined): HTMLElement[] {
  return cut === undefined
    ? []
    : [element("p", { class: "dsl-note" }, words.cut(cut.shown, cut.total, cut.how))];
}

/** A list to choose from, with its name. */
export function choice(
  label: string,
  options: readonly (readonly [string, string])[],
  value: string,
  changed: (value: string) => void,
): HTMLElement {
  const select = element(
    "select",
    {},
    ...options.map(([id, text]) => element("option", { value: id, selected: id === value }, text)),
  );
  select.addEventListener("change", () => changed(select.value));
  return element("label", {}, label, select);
}

/** A button that is in or out. */
export function toggle(
  sign: string,
  label: string,
  pressed: boolean,
  changed: (on: boolean) => void,
): HTMLButtonElement {
  const made = button(sign, label, () => {
    const on = made.getAttribute("aria-pressed") !== "true";
    made.setAttribute("aria-pressed", String(on));
    changed(on);
  });
  made.setAttribute("aria-pressed", String(pressed));
  return made;
}

/** A line that says what is under the cursor: to screen readers only when it was moved by keys. */
export class Readout {
  readonly element = element("div", { class: "dsl-readout", role: "status", "aria-live": "polite" });

  /** `aloud` where the user asked for it by a key, not by moving a pointer across. */
  say(parts: readonly (Node | string)[], aloud: boolean): void {
    this.element.setAttribute("aria-live", aloud ? "polite" : "off");
    this.element.replaceChildren(...parts);
  }
}

/** A coloured square that stands for something; the text beside it says what. */
export function swatch(colour: string): HTMLElement {
  const made = element("i", { "aria-hidden": "true" });
  made.style.background = colour;
  return made;
}

/** Moves of the pointer, in pixels, up to which pressing and letting go is a click. */
const STILL = 4;

/** Follow a pressed pointer: `moved` whenever it moves, `done` when it is let go; both are told if it was no click. */
export function follow(
  place: HTMLElement,
  down: PointerEvent,
  moved: (event: PointerEvent, dragged: boolean) => void,
  done: (event: PointerEvent, dragged: boolean) => void,
): void {
  let dragged = false;
  const move = (event: PointerEvent): void => {
    dragged ||= Math.hypot(event.clientX - down.clientX, event.clientY - down.clientY) > STILL;
    moved(event, dragged);
  };
  const up = (event: PointerEvent): void => {
    place.removeEventListener("pointermove", move);
    place.removeEventListener("pointerup", up);
    place.removeEventListener("pointercancel", up);
    done(event, dragged);
  };
  place.setPointerCapture(down.pointerId);
  place.addEventListener("pointermove", move);
  place.addEventListener("pointerup", up);
  place.addEventListener("pointercancel", up);
}
