import { describe, expect, it } from "vitest";
import { columnsOf, type Column } from "../src/core/charts/columns";
import { Matrix, pooled } from "../src/core/charts/heatmap/matrix";
import { NOWHERE, Pyramid } from "../src/core/charts/lines/pyramid";
import { LinesData, thin } from "../src/core/charts/lines/series";
import { exact, logTicks, said, ticks } from "../src/core/charts/numbers";
import { Axis } from "../src/core/charts/plane";
import { density, following, nearest, paretoFront, placed, within } from "../src/core/charts/scatter/points";
import { filtered, parse } from "../src/core/charts/table/filter";
import { bestOf, sorted } from "../src/core/charts/table/order";
import { csv, field, harmless, tsv } from "../src/core/charts/table/text";
import { MalformedData } from "../src/core/packed";
import { random, tableOf } from "./tables";

type Given = Parameters<typeof tableOf>;
const columns = async (...given: Given): Promise<Column[]> => columnsOf(await tableOf(...given));
const all = (count: number): Uint32Array => Uint32Array.from({ length: count }, (_, row) => row);
const only = async (...given: Given): Promise<Column> => (await columns(...given))[0] as Column;

describe("sorting", () => {
  it("goes by size, keeps the order of equals, and puts what is missing last both ways", async () => {
    const column = await only({ x: [10, NaN, 9, -1, 9, Infinity, NaN, -Infinity] });
    expect([...sorted(all(8), column, "ascending")]).toEqual([7, 3, 2, 4, 0, 5, 1, 6]);
    expect([...sorted(all(8), column, "descending")]).toEqual([5, 0, 2, 4, 3, 7, 1, 6]);
  });

  it("reads numbers in text as numbers", async () => {
    const column = await only({ x: ["trial_10", "trial_9", "", "Trial_9", "trial_1", "trial_9"] });
    const order = [...sorted(all(6), column, "ascending")];
    expect(order[0]).toBe(4);
    expect(order.slice(-2)).toEqual([0, 2]);
    expect(order.indexOf(1)).toBeLessThan(order.indexOf(5));
    expect([...sorted(all(6), column, "descending")].slice(-2)).toEqual([4, 2]);
  });

  it("agrees with the language's own stable sort", async () => {
    const next = random(1);
    const values = Array.from({ length: 500 }, () => Math.floor(next() * 40));
    const column = await only({ x: values });
    const expected = values.map((_, row) => row).sort((a, b) => (values[a] ?? 0) - (values[b] ?? 0));
    expect([...sorted(all(500), column, "ascending")]).toEqual(expected);
  });

  it("knows the best value by what the table says is better", async () => {
    const [low, high, text] = await columns(
      { low: [3, NaN, 1], high: [3, NaN, 1], text: ["a", "b", "c"] },
      { columns: { low: { better: "lower" }, high: { better: "higher" }, text: { better: "lower" } } },
    );
    expect([low, high, text].map((one) => bestOf(one as Column))).toEqual([1, 3, NaN]);
  });
});

describe("the filter", () => {
  it.each([
    ["", []],
    ["  two  Words ", ["two", "words"]],
    ['"two Words"', ["two words"]],
    ["loss>3", [{ column: "loss", operator: ">", value: "3" }]],
    ["loss <= -1e-3", [{ column: "loss", operator: "<=", value: "-1e-3" }]],
    ['"val loss"!=2 adam', [{ column: "val loss", operator: "!=", value: "2" }, "adam"]],
    ['name="two words"', [{ column: "name", operator: "=", value: "two words" }]],
    ["x>", [{ column: "x", operator: ">", value: "" }]],
    ["<<>", []],
    ['"', []],
    ['x="open', [{ column: "x", operator: "=", value: "open" }]],
  ])("reads %j", (text, terms) => {
    expect(parse(text)).toEqual(terms);
  });

  it("ends on any text, with a bounded number of terms", () => {
    expect(parse("a ".repeat(100_000)).length).toBe(32);
    expect(parse('"<=>!'.repeat(20_000)).length).toBeLessThanOrEqual(32);
  });

  const rows = async (text: string): Promise<number[]> => {
    const made = await columns({
      name: ["adam", "SGD", "", "a=b"],
      "val loss": [0.1, NaN, 0.3, 2],
      __proto__x: [1, 2, 3, 4],
    });
    return [...filtered(text, made, 4).rows];
  };
  it.each([
    ["", [0, 1, 2, 3]],
    ["sgd", [1]],
    ["a", [0, 3]],
    ["a d", [0]],
    ["a=b", [3]],
    ['"val loss"<1', [0, 2]],
    ['"val loss"=0.1', [0]],
    ['"val loss"!=0.1', [2, 3]],
    ['"VAL LOSS">=0.3', [2, 3]],
    ['"val loss"=missing', [1]],
    ['"val loss"!=missing a', [0, 3]],
    ['"val loss"<inf', [0, 2, 3]],
    ["name=adam", [0]],
    ["name=missing", [2]],
    ["name>b", [1]],
    ["name>", [0, 1, 2, 3]],
    ["__proto__x>3", [3]],
    ["nothing like it", []],
  ])("%j keeps rows %j", async (text, kept) => {
    expect(await rows(text)).toEqual(kept);
  });

  it("says what a column of numbers can be compared with", async () => {
    const made = await columns({ loss: [1, 2] });
    const { rows: kept, problem } = filtered("loss>many", made, 2);
    expect(problem).toContain("loss holds numbers");
    expect(kept.length).toBe(2);
  });
});

describe("files for other programs", () => {
  it.each([
    ["plain", "plain"],
    ["a,b", '"a,b"'],
    ['say "hi"', '"say ""hi"""'],
    ["two\r\nlines", '"two\r\nlines"'],
  ])("field %j is %j", (text, written) => {
    expect(field(text)).toBe(written);
  });

  it.each(["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "\uff1d1", "\n-1"])(
    "text %j is no formula",
    (text) => {
      expect(harmless(text)).toBe(`'${text}`);
    },
  );

  it("hold numbers with all their digits, and negative ones as numbers", async () => {
    const made = await columns({ "=x": [0.1, -2, NaN, 16777216], text: ["=1,1", 'a"b', "", "c\td"] });
    expect(csv(made, all(4))).toBe('\'=x,text\r\n0.1,"\'=1,1"\r\n-2,"a""b"\r\n,\r\n16777216,c\td\r\n');
    expect(tsv(made, [3, 0])).toBe("'=x\ttext\n16777216\tc d\n0.1\t'=1,1");
  });

  it("write every number of single precision so that it is read back as it was", () => {
    const next = random(2);
    for (let at = 0; at < 2000; at++) {
      const value = Math.fround((next() - 0.5) * 10 ** Math.floor(next() * 60 - 30));
      expect(Math.fround(Number(exact(value, true)))).toBe(value);
    }
  });
});

describe("numbers", () => {
  it.each([
    [1234567, "1,234,567"],
    [-0.5, "−0.5"],
    [1e-7, "1e−7"],
    [NaN, ""],
    [-Infinity, "−∞"],
    [1e300, "1e300"],
  ])("%d is said as %j", (value, text) => {
    expect(said(value)).toBe(text);
  });

  it("have marks inside of any range, evenly, and never endlessly many", () => {
    const next = random(3);
    for (let at = 0; at < 500; at++) {
      const low = (next() - 0.5) * 10 ** Math.floor(next() * 300 - 150);
      const high = low + next() * 10 ** Math.floor(next() * 300 - 150);
      const found = ticks(low, high, 6);
      expect(found.length).toBeLessThanOrEqual(8);
      for (const value of found) {
        expect(value).toBeGreaterThanOrEqual(low - (high - low) * 1e-6);
        expect(value).toBeLessThanOrEqual(high + (high - low) * 1e-6);
      }
    }
    expect(ticks(0, 10, 5)).toEqual([0, 2, 4, 6, 8, 10]);
    expect(logTicks(1, 1e6, 10)).toEqual([1, 10, 100, 1e3, 1e4, 1e5, 1e6]);
    expect(logTicks(1e-300, 1e300, 5).length).toBeLessThan(8);
    for (const [low, high] of [
      [0, 0],
      [1, NaN],
      [5, 1],
      [-Infinity, Infinity],
    ] as const) {
      expect(ticks(low, high, 5)).toEqual([]);
      expect(logTicks(low, high, 5)).toEqual([]);
    }
  });
});

describe("lines", () => {
  it("have the extremes of any stretch, as looking at each number finds them", () => {
    const next = random(4);
    const values = Array.from({ length: 5000 }, () => (next() < 0.2 ? NaN : Math.floor(next() * 1000)));
    values.fill(NaN, 1000, 1400);
    const pyramid = new Pyramid();
    values.forEach((value, at) => {
      pyramid.push(value);
      if (at % 61 !== 0 && at < 4990) return;
      const start = Math.floor(next() * (at + 1));
      const end = start + Math.floor(next() * (at + 2 - start));
      const present = values.slice(start, Math.min(end, at + 1)).filter((one) => !Number.isNaN(one));
      const [low, high] = pyramid.extremes(start, end);
      if (present.length === 0) expect([low, high]).toEqual([NOWHERE, NOWHERE]);
      else expect([values[low], values[high]]).toEqual([Math.min(...present), Math.max(...present)]);
      if (low !== NOWHERE) expect(low >= start && low < end && high >= start && high < end).toBe(true);
    });
    expect(pyramid.extremes(1000, 1400)).toEqual([NOWHERE, NOWHERE]);
  });

  it("show in each pixel the least and the greatest value, and nothing in a gap", () => {
    const next = random(5);
    const data = new LinesData();
    let x = 0;
    const xs = Array.from({ length: 20_000 }, () => (x += next() * (next() < 0.01 ? 50 : 1)));
    const ys = xs.map((_, row) => (row > 9000 && row < 12_000 ? NaN : next()));
    data.push(xs, new Map([["y", ys]]));
    const line = data.series[0];
    if (line === undefined) throw new Error("no line");
    const [from, to, pixels] = [xs[2000] ?? 0, xs[17_000] ?? 0, 300];
    const made = thin(data.x, [line.raw], from, to, pixels);
    expect(made.thinned).toBe(true);
    expect(made.x.length).toBeLessThanOrEqual(2 * pixels + 2);
    expect(made.x).toEqual(made.x.toSorted((a, b) => a - b));
    for (let pixel = 0; pixel < pixels; pixel++) {
      const left = from + ((to - from) * pixel) / pixels;
      const right = from + ((to - from) * (pixel + 1)) / pixels;
      const inside = (value: number): boolean =>
        value >= left && (value < right || pixel === pixels - 1) && value <= to;
      const expected = ys.filter((y, row) => inside(xs[row] ?? 0) && !Number.isNaN(y));
      const shown = (made.lines[0] ?? []).filter(
        (y, at) => y !== null && inside(made.x[at] ?? 0),
      ) as number[];
      expect(shown.length > 0).toBe(expected.length > 0);
      if (shown.length === 0) continue;
      expect([Math.min(...shown), Math.max(...shown)]).toEqual([
        Math.min(...expected),
        Math.max(...expected),
      ]);
    }
  });

  it("that are few are shown as they are, with a neighbour on either side", () => {
    const data = new LinesData();
    data.push([0, 1, 2, 3, 4], new Map([["y", [5, NaN, 7, 8, 9]]]));
    const made = thin(
      data.x,
      data.series.map((one) => one.raw),
      1,
      3,
      100,
    );
    expect(made).toEqual({ x: [0, 1, 2, 3, 4], lines: [[5, null, 7, 8, 9]], rows: 3, thinned: false });
  });

  it("grow to the same as if all rows had come at once", () => {
    const next = random(6);
    const [once, bit] = [new LinesData(), new LinesData()];
    const ys = Array.from({ length: 3000 }, () => next());
    const xs = ys.map((_, row) => row);
    once.push(
      xs,
      new Map([
        ["a", ys],
        ["late", ys.map((y, row) => (row < 1000 ? NaN : y))],
      ]),
    );
    bit.setSmoothing(0.9);
    for (let row = 0; row < 3000;) {
      const end = Math.min(3000, row < 1000 ? Math.min(1000, row + 7) : row + 113);
      const given = new Map([["a", ys.slice(row, end)]]);
      if (row >= 1000) given.set("late", ys.slice(row, end));
      bit.push(xs.slice(row, end), given);
      row = end;
    }
    once.setSmoothing(0.9);
    for (const at of [0, 1]) {
      for (const [start, end] of [
        [0, 3000],
        [17, 1234],
        [990, 1010],
        [2999, 3000],
      ] as const) {
        for (const kind of ["raw", "smooth"] as const) {
          expect(bit.series[at]?.[kind].extremes(start, end)).toEqual(
            once.series[at]?.[kind].extremes(start, end),
          );
        }
      }
    }
  });

  it("are smoothed without being pulled to zero, and gaps stay gaps", () => {
    const data = new LinesData();
    data.push([0, 1, 2, 3], new Map([["y", [5, 5, NaN, 5]]]));
    data.setSmoothing(0.99);
    const smooth = [0, 1, 2, 3].map((row) => data.series[0]?.smooth.values.at(row) ?? 0);
    expect(smooth[0]).toBeCloseTo(5);
    expect(smooth[2]).toBeNaN();
    expect(smooth[3]).toBeCloseTo(5);
  });

  it("refuse an x that goes backwards, and take nothing of what came with it", () => {
    const data = new LinesData();
    data.push([0, 1], new Map([["y", [1, 2]]]));
    expect(() => data.push([2, 1], new Map([["z", [1, 2]]]))).toThrow(MalformedData);
    expect(() => data.push([2], new Map([["y", [1, 2]]]))).toThrow("2 values for 1 rows");
    expect(() => data.push([NaN], new Map([["y", [1]]]))).toThrow(MalformedData);
    expect([data.rows, data.series.length, data.series[0]?.raw.length]).toEqual([2, 1, 2]);
  });
});

describe("points", () => {
  const cloud = (count: number, seed: number): { x: number[]; y: number[] } => {
    const next = random(seed);
    const value = (): number => (next() < 0.05 ? NaN : Math.floor(next() * 30));
    return { x: Array.from({ length: count }, value), y: Array.from({ length: count }, value) };
  };

  it.each([
    ["lower", "lower"],
    ["lower", "higher"],
    ["higher", "lower"],
    ["higher", "higher"],
  ] as const)("on the Pareto front are those that none beats: %s, %s", (betterX, betterY) => {
    for (let seed = 0; seed < 20; seed++) {
      const points = cloud(120, seed);
      const rows = placed(points, false, false);
      const cost = (row: number): [number, number] => [
        (betterX === "lower" ? 1 : -1) * (points.x[row] ?? 0),
        (betterY === "lower" ? 1 : -1) * (points.y[row] ?? 0),
      ];
      const expected = [...rows].filter((row) => {
        const [x, y] = cost(row);
        return ![...rows].some((other) => {
          const [a, b] = cost(other);
          return a <= x && b <= y && (a < x || b < y);
        });
      });
      expect([...paretoFront(points, rows, betterX, betterY)].sort((a, b) => a - b)).toEqual(expected);
    }
  });

  it("are found by where they are", () => {
    const points = cloud(400, 30);
    const rows = placed(points, false, false);
    const axes = [new Axis(0, 30, false, 0, 600), new Axis(0, 30, false, 300, 0)] as const;
    const next = random(31);
    for (let at = 0; at < 100; at++) {
      const [x, y] = [next() * 600, next() * 300];
      const distance = (row: number): number =>
        Math.hypot(axes[0].pixel(points.x[row] ?? 0) - x, axes[1].pixel(points.y[row] ?? 0) - y);
      const least = Math.min(...[...rows].map(distance));
      const found = nearest(points, rows, axes, [x, y], 15);
      if (least > 15) expect(found).toBe(-1);
      else expect(distance(found)).toBeCloseTo(least, 9);
    }
    expect([...within(points, rows, [3, 9], [0, 5])]).toEqual(
      [...rows].filter((row) => {
        const [x, y] = [points.x[row] ?? 0, points.y[row] ?? 0];
        return x >= 3 && x <= 9 && y >= 0 && y <= 5;
      }),
    );
  });

  it("follow each other by a column, each once, both ways", () => {
    const points = cloud(200, 32);
    const rows = placed(points, false, false);
    for (const forward of [true, false]) {
      const seen: number[] = [];
      for (
        let row = following(points.x, rows, -1, forward);
        row >= 0;
        row = following(points.x, rows, row, forward)
      ) {
        seen.push(row);
      }
      const sign = forward ? 1 : -1;
      const expected = [...rows].sort((a, b) => sign * ((points.x[a] ?? 0) - (points.x[b] ?? 0) || a - b));
      expect(seen).toEqual(expected);
    }
  });

  it("that are counted by cells are all counted, with the mean of their values", () => {
    const points = cloud(1000, 33);
    const rows = placed(points, false, false);
    const axes = [new Axis(-1, 31, false, 0, 90), new Axis(-1, 31, false, 60, 0)] as const;
    const cells = density(points, rows, axes, 3, { by: "number", values: points.x });
    expect(cells.counts.reduce((sum, count) => sum + count, 0)).toBe(rows.length);
    expect(cells.sums?.reduce((sum, value) => sum + value, 0)).toBe(
      rows.reduce((sum, row) => sum + (points.x[row] ?? 0), 0),
    );
    expect(cells.largest).toBe(Math.max(...cells.counts));
  });

  it("at or below zero have no place on a logarithmic axis", () => {
    const points = { x: [1, 0, -1, 2, Infinity], y: [1, 1, 1, 0, 1] };
    expect([...placed(points, false, false)]).toEqual([0, 1, 2, 3]);
    expect([...placed(points, true, false)]).toEqual([0, 3]);
    expect([...placed(points, true, true)]).toEqual([0]);
  });
});

describe("a matrix", () => {
  const matrix = async (rows: number, columns: number, pieces: number): Promise<[Matrix, number[]]> => {
    const next = random(rows * columns);
    const values = Array.from({ length: rows * columns }, () =>
      next() < 0.1 ? NaN : Math.fround(next() - 0.4),
    );
    const length = Math.ceil(values.length / pieces);
    const named = Array.from({ length: pieces }, (_, piece) => {
      const part = values.slice(piece * length, (piece + 1) * length);
      return [`values ${piece}`, [...part, ...Array<number>(length - part.length).fill(NaN)]] as const;
    });
    return [new Matrix(await tableOf(Object.fromEntries(named), { shape: [rows, columns] })), values];
  };

  it.each([1, 3])("in %i pieces is pooled as looking at each cell finds", async (pieces) => {
    const [made, values] = await matrix(37, 53, pieces);
    const part = { top: 3, bottom: 37, left: 5, right: 53 };
    for (const [across, down] of [
      [10, 7],
      [48, 34],
      [100, 70],
    ] as const) {
      for (const pool of ["mean", "max"] as const) {
        const shown = pooled(made, part, across, down, pool);
        for (let y = 0; y < down; y++) {
          for (let x = 0; x < across; x++) {
            const span = (from: number, to: number, at: number, pixels: number): [number, number] => {
              const first = from + Math.floor(((to - from) * at) / pixels);
              return [first, Math.max(first + 1, from + Math.floor(((to - from) * (at + 1)) / pixels))];
            };
            const [[top, bottom], [left, right]] = [span(3, 37, y, down), span(5, 53, x, across)];
            const cells: number[] = [];
            for (let row = top; row < bottom; row++) {
              for (let column = left; column < right; column++) cells.push(values[row * 53 + column] ?? NaN);
            }
            const present = cells.filter((cell) => !Number.isNaN(cell));
            const value = shown[y * across + x] ?? 0;
            if (present.length === 0) expect(value).toBeNaN();
            else if (pool === "mean") {
              expect(value).toBeCloseTo(present.reduce((sum, one) => sum + one, 0) / present.length, 6);
            } else expect(Math.abs(value)).toBe(Math.max(...present.map(Math.abs)));
          }
        }
      }
    }
  });

  it.each([
    ["no shape", {}],
    ["a shape that is no list", { shape: "2,2" }],
    ["a negative side", { shape: [-1, 2] }],
    ["half a cell", { shape: [1.5, 2] }],
    ["more cells than values", { shape: [3, 2] }],
    ["a side without an end", { shape: [1e9, 1] }],
    ["labels that are too few", { shape: [2, 2], labels: { rows: ["a"] } }],
    ["labels that are no text", { shape: [2, 2], labels: { columns: [{}, 1] } }],
  ])("with %s is told", async (_, meta) => {
    const table = await tableOf({ v: [1, 2, 3, 4] }, meta);
    expect(() => new Matrix(table)).toThrow(MalformedData);
  });

  it("may be empty, and may hold nothing but what is missing", async () => {
    expect(new Matrix(await tableOf({ v: [] }, { shape: [0, 0] })).range).toBeUndefined();
    const nothing = new Matrix(await tableOf({ v: [NaN, NaN] }, { shape: [1, 2] }));
    expect([nothing.range, nothing.diverging]).toEqual([undefined, false]);
  });
});

describe("what a table says of its columns", () => {
  it("is taken where it is of use, whatever else is there", async () => {
    const meta = {
      columns: {
        a: { unit: "ms", better: "sideways", bar: "yes", offset: 100 },
        constructor: { unit: 7 },
        b: [1],
        c: null,
      },
    };
    const [a, b, c] = await columns({ a: [1, 2], b: [1, 2], constructor: ["x", "y"] }, meta);
    expect(a).toMatchObject({ label: "a (ms)", better: undefined, bar: false });
    expect([...(a as { values: Float64Array }).values]).toEqual([101, 102]);
    expect(b).toMatchObject({ label: "b" });
    expect(c).toMatchObject({ label: "constructor", kind: "text" });
  });
});
