import { describe, expect, it } from "vitest";
import { afterOf, Pairing } from "../src/core/graph/after";
import { type Colouring, colourings } from "../src/core/graph/colours";
import { type GraphData, graphOf } from "../src/core/graph/data";
import { byItem, type NumberOverlay } from "../src/core/graph/overlays";
import { itemOf, placeOf } from "../src/core/graph/places";
import { Kind, Tree } from "../src/core/graph/tree";
import { MalformedData, unpack } from "../src/core/packed";
import type { Palette } from "../src/core/theme";
import { graph, type More, type Operation, packed, transformer } from "./graphs";
import { python } from "./python";

const LIGHT = { dark: false } as Palette;

function named(tree: Tree, label: string): number {
  const item = tree.label.findIndex((one, index) => one === label && (tree.parent[index] ?? -1) >= 0);
  if (item < 0) throw new Error(`no item ${label}`);
  return item;
}

function colouring(tree: Tree, id: string): Colouring {
  const found = colourings([tree]).find((one) => one.id === id);
  if (found === undefined) throw new Error(`no colouring ${id}`);
  return found;
}

describe("what was measured", () => {
  const operations: Operation[] = [
    { op: "input" },
    { op: "relu", module: "net.a", inputs: [0] },
    { op: "add", module: "net.a", inputs: [1] },
    { op: "mul", module: "net.b", inputs: [2] },
    { op: "tanh", module: "net.b", inputs: [3] },
  ];
  const overlays = [
    { name: "time", label: "time", unit: "us", kind: "number", sum: true },
    { name: "use", label: "use of the cores", unit: "%", kind: "number" },
    { name: "backend", label: "runs in", unit: "", kind: "text" },
  ];
  const more: More = {
    meta: { overlays },
    numbers: { time: [NaN, 2, 3, NaN, NaN], use: [NaN, 40, 60, 10, NaN] },
    texts: { backend: ["", "oneDNN", "oneDNN", "eager", "oneDNN"] },
  };

  it("is summed where that means something, else the largest, and nothing where nothing was measured", async () => {
    const tree = new Tree(await graph(operations, more));
    const [time, use] = tree.data.overlays as NumberOverlay[];
    if (time === undefined || use === undefined) throw new Error("no overlays");
    expect(byItem(tree, time)[named(tree, "a")]).toBe(5);
    expect(byItem(tree, time)[named(tree, "b")]).toBeNaN();
    expect(byItem(tree, use)[named(tree, "a")]).toBe(60);
    expect(byItem(tree, use)[named(tree, "b")]).toBe(10);
    expect(byItem(tree, use)[named(tree, "net")]).toBe(60);
  });

  it("is a colour with a legend that has the range and the unit", async () => {
    const tree = new Tree(await graph(operations, more));
    const time = colouring(tree, "overlay-time");
    expect(time.legend(LIGHT)[0]?.[1]).toBe("2.00 µs to 3.00 µs");
    expect(time.said(0, named(tree, "a"))).toBe("5.00 µs");
    expect(time.said(0, named(tree, "b"))).toBe("");
    expect(time.fill(0, named(tree, "tanh"), LIGHT)).toBeNull();
    expect(time.fill(0, named(tree, "add"), LIGHT)).not.toBe(time.fill(0, named(tree, "relu"), LIGHT));
    const backend = colouring(tree, "overlay-backend");
    expect(backend.legend(LIGHT).map(([, meaning]) => meaning)).toEqual(["oneDNN", "eager"]);
    expect(backend.fill(0, named(tree, "a"), LIGHT)).toBe(backend.fill(0, named(tree, "relu"), LIGHT));
    expect(backend.fill(0, named(tree, "b"), LIGHT)).toBeNull();
  });

  it("is summed over folded blocks, all of their copies", async () => {
    const blocks = transformer(12);
    const numbers = { time: blocks.map((one) => (one.op === "gelu" ? 7 : NaN)) };
    const tree = new Tree(await graph(blocks, { meta: { overlays: overlays.slice(0, 1) }, numbers }));
    const repeat = tree.kind.findIndex(
      (kind, item) => kind === Kind.Repeat && (tree.parent[item] ?? -1) >= 0,
    );
    expect(byItem(tree, tree.data.overlays[0] as NumberOverlay)[repeat]).toBe(84);
  });

  it.each([
    ["no list", { overlays: 7 }],
    ["no records", { overlays: [null, 7, "time", []] }],
    ["of columns that are not there", { overlays: [{ name: "there", label: "x", kind: "number" }] }],
    [
      "of another kind than the column",
      {
        overlays: [
          { name: "time", kind: "text" },
          { name: "backend", kind: "number" },
        ],
      },
    ],
    ["of rows that are lists", { overlays: [{ name: "inputs", kind: "number" }] }],
    ["without a name", { overlays: [{ label: "time", kind: "number" }] }],
    ["of no known kind", { overlays: [{ name: "time", kind: "colour" }] }],
  ])("is left out where the records are %s", async (_, meta) => {
    const data = await graph(operations, { ...more, meta });
    expect(data.overlays).toEqual([]);
  });

  it("shows what is odd as far as it goes", async () => {
    const odd = [
      { name: "time", kind: "number", label: 7, unit: {}, sum: "yes" },
      { name: "time", kind: "number", label: "once more" },
    ];
    const data = await graph(operations, {
      meta: { overlays: odd },
      numbers: { time: [Infinity, -Infinity, NaN, 1, -1] },
    });
    expect(data.overlays).toMatchObject([{ name: "time", label: "time", unit: "", sum: false }]);
    const tree = new Tree(data);
    const time = colouring(tree, "overlay-time");
    expect(time.said(0, named(tree, "relu"))).toBe("");
    expect(time.said(0, named(tree, "tanh"))).toBe("−1");
    for (let item = 0; item < tree.count; item++)
      expect(String(time.fill(0, item, LIGHT))).not.toContain("NaN");
  });
});

interface Told {
  packed: string;
  before: Fact[];
  after: Fact[];
  becomes: number[];
}
interface Fact {
  name: string;
  op: string;
  module: string;
  shape: string;
  dtype: string;
  place: string;
  mark: string;
  inputs: number[];
}

/** A graph and its plan, packed by Python, and what Python has in it. */
function told(nodes: string, plan: string): Told {
  const code = `
import json
from deepseek_lab.views import _after, _diff, _page, _tree
from tests.views import samples
nodes = ${nodes}
plan = ${plan}
diff = _diff.compare(nodes, plan)
def facts(nodes, marks):
    return [{"name": n.name, "op": n.op, "module": n.module, "shape": ",".join(map(str, n.shape)),
             "dtype": n.dtype.removeprefix("torch."), "place": f"{n.file}:{n.line}" if n.file and n.line else n.file,
             "mark": marks.get(n.name, ""), "inputs": list(read)}
            for n, read in zip(nodes, _tree.producers(nodes))]
packed = _page.graph_content(nodes, "g", plan)["packed"]
print(json.dumps({"packed": packed, "before": facts(nodes, diff.before), "after": facts(plan, diff.after),
                  "becomes": _after.becomes(nodes, plan, diff)}))`;
  return JSON.parse(python(code)) as Told;
}

const factsOf = (data: GraphData): Fact[] =>
  Array.from({ length: data.rows }, (_, row) => ({
    name: data.name(row),
    op: data.op(row),
    module: data.module(row),
    shape: data.shape(row),
    dtype: data.dtype(row),
    place: data.place(row),
    mark: data.mark(row),
    inputs: [...data.inputsOf(row)],
  }));

describe("the graph as it runs", () => {
  it.each([
    ["gpt2", "samples.gpt2(3)", "samples.gpt2_plan(nodes)"],
    ["the same", "samples.gpt2(2)", "nodes"],
    ["another altogether", "samples.mlp()", "samples.gpt2(1)"],
    ...[1, 2, 3, 4, 5].map((seed) => [
      `random ${seed}`,
      `samples.random_graph(${seed}, 300)`,
      `samples.random_plan(${seed}, nodes)`,
    ]),
  ] as [string, string, string][])("is read as it was written: %s", async (_, nodes, plan) => {
    const wanted = told(nodes, plan);
    const table = await unpack(wanted.packed);
    const after = await afterOf(table);
    expect(factsOf(graphOf(table))).toEqual(wanted.before);
    expect(factsOf((after ?? { data: graphOf(table) }).data)).toEqual(wanted.after);
    expect([...(after?.becomes ?? [])].map((row) => row + 1)).toEqual(wanted.becomes);
  });

  it("is found from the captured operations and back, and modules by their path", async () => {
    const table = await unpack(told("samples.gpt2(2)", "samples.gpt2_plan(nodes)").packed);
    const after = await afterOf(table);
    if (after === null) throw new Error("no plan");
    const [before, now] = [new Tree(graphOf(table)), new Tree(after.data)];
    const pairing = new Pairing(before, now, after.becomes);
    const gelu = named(before, "act · gelu");
    const [fused] = pairing.across(0, gelu);
    expect(now.label[fused ?? -1]).toBe("act · linear_gelu");
    expect(pairing.across(1, fused ?? -1).map((item) => before.label[item])).toEqual([
      "c_fc · linear",
      "act · gelu",
    ]);
    expect(pairing.across(0, named(before, "drop · dropout"))).toEqual([]);
    expect(pairing.across(0, named(before, "mlp")).map((item) => now.path[item])).toEqual([
      "transformer.h.0.mlp",
    ]);
    expect(pairing.across(0, 0)).toEqual([]);
  });

  it("is nowhere in outputs that were saved without it", async () => {
    expect(await afterOf(await unpack(packed(transformer(2))))).toBeNull();
  });

  it.each([
    ["no text", 7],
    ["no table", "%%%"],
    ["cut off", packed(transformer(2)).slice(0, 200)],
    ["a graph of another form", packed(transformer(2))],
  ])("is refused where it is %s", async (_, after) => {
    const table = await unpack(packed(transformer(2), { meta: { after } }));
    await expect(afterOf(table)).rejects.toThrow(MalformedData);
  });
});

describe("places at which capture stopped", () => {
  const operations: Operation[] = [
    { op: "input" },
    { op: "relu", module: "net.a", inputs: [0], file: "cell.py", line: 3 },
    { op: "add", module: "net.a", inputs: [1], file: "cell.py", line: 4 },
  ];
  const breaks = [
    { reason: "print() was called", file: "cell.py", line: 5, after: 2 },
    { reason: "a branch on data", after: 99 },
  ];

  it("are rows behind the operations, and count for none", async () => {
    const data = await graph(operations, { meta: { breaks } });
    const tree = new Tree(data);
    expect(data.rows).toBe(5);
    expect(data.breakAt(2)).toBeNull();
    expect(data.breakAt(3)?.reason).toBe("print() was called");
    expect(data.place(3)).toBe("cell.py:5");
    expect([...data.inputsOf(3)]).toEqual([2]);
    expect([...data.inputsOf(4)]).toEqual([]);
    expect([...data.inputsOf(2)]).toEqual([1]);
    expect(tree.size[0]).toBe(3);
    expect(tree.isBreak(tree.itemOf[3] ?? -1)).toBe(true);
    expect(tree.label[tree.itemOf[3] ?? -1]).toContain("print() was called");
  });

  it.each([[7], [[null, 7, {}, { reason: 7 }]], [{ length: 3 }]])(
    "are none where the data is %j",
    async (given) => {
      expect((await graph(operations, { meta: { breaks: given } })).breaks).toEqual([]);
    },
  );

  it("are cut where there are too many or they say too much", async () => {
    const many = Array.from({ length: 1000 }, () => ({ reason: "x".repeat(10_000), line: 1.5, after: -7 }));
    const { breaks: found } = await graph(operations, { meta: { breaks: many } });
    expect(found).toHaveLength(32);
    expect(found[0]).toEqual({ reason: "x".repeat(300), file: "", line: 0, after: -1 });
  });
});

describe("a place of which another view speaks", () => {
  const operations: Operation[] = [
    { op: "input", file: "cell.py", line: 1 },
    { op: "relu", module: "net.a", inputs: [0], file: "cell.py", line: 3 },
    { op: "add", module: "net.a", inputs: [1], file: "cell.py", line: 4 },
    { op: "mul", module: "net.b", inputs: [2], file: "cell.py", line: 3 },
    { op: "tanh", module: "net.single", inputs: [3], file: "cell.py", line: 9 },
  ];
  it.each([
    ["cell.py", 3, "", "relu"],
    ["cell.py", 3, "net.b", "b · mul"],
    ["cell.py", 3, "net", "relu"],
    ["", 0, "net.a", "a"],
    ["", 0, "net.a.deeper.still", "a"],
    ["", 0, "net.single", "single · tanh"],
    ["cell.py", 77, "net", "net"],
    ["cell.py", 9, "elsewhere", "single · tanh"],
  ])("%s:%i %s is %s", async (file, line, module, label) => {
    const tree = new Tree(await graph(operations));
    expect(tree.label[itemOf(tree, { file, line, module })]).toBe(label);
  });

  it("is nowhere where the graph has nothing of it", async () => {
    const tree = new Tree(await graph(operations));
    for (const module of ["", "other", "ne", "net2"])
      expect(itemOf(tree, { file: "other.py", line: 3, module })).toBe(-1);
  });

  it("is told of operations with their line and of modules with their path", async () => {
    const tree = new Tree(await graph(operations));
    expect(placeOf(tree, named(tree, "add"))).toEqual({ file: "cell.py", line: 4, module: "net.a" });
    expect(placeOf(tree, named(tree, "a"))).toEqual({ file: "", line: 0, module: "net.a" });
    const blocks = new Tree(await graph(transformer(12)));
    const repeat = blocks.kind.findIndex(
      (kind, item) => kind === Kind.Repeat && (blocks.parent[item] ?? -1) >= 0,
    );
    expect(placeOf(blocks, repeat).module).toBe("model.layers");
  });
});
