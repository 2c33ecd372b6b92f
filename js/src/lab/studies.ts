/** Studies of searches in a tab: a page of the server's own, in a frame, behind the server's own authentication. */

import { IFrame } from "@jupyterlab/ui-components";
import { ServerConnection } from "@jupyterlab/services";
import type { TranslationBundle } from "@jupyterlab/translation";
import type { Message } from "@lumino/messaging";
import { PanelLayout, Widget } from "@lumino/widgets";
import { element } from "../core/dom";

/** What marks a link of ours in an output; its value is the study's name, or empty for the list of all. */
const MARK = "data-deepseek-study";
const MAX_NAME = 100;

/** Where the server shows a study, or the list of all. */
export function address(settings: ServerConnection.ISettings, study: string): string {
  const place = study === "" ? "" : `${encodeURIComponent(study)}/`;
  return `${settings.baseUrl.replace(/\/$/, "")}/deepseek-lab/studies/${place}`;
}

/** A study's name as a command or an output may give it: anybody can have written that. */
export function asName(given: unknown): string {
  return typeof given === "string" && given.length <= MAX_NAME ? given : "";
}

/**
 * Call `open` where a link of ours is clicked; its own address is not looked at, so that an output can lead nowhere else.
 * With a key held it stays an ordinary link.
 */
export function followLinks(open: (study: string) => void): void {
  const clicked = (event: MouseEvent): void => {
    if (event.button !== 0 || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    const link = event.target instanceof Element ? event.target.closest(`a[${MARK}]`) : null;
    if (link === null) return;
    event.preventDefault();
    event.stopPropagation();
    open(asName(link.getAttribute(MARK)));
  };
  document.addEventListener("click", clicked, true);
}

export class StudyTab extends Widget {
  readonly study: string;
  readonly #settings: ServerConnection.ISettings;
  readonly #words: TranslationBundle;
  readonly #frame = new IFrame({
    sandbox: ["allow-scripts", "allow-same-origin", "allow-downloads", "allow-popups", "allow-modals"],
    referrerPolicy: "same-origin",
  });
  readonly #note = element("p", { class: "dsl-note", role: "status", hidden: true });

  constructor(study: string, settings: ServerConnection.ISettings, words: TranslationBundle) {
    super();
    this.study = study;
    this.#settings = settings;
    this.#words = words;
    this.addClass("dsl-study");
    const layout = (this.layout = new PanelLayout());
    layout.addWidget(this.#frame);
    this.node.prepend(this.#note);
    this.#iframe.title = words.__("Studies");
  }

  /** Colours of the page follow those of JupyterLab: a frame prefers what the element around it has. */
  dark(is: boolean): void {
    this.#iframe.style.colorScheme = is ? "dark" : "light";
  }

  protected override onAfterAttach(message: Message): void {
    super.onAfterAttach(message);
    if (this.#frame.url === "") void this.#show();
  }

  get #iframe(): HTMLIFrameElement {
    return this.#frame.node.querySelector("iframe") as HTMLIFrameElement;
  }

  /** Ask first: what a server without studies says of itself helps nobody. */
  async #show(): Promise<void> {
    const place = address(this.#settings, this.study);
    const found = await ServerConnection.makeRequest(place, { method: "HEAD" }, this.#settings).catch(
      () => null,
    );
    if (this.isDisposed) return;
    const nothing = found === null || [400, 404].includes(found.status);
    if (nothing) this.#note.textContent = this.#why(found !== null);
    else this.#frame.url = place; // also a page that says why not
    this.#note.hidden = !nothing;
  }

  #why(answered: boolean): string {
    const words = this.#words;
    if (!answered) return words.__("The server does not answer.");
    if (this.study === "")
      return words.__(
        "This server does not show studies: install deepseek-lab beside it and start it again.",
      );
    return words.__("This server shows no study %1. DeepSeek: studies in the palette lists all.", this.study);
  }
}
