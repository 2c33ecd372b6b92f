/** Ways to colour operations: by what they are, by how much they hold, by what became of them. */

import { heat, type Palette, tint } from "../theme";
import { words } from "../words";
import type { GraphData } from "./data";
import type { Tree } from "./tree";

export interface Colouring {
  readonly id: string;
  readonly label: string;
  fill(item: number, palette: Palette): string | null;
  /** Samples of the colours with their meaning, most frequent first. */
  legend(palette: Palette): readonly (readonly [string, string])[];
}

const LEGEND = 10;

/** One colour for each word; an item that is closed has the colour of what it holds if that is one and the same. */
function byWord(id: string, label: string, tree: Tree, word: (row: number) => string): Colouring {
  const counts = new Map<string, number>();
  const { data } = tree;
  for (let row = 0; row < data.rows; row++) counts.set(word(row), (counts.get(word(row)) ?? 0) + 1);
  counts.delete("");
  const ranked = [...counts].sort((a, b) => b[1] - a[1]).map(([name]) => name);
  const rank = new Map(ranked.map((name, index) => [name, index]));
  return {
    id,
    label,
    fill: (item, palette) => {
      const row = tree.row[item] ?? -1;
      const index = row < 0 ? undefined : rank.get(word(row));
      return index === undefined ? null : tint(index, palette);
    },
    legend: (palette) => ranked.slice(0, LEGEND).map((name, index) => [tint(index, palette), name] as const),
  };
}

const MARK_HUES = { added: 140, changed: 45, fused: 210, removed: 0 } as const;

function byMark(tree: Tree, data: GraphData): Colouring {
  const colour = (mark: keyof typeof MARK_HUES, palette: Palette): string =>
    palette.dark ? `hsl(${MARK_HUES[mark]} 40% 28%)` : `hsl(${MARK_HUES[mark]} 70% 86%)`;
  return {
    id: "mark",
    label: words.byMark,
    fill: (item, palette) => {
      const row = tree.row[item] ?? -1;
      const mark = row < 0 ? "" : data.mark(row);
      return mark === "" ? null : colour(mark, palette);
    },
    legend: (palette) =>
      (["added", "changed", "fused", "removed"] as const).map((mark) => [
        colour(mark, palette),
        words.marks[mark],
      ]),
  };
}

/** From pale to strong by a number; a closed item has that of all it holds together. */
function byNumber(id: string, label: string, tree: Tree, value: (row: number) => number): Colouring {
  const sums = new Float64Array(tree.count);
  const largest = { operation: 0, group: 0 };
  const visit = (item: number): number => {
    const row = tree.row[item] ?? -1;
    let sum = row >= 0 ? value(row) : 0;
    for (const kid of tree.kids(item)) sum += visit(kid);
    sums[item] = sum;
    if (item > 0) {
      const kind = row >= 0 ? "operation" : "group";
      largest[kind] = Math.max(largest[kind], sum);
    }
    return sum;
  };
  visit(0);
  return {
    id,
    label,
    fill: (item, palette) => {
      const most = tree.isGroup(item) ? largest.group : largest.operation;
      return most > 0 ? heat((sums[item] ?? 0) / most, palette) : null;
    },
    legend: (palette) => [
      [heat(0.05, palette), bytesInWords(0)],
      [heat(0.5, palette), bytesInWords(largest.operation / 2)],
      [heat(1, palette), bytesInWords(largest.operation)],
    ],
  };
}

/** `1.5 MiB`. */
export function bytesInWords(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  let value = bytes;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toPrecision(2)} ${units[unit] ?? ""}`;
}

/** Every colouring that the data has something to say for. */
export function colourings(tree: Tree): Colouring[] {
  const { data } = tree;
  const found = [
    byWord("operation", words.byOperation, tree, (row) => (data.op(row) === "parameter" ? "" : data.op(row))),
    byWord("dtype", words.byDtype, tree, (row) => data.dtype(row)),
    byNumber("bytes", words.byBytes, tree, (row) => data.bytes(row)),
  ];
  return data.hasMarks ? [byMark(tree, data), ...found] : found;
}
