/** What every view is, whoever shows it: made for an element, gone when it is disposed of. */

import type { Table } from "./packed";

export interface View {
  dispose(): void;
}

/** What a kernel lets the reader of a live view do. */
export interface Controls {
  stop(): void;
  /** Wish for something else, as the kernel reads it; not there where it cannot be told. */
  ask?(wish: Wish): void;
}

/** What a reader may wish for beside the end of a run. */
export interface Wish {
  readonly do: "prune";
  readonly trial: number;
}

/** A view of something that may still be going on. */
export interface LiveView extends View {
  /** Take in what is new; `first` where the table holds all from the beginning, and what was known is forgotten. */
  push(table: Table, first: boolean): void;
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
  make(host: HTMLElement, table: Table, title: string): View | Promise<View>;
  /** How the view looks, beside what all share. */
  readonly style?: string;
}

/**
 * A place in the program of which a view speaks; what is not known is empty or 0.
 *
 * Views tell each other by an event of this name, with a `Place` as its detail: it is dispatched at the element of the
 * view in which something was chosen, bubbles, and others hear it at the root of the document.
 */
export interface Place {
  readonly file: string;
  readonly line: number;
  /** Module path with dots between its levels. */
  readonly module: string;
}

/** Whether a path of modules is a module's or of what is inside of it. */
export function isInside(path: string, module: string): boolean {
  return module !== "" && (path === module || path.startsWith(`${module}.`));
}

export const PLACE_EVENT = "dsl-place";

/** Tell other views of a place. */
export function tellPlace(from: Element, place: Place): void {
  from.dispatchEvent(new CustomEvent(PLACE_EVENT, { detail: place, bubbles: true, composed: true }));
}

/** Call back with every place of which another view than `own` tells; returns what ends that. */
export function onPlace(own: Element, told: (place: Place) => void): () => void {
  const root = own.getRootNode();
  const heard = (event: Event): void => {
    if (event.composedPath().includes(own)) return;
    const detail: unknown = event instanceof CustomEvent ? event.detail : null;
    if (typeof detail !== "object" || detail === null) return;
    const { file, line, module } = detail as Record<string, unknown>;
    told({
      file: typeof file === "string" ? file : "",
      line: typeof line === "number" && Number.isFinite(line) ? line : 0,
      module: typeof module === "string" ? module : "",
    });
  };
  root.addEventListener(PLACE_EVENT, heard);
  return () => root.removeEventListener(PLACE_EVENT, heard);
}
