/** An output of ours in a notebook: its first line, and its views behind tabs; live where the run is. */

import type { ISessionContext } from "@jupyterlab/apputils";
import type { IRenderMime } from "@jupyterlab/rendermime-interfaces";
import type { KernelMessage } from "@jupyterlab/services";
import { type Message } from "@lumino/messaging";
import { Widget } from "@lumino/widgets";
import { element } from "../core/dom";
import { message, mount } from "../core/kinds";
import { unpack } from "../core/packed";
import { type Content, isLive, type View } from "../core/view";
import { Channel } from "./channel";
import { checkedPayload, isRecord, MIME, type Payload } from "./payload";
import type { IRuns } from "./runs";
import { words } from "./words";

interface Tab {
  readonly content: Content;
  readonly button: HTMLButtonElement;
  readonly place: HTMLElement;
  view: Promise<View> | null;
}

let numbered = 0;

export class Output extends Widget implements IRenderMime.IRenderer {
  readonly #runs: IRuns;
  readonly #live: () => boolean;
  readonly #summary = element("p", { class: "dsl-summary" });
  readonly #bar = element("div", { class: "dsl-tabs", role: "tablist" });
  readonly #places = element("div", { class: "dsl-places" });
  readonly #prefix = `dsl-output-${++numbered}`;
  #tabs: Tab[] = [];
  #selected = 0;
  #payload: Payload | null = null;
  #channel: Channel | null = null;
  #html = "";
  #session: ISessionContext | null = null;
  /** Whether a channel has said something: it knows more than what is saved. */
  #heard = false;

  constructor(runs: IRuns, live: () => boolean) {
    super();
    this.#runs = runs;
    this.#live = live;
    this.addClass("dsl-output");
    // Arrow keys are the tabs' and the outline's: JupyterLab would take them for folding cells.
    this.node.dataset["lmSuppressShortcuts"] = "true";
    this.#bar.addEventListener("keydown", (event) => this.#key(event));
    this.node.append(this.#summary, this.#bar, this.#places);
  }

  async renderModel(model: IRenderMime.IMimeModel): Promise<void> {
    const { data } = model;
    const payload = checkedPayload(data[MIME]);
    const plain = data["text/plain"];
    const html = data["text/html"];
    this.#html = asText(html);
    this.#summary.textContent = asText(plain).split("\n", 1)[0] ?? "";
    if (typeof payload === "string") {
      this.#clear();
      message(this.#places, payload);
      return;
    }
    const before = this.#payload;
    this.#payload = payload;
    if (!payload.live) {
      // The last word: what a channel has still to say is in it.
      this.#channel?.dispose();
      this.#channel = null;
      this.#heard = false;
    }
    if (before === null || before.run !== payload.run) this.#clear();
    await this.#take(payload);
    this.#connect();
    this.#tell();
  }

  override dispose(): void {
    if (this.isDisposed) return;
    this.#follow(null);
    this.#runs.remove(this);
    this.#clear();
    super.dispose();
  }

  protected override onAfterAttach(message: Message): void {
    super.onAfterAttach(message);
    this.#tell();
    this.#connect();
  }

  protected override onAfterDetach(message: Message): void {
    super.onAfterDetach(message);
    this.#runs.remove(this);
  }

  /** Show what the payload has: views that are as they were stay, with all that their reader did. */
  async #take(payload: Payload): Promise<void> {
    const kept = this.#tabs;
    const following = this.#heard;
    this.#tabs = payload.views.map((content, place) => {
      const old = kept[place];
      // A live view knows more than what was saved of it.
      const same =
        old?.content.kind === content.kind &&
        (old.content.packed === content.packed || (following && content.kind === "run"));
      if (same && old !== undefined) return old;
      this.#drop(old);
      return this.#tab(content, place);
    });
    for (const old of kept.slice(payload.views.length)) this.#drop(old);
    this.#bar.hidden = this.#tabs.length < 2;
    this.#bar.replaceChildren(...this.#tabs.map((tab) => tab.button));
    this.#places.replaceChildren(...this.#tabs.map((tab) => tab.place));
    if (this.#tabs.length > 0) await this.#select(Math.min(this.#selected, this.#tabs.length - 1));
  }

  #tab(content: Content, number: number): Tab {
    const id = `${this.#prefix}-${number}`;
    const button = element(
      "button",
      { type: "button", role: "tab", id: `${id}-tab`, "aria-controls": id },
      words.tab(content.kind, content.title),
    );
    button.addEventListener(
      "click",
      () => void this.#select(this.#tabs.findIndex((tab) => tab.button === button)),
    );
    const place = element("div", {
      class: "dsl-place",
      role: "tabpanel",
      id,
      "aria-labelledby": `${id}-tab`,
    });
    return { content, button, place, view: null };
  }

  async #select(number: number): Promise<void> {
    const tab = this.#tabs[number];
    if (tab === undefined) return;
    this.#selected = number;
    for (const one of this.#tabs) {
      one.button.setAttribute("aria-selected", String(one === tab));
      one.button.tabIndex = one === tab ? 0 : -1;
      one.place.hidden = one !== tab;
    }
    tab.view ??= mount(tab.place, tab.content);
    await tab.view;
  }

  #key(event: KeyboardEvent): void {
    const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
    if (step === 0) return;
    event.preventDefault();
    const next = (this.#selected + step + this.#tabs.length) % this.#tabs.length;
    void this.#select(next).then(() => this.#tabs[next]?.button.focus());
  }

  /** Follow the run where it goes on and the kernel is here. */
  #connect(): void {
    const payload = this.#payload;
    if (payload === null || !payload.live || !this.isAttached || this.#channel !== null || !this.#live())
      return;
    // A copy of an output stands outside of its notebook: it follows as the original does.
    this.#follow(sessionOf(this) ?? this.#runs.sessionOf(payload.run));
    const kernel = this.#session?.session?.kernel;
    if (kernel == null) return; // it may come later
    const place = this.#tabs.findIndex((tab) => tab.content.kind === "run");
    const tab = this.#tabs[place];
    if (tab === undefined) return;
    tab.view ??= mount(tab.place, tab.content);
    this.#heard = false;
    const channel = new Channel(kernel, payload.run, {
      news: async (packed, first) => {
        this.#heard = true;
        const table = await unpack(packed);
        let view = await tab.view;
        if (view === null || this.isDisposed) return;
        if (first) {
          // All from the beginning: what stood there was a part of it.
          view.dispose();
          tab.view = mount(tab.place, { ...tab.content, packed });
          view = await tab.view;
        } else if (isLive(view)) view.push(table);
        if (isLive(view)) view.control({ stop: () => void channel.stop() });
        if (first) this.#tell();
      },
      over: (ended) => {
        this.#channel = null;
        void tab.view?.then((view) => {
          if (isLive(view)) view.control(null);
        });
        if (ended && this.#payload !== null) this.#payload = { ...this.#payload, live: false };
        this.#tell();
      },
    });
    this.#channel = channel;
    this.#tell();
  }

  /** Connect when a kernel comes: a page that was just loaded has its outputs first. */
  #follow(session: ISessionContext | null): void {
    if (session === this.#session) return;
    this.#session?.kernelChanged.disconnect(this.#connect, this);
    this.#session?.iopubMessage.disconnect(this.#overhear, this);
    this.#session = session;
    session?.kernelChanged.connect(this.#connect, this);
    session?.iopubMessage.connect(this.#overhear, this);
  }

  /**
   * Take over what the kernel shows for this run where no channel says more. To a page that was loaded while a cell
   * runs JupyterLab gives no channel before the cell has ended, and no updates of outputs that it did not see begin.
   */
  #overhear(_: ISessionContext, message: KernelMessage.IMessage): void {
    if (message.header.msg_type !== "update_display_data" || this.#heard || this.#payload?.live !== true)
      return;
    const { data } = message.content as { data?: unknown };
    if (!isRecord(data)) return;
    const payload = checkedPayload(data[MIME]);
    if (typeof payload === "string" || payload.run !== this.#payload.run) return;
    this.#summary.textContent = asText(data["text/plain"]).split("\n", 1)[0] ?? "";
    this.#payload = payload;
    void this.#take(payload).then(async () => {
      const view = await this.#tabs.find((tab) => tab.content.kind === "run")?.view;
      if (view != null && isLive(view) && payload.live)
        view.control({ stop: () => void this.#channel?.stop() });
    });
    this.#tell();
  }

  #tell(): void {
    const payload = this.#payload;
    this.#summary.hidden = this.#heard && this.#channel !== null; // the view knows more than the line of when it was shown
    if (payload === null || !this.isAttached) return;
    this.#runs.put({
      widget: this,
      run: payload.run,
      summary: this.#summary.textContent ?? "",
      live: this.#channel !== null,
      views: payload.views,
      html: this.#html,
      session: this.#session,
      stop: () => void this.#channel?.stop(),
    });
  }

  #drop(tab: Tab | undefined): void {
    void tab?.view?.then((view) => view.dispose());
    tab?.place.remove();
  }

  #clear(): void {
    this.#channel?.dispose();
    this.#channel = null;
    for (const tab of this.#tabs) this.#drop(tab);
    this.#tabs = [];
    this.#bar.replaceChildren();
    this.#places.replaceChildren();
  }
}

function asText(value: unknown): string {
  return typeof value === "string" ? value : Array.isArray(value) ? value.join("") : "";
}

/** The session of the document that a widget stands in. */
function sessionOf(widget: Widget): ISessionContext | null {
  for (let at: Widget | null = widget; at !== null; at = at.parent) {
    if (hasSession(at)) return at.sessionContext;
  }
  return null;
}

function hasSession(widget: Widget): widget is Widget & { sessionContext: ISessionContext } {
  return "sessionContext" in widget && isRecord(widget.sessionContext);
}
