/**
 * The views in a page of their own: in a frame inside of a notebook's output, or a file that was saved.
 *
 * The page holds the data as `<script type="application/json">`, which nothing executes.
 */

import { element } from "../core/dom";
import { message, mount, style } from "../core/kinds";
import type { View } from "../core/view";

/** A frame of this height and one pixel more stands in a dark theme, two pixels more in a light one. */
const FRAME_HEIGHT = 480;

/** Take over the theme around the frame, now and whenever it changes. */
function followTheme(): void {
  const read = (): void => {
    const more = window.innerHeight - FRAME_HEIGHT;
    if (more !== 1 && more !== 2) return;
    document.documentElement.style.colorScheme = more === 2 ? "light" : "dark";
    document.body.dataset["jpThemeLight"] = String(more === 2);
  };
  window.addEventListener("resize", read);
  read();
}

/** Show what the page's own data says, in `host`. */
export async function show(host: HTMLElement, text: string): Promise<View> {
  followTheme();
  host.append(element("style", {}, style()));
  const place = host.appendChild(element("div"));
  let content: unknown;
  try {
    content = JSON.parse(text);
  } catch {
    return message(place, "the data is cut off or was changed");
  }
  return mount(place, content);
}
