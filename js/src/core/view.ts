/** What every view is, whoever shows it: made for an element, gone when it is disposed of. */

import type { Table } from "./packed";

export interface View {
  dispose(): void;
}

/** What a kernel lets the reader of a live view do. */
export interface Controls {
  stop(): void;
}

/** A view of something that may still be going on. */
export interface LiveView extends View {
  /** Take in what is new. */
  push(table: Table): void;
  /** What a kernel offers now; null where there is none any more. */
  control(controls: Controls | null): void;
}

export function isLive(view: View): view is LiveView {
  return "push" in view && "control" in view;
}

/** A view as it travels and as notebooks keep it. */
export interface Content {
  /** Which view it is: a name that `kinds.ts` registers. */
  readonly kind: string;
  readonly title: string;
  /** A packed table, see `packed.ts`. */
  readonly packed: string;
}

/** What shows tables of one kind. */
export interface Kind {
  /** Throws `MalformedData` where the table is not what the view needs. */
  make(host: HTMLElement, table: Table, title: string): View;
  /** How the view looks, beside what all share. */
  readonly style?: string;
}
