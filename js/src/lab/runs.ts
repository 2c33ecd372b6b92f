/** What the plugins share: the outputs of ours that are in the page, and what is known of each. */

import type { ISessionContext } from "@jupyterlab/apputils";
import { Token } from "@lumino/coreutils";
import { type ISignal, Signal } from "@lumino/signaling";
import type { Widget } from "@lumino/widgets";
import type { Content } from "../core/view";

export interface Shown {
  /** The widget that draws the output. */
  readonly widget: Widget;
  readonly run: string;
  /** The output's first line. */
  readonly summary: string;
  readonly live: boolean;
  readonly views: readonly Content[];
  /** The static page, for those who take it away. */
  readonly html: string;
  /** Of the notebook that it stands in. */
  readonly session: ISessionContext | null;
  stop(): void;
  /** Take in the run as it stands: a packed table. */
  news(packed: string): void;
}

/** The outputs that are in the page. */
export interface IRuns {
  readonly changed: ISignal<IRuns, void>;
  /** Those inside of a widget, in the order in which they stand there. */
  inside(place: Widget | null): readonly Shown[];
  /** The session of a notebook in which a run is shown. */
  sessionOf(run: string): ISessionContext | null;
  /** Tell all outputs of a run how it stands. */
  tell(run: string, packed: string): void;
  put(shown: Shown): void;
  remove(widget: Widget): void;
}

export const IRuns = new Token<IRuns>(
  "deepseek-lab:IRuns",
  "The outputs of deepseek_lab that are shown, with what is known of their runs.",
);

export class Runs implements IRuns {
  readonly #shown = new Map<Widget, Shown>();
  readonly #changed = new Signal<IRuns, void>(this);

  get changed(): ISignal<IRuns, void> {
    return this.#changed;
  }

  inside(place: Widget | null): readonly Shown[] {
    if (place === null) return [];
    return [...this.#shown.values()]
      .filter(({ widget }) => place.node.contains(widget.node))
      .sort((one, other) =>
        one.widget.node.compareDocumentPosition(other.widget.node) & Node.DOCUMENT_POSITION_FOLLOWING
          ? -1
          : 1,
      );
  }

  sessionOf(run: string): ISessionContext | null {
    for (const shown of this.#shown.values())
      if (shown.run === run && shown.session !== null) return shown.session;
    return null;
  }

  tell(run: string, packed: string): void {
    for (const shown of this.#shown.values()) if (shown.run === run) shown.news(packed);
  }

  put(shown: Shown): void {
    this.#shown.set(shown.widget, shown);
    this.#changed.emit();
  }

  remove(widget: Widget): void {
    if (this.#shown.delete(widget)) this.#changed.emit();
  }
}
