/**
 * Live outputs in front ends without our extension: Colab, VS Code, a JupyterLab that has only widgets.
 *
 * The kernel sends this module once. Each live output is a model with two traits: `payload`, as in a saved output, and
 * `packed`, the whole run as it stands, thinned; a view that comes late, or a second one, needs nothing else. It ends
 * when the kernel shows the saved output in its place.
 */

import type { RenderProps } from "@anywidget/types";
import { element } from "../core/dom";
import { message, style } from "../core/kinds";
import { checkedPayload } from "../core/payload";
import { Tabs, TABS_STYLE } from "../core/tabs";
import type { Controls } from "../core/view";
import { words } from "./words";

interface Traits extends Record<string, unknown> {
  readonly payload: unknown;
  /** A packed table; empty before the first news. */
  readonly packed: unknown;
  /** Whether the kernel has heard a wish to stop. */
  readonly stopping: unknown;
}

/** How long a kernel may take to answer a wish to stop before the reader is told what else helps. */
const STOP_MS = 1000;

/** The styles, once in the document or the shadow tree that the view stands in. */
function dress(host: HTMLElement): void {
  const root = host.getRootNode();
  const place = root instanceof ShadowRoot ? root : host.ownerDocument.head;
  if (place.querySelector("style[data-dsl]") === null)
    place.append(element("style", { "data-dsl": true }, style() + TABS_STYLE + STYLE));
}

export function render({ model, el }: RenderProps<Traits>): () => void {
  dress(el);
  const payload = checkedPayload(model.get("payload"));
  if (typeof payload === "string") {
    const shown = message(el, payload);
    return () => shown.dispose();
  }
  const tabs = new Tabs();
  const hint = element("p", { class: "dsl-widget-hint", role: "status", hidden: true });
  el.append(tabs.element, hint);
  const stop = (): void => {
    model.send({ do: "stop" });
    setTimeout(() => {
      if (model.get("stopping") === true) return;
      hint.textContent = words.busy;
      hint.hidden = false;
    }, STOP_MS);
  };
  const controls: Controls = {
    stop,
    ask: (wish) => {
      model.send({ ...wish });
    },
  };
  // One after the other: unpacking takes turns.
  let taking = tabs.take(payload.views, { keepLive: false });
  const news = (): void => {
    const packed = model.get("packed");
    if (typeof packed !== "string" || packed === "") return;
    taking = taking.then(() => tabs.news(packed, true, controls)).catch(() => undefined);
  };
  const stopping = (): void => {
    if (model.get("stopping") === true) hint.hidden = true;
  };
  const others = (): void => {
    const next = checkedPayload(model.get("payload"));
    if (typeof next === "string") return;
    taking = taking.then(() => tabs.take(next.views, { keepLive: true })).catch(() => undefined);
  };
  const heard = [
    ["change:packed", news],
    ["change:stopping", stopping],
    ["change:payload", others],
  ] as const;
  for (const [name, hear] of heard) model.on(name, hear);
  news();
  return () => {
    for (const [name, hear] of heard) model.off(name, hear);
    tabs.dispose();
    hint.remove();
  };
}

const STYLE = `
.dsl-widget-hint{font:13px/1.45 system-ui,sans-serif;margin:6px 2px}
.dsl-widget-hint[hidden]{display:none}
`;

export default { render };
