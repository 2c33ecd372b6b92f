/**
 * A recording of memory as `views/_timeline_rows.py` packs it: what every event did, and what is there after it.
 *
 * State 0 is before the first event, state `n` after `n` of them.
 */

import { clip } from "../clip";
import { MalformedData, type Table } from "../packed";
import { Extremes } from "./extremes";

/** Instead of where a row ends: it is itself the end of another row, or of what was there before the recording. */
const END = -1;
const UNSEEN_END = -2;
const MAX_CONTEXTS = 1_000_000;

/** What an event was about. */
export interface Context {
  readonly category: string;
  readonly module: string;
  readonly operator: string;
  readonly file: string;
  readonly line: number;
}

/** Blocks of one context. */
export interface Alive {
  readonly context: number;
  readonly bytes: number;
  readonly blocks: number;
}

/** What happened between two times. */
export interface Range {
  readonly allocated: number;
  readonly freed: number;
  readonly events: number;
  /** The state in which memory held most. */
  readonly peak: number;
}

export class TimelineData {
  readonly rows: number;
  /** Seconds from the first event; never goes backwards. */
  readonly at: Float64Array;
  /** Bytes that the row adds, negative where it frees. */
  readonly delta: Float64Array;
  /** The context of what happened, and that of the block, which differ where a block is freed. */
  readonly context: Uint32Array;
  readonly charged: Uint32Array;
  readonly contexts: readonly Context[];
  /** Bytes in each state. */
  readonly totals: Float64Array;
  readonly extremes: Extremes;
  readonly peak: number;
  readonly end: number;
  readonly outOfMemoryAt: number | null;
  readonly device: string;
  /** Events before folding. */
  readonly events: number;
  readonly folded: boolean;
  /** For an allocation the row that frees it, or the number of rows. */
  readonly #until: Int32Array;
  readonly #count: Float64Array | null;
  /** What was allocated, and how many events there were, up to each state. */
  readonly #allocated: Float64Array;
  readonly #happened: Float64Array | null;

  constructor(table: Table) {
    const { rows, meta } = table;
    this.rows = rows;
    this.folded = meta.get("folded") === true;
    this.device = textOf(meta.get("device"));
    this.contexts = contextsOf(meta.get("words"), meta.get("contexts"));
    const tick = numberOf(meta.get("tick_s"));
    if (!(tick > 0) || !Number.isFinite(tick)) throw new MalformedData("the timeline has no unit of time");
    const at = table.integers("at");
    const first = Math.min(0, at[0] ?? 0); // 0 is the first event, of which a folded timeline may have no row
    let last = first;
    for (let row = 0; row < rows; row++) {
      last = Math.max(last, at[row] as number);
      at[row] = (last - first) * tick;
    }
    if (!Number.isFinite(at[rows - 1] ?? 0)) throw new MalformedData("the timeline ends at no time");
    this.at = at;
    this.context = codesOf(table.integers("context"), this.contexts.length);
    this.charged = this.context.slice();
    this.delta = table.integers("bytes");
    this.#until = new Int32Array(rows).fill(rows);
    const base = this.#pair(table);
    this.#count = this.folded ? counted(table, "count") : null;
    this.totals = this.#sum(base);
    this.extremes = new Extremes(this.totals);
    this.peak = this.extremes.largest(0, rows + 1);
    const churn = this.folded ? counted(table, "churn_bytes") : null;
    this.#allocated = running(rows, (row) => Math.max(0, this.delta[row] as number) + (churn?.[row] ?? 0));
    const passed = this.folded ? counted(table, "churn_events") : null;
    const counts = this.#count;
    this.#happened =
      passed === null ? null : running(rows, (row) => (counts?.[row] ?? 1) + (passed[row] as number));
    const events = numberOf(meta.get("events"));
    this.events = events >= 0 ? events : rows;
    const ended = meta.get("out_of_memory_at");
    this.outOfMemoryAt =
      typeof ended === "number" && ended >= 0 && ended < 2 ** 53 && Number.isFinite(ended * tick)
        ? ended * tick
        : null;
    this.end = Math.max(at[rows - 1] ?? 0, this.outOfMemoryAt ?? 0, 1e-6);
  }

  /** The state at a time: after everything that happened until then. */
  stateAt(time: number): number {
    return this.#search((at) => at <= time);
  }

  /** The state just before a time. */
  stateBefore(time: number): number {
    return this.#search((at) => at < time);
  }

  timeOf(state: number): number {
    return state === 0 ? 0 : (this.at[state - 1] ?? 0);
  }

  /** What the event that led to a state was about; null for the start. */
  leading(state: number): Context | null {
    return state === 0 ? null : (this.contexts[this.context[state - 1] ?? 0] ?? null);
  }

  /** Whether a row frees what was there before the recording. */
  isUnseen(row: number): boolean {
    return this.#until[row] === UNSEEN_END;
  }

  /** What the blocks of every context had together that were seen to be allocated or freed. */
  allocatedByContext(): Float64Array {
    const bytes = new Float64Array(this.contexts.length);
    for (let row = 0; row < this.rows; row++) {
      if (this.#until[row] === END) continue;
      const context = this.context[row] as number;
      bytes[context] = (bytes[context] as number) + Math.abs(this.delta[row] as number);
    }
    return bytes;
  }

  /** What is there in a state, largest first. */
  alive(state: number): Alive[] {
    const bytes = new Float64Array(this.contexts.length);
    const blocks = new Float64Array(this.contexts.length);
    for (let row = 0; row < this.rows; row++) {
      const until = this.#until[row] as number;
      if (row < state ? until < state : until !== UNSEEN_END) continue;
      const context = this.context[row] as number;
      bytes[context] = (bytes[context] as number) + Math.abs(this.delta[row] as number);
      blocks[context] = (blocks[context] as number) + (this.#count?.[row] ?? 1);
    }
    const found: Alive[] = [];
    for (let context = 0; context < bytes.length; context++) {
      if (blocks[context] === 0) continue;
      found.push({ context, bytes: bytes[context] as number, blocks: blocks[context] as number });
    }
    return found.sort((a, b) => b.bytes - a.bytes);
  }

  /** What happened after `from` and until `to`, both states. */
  range(from: number, to: number): Range {
    const allocated = (this.#allocated[to] as number) - (this.#allocated[from] as number);
    const grown = (this.totals[to] as number) - (this.totals[from] as number);
    const happened = this.#happened;
    return {
      allocated,
      freed: allocated - grown,
      events: happened === null ? to - from : (happened[to] as number) - (happened[from] as number),
      peak: this.extremes.largest(from, to + 1),
    };
  }

  /** How many events lie before the first whose time fails. */
  #search(holds: (at: number) => boolean): number {
    let [low, high] = [0, this.rows];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (holds(this.at[middle] as number)) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Find out which row ends which, and what was there from the start. */
  #pair(table: Table): number {
    const { starts, values } = table.references("frees");
    const { delta, charged } = this;
    let base = 0;
    for (let row = 0; row < this.rows; row++) {
      const first = starts[row] as number;
      const freed = (starts[row + 1] as number) - first;
      if (freed === 0) {
        if ((delta[row] as number) >= 0) continue;
        base -= delta[row] as number;
        this.#until[row] = UNSEEN_END;
        continue;
      }
      const start = values[first] as number;
      if (freed > 1 || start >= row || this.#until[start] !== this.rows) {
        throw new MalformedData(`event ${row} frees what is not there`);
      }
      this.#until[start] = row;
      this.#until[row] = END;
      charged[row] = charged[start] as number;
      delta[row] = -(delta[start] as number);
    }
    return base;
  }

  #sum(base: number): Float64Array {
    const { delta, at, folded, rows } = this;
    const totals = new Float64Array(rows + 1);
    let total = (totals[0] = base);
    let shown = base;
    for (let row = 0; row < rows; row++) {
      total += delta[row] as number;
      // Rows of one instant of a folded timeline are in no order: only what they lead to was ever there.
      if (!(folded && at[row] === at[row + 1])) shown = total;
      totals[row + 1] = shown;
    }
    return totals;
  }
}

/** Sums of a number of every row, from none to all. */
function running(rows: number, value: (row: number) => number): Float64Array {
  const sums = new Float64Array(rows + 1);
  for (let row = 0; row < rows; row++) sums[row + 1] = (sums[row] as number) + value(row);
  return sums;
}

function counted(table: Table, name: string): Float64Array {
  const values = table.integers(name);
  if (values.some((value) => value < 0)) throw new MalformedData(`column ${name} counts less than nothing`);
  return values;
}

function codesOf(values: Float64Array, count: number): Uint32Array {
  const codes = new Uint32Array(values.length);
  for (let row = 0; row < codes.length; row++) {
    const code = values[row] as number;
    if (!(code >= 0 && code < count)) throw new MalformedData(`event ${row} has no context`);
    codes[row] = code;
  }
  return codes;
}

function contextsOf(words: unknown, columns: unknown): Context[] {
  const named = (typeof columns === "object" && columns !== null ? columns : {}) as Record<string, unknown>;
  const lists = ["category", "module", "operator", "file", "line"].map((name) => named[name]);
  const count = Array.isArray(lists[0]) ? lists[0].length : -1;
  if (
    !Array.isArray(words) ||
    count > MAX_CONTEXTS ||
    !lists.every((list): list is unknown[] => Array.isArray(list) && list.length === count)
  ) {
    throw new MalformedData("the timeline does not say what its events are about");
  }
  const [category, module, operator, file, line] = lists as [
    unknown[],
    unknown[],
    unknown[],
    unknown[],
    unknown[],
  ];
  const known = (words as unknown[]).map(textOf); // once: a word may be long, and contexts are many
  const word = (code: unknown): string => known[typeof code === "number" ? code : -1] ?? "";
  return category.map((code, row) => ({
    category: word(code),
    module: word(module[row]),
    operator: word(operator[row]),
    file: word(file[row]),
    line: Math.max(0, Math.trunc(numberOf(line[row]))) || 0,
  }));
}

function textOf(value: unknown): string {
  return typeof value === "string" ? clip(value) : "";
}

function numberOf(value: unknown): number {
  return typeof value === "number" ? value : NaN;
}
