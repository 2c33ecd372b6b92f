/** What every view is, whoever shows it: made for an element, gone when it is disposed of. */

import type { Table } from "./packed";

export interface View {
  dispose(): void;
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
