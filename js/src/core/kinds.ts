/** The kinds of views: a new one is a file of its own, a record in Python, and its line here. */

import { clip } from "./clip";
import { element } from "./dom";
import { heatmap } from "./charts/heatmap/view";
import { lines } from "./charts/lines/view";
import { scatter } from "./charts/scatter/view";
import { table } from "./charts/table/view";
import { graph } from "./graph/view";
import { MalformedData, unpack } from "./packed";
import { run } from "./run/view";
import { search } from "./search/view";
import { STYLE } from "./style";
import { text } from "./text";
import { timeline } from "./timeline/view";
import { applyPalette, paletteOf } from "./theme";
import type { Content, Kind, View } from "./view";
import { words } from "./words";

const KINDS: ReadonlyMap<string, Kind> = new Map([
  ["graph", graph],
  ["run", run],
  ["search", search],
  ["text", text],
  ["timeline", timeline],
  ["heatmap", heatmap],
  ["lines", lines],
  ["scatter", scatter],
  ["table", table],
]);

/** How all views look; to be put once into the document that shows them. */
export function style(): string {
  return [STYLE, ...Array.from(KINDS.values(), (kind) => kind.style ?? "")].join("");
}

/** Show whatever was found in a file; what cannot be shown becomes a sentence that says why. */
export async function mount(host: HTMLElement, content: unknown): Promise<View> {
  try {
    const { kind, title, packed } = checked(content);
    const found = KINDS.get(kind);
    if (found === undefined) {
      throw new MalformedData(`its kind is not known here: pip install -U deepseek_lab`);
    }
    return await found.make(host, await unpack(packed), title);
  } catch (error) {
    host.replaceChildren();
    return message(
      host,
      error instanceof MalformedData ? error.message : "the data is not what was expected",
    );
  }
}

/** What a view is shown as when it cannot be shown. */
export function message(host: HTMLElement, why: string): View {
  const shown = element(
    "div",
    { class: "dsl-view", role: "alert" },
    element("p", { class: "dsl-message" }, words.unreadable(why)),
  );
  applyPalette(shown, paletteOf(host));
  host.append(shown);
  return { dispose: () => shown.remove() };
}

function checked(content: unknown): Content {
  const { kind, title, packed } = (typeof content === "object" && content !== null ? content : {}) as Record<
    string,
    unknown
  >;
  if (typeof kind !== "string" || typeof packed !== "string") throw new MalformedData("there is no data");
  return { kind, title: typeof title === "string" ? clip(title) : "", packed };
}
