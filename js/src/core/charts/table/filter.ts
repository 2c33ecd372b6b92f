/** The filter box: words that must occur in a row's text, and comparisons such as `loss<0.5`. */

import { type Column, isMissing } from "../columns";
import { words } from "../words";

type Test = (row: number) => boolean;

export interface Filter {
  readonly rows: Uint32Array;
  /** What cannot be done, in words; that part of the filter is then left out. */
  readonly problem: string;
}

const OPERATORS = ["<=", ">=", "!=", "<", ">", "="] as const;
type Operator = (typeof OPERATORS)[number];

export interface Comparison {
  readonly column: string;
  readonly operator: Operator;
  readonly value: string;
}

const QUOTED = /"([^"]*)"?/y;
const BARE = /[^\s"<>=!]+/y;
const OPERATOR = /\s*(<=|>=|!=|<|>|=)\s*/y;
const VALUE = /[^\s"]+/y;
const MAX_TERMS = 32;

/** The terms of a filter: comparisons, and words in lower case. `"two words"<3` and `two words` in quotes hold together. */
export function parse(text: string): (Comparison | string)[] {
  const terms: (Comparison | string)[] = [];
  let at = 0;
  const take = (pattern: RegExp): string | undefined => {
    pattern.lastIndex = at;
    const found = pattern.exec(text);
    if (found === null) return undefined;
    at = pattern.lastIndex;
    return found[1] ?? found[0];
  };
  while (at < text.length && terms.length < MAX_TERMS) {
    const name = take(QUOTED) ?? take(BARE);
    if (name === undefined) {
      at++;
      continue;
    }
    const sign = take(OPERATOR);
    const operator = OPERATORS.find((one) => one === sign);
    if (operator === undefined) terms.push(name.toLowerCase());
    else terms.push({ column: name, operator, value: take(QUOTED) ?? take(VALUE) ?? "" });
  }
  return terms.filter((term) => term !== "");
}

/** The rows, in their order, for which the filter holds. */
export function filtered(text: string, columns: readonly Column[], count: number): Filter {
  const tests: Test[] = [];
  let problem = "";
  for (const term of parse(text)) {
    const column = typeof term === "string" ? undefined : named(term.column, columns);
    if (typeof term !== "string" && term.value === "" && column !== undefined) continue; // still being typed
    if (typeof term === "string") tests.push(occurs(term, columns));
    else if (column === undefined) {
      tests.push(occurs(`${term.column}${term.operator}${term.value}`.toLowerCase(), columns));
    } else {
      const test = compares(column, term);
      if (test === undefined) problem = words.notNumber(column.name);
      else tests.push(test);
    }
  }
  const rows = new Uint32Array(count);
  let kept = 0;
  for (let row = 0; row < count; row++) {
    if (tests.every((test) => test(row))) rows[kept++] = row;
  }
  return { rows: rows.subarray(0, kept), problem };
}

/** The column of a name, else the one of that name in other letters. */
function named(name: string, columns: readonly Column[]): Column | undefined {
  const small = name.toLowerCase();
  return columns.find((one) => one.name === name) ?? columns.find((one) => one.name.toLowerCase() === small);
}

/** Whether a word occurs in any column of text. Each word of a column is looked at once, not each row. */
function occurs(wanted: string, columns: readonly Column[]): Test {
  const hits = columns
    .filter((column) => column.kind === "text")
    .map(
      (column) => [column.codes, column.words.map((word) => word.toLowerCase().includes(wanted))] as const,
    );
  return (row) => hits.some(([codes, holds]) => holds[codes[row] ?? 0] === true);
}

function compares(column: Column, { operator, value }: Comparison): Test | undefined {
  const equality = operator === "=" || operator === "!=";
  if (equality && ["missing", "nan"].includes(value.toLowerCase())) {
    return (row) => isMissing(column, row) === (operator === "=");
  }
  if (column.kind === "number") {
    const wanted = Number(value.replace("−", "-").replace(/^([+-]?)(inf|infinity|∞)$/i, "$1Infinity"));
    if (Number.isNaN(wanted)) return undefined;
    const { values } = column;
    // Stored in single precision, 0.1 is another number than the 0.1 that was typed.
    const bound = values instanceof Float32Array ? Math.fround(wanted) : wanted;
    return (row) => holds(values[row] ?? NaN, operator, bound);
  }
  const wanted = value.toLowerCase();
  const found = column.words.map((word) => word !== "" && holds(word.toLowerCase(), operator, wanted));
  return (row) => found[column.codes[row] ?? 0] === true;
}

/** NaN and what is missing compare with nothing, not even as different. */
function holds<Value extends number | string>(left: Value, operator: Operator, right: Value): boolean {
  switch (operator) {
    case "<":
      return left < right;
    case "<=":
      return left <= right;
    case ">":
      return left > right;
    case ">=":
      return left >= right;
    case "=":
      return left === right;
    case "!=":
      return left < right || left > right;
  }
}
