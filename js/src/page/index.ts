/**
 * The views in a page of their own: in a frame inside of a notebook's output, or a file that was saved.
 *
 * The page holds the data as `<script type="application/json">`, which nothing executes.
 */

import { element } from "../core/dom";
import { GraphData } from "../core/graph/data";
import { GraphView } from "../core/graph/view";
import { MalformedData, unpack } from "../core/packed";
import { STYLE } from "../core/style";
import { applyPalette, paletteOf } from "../core/theme";
import type { View } from "../core/view";
import { words } from "../core/words";

interface Content {
  readonly kind: string;
  readonly title: string;
  readonly packed: string;
}

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
  host.append(element("style", {}, STYLE));
  try {
    const content = parsed(text);
    const table = await unpack(content.packed);
    if (content.kind !== "graph") throw new MalformedData(`it is of an unknown kind`);
    return new GraphView(host, new GraphData(table), content.title);
  } catch (error) {
    const why = error instanceof MalformedData ? error.message : "the data is not what was expected";
    const message = element(
      "div",
      { class: "dsl-view", role: "alert" },
      element("p", { class: "dsl-message" }, words.unreadable(why)),
    );
    applyPalette(message, paletteOf(host));
    host.append(message);
    return { dispose: () => message.remove() };
  }
}

function parsed(text: string): Content {
  let content: unknown;
  try {
    content = JSON.parse(text);
  } catch {
    throw new MalformedData("the data is cut off or was changed");
  }
  const { kind, title, packed } = (typeof content === "object" && content !== null ? content : {}) as Record<
    string,
    unknown
  >;
  if (typeof kind !== "string" || typeof packed !== "string") throw new MalformedData("there is no data");
  return { kind, title: typeof title === "string" ? title.toWellFormed() : "", packed };
}
