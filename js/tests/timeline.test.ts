import { describe, expect, it } from "vitest";
import { MalformedData } from "../src/core/packed";
import { columns } from "../src/core/timeline/columns";
import { Extremes } from "../src/core/timeline/extremes";
import { stateOf } from "../src/core/timeline/places";
import { byCategory, byModule, moduleLevels, ofModule, type Stack } from "../src/core/timeline/stack";
import { python } from "./python";
import { aliveAfter, bytesOf, chances, type Event, randomEvents, timelineOf } from "./timelines";
import { unpack } from "../src/core/packed";
import { TimelineData } from "../src/core/timeline/data";

const SEEDS = [1, 2, 3, 4];

describe("what memory holds", () => {
  it.each(SEEDS)("is what was allocated and not freed, seed %i", async (seed) => {
    const events = randomEvents(seed, 700);
    const data = await timelineOf(events);
    const totals = Array.from({ length: 701 }, (_, state) => bytesOf(aliveAfter(events, state)));
    expect([...data.totals]).toEqual(totals);
    expect(data.totals[data.peak]).toBe(Math.max(...totals));
    expect(data.peak).toBe(totals.indexOf(Math.max(...totals)));
    for (const state of [0, 1, 333, data.peak, 700]) {
      const alive = aliveAfter(events, state);
      const found = data.alive(state); // every event here has a context of its own
      expect(found.map(({ context }) => context).sort((a, b) => a - b)).toEqual(
        alive.map((event) => events.indexOf(event)).sort((a, b) => a - b),
      );
      expect(found.map(({ bytes }) => bytes)).toEqual(
        alive.map(({ bytes }) => Math.abs(bytes)).sort((a, b) => b - a),
      );
    }
  });

  it.each(SEEDS)("is the sum of its parts, seed %i", async (seed) => {
    const events = randomEvents(seed, 700);
    const data = await timelineOf(events);
    const check = (stack: Stack, name: (event: Event) => string, label: (name: string) => string): void => {
      for (const state of [0, 1, 127, 128, 129, 500, 700]) {
        const alive = aliveAfter(events, state);
        const values = stack.at(state);
        stack.parts.forEach((part, number) => {
          expect(values[number]).toBe(bytesOf(alive.filter((event) => label(name(event)) === part.label)));
        });
        expect(values.reduce((sum, value) => sum + value, 0)).toBe(data.totals[state]);
      }
    };
    check(
      byCategory(data),
      (event) => event.category ?? "",
      (name) => name || "no category",
    );
    const level =
      (levels: number) =>
      (event: Event): string =>
        (event.module ?? "").split(".").slice(0, levels).join(".");
    check(byModule(data, 1), level(1), (name) => name || "outside of modules");
    check(byModule(data, 2), level(2), (name) => name || "outside of modules");
    const inside = ofModule(data, "net.a");
    expect(inside?.at(500)[0]).toBe(
      bytesOf(
        aliveAfter(events, 500).filter(({ module = "" }) => module === "net.a" || module === "net.a.b"),
      ),
    );
    expect(ofModule(data, "net.z")).toBeNull();
    expect(ofModule(data, "")).toBeNull();
  });

  it.each(SEEDS)("between two times is told, seed %i", async (seed) => {
    const events = randomEvents(seed, 700);
    const data = await timelineOf(events);
    const chance = chances(seed);
    for (let round = 0; round < 20; round++) {
      const [from = 0, to = 0] = [chance() * data.end, chance() * data.end].sort((a, b) => a - b);
      const [first, last] = [data.stateBefore(from), data.stateAt(to)];
      const inside = events.filter(({ at }) => at >= from && at <= to);
      expect(last - first).toBe(inside.length);
      const found = data.range(first, last);
      expect(found.events).toBe(inside.length);
      expect(found.allocated).toBe(bytesOf(inside.filter(({ bytes, frees }) => !frees && bytes >= 0)));
      expect(found.freed).toBe(
        bytesOf(inside.filter(({ bytes, frees }) => frees !== undefined || bytes < 0)),
      );
      expect(data.totals[found.peak]).toBe(Math.max(...data.totals.slice(first, last + 1)));
    }
  });

  it.each(SEEDS)("shows every peak and every dip in the pixel in which it is, seed %i", async (seed) => {
    const events = randomEvents(seed, 3000);
    const data = await timelineOf(events);
    const chance = chances(seed + 100);
    for (const count of [1, 7, 640]) {
      const from = chance() * data.end * 0.5;
      const window =
        count === 640 ? { from: 0, to: data.end } : { from, to: from + chance() * data.end * 0.5 };
      const found = columns(data, window, count);
      const width = (window.to - window.from) / count;
      for (let column = 0; column < count; column++) {
        const begin = window.from + column * width;
        const end = window.from + (column + 1) * width;
        const last = column === count - 1;
        const states = [events.filter(({ at }) => at < begin).length];
        events.forEach(({ at }, row) => {
          if (at >= begin && (last ? at <= window.to : at < end)) states.push(row + 1);
        });
        const totals = states.map((state) => data.totals[state] ?? NaN);
        expect(data.totals[found.most[column] ?? -1]).toBe(Math.max(...totals));
        expect(data.totals[found.least[column] ?? -1]).toBe(Math.min(...totals));
      }
    }
  });

  it("has its peak where it is, however far the pixels are apart", async () => {
    const events: Event[] = [];
    for (let row = 0; row < 20_000; row += 2) {
      events.push({ at: row, bytes: row === 13_370 ? 1e9 : 5 }, { at: row, bytes: -5, frees: row });
    }
    const data = await timelineOf(events);
    const { most } = columns(data, { from: 0, to: data.end }, 3);
    expect(Math.max(...most.map((state) => data.totals[state] ?? 0))).toBe(1e9);
  });
});

describe("the largest and the smallest", () => {
  it.each([1, 63, 64, 65, 4096, 4097, 10_000])("of %i numbers are found between any two", (length) => {
    const chance = chances(length);
    const values = Float64Array.from({ length }, () => Math.floor(chance() * 50));
    const extremes = new Extremes(values);
    for (let round = 0; round < 60; round++) {
      const from = Math.floor(chance() * length);
      const to = from + 1 + Math.floor(chance() * (length - from));
      const part = values.slice(from, to);
      expect(extremes.largest(from, to)).toBe(from + part.indexOf(Math.max(...part)));
      expect(extremes.smallest(from, to)).toBe(from + part.indexOf(Math.min(...part)));
    }
  });
});

describe("a recording that is unusual", () => {
  it("may have no events", async () => {
    const data = await timelineOf([]);
    expect([...data.totals]).toEqual([0]);
    expect(data.alive(0)).toEqual([]);
    expect(data.leading(0)).toBeNull();
    expect(data.end).toBeGreaterThan(0);
    expect(byCategory(data).parts).toEqual([]);
    expect(moduleLevels(data)).toBe(0);
    expect([...columns(data, { from: 0, to: data.end }, 4).most]).toEqual([0, 0, 0, 0]);
    expect(data.range(0, 0)).toEqual({ allocated: 0, freed: 0, events: 0, peak: 0 });
  });

  it("may have one", async () => {
    const data = await timelineOf([{ at: 0, bytes: 8, category: "parameters", module: "only" }]);
    expect(data.timeOf(1)).toBe(0);
    expect(byModule(data, 1).parts.map(({ label }) => label)).toEqual(["only"]);
    expect(data.peak).toBe(1);
    expect([...columns(data, { from: 0, to: data.end }, 2).most]).toEqual([1, 1]);
  });

  it("may begin before zero and go backwards: the order of events holds", async () => {
    const data = await timelineOf([
      { at: -50, bytes: 1 },
      { at: 10, bytes: 2 },
      { at: -99, bytes: 4 },
      { at: 2 ** 47, bytes: 8 },
    ]);
    expect([...data.at]).toEqual([0, 60, 60, 2 ** 47 + 50]);
    expect([...data.totals]).toEqual([0, 1, 3, 7, 15]);
  });

  it("may end without memory", async () => {
    const events = [{ at: 0, bytes: 8 }];
    expect((await timelineOf(events, { out_of_memory_at: 7 })).outOfMemoryAt).toBe(7);
    expect((await timelineOf(events, { out_of_memory_at: 7 })).end).toBe(7);
    for (const wrong of [null, "7", -1, 1e300, {}]) {
      expect((await timelineOf(events, { out_of_memory_at: wrong })).outOfMemoryAt).toBeNull();
    }
  });

  it("may have more categories than anybody tells apart", async () => {
    const events = Array.from({ length: 40 }, (_, row) => ({ at: row, bytes: row + 1, category: `c${row}` }));
    const data = await timelineOf([...events, { at: 50, bytes: 1, category: "temporary" }]);
    const stack = byCategory(data);
    expect(stack.parts.length).toBe(11);
    expect(stack.parts[0]?.label).toBe("temporary");
    expect(stack.parts[10]).toEqual({ label: "others", colour: -1 });
    expect(stack.at(41).reduce((sum, value) => sum + value, 0)).toBe(data.totals[41]);
  });

  it.each([
    [
      "a block freed twice",
      [
        { at: 0, bytes: 1 },
        { at: 1, bytes: -1, frees: 0 },
        { at: 2, bytes: -1, frees: 0 },
      ],
    ],
    [
      "a block freed before it is there",
      [
        { at: 0, bytes: -1, frees: 1 },
        { at: 1, bytes: 1 },
      ],
    ],
    ["an event that frees itself", [{ at: 0, bytes: 1, frees: 0 }]],
    [
      "a free that is freed",
      [
        { at: 0, bytes: -1 },
        { at: 1, bytes: 1, frees: 0 },
      ],
    ],
  ])("%s is told", async (_, events) => {
    await expect(timelineOf(events)).rejects.toThrow(MalformedData);
  });

  it.each([
    ["no unit of time", { tick_s: null }],
    ["a unit of time that is nothing", { tick_s: 0 }],
    ["no contexts", { contexts: null }],
    ["contexts that are a list", { contexts: [] }],
    [
      "contexts of different lengths",
      { contexts: { category: [0], module: [], operator: [], file: [], line: [] } },
    ],
    [
      "fewer contexts than events",
      { contexts: { category: [], module: [], operator: [], file: [], line: [] } },
    ],
    ["words that are none", { words: "abc" }],
    ["no counts where it is folded", { folded: true }],
  ])("%s is told", async (_, meta) => {
    await expect(timelineOf([{ at: 0, bytes: 1 }], meta)).rejects.toThrow(MalformedData);
  });

  it("has no name where its words are no text", async () => {
    const contexts = { category: [0], module: [9], operator: ["x"], file: [-1], line: [null] };
    const data = await timelineOf([{ at: 0, bytes: 1 }], { words: [{}], contexts, device: 7 });
    expect(data.contexts).toEqual([{ category: "", module: "", operator: "", file: "", line: 0 }]);
    expect(data.device).toBe("");
  });

  it("counts no less than nothing where it is folded", async () => {
    const counts = { count: [-1], churn_bytes: [0], churn_events: [0] };
    await expect(timelineOf([{ at: 0, bytes: 1 }], { folded: true }, counts)).rejects.toThrow(
      "counts less than nothing",
    );
  });
});

describe("what Python writes", () => {
  const pack = (limit: string): string =>
    python(`
import random
from deepseek_lab.base.timeline import MemoryEvent, MemoryTimeline
from deepseek_lab.views._timeline import packed_timeline
random.seed(3)
events, alive, at = [MemoryEvent(0.0, -5000, -1, "parameters", "net")], [], 0.0
for block in range(40_000):
    at += random.choice((0.0, 0.0, 1e-6, 3e-4))
    if alive and random.random() < 0.5:
        gone = alive.pop(random.randrange(len(alive)))
        events.append(gone._replace(at_s=at, bytes=-gone.bytes))
    else:
        made = MemoryEvent(at, random.randrange(10**6), block, random.choice(("activations", "mine")), f"net.{block % 9}", "mm", "cell.py", block % 7)
        alive.append(made)
        events.append(made)
print(packed_timeline(MemoryTimeline.of(events, device="cpu", out_of_memory_at_s=at), ${limit}), end="")`);

  it("is read, and has the same peak, parts and sums when it is folded", async () => {
    const [whole, folded] = await Promise.all(
      ["None", "60_000"].map(async (limit) => new TimelineData(await unpack(pack(limit)))),
    );
    if (whole === undefined || folded === undefined) throw new Error("nothing was packed");
    expect(folded.folded).toBe(true);
    expect(folded.rows).toBeLessThan(whole.rows / 2);
    expect(folded.events).toBe(whole.rows);
    expect(folded.device).toBe("cpu");
    expect(folded.outOfMemoryAt).toBe(whole.outOfMemoryAt);
    expect(folded.totals[folded.peak]).toBe(whole.totals[whole.peak]);
    expect(folded.timeOf(folded.peak)).toBeCloseTo(whole.timeOf(whole.peak), 7);
    expect(folded.leading(folded.peak)).toEqual(whole.leading(whole.peak));
    const said = (data: TimelineData): unknown =>
      data
        .alive(data.peak)
        .map(({ context, bytes, blocks }) => ({ ...data.contexts[context], bytes, blocks }))
        .sort((a, b) => JSON.stringify(a).localeCompare(JSON.stringify(b)));
    expect(said(folded)).toEqual(said(whole));
    const all = whole.range(0, whole.rows);
    expect(folded.range(0, folded.rows)).toEqual({ ...all, peak: folded.peak });
    const known = new Set(whole.totals); // no row of an instant shows a dip that never was
    expect([...folded.totals].filter((total) => !known.has(total))).toEqual([]);
    const [parts, less] = [byCategory(whole), byCategory(folded)];
    for (let state = 1; state <= folded.rows; state++) {
      const time = folded.timeOf(state);
      if (folded.timeOf(state + 1) === time && state < folded.rows) continue;
      const same = whole.totals.indexOf(folded.totals[state] ?? -1, whole.stateBefore(time - 1e-8));
      expect(same).toBeGreaterThanOrEqual(0);
      expect([...less.at(state)]).toEqual([...parts.at(same)]);
    }
  });
});

describe("a place of which another view speaks", () => {
  const events = [
    { at: 0, bytes: 10, module: "net.a", file: "cell.py", line: 2 },
    { at: 1, bytes: 20, module: "net.b", file: "cell.py", line: 3 },
    { at: 2, bytes: -20, frees: 1, module: "net.b", file: "cell.py", line: 9 },
    { at: 3, bytes: 30, module: "net.b.c", file: "cell.py", line: 4 },
    { at: 4, bytes: 40, module: "", file: "cell.py", line: 3 },
  ];
  it.each([
    ["of its line in its module", { file: "cell.py", line: 4, module: "net.b" }, 4],
    ["of its module where the line is another's", { file: "cell.py", line: 2, module: "net.b" }, 2],
    ["of its line where the module is not known", { file: "cell.py", line: 3, module: "other" }, 2],
    ["of no more than its line", { file: "cell.py", line: 9, module: "" }, 3],
    ["nowhere", { file: "other.py", line: 3, module: "ne" }, 0],
    ["nothing", { file: "", line: 0, module: "" }, 0],
  ])("is where the first memory is allocated %s", async (_, place, state) => {
    expect(stateOf(await timelineOf(events), place)).toBe(state);
  });
});
