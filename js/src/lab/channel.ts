/** The way between a page and the kernel: the page opens it, so that a page that was loaded again finds its run. */

import type { Kernel, KernelMessage } from "@jupyterlab/services";
import { type ISignal, Signal } from "@lumino/signaling";
import { isRecord } from "../core/payload";
import type { Wish } from "../core/view";

export const TARGET = "deepseek_lab";
/** How long a kernel may take to set up a way beside its main thread. */
const SUBSHELL_MS = 1500;
/** How long a kernel may take to answer a wish to stop before it is interrupted. */
const STOP_MS = 1000;
/** How long an idle kernel may take to answer a question. */
const ANSWER_MS = 4000;

export interface Hearer {
  /** A packed table; `first` where it holds all from the beginning. */
  news(packed: string, first: boolean): Promise<void>;
  /** Nothing more comes; `ended` where the kernel said so, else the kernel does not know the run or is gone. */
  over(ended: boolean): void;
}

/** Open a comm that, where both sides can, is served beside the main thread. */
async function opened(
  kernel: Kernel.IKernelConnection,
  data: Record<string, string>,
  heard: (data: Record<string, unknown>) => void,
  closed: () => void,
): Promise<Kernel.IComm> {
  const comm = kernel.createComm(TARGET);
  comm.onMsg = (message: KernelMessage.ICommMsgMsg): void => {
    const content: unknown = message.content.data;
    if (isRecord(content)) heard(content);
  };
  comm.onClose = closed;
  // Since JupyterLab 4.4; before, everything waits for the main thread.
  const { subshellStarted } = comm as { subshellStarted?: Promise<void> };
  const wanted = (kernel as { commsOverSubshells?: string }).commsOverSubshells !== "disabled";
  if (subshellStarted !== undefined && kernel.supportsSubshells && wanted) {
    await Promise.race([subshellStarted.catch(() => undefined), pause(SUBSHELL_MS)]);
  }
  comm.open(data);
  return comm;
}

/** One run that a page follows. */
export class Channel {
  readonly #kernel: Kernel.IKernelConnection;
  readonly #hearer: Hearer;
  #comm: Kernel.IComm | null = null;
  #heard = 0;
  #over = false;
  #stopAnswered = false;
  #answered = false;
  #wished = false;
  #taking: Promise<void> = Promise.resolve();

  constructor(kernel: Kernel.IKernelConnection, run: string, hearer: Hearer) {
    this.#kernel = kernel;
    this.#hearer = hearer;
    kernel.statusChanged.connect(this.#status);
    void opened(kernel, { run }, this.#message, () => this.#queueEnd())
      .then((comm) => {
        this.#comm = comm;
        if (this.#over) comm.close();
        else if (this.#wished) comm.send({ do: "stop" });
      })
      .catch(() => this.#end(false));
  }

  get kernel(): Kernel.IKernelConnection {
    return this.#kernel;
  }

  /**
   * Ask the run to stop. A kernel that does not answer serves nothing while a cell is busy: where the run is that cell's
   * own loop it is interrupted; where the run goes on behind other cells it hears the wish after the cell.
   *
   * What a page believes of the kernel's state says less than whether it answers: a second view of an output, or a page
   * that was loaded meanwhile, takes a busy kernel for an idle one. An idle one is not harmed.
   *
   * @returns Whether the run has heard, or will have ended.
   */
  async stop(inCell: boolean): Promise<boolean> {
    this.#stopAnswered = false;
    this.#wished = true; // told as soon as there is a way
    this.#comm?.send({ do: "stop" });
    await pause(STOP_MS);
    if (this.#stopAnswered || this.#over) return true;
    if (!inCell || ["dead", "terminating"].includes(this.#kernel.status)) return false;
    await this.#kernel.interrupt();
    return true;
  }

  /** Tell the run a wish; returns whether the kernel has answered, which it does at once where it hears. */
  async ask(wish: Wish): Promise<boolean> {
    if (this.#comm === null || this.#comm.isDisposed) return false;
    this.#answered = false;
    this.#comm.send({ ...wish });
    await pause(STOP_MS);
    return this.#answered;
  }

  dispose(): void {
    if (this.#over) return;
    this.#over = true;
    this.#kernel.statusChanged.disconnect(this.#status);
    if (this.#comm !== null && !this.#comm.isDisposed) this.#comm.close();
  }

  readonly #status = (_: unknown, status: Kernel.Status): void => {
    if (["restarting", "autorestarting", "terminating", "dead"].includes(status)) this.#end(false);
  };

  readonly #message = (data: Record<string, unknown>): void => {
    const { number, first, packed, gone, state } = data;
    if (gone === true) {
      this.#end(false);
      return;
    }
    if (typeof packed !== "string" || typeof number !== "number") return;
    this.#heard = number;
    this.#answered = true;
    if (state !== "live") this.#stopAnswered = true;
    // One after the other: unpacking takes turns, and order is what a fold needs.
    this.#taking = this.#taking
      .then(() => this.#hearer.news(packed, first === true))
      .catch(() => undefined)
      .then(() => {
        // Every second time: each answer costs the kernel's threads more than what it answers.
        if (number % 2 === 1 && this.#comm !== null && !this.#comm.isDisposed && !this.#over)
          this.#comm.send({ seen: number });
      });
  };

  #queueEnd(): void {
    this.#taking = this.#taking.then(() => this.#end(this.#heard > 0));
  }

  #end(ended: boolean): void {
    if (this.#over) return;
    this.#over = true;
    this.#kernel.statusChanged.disconnect(this.#status);
    this.#hearer.over(ended);
  }
}

/** A run as it stands, told to a page that has no channel for it. */
export interface News {
  readonly run: string;
  readonly packed: string;
}

export type LinkState = "on" | "off" | "absent" | "busy";

/**
 * What the kernel says of itself: whether our extension is loaded, and whether every cell is optimised.
 *
 * One comm a kernel, kept open: the kernel tells of changes by itself, and the way beside the main thread, which
 * JupyterLab keeps for as long as somebody uses it, stays.
 */
export class Link {
  readonly #kernel: Kernel.IKernelConnection;
  readonly #changed = new Signal<Link, void>(this);
  readonly #news = new Signal<Link, News>(this);
  #state: LinkState = "busy";
  #error = "";
  #comm: Kernel.IComm | null = null;
  #opening = false;
  #disposed = false;
  #patienceMs = ANSWER_MS / 2;
  /** Cells that have ended, as one may have loaded the extension while the question was on its way. */
  #ended = 0;

  constructor(kernel: Kernel.IKernelConnection) {
    this.#kernel = kernel;
    kernel.iopubMessage.connect(this.#message, this);
    void this.#open();
  }

  get state(): LinkState {
    return this.#state;
  }

  /** What went wrong with the last wish, in the kernel's words. */
  get error(): string {
    return this.#error;
  }

  get changed(): ISignal<Link, void> {
    return this.#changed;
  }

  /** What the kernel tells of runs while it serves no channels: a cell is busy, and there is no way beside it. */
  get news(): ISignal<Link, News> {
    return this.#news;
  }

  /** Wish that every cell be optimised, or that none be; the kernel's answer becomes the state. */
  turn(on: boolean): void {
    this.#comm?.send({ ask: on ? "on" : "off" });
  }

  dispose(): void {
    this.#disposed = true;
    this.#kernel.iopubMessage.disconnect(this.#message, this);
    if (this.#comm !== null && !this.#comm.isDisposed) this.#comm.close();
    this.#comm = null;
  }

  /** Try again when a cell has ended that may have loaded the extension. */
  #message(_: Kernel.IKernelConnection, message: KernelMessage.IIOPubMessage): void {
    const { header, parent_header: parent, content } = message;
    if (header.msg_type !== "status" || !("msg_type" in parent) || parent.msg_type !== "execute_request")
      return;
    if ((content as { execution_state?: string }).execution_state !== "idle") return;
    this.#ended++;
    if (this.#state === "absent") void this.#open();
  }

  async #open(): Promise<void> {
    if (this.#opening || this.#disposed || this.#comm !== null) return;
    this.#opening = true;
    const ended = this.#ended;
    let answered = false;
    try {
      const comm = await opened(
        this.#kernel,
        { ask: "state" },
        ({ state, error, run, packed }) => {
          answered = true;
          if (typeof run === "string" && typeof packed === "string") {
            this.#news.emit({ run, packed });
            return;
          }
          this.#error = typeof error === "string" ? error : "";
          if (state === "on" || state === "off") this.#set(state);
        },
        () => {
          answered = true;
          this.#comm = null;
          this.#set("absent");
          if (this.#ended > ended) void this.#open();
        },
      );
      if (answered && this.#state === "absent") return; // refused at once
      this.#comm = comm;
      this.#patienceMs *= 2;
      void pause(this.#patienceMs).then(() => {
        // A kernel drops what comes by a way that was taken down meanwhile; one that is busy answers later.
        if (answered || this.#disposed || this.#comm !== comm) return;
        comm.dispose();
        this.#comm = null;
        void this.#open();
      });
    } catch {
      this.#set("absent");
    } finally {
      this.#opening = false;
      if (this.#state === "absent" && this.#ended > ended) void this.#open();
    }
  }

  #set(state: LinkState): void {
    this.#state = state;
    this.#changed.emit();
  }
}

function pause(milliseconds: number): Promise<void> {
  return new Promise((done) => setTimeout(done, milliseconds));
}
