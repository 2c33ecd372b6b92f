/** The toolbar's toggle: whether every cell of the notebook is optimised, as the kernel says it. */

import type { ISessionContext } from "@jupyterlab/apputils";
import type { Kernel } from "@jupyterlab/services";
import type { TranslationBundle } from "@jupyterlab/translation";
import { type ISignal, Signal } from "@lumino/signaling";
import { Widget } from "@lumino/widgets";
import { element } from "../core/dom";
import { Link, type LinkState, type News } from "./channel";

export type KernelState = LinkState | "none" | "failed";

export class Toggle extends Widget {
  readonly #session: ISessionContext;
  readonly #words: TranslationBundle;
  readonly #button = element("button", { type: "button", class: "dsl-toggle" });
  readonly #changed = new Signal<Toggle, KernelState>(this);
  readonly #news = new Signal<Toggle, News>(this);
  #link: Link | null = null;
  #state: KernelState = "none";
  #why = "";
  #wished = false;
  #restarted = false;

  constructor(session: ISessionContext, words: TranslationBundle) {
    super();
    this.#session = session;
    this.#words = words;
    this.node.append(this.#button);
    this.#button.addEventListener("click", () => void this.toggle());
    session.kernelChanged.connect(this.#connect, this);
    session.statusChanged.connect(this.#status, this);
    this.#set("none");
    this.#connect();
  }

  get state(): KernelState {
    return this.#state;
  }

  get changed(): ISignal<Toggle, KernelState> {
    return this.#changed;
  }

  /** What the kernel tells of runs that have no channel. */
  get news(): ISignal<Toggle, News> {
    return this.#news;
  }

  override dispose(): void {
    if (this.isDisposed) return;
    this.#session.kernelChanged.disconnect(this.#connect, this);
    this.#session.statusChanged.disconnect(this.#status, this);
    this.#link?.dispose();
    super.dispose();
  }

  /** Turn it on or off; where the extension is not loaded in the kernel, load it first. */
  async toggle(): Promise<void> {
    const kernel = this.#session.session?.kernel;
    if (kernel == null) return;
    if (this.#state === "on" || this.#state === "off") {
      this.#link?.turn(this.#state === "off");
      return;
    }
    this.#wished = true; // turned on as soon as the kernel says that it is there
    const code = "%load_ext deepseek_lab";
    const done = await kernel.requestExecute({ code, silent: true, store_history: false }).done;
    if (done.content.status === "error") {
      this.#wished = false;
      this.#set("failed", `${done.content.ename}: ${done.content.evalue}`);
    }
  }

  #connect(): void {
    this.#link?.dispose();
    this.#link = null;
    const kernel = this.#session.session?.kernel;
    if (kernel == null) {
      this.#set("none");
      return;
    }
    this.#set("busy");
    this.#link = new Link(kernel);
    this.#link.changed.connect(this.#told, this);
    this.#link.news.connect((_, news) => this.#news.emit(news));
  }

  #told(link: Link): void {
    if (link !== this.#link) return;
    if (this.#wished && link.state === "off") {
      this.#wished = false;
      link.turn(true);
      return;
    }
    if (link.error === "") this.#set(link.state);
    else this.#set("failed", link.error);
  }

  #status(_: ISessionContext, status: Kernel.Status): void {
    if (status === "dead" || status === "terminating") this.#set("none");
    if (status === "restarting" || status === "autorestarting") this.#restarted = true;
    if (this.#restarted && status === "idle") {
      this.#restarted = false;
      this.#connect();
    }
  }

  #set(state: KernelState, why = ""): void {
    const words = this.#words;
    const [text, label] = {
      on: [words.__("DeepSeek: on"), words.__("Every cell is optimised. Click to turn that off.")],
      off: [words.__("DeepSeek: off"), words.__("Cells are left as they are. Click to optimise every cell.")],
      absent: [
        words.__("DeepSeek: not loaded"),
        words.__("Click to load the extension and optimise every cell."),
      ],
      busy: [words.__("DeepSeek: kernel busy"), words.__("The kernel does not answer while a cell runs.")],
      none: [words.__("DeepSeek: no kernel"), words.__("There is no kernel to ask.")],
      failed: [words.__("DeepSeek: failed"), why],
    }[state];
    if (this.isDisposed) return;
    this.#button.textContent = text ?? "";
    this.#button.title = label ?? "";
    this.#button.setAttribute("aria-pressed", String(state === "on"));
    this.#button.disabled = state === "none";
    this.#button.dataset["state"] = state;
    const changed = state !== this.#state || why !== this.#why;
    this.#state = state;
    this.#why = why;
    if (changed) this.#changed.emit(state);
  }
}
