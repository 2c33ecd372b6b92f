/** Where in a graph the places are of which other views speak. */

import { isInside, type Place } from "../view";
import type { Tree } from "./tree";

/** The place of an item: an operation's line and module, a group's module. */
export function placeOf(tree: Tree, item: number): Place {
  const row = tree.row[item] ?? -1;
  const { data } = tree;
  if (row >= 0) return { file: data.file(row), line: data.line(row), module: data.module(row) };
  return { file: "", line: 0, module: (tree.path[item] ?? "").replace(/\/.*$/s, "") };
}

/**
 * The item that a place speaks of: the first operation of its line in its module, else the module or the nearest one
 * around it, else the first operation of its line; -1 where the graph has nothing of it.
 */
export function itemOf(tree: Tree, { file, line, module }: Place): number {
  const { data } = tree;
  let onLine = -1;
  if (file !== "" && line > 0) {
    for (let row = 0; row < data.rows; row++) {
      if (data.line(row) !== line || data.file(row) !== file || data.op(row) === "parameter") continue;
      if (module === "" || isInside(data.module(row), module)) return tree.itemOf[row] ?? -1;
      if (onLine < 0) onLine = tree.itemOf[row] ?? -1;
    }
  }
  for (let path = module; path !== ""; path = path.slice(0, Math.max(0, path.lastIndexOf(".")))) {
    const group = tree.groupAt(path);
    if (group > 0) return group;
    // A module that holds nothing but one other thing is that thing.
    for (let row = 0; row < data.rows; row++) {
      if (data.op(row) === "parameter" || !isInside(data.module(row), path)) continue;
      const item = tree.itemOf[row] ?? -1;
      return tree.ancestors(item).find((one) => isInside(tree.path[one] ?? "", path)) ?? item;
    }
  }
  return onLine;
}
