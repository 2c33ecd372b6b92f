/** Ways to colour items: by what they are, by what became of them, by what they hold and by what was measured. */

import { bytesInWords, quantity } from "../quantities";
import { alarm, heat, type Palette, tint } from "../theme";
import { type Mark, MARKS, wordAt } from "./data";
import { byItem, folded, type NumberOverlay } from "./overlays";
import type { Tree } from "./tree";
import { words } from "./words";

/** A background and what it means; without a background the meaning alone. */
export type Sample = readonly [string, string];

/** `side` is the graph that an item is of: 0 as captured, 1 as it runs. Both have the same colours. */
export interface Colouring {
  readonly id: string;
  readonly label: string;
  fill(side: number, item: number, palette: Palette): string | null;
  /** What stands in an item beside its name; empty where that is nothing. */
  said(side: number, item: number): string;
  /** Samples of the colours with their meaning, most frequent first. */
  legend(palette: Palette): readonly Sample[];
}

const LEGEND = 10;
const nothing = (): string => "";

/** Compute once for each side, and only when it is asked for. */
function lazily<Value>(
  sides: readonly Tree[],
  make: (tree: Tree, side: number) => Value,
): (side: number) => Value {
  const made: Value[] = [];
  return (side) => (made[side] ??= make(sides[side] as Tree, side));
}

/** One colour for each word; an item that is closed has the colour of what it holds if that is one and the same. */
function byWord(
  id: string,
  label: string,
  sides: readonly Tree[],
  word: (side: number, row: number) => string,
): Colouring {
  const counts = new Map<string, number>();
  sides.forEach(({ data }, side) => {
    for (let row = 0; row < data.rows; row++) {
      const one = data.breakAt(row) === null ? word(side, row) : "";
      counts.set(one, (counts.get(one) ?? 0) + 1);
    }
  });
  counts.delete("");
  const ranked = [...counts].sort((a, b) => b[1] - a[1]).map(([name]) => name);
  const rank = new Map(ranked.map((name, index) => [name, index]));
  const ranks = lazily(sides, (tree, side) =>
    folded(
      tree,
      (row) => rank.get(word(side, row)) ?? NaN,
      (one, other) => (one === other ? one : -1),
    ),
  );
  return {
    id,
    label,
    fill: (side, item, palette) => {
      const index = ranks(side)[item] ?? -1;
      return index >= 0 ? tint(index, palette) : null;
    },
    said: nothing,
    legend: (palette) => ranked.slice(0, LEGEND).map((name, index) => [tint(index, palette), name] as const),
  };
}

const MARK_HUES = { added: 140, changed: 45, fused: 210, removed: 0 } as const;

function byMark(sides: readonly Tree[]): Colouring {
  const colour = (hue: number, palette: Palette): string =>
    palette.dark ? `hsl(${hue} 40% 28%)` : `hsl(${hue} 70% 86%)`;
  const mixed = (palette: Palette): string => (palette.dark ? "hsl(265 18% 30%)" : "hsl(265 40% 93%)");
  const counts = lazily(sides, (tree) =>
    folded(
      tree,
      (row) => (tree.data.mark(row) === "" ? NaN : 1),
      (one, other) => one + other,
    ),
  );
  const markOf = (side: number, item: number): Mark => {
    const tree = sides[side] as Tree;
    const row = tree.row[item] ?? -1;
    return row < 0 ? "" : tree.data.mark(row);
  };
  return {
    id: "mark",
    label: words.byMark,
    fill: (side, item, palette) => {
      const mark = markOf(side, item);
      if (mark !== "") return colour(MARK_HUES[mark], palette);
      return (counts(side)[item] ?? 0) > 0 ? mixed(palette) : null;
    },
    said: (side, item) => {
      const count = counts(side)[item] ?? 0;
      if (!(count > 0)) return "";
      return sides[side]?.isGroup(item) ? words.marked(count) : words.shortMarks[markOf(side, item)];
    },
    legend: (palette) => [
      ...MARKS.filter((mark) => sides.length > 1 || mark !== "added").map(
        (mark) => [colour(MARK_HUES[mark], palette), words.marks[mark]] as const,
      ),
      [mixed(palette), words.someMarked],
    ],
  };
}

/**
 * From pale to strong by a number. A closed item has that of all it holds together, and is as strong as that is beside
 * the largest of its level: what is around it always holds more.
 */
function byNumber(
  id: string,
  label: string,
  sides: readonly Tree[],
  numbers: (tree: Tree, side: number) => Float64Array,
  inWords: (value: number) => string,
): Colouring {
  const values = lazily(sides, numbers);
  /** The level that an item is compared with: 0 for all operations. */
  const levelOf = (tree: Tree, item: number): number => (tree.isGroup(item) ? (tree.depth[item] ?? 0) : 0);
  let known: { least: number; most: number }[] | null = null;
  const extents = (): { least: number; most: number }[] => {
    if (known !== null) return known;
    const found: { least: number; most: number }[] = [];
    sides.forEach((tree, side) => {
      values(side).forEach((value, item) => {
        if (item === 0 || Number.isNaN(value)) return;
        const level = (found[levelOf(tree, item)] ??= { least: value, most: value });
        level.least = Math.min(level.least, value);
        level.most = Math.max(level.most, value);
      });
    });
    return (known = found);
  };
  return {
    id,
    label,
    fill: (side, item, palette) => {
      const value = values(side)[item] ?? NaN;
      const extent = extents()[levelOf(sides[side] as Tree, item)];
      if (Number.isNaN(value) || extent === undefined) return null;
      const low = Math.min(0, extent.least);
      return extent.most > low ? heat((value - low) / (extent.most - low), palette) : null;
    },
    said: (side, item) => inWords(values(side)[item] ?? NaN),
    legend: (palette) => {
      const [operations] = extents();
      if (operations === undefined) return [["", words.notMeasured]];
      const shades = [0, 0.5, 1].map((share) => heat(share, palette));
      const range = words.upTo(inWords(operations.least), inWords(operations.most));
      return [
        [`linear-gradient(90deg,${shades.join()})`, range],
        ["", words.levels],
      ];
    },
  };
}

/** The operations' bytes, those of a closed item together. */
function byBytes(sides: readonly Tree[]): Colouring {
  const sums = (tree: Tree): Float64Array =>
    folded(
      tree,
      (row) => (tree.data.breakAt(row) === null ? tree.data.bytes(row) : NaN),
      (one, other) => one + other,
    );
  const made = byNumber("bytes", words.byBytes, sides, sums, bytesInWords);
  return { ...made, said: nothing };
}

/** What was measured, on either side, under one name. */
function measured(sides: readonly Tree[]): Colouring[] {
  const found: Colouring[] = [];
  for (const { data } of sides) {
    for (const { name, label, kind } of data.overlays) {
      const id = `overlay-${name}`;
      if (found.some((one) => one.id === id)) continue;
      const own = sides.map((tree) =>
        tree.data.overlays.find((one) => one.name === name && one.kind === kind),
      );
      if (kind === "text") {
        const word = (side: number, row: number): string => {
          const overlay = own[side];
          return overlay?.kind === "text" ? wordAt(overlay.column, row) : "";
        };
        found.push(byWord(id, label, sides, word));
        continue;
      }
      const unit = own.find((one): one is NumberOverlay => one?.kind === "number")?.unit ?? "";
      const values = (tree: Tree, side: number): Float64Array => {
        const overlay = own[side];
        return overlay?.kind === "number" ? byItem(tree, overlay) : new Float64Array(tree.count).fill(NaN);
      };
      found.push(byNumber(id, label, sides, values, (value) => quantity(value, unit)));
    }
  }
  return found;
}

/** Every colouring that the data has something to say for. */
export function colourings(sides: readonly Tree[]): readonly [Colouring, ...Colouring[]] {
  const all = [
    byWord("operation", words.byOperation, sides, (side, row) => {
      const op = sides[side]?.data.op(row) ?? "";
      return op === "parameter" ? "" : op;
    }),
    byWord("dtype", words.byDtype, sides, (side, row) => sides[side]?.data.dtype(row) ?? ""),
    byBytes(sides),
    ...measured(sides),
  ];
  if (sides.some(({ data }) => data.hasMarks)) all.unshift(byMark(sides));
  return all as [Colouring, ...Colouring[]];
}

/** A colouring in which the places where capture stopped stand out. */
export function withAlarms(colouring: Colouring, sides: readonly Tree[]): Colouring {
  return {
    ...colouring,
    fill: (side, item, palette) =>
      sides[side]?.isBreak(item) ? alarm(palette, true) : colouring.fill(side, item, palette),
  };
}
