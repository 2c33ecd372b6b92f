/** What is known of one item, as a list of facts with links to the items around it. */

import { button, element } from "../dom";
import { bytesInWords, quantity } from "../quantities";
import type { Pairing } from "./after";
import { type GraphData, MARKS, wordAt } from "./data";
import { byItem } from "./overlays";
import type { Tree } from "./tree";
import { words } from "./words";

const MAX_LINKS = 12;

type Fact = readonly [string, Node | string];

/** The item of which details are shown, and how to go to another. */
export interface Chosen {
  readonly sides: readonly Tree[];
  readonly pairing: Pairing | null;
  readonly side: number;
  readonly item: number;
  go(side: number, item: number): void;
}

/** The facts of an item under its name. */
export function detail(chosen: Chosen): Node[] {
  const tree = chosen.sides[chosen.side] as Tree;
  const { data } = tree;
  const { item } = chosen;
  const row = tree.row[item] ?? -1;
  const stopped = data.breakAt(row);
  let heading = tree.label[item] ?? "";
  let facts: Fact[];
  if (stopped !== null) {
    heading = words.breakSaid;
    facts = breakFacts(chosen, tree, row, stopped.reason);
  } else if (row >= 0) {
    heading = `${data.op(row)}  ${data.name(row)}`;
    facts = operationFacts(chosen, tree, row);
  } else facts = groupFacts(chosen, tree);
  const list = element("dl", {});
  for (const [name, value] of facts) {
    if (value !== "") list.append(element("div", {}, element("dt", {}, name), element("dd", {}, value)));
  }
  return [element("strong", {}, heading), list];
}

function breakFacts(chosen: Chosen, tree: Tree, row: number, reason: string): Fact[] {
  const before = links(chosen, chosen.side, itemsOf(tree, [...tree.data.inputsOf(row)]));
  return [
    [words.reason, reason],
    [words.cell, tree.data.place(row)],
    [words.lastBefore, before === "" ? words.none : before],
  ];
}

function operationFacts(chosen: Chosen, tree: Tree, row: number): Fact[] {
  const { data } = tree;
  const { item, side } = chosen;
  const bytes = data.bytes(row);
  const weights = tree.parameters.get(item) ?? [];
  const linked = (rows: readonly number[]): Node | string => {
    const others = itemsOf(tree, rows).filter((one) => one !== item);
    return others.length === 0 ? words.none : links(chosen, side, others);
  };
  return [
    [words.result, `${data.dtype(row)}[${data.shape(row)}]${bytes > 0 ? `, ${bytesInWords(bytes)}` : ""}`],
    ...measured(data, row),
    [words.module, data.module(row)],
    [words.cell, data.place(row)],
    ...(data.hasMarks ? [[words.byMark, words.marks[data.mark(row)]] as const] : []),
    ...across(chosen),
    [words.weights, weights.map((one) => `${data.name(one)} [${data.shape(one)}]`).join(", ")],
    [words.reads, linked([...data.inputsOf(row)])],
    [words.readBy, linked(readers(data, row))],
  ];
}

function groupFacts(chosen: Chosen, tree: Tree): Fact[] {
  const { item } = chosen;
  const copies = tree.repeat[item] ?? 1;
  const facts: Fact[] = [
    [words.holds, words.operations(tree.size[item] ?? 0)],
    [words.repeats, copies > 1 ? words.copies(copies) : ""],
  ];
  for (const overlay of tree.data.overlays) {
    if (overlay.kind !== "number") continue;
    const label = overlay.sum ? words.inAll(overlay.label) : words.atMost(overlay.label);
    facts.push([label, quantity(byItem(tree, overlay)[item] ?? NaN, overlay.unit)]);
  }
  if (tree.data.hasMarks) {
    const counts = new Map<string, number>();
    for (const row of tree.rowsOf(item)) {
      const mark = tree.data.mark(row);
      counts.set(mark, (counts.get(mark) ?? 0) + 1);
    }
    const said = MARKS.filter((mark) => counts.has(mark)).map(
      (mark) => `${counts.get(mark) ?? 0} ${words.shortMarks[mark]}`,
    );
    facts.push([words.byMark, said.length === 0 ? words.marks[""] : said.join(", ")]);
  }
  return [...facts, ...across(chosen)];
}

/** What was measured of an operation. */
function measured(data: GraphData, row: number): Fact[] {
  return data.overlays.map((overlay) => [
    overlay.label,
    overlay.kind === "number"
      ? quantity(overlay.values[row] ?? NaN, overlay.unit)
      : wordAt(overlay.column, row),
  ]);
}

/** Links to what an item is on the other side. */
function across(chosen: Chosen): Fact[] {
  const { pairing, sides, side, item } = chosen;
  if (pairing === null) return [];
  const group = sides[side]?.isGroup(item);
  const label = group ? words.beside : side === 0 ? words.runsAs : words.standsFor;
  return [[label, links(chosen, 1 - side, pairing.across(side, item))]];
}

function itemsOf(tree: Tree, rows: readonly number[]): number[] {
  return [...new Set(rows.map((row) => tree.itemOf[row] ?? -1))].filter((item) => item > 0);
}

function readers(data: GraphData, row: number): number[] {
  const found: number[] = [];
  for (let other = 0; other < data.rows; other++) {
    for (const input of data.inputsOf(other)) if (input === row) found.push(other);
  }
  return found;
}

function links(chosen: Chosen, side: number, items: readonly number[]): Node | string {
  if (items.length === 0) return "";
  const tree = chosen.sides[side];
  const made = element("span", { class: "dsl-links" });
  for (const item of items.slice(0, MAX_LINKS)) {
    const label = tree?.label[item] ?? "";
    made.append(button(label, label, () => chosen.go(side, item)));
  }
  if (items.length > MAX_LINKS) made.append(`+ ${items.length - MAX_LINKS}`);
  return made;
}
