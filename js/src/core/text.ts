/** Text that keeps its lines, with a button that copies it. */

import { clip } from "./clip";
import { button, element } from "./dom";
import { MalformedData } from "./packed";
import { applyPalette, onThemeChange, paletteOf } from "./theme";
import type { Kind } from "./view";
import { words } from "./words";

/** Ten times what Python packs; a page that lays out more of it does not answer for seconds. */
const MAX_CHARACTERS = 200_000;

const STYLE = `
.dsl-text{height:auto;max-height:100vh;min-height:0}
.dsl-text pre{margin:0;padding:8px 10px;overflow:auto;font:12px/1.5 ui-monospace,Menlo,Consolas,monospace;
background:var(--dsl-background);color:var(--dsl-text)}
`;

/** A page that did not come by a safe way has no clipboard at all. */
async function copied(whole: string): Promise<void> {
  await navigator.clipboard.writeText(whole);
}

export const text: Kind = {
  make(host, table, title) {
    const shown = table.meta.get("text");
    if (typeof shown !== "string") throw new MalformedData("the text is missing");
    const said = element("span", { role: "status" });
    const copy = button(words.copy, words.copyLabel, () => {
      copied(shown).then(
        () => (said.textContent = words.copied),
        () => (said.textContent = words.notCopied),
      );
    });
    const root = element(
      "section",
      { class: "dsl-view dsl-text", "aria-label": title },
      element("div", { class: "dsl-bar" }, element("span", { class: "dsl-title" }, title), said, copy),
      element("pre", { tabindex: 0 }, clip(shown, MAX_CHARACTERS)),
    );
    const themed = (): void => applyPalette(root, paletteOf(host));
    themed();
    const end = onThemeChange(host, themed);
    host.append(root);
    return {
      dispose: () => {
        end();
        root.remove();
      },
    };
  },
  style: STYLE,
};
