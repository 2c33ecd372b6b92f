/** An output of ours in a notebook: its first line, and its views behind tabs; live where the run is. */

import type { ISessionContext } from "@jupyterlab/apputils";
import type { IRenderMime } from "@jupyterlab/rendermime-interfaces";
import type { KernelMessage } from "@jupyterlab/services";
import { type Message } from "@lumino/messaging";
import { Widget } from "@lumino/widgets";
import { element } from "../core/dom";
import { message } from "../core/kinds";
import { asText, checkedPayload, firstLine, isRecord, MIME, type Payload } from "../core/payload";
import { isLiveKind, Tabs } from "../core/tabs";
import type { Controls, Wish } from "../core/view";
import { words } from "../core/words";
import { VERSION } from "../protocol";
import { Channel } from "./channel";
import type { IRuns } from "./runs";

export class Output extends Widget implements IRenderMime.IRenderer {
  readonly #runs: IRuns;
  readonly #live: () => boolean;
  readonly #summary = element("p", { class: "dsl-summary" });
  readonly #tabs = new Tabs();
  readonly #refusal = element("div", {});
  readonly #note = element("p", { class: "dsl-note", role: "status", hidden: true });
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
    this.node.append(this.#summary, this.#note, this.#refusal, this.#tabs.element);
  }

  async renderModel(model: IRenderMime.IMimeModel): Promise<void> {
    const { data } = model;
    const payload = checkedPayload(data[MIME]);
    this.#html = asText(data["text/html"]);
    this.#summary.textContent = firstLine(data["text/plain"]);
    if (typeof payload === "string") {
      this.#clear();
      message(this.#refusal, payload);
      return;
    }
    // A saved output of another version is shown as well as can be; a live one comes from a kernel beside this page.
    const differs = payload.live && payload.version !== VERSION;
    this.#say(differs ? words.versions(payload.version, VERSION) : "");
    const before = this.#payload;
    this.#payload = payload;
    if (!payload.live) {
      // The last word: what a channel has still to say is in it.
      this.#channel?.dispose();
      this.#channel = null;
      this.#heard = false;
    }
    if (before === null || before.run !== payload.run) this.#clear();
    await this.#tabs.take(payload.views, { keepLive: this.#heard });
    this.#connect();
    this.#tell();
  }

  override dispose(): void {
    if (this.isDisposed) return;
    this.#follow(null);
    this.#runs.remove(this);
    this.#clear();
    this.#tabs.dispose();
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

  /** Follow the run where it goes on and the kernel is here. */
  #connect(): void {
    const payload = this.#payload;
    if (payload === null || !payload.live || !this.isAttached || this.#channel !== null || !this.#live())
      return;
    // A copy of an output stands outside of its notebook: it follows as the original does.
    this.#follow(sessionOf(this) ?? this.#runs.sessionOf(payload.run));
    const kernel = this.#session?.session?.kernel;
    if (kernel == null) return; // it may come later
    if (!payload.views.some(({ kind }) => isLiveKind(kind))) return;
    this.#heard = false;
    const channel = new Channel(kernel, payload.run, {
      news: async (packed, first) => {
        this.#heard = true;
        await this.#tabs.news(packed, first, this.#controls);
        if (first) this.#tell();
      },
      over: (ended) => {
        this.#channel = null;
        void this.#tabs.live().then((view) => view?.control(null));
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
    this.#summary.textContent = firstLine(data["text/plain"]);
    this.#payload = payload;
    void this.#tabs.take(payload.views, { keepLive: false }).then(async () => {
      if (payload.live) (await this.#tabs.live())?.control(this.#controls);
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
      stop: () => void this.#stop(),
      news: (packed) => this.#hear(packed),
    });
  }

  #say(note: string): void {
    this.#note.textContent = note;
    this.#note.hidden = note === "";
  }

  readonly #controls: Controls = {
    stop: () => void this.#stop(),
    ask: (wish) => void this.#ask(wish),
  };

  async #ask(wish: Wish): Promise<void> {
    const heard = await this.#channel?.ask(wish);
    if (heard !== true) this.#say(words.unheard);
  }

  async #stop(): Promise<void> {
    const heard = await this.#channel?.stop(this.#payload?.inCell === true);
    if (heard === false) this.#say(words.later);
  }

  /** How the run stands, where no channel says more. */
  #hear(packed: string): void {
    if (this.#heard || this.#payload?.live !== true) return;
    void this.#tabs.news(packed, true, this.#controls).catch(() => undefined);
  }

  #clear(): void {
    this.#channel?.dispose();
    this.#channel = null;
    this.#tabs.clear();
    this.#refusal.replaceChildren();
  }
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
