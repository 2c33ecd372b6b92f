// One layout of one graph, in a process of its own so that it can be ended: `layouts.mjs WHICH PAGE OPERATIONS TASK`.
// WHICH is ours, dagre or elk. TASK `all` lays out every operation, with nothing closed; `glance` lays out what shows at
// first, then opens and closes modules one after the other. Every figure is printed as a line of JSON once it is known.
//
// All get the same: the operations with their sizes and wires, and for `glance` the open modules with what is in them.
// dagre and ELK know of no opening and closing, so they lay out anew all that shows then; module by module, as ours does,
// which is less work for them than one drawing of everything.
import { build } from "esbuild";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [, , which, page, operations, task] = process.argv;
const TOGGLES = 24;
const OPTIONS = { "elk.algorithm": "layered", "elk.direction": "DOWN" };

async function ours() {
  const { outputFiles } = await build({
    stdin: {
      contents: `export { unpack } from "./src/core/packed"; export { columnsOf, GraphData } from "./src/core/graph/data";
        export { Tree } from "./src/core/graph/tree"; export { Layout } from "./src/core/graph/layout";`,
      resolveDir: ".",
    },
    bundle: true,
    format: "esm",
    write: false,
  });
  return import(`data:text/javascript;base64,${Buffer.from(outputFiles[0].contents).toString("base64")}`);
}

/** The first rows of a graph, without what they read of others. */
function cut(columns, rows) {
  if (rows >= columns.rows) return columns;
  const short = (column) => column && { words: column.words, codes: column.codes.subarray(0, rows) };
  const starts = new Uint32Array(rows + 1);
  const values = [];
  for (let row = 0; row < rows; row++) {
    for (let at = columns.inputs.starts[row]; at < columns.inputs.starts[row + 1]; at++)
      if (columns.inputs.values[at] < rows) values.push(columns.inputs.values[at]);
    starts[row + 1] = values.length;
  }
  const texts = Object.fromEntries(
    ["op", "module", "shape", "dtype", "file", "mark"].map((name) => [name, short(columns[name])]),
  );
  return { ...columns, ...texts, rows, inputs: { starts, values: Int32Array.from(values) } };
}

const { unpack, columnsOf, GraphData, Tree, Layout } = await ours();
const text = /id='data'>(.*?)<\/script>/s.exec(readFileSync(page, "utf8"))[1];
const whole = columnsOf(await unpack(JSON.parse(text).packed));
const data = new GraphData(cut(whole, Number(operations)));
const say = (figures) => process.stdout.write(`${JSON.stringify(figures)}\n`);
const since = (start) => performance.now() - start;

const require = createRequire(import.meta.url);
const dagre = which === "dagre" ? require("@dagrejs/dagre") : null;
const elk = which === "elk" ? new (require("elkjs"))() : null;
const start = performance.now();
const tree = new Tree(data);
const built = since(start);
const layout = new Layout(tree);

/** Nodes with sizes and wires between them, by dagre; returns the size of all. */
function byDagre(nodes, wires) {
  const graph = new dagre.graphlib.Graph();
  graph.setGraph({});
  graph.setDefaultEdgeLabel(() => ({}));
  for (const [item, width, height] of nodes) graph.setNode(String(item), { width, height });
  for (let at = 0; at < wires.length; at += 2) graph.setEdge(String(wires[at]), String(wires[at + 1]));
  dagre.layout(graph);
  return graph.graph();
}

function sizeOf(item) {
  return [item, layout.width[item], layout.height[item]];
}

/** Everything that is open inside of an item, module by module. */
function openByDagre(item) {
  const nodes = tree.kids(item).map((kid) => {
    if (!tree.isGroup(kid) || !layout.isOpen(kid)) return sizeOf(kid);
    const { width, height } = openByDagre(kid);
    return [kid, width, height];
  });
  return byDagre(nodes, tree.wires[item] ?? []);
}

function openForElk(item) {
  const wires = tree.wires[item] ?? [];
  const edges = [];
  for (let at = 0; at < wires.length; at += 2)
    edges.push({ id: `${item}-${at}`, sources: [String(wires[at])], targets: [String(wires[at + 1])] });
  const children = tree.kids(item).map((kid) => {
    const [, width, height] = sizeOf(kid);
    return tree.isGroup(kid) && layout.isOpen(kid) ? openForElk(kid) : { id: String(kid), width, height };
  });
  return { id: String(item), layoutOptions: OPTIONS, children, edges };
}

/** Operations and their wires without any module around them. */
function flat() {
  const items = [...new Set(tree.itemOf)].filter((item) => item > 0);
  const seen = new Set();
  const wires = [];
  for (let row = 0; row < data.rows; row++) {
    for (const input of data.inputsOf(row)) {
      const [from, to] = [tree.itemOf[input], tree.itemOf[row]];
      const key = from * tree.count + to;
      if (from === to || seen.has(key)) continue;
      seen.add(key);
      wires.push(from, to);
    }
  }
  return { nodes: items.map((item) => [item, 140, 26]), wires };
}

async function layOut() {
  if (which === "dagre") openByDagre(0);
  else await elk.layout(openForElk(0));
}

if (task === "all") {
  if (which === "ours") {
    const begin = performance.now();
    layout.setDepth(99);
    say({ operations: tree.size[0], build_ms: built, layout_ms: since(begin) });
  } else {
    const { nodes, wires } = flat();
    const begin = performance.now();
    if (which === "dagre") byDagre(nodes, wires);
    else {
      const children = nodes.map(([item, width, height]) => ({ id: String(item), width, height }));
      const edges = [];
      for (let at = 0; at < wires.length; at += 2)
        edges.push({ id: `w${at}`, sources: [String(wires[at])], targets: [String(wires[at + 1])] });
      await elk.layout({ id: "root", layoutOptions: OPTIONS, children, edges });
    }
    say({ operations: nodes.length, layout_ms: since(begin) });
  }
} else {
  const begin = performance.now();
  layout.openUpTo(48);
  if (which !== "ours") await layOut();
  say({ build_ms: which === "ours" ? built : undefined, layout_ms: since(begin) });
  const groups = tree.parent
    .map((_, item) => item)
    .filter((item) => item > 0 && tree.parent[item] >= 0 && tree.isGroup(item));
  for (const item of groups.filter((_, at) => at % Math.ceil(groups.length / TOGGLES) === 0)) {
    layout.openUpTo(48);
    for (const around of tree.ancestors(item)) layout.set(around, true);
    const was = layout.isOpen(item);
    for (const open of [!was, was]) {
      const toggled = performance.now();
      layout.set(item, open);
      const own = since(toggled);
      if (which === "ours") {
        say({ toggle_ms: own });
        continue;
      }
      const again = performance.now();
      await layOut();
      say({ toggle_ms: since(again) });
    }
  }
}
process.exit(0);
