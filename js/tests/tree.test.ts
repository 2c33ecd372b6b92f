import { describe, expect, it } from "vitest";
import { Layout } from "../src/core/graph/layout";
import { Kind, Tree } from "../src/core/graph/tree";
import { graph, transformer } from "./graphs";

const labels = (tree: Tree, item: number): string[] => tree.kids(item).map((kid) => tree.label[kid] ?? "");

function named(tree: Tree, label: string): number {
  const item = tree.label.findIndex((one, index) => one === label && (tree.parent[index] ?? -1) >= 0);
  if (item < 0) throw new Error(`no item ${label}`);
  return item;
}

/** Every item that can be reached from the whole graph. */
function reachable(tree: Tree): number[] {
  const found = [0];
  for (let at = 0; at < found.length; at++) found.push(...tree.kids(found[at] ?? 0));
  return found;
}

describe("the tree of modules", () => {
  it("has every operation once, and parameters with the operation that reads them", async () => {
    const operations = transformer(12);
    const tree = new Tree(await graph(operations));
    const rows = [...tree.rowsOf(0)];
    const parameters = [...tree.parameters.values()].flat();
    expect([...rows, ...parameters].sort((a, b) => a - b)).toEqual(operations.map((_, row) => row));
    expect(tree.size[0]).toBe(rows.length);
    for (const [item, list] of tree.parameters) {
      for (const row of list) expect(tree.data.name(row)).toContain((tree.label[item] ?? "").split(" · ")[0]);
    }
  });

  it("folds blocks that are built alike, and says how many", async () => {
    const tree = new Tree(await graph(transformer(12)));
    const repeat = reachable(tree).find((item) => tree.kind[item] === Kind.Repeat) ?? -1;
    expect(tree.repeat[repeat]).toBe(12);
    expect(tree.label[repeat]).toBe("layers.0 … 11");
    expect(tree.kids(repeat).length).toBe(12);
  });

  it("keeps a block apart in which something became of an operation", async () => {
    const operations = transformer(6);
    const gelus = operations.filter((one) => one.op === "gelu");
    if (gelus[2]) gelus[2].mark = "fused";
    const tree = new Tree(await graph(operations));
    expect(labels(tree, named(tree, "layers"))).toEqual(["0 … 1", "2", "3 … 5"]);
  });

  it("folds blocks of two kinds in turn", async () => {
    const operations = [{ op: "input" }];
    for (let block = 0; block < 8; block++) {
      for (const op of block % 2 ? ["relu", "mul"] : ["conv2d", "add"]) {
        operations.push({ op, module: `body.${block}`, inputs: [operations.length - 1] } as never);
      }
    }
    const tree = new Tree(await graph(operations));
    const repeat = reachable(tree).find((item) => tree.kind[item] === Kind.Repeat) ?? -1;
    expect(tree.repeat[repeat]).toBe(4);
    expect(tree.kids(repeat).length).toBe(8);
  });

  it("gives a flat graph of many operations levels", async () => {
    const operations = Array.from({ length: 5000 }, (_, row) => ({
      op: `op${row % 977}`,
      inputs: row > 0 ? [row - 1] : [],
    }));
    const tree = new Tree(await graph(operations));
    for (const item of reachable(tree)) expect(tree.kids(item).length).toBeLessThanOrEqual(240);
    expect(tree.size[0]).toBe(5000);
  });

  it("puts every wire between two children of the innermost item around both ends", async () => {
    const operations = transformer(4);
    const tree = new Tree(await graph(operations));
    let wires = 0;
    tree.wires.forEach((list, item) => {
      for (const end of list) expect(tree.parent[end]).toBe(item);
      wires += list.length / 2;
    });
    expect(wires).toBeGreaterThan(20);
  });

  it("survives paths that are deep, empty or strange", async () => {
    const strange = ["a".repeat(5) + ".b".repeat(50_000), "..", "__proto__.constructor", "<img>.x", "a..b"];
    const tree = new Tree(await graph(strange.map((module) => ({ op: "relu", module }))));
    expect([...tree.rowsOf(0)].length).toBe(strange.length);
    expect(Math.max(...tree.depth)).toBeLessThanOrEqual(33);
  });
});

describe("the layout", () => {
  const overlaps = (layout: Layout, a: number, b: number): boolean =>
    (layout.x[a] ?? 0) < (layout.x[b] ?? 0) + (layout.width[b] ?? 0) &&
    (layout.x[b] ?? 0) < (layout.x[a] ?? 0) + (layout.width[a] ?? 0) &&
    (layout.y[a] ?? 0) < (layout.y[b] ?? 0) + (layout.height[b] ?? 0) &&
    (layout.y[b] ?? 0) < (layout.y[a] ?? 0) + (layout.height[a] ?? 0);

  it.each([1, 2, 3, 6])(
    "lets nothing overlap and nothing stand out of what is around it, depth %i",
    async (depth) => {
      const tree = new Tree(await graph(transformer(12)));
      const layout = new Layout(tree);
      layout.setDepth(depth);
      for (const item of reachable(tree)) {
        if (!layout.isOpen(item)) continue;
        const kids = tree.kids(item);
        kids.forEach((kid, number) => {
          expect(layout.x[kid]).toBeGreaterThanOrEqual(0);
          expect(layout.y[kid]).toBeGreaterThanOrEqual(0);
          expect((layout.x[kid] ?? 0) + (layout.width[kid] ?? 0)).toBeLessThanOrEqual(
            (layout.width[item] ?? 0) + 1e-6,
          );
          expect((layout.y[kid] ?? 0) + (layout.height[kid] ?? 0)).toBeLessThanOrEqual(
            (layout.height[item] ?? 0) + 1e-6,
          );
          for (const other of kids.slice(number + 1)) expect(overlaps(layout, kid, other)).toBe(false);
        });
      }
    },
  );

  it("is the same whether an item was opened by itself or with all others", async () => {
    const tree = new Tree(await graph(transformer(3)));
    const [one, all] = [new Layout(tree), new Layout(tree)];
    all.setDepth(99);
    const open = (item: number): void => {
      for (const kid of tree.kids(item)) {
        if (tree.isGroup(kid)) one.set(kid, true);
        open(kid);
      }
    };
    open(0);
    for (const item of reachable(tree)) {
      expect(one.width[item]).toBeCloseTo(all.width[item] ?? 0);
      expect(one.y[item]).toBeCloseTo(all.y[item] ?? 0);
    }
  });

  it("opens everything around what is revealed and nothing else", async () => {
    const tree = new Tree(await graph(transformer(12)));
    const layout = new Layout(tree);
    const gelu = tree.itemOf[tree.data.rows - 8] ?? 0;
    layout.reveal(gelu);
    for (const item of reachable(tree)) {
      if (item > 0 && tree.isGroup(item))
        expect(layout.isOpen(item)).toBe(tree.ancestors(gelu).includes(item));
    }
    expect(layout.origin(gelu).x).toBeGreaterThan(0);
  });

  it("goes from top to bottom along every wire of a graph without circles", async () => {
    const tree = new Tree(await graph(transformer(1)));
    const layout = new Layout(tree);
    layout.setDepth(99);
    tree.wires.forEach((list) => {
      for (let at = 0; at < list.length; at += 2) {
        const [from, to] = [list[at] ?? 0, list[at + 1] ?? 0];
        expect((layout.y[from] ?? 0) + (layout.height[from] ?? 0)).toBeLessThanOrEqual(layout.y[to] ?? 0);
      }
    });
  });

  it("wraps a long chain instead of becoming a tower", async () => {
    const chain = Array.from({ length: 200 }, (_, row) => ({
      op: `step${row}`,
      inputs: row > 0 ? [row - 1] : [],
    }));
    const layout = new Layout(new Tree(await graph(chain)));
    const shape = (layout.width[0] ?? 0) / (layout.height[0] ?? 1);
    expect(shape).toBeGreaterThan(0.4);
    expect(shape).toBeLessThan(4);
  });

  it("ends where modules read each other in turn", async () => {
    const tree = new Tree(
      await graph([
        { op: "a1", module: "a" },
        { op: "b1", module: "b", inputs: [0] },
        { op: "a2", module: "a", inputs: [1] },
        { op: "b2", module: "b", inputs: [2] },
      ]),
    );
    const layout = new Layout(tree);
    expect(layout.height[0]).toBeGreaterThan(0);
  });
});
