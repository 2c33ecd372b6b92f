import { describe, expect, it } from "vitest";
import { MalformedData, Table, unpack } from "../src/core/packed";
import { columns } from "../src/core/run/curves";
import { checkedEvent } from "../src/core/run/events";
import { RunState } from "../src/core/run/state";
import { digits, duration, words } from "../src/core/run/words";
import { python } from "./python";

/** A run as Python packs it. */
async function packed(code: string): Promise<Table> {
  return unpack(
    python(`
from deepseek_lab.base import events as ev
from deepseek_lab.views import _run
log = ev.EventLog()
emit = log.emit
${code}
print(_run.packed_log(log), end="")`),
  );
}

const RACE = `
emit(ev.RunStarted(run="r", at_s=100, verb="optimize", source="x" * 10**6))
emit(ev.GraphCaptured(run="r", target="model", graph="g", nodes=(ev.GraphNode("x", "input"),), signature="f32[2]", capture_s=1))
emit(ev.CandidateStarted(run="r", graph="g", candidate="openvino"))
emit(ev.CandidateStarted(run="r", graph="g", candidate="inductor"))
emit(ev.CandidateEnded(run="r", graph="g", candidate="openvino", status="won", median_ms=2.0, speedup=1.9,
     speedup_ci95=(1.8, 2.0), max_rel_error=float("nan")))
`;

describe("a run's state", () => {
  it("is the fold of what Python emitted", async () => {
    const state = new RunState("ended");
    state.take(
      await packed(RACE + 'emit(ev.Decided(run="r", target="model", graph="g", chosen="openvino"))'),
      200,
    );
    const race = state.mainRace;
    expect(race).toMatchObject({ target: "model", signature: "f32[2]", chosen: "openvino", decided: true });
    expect([...(race?.candidates.values() ?? [])].map((one) => [one.name, one.ended?.status])).toEqual([
      ["openvino", "won"],
      ["inductor", undefined],
    ]);
    expect(race?.candidates.get("openvino")?.ended?.max_rel_error).toBeNull();
  });

  it("adds up what came in parts as what came at once", async () => {
    const code = (from: number, to: number): string =>
      `for step in range(${from}, ${to}): emit(ev.Measured(run="r", step=step, values={"loss": step * 0.5, "rate": -step}))`;
    const [whole, first, second] = await Promise.all([
      packed(code(0, 500)),
      packed(code(0, 200)),
      packed(code(200, 500)),
    ]);
    const [once, parts] = [new RunState("live"), new RunState("live")];
    once.take(whole, 0);
    parts.take(first, 0);
    parts.take(second, 0);
    expect(parts.curves).toEqual(once.curves);
    expect(once.curves.get("loss")).toMatchObject({ last: 249.5, least: 0, most: 249.5, count: 500 });
    expect(parts.values).toBe(1000);
  });

  it("keeps peaks and exact totals where values were left out", async () => {
    const state = new RunState("ended");
    const table = await packed(`
for step in range(50_000): emit(ev.Measured(run="r", step=step, values={"loss": 1000.0 if step == 31_234 else 1.0}))`);
    state.take(table, 0);
    expect(table.rows).toBeLessThanOrEqual(6000);
    expect(state.values).toBe(50_000);
    expect(state.curves.get("loss")?.most).toBe(1000);
  });

  it("tells the time that remains by the kernel's clock, whatever the page's says", () => {
    const state = new RunState("live");
    const at = (done: number, nowS: number): Table =>
      new Table(
        0,
        new Map(),
        new Map<string, unknown>([
          ["events", []],
          ["now_s", nowS],
          ["done", done],
          ["total", 100],
        ]),
      );
    state.take(at(0, 1000), 5000);
    state.take(at(10, 1010), 5010);
    expect(state.remaining()).toBeCloseTo(90);
    state.take(at(20, 900), 5020); // the kernel's clock was set back
    expect(state.remaining()).toBeNull();
    state.take(at(30, 910), 5030);
    expect(state.remaining()).toBeCloseTo(70);
  });

  it("takes a decision back when another candidate is built, and says how large an update is", () => {
    const state = new RunState("live");
    const told = (event: object): void => {
      const full = { run: "r", at_s: 1, graph: "graph1", ...event };
      state.take(new Table(0, new Map(), new Map([["events", [full]]])), 0);
    };
    told({ kind: "decided", target: "model", chosen: "eager", reason: "it trains" });
    expect(state.mainRace?.decided).toBe(true);
    told({ kind: "candidate_started", candidate: "channels-last" });
    expect(state.mainRace?.decided).toBe(false);
    told({
      kind: "batch_accumulated",
      num_samples: 256,
      micro_batch: 32,
      own_batch: 32,
      reduction: "mean",
      num_updates: 7,
      num_micro_batches: 56,
      speedup: null,
      speedup_ci95: null,
      tried: [],
      reason: "",
      notes: ["batch norm"],
    });
    expect(state.remarks.map((one) => one.text)).toEqual([
      "an update per 256 samples, in micro-batches of 32: 7 updates",
      "batch norm",
    ]);
  });

  it("holds the last word on ranks, whom the others wait for included", async () => {
    const state = new RunState("ended");
    const table = await packed(`
from deepseek_lab.base.ranks import RankVitals
emit(ev.RunStarted(run="r", at_s=1, verb="distributed", targets=("2 ranks",)))
for late in (0.01, 0.031):
    emit(ev.RanksSeen(run="r", ranks=(RankVitals(0, "training", waiting=0.5, loss=float("nan")),
                                      RankVitals(1, "training", num_replaced=1, late_s=late))))`);
    state.take(table, 200);
    expect(state.verb).toBe("distributed");
    expect(state.ranks.map((one) => [one.rank, one.waiting, one.loss])).toEqual([
      [0, 0.5, null],
      [1, null, null],
    ]);
    expect(state.ranks.map(words.rankRemarks)).toEqual([
      "",
      "the others wait for it, 31.0 ms an update, replaced",
    ]);
  });

  it("refuses a table without events, and leaves out events that it does not know", () => {
    const table = (events: unknown): Table => new Table(0, new Map(), new Map([["events", events]]));
    const state = new RunState("ended");
    expect(() => state.take(table("x"), 0)).toThrow(MalformedData);
    state.take(table([null, 3, { kind: "of_tomorrow" }, { kind: "noted" }, { kind: "__proto__" }]), 0);
    expect(state.remarks).toEqual([]);
  });

  it("holds names that mean something to an object", () => {
    const state = new RunState("live");
    for (const name of ["__proto__", "constructor", "toString"]) {
      const values: unknown = JSON.parse(`{"${name}": 1}`);
      const event = { kind: "measured", run: "r", at_s: 0, step: 0, values };
      state.take(new Table(0, new Map(), new Map([["events", [event]]])), 0);
    }
    expect([...state.curves.keys()]).toEqual(["__proto__", "constructor", "toString"]);
  });
});

describe("the columns of a curve", () => {
  it("hold every peak, and gaps where there is nothing finite", () => {
    const step = Array.from({ length: 10_000 }, (_, row) => row);
    const value = step.map((row) => (row === 7777 ? 99 : row >= 2000 && row < 4000 ? NaN : Math.sin(row)));
    const made = columns({ step, value }, 100);
    expect(made.length).toBe(100);
    expect(Math.max(...made.map((one) => one.most).filter((most) => !Number.isNaN(most)))).toBe(99);
    expect(made.filter((one) => Number.isNaN(one.last)).length).toBeGreaterThan(15);
    for (const { x, least, most } of made) {
      const rows = step.filter(
        (row) => Math.round((row * 99) / 9999) === x && !Number.isNaN(value[row] ?? NaN),
      );
      if (rows.length === 0) continue;
      expect(least).toBe(Math.min(...rows.map((row) => value[row] ?? 0)));
      expect(most).toBe(Math.max(...rows.map((row) => value[row] ?? 0)));
    }
  });

  it("are one for a single value, and none for no value", () => {
    expect(columns({ step: [5], value: [2] }, 100)).toEqual([{ x: 0, least: 2, most: 2, last: 2 }]);
    expect(columns({ step: [], value: [] }, 100)).toEqual([]);
  });
});

describe("a run of more than anybody measures", () => {
  it("keeps so many series and candidates, and counts the rest", () => {
    const event = { run: "r", at_s: 0 };
    const values = Object.fromEntries(Array.from({ length: 1500 }, (_, at) => [`series ${at}`, at]));
    const started = Array.from({ length: 130 }, (_, at) => ({
      ...event,
      kind: "candidate_started",
      graph: "g",
      candidate: `c${at}`,
    }));
    const events = [{ ...event, kind: "measured", step: 1, values }, ...started];
    const state = new RunState("ended");
    state.take(new Table(0, new Map(), new Map([["events", events]])), 0);
    expect([state.curves.size, state.values]).toEqual([1000, 1500]);
    expect([state.mainRace?.candidates.size, state.mainRace?.moreCandidates]).toEqual([100, 30]);
  });
});

describe("an event from outside", () => {
  const good = { kind: "noted", run: "r", at_s: 1, text: "x" };

  it("is taken where it is as the schema says", () => {
    expect(checkedEvent(good)).toEqual(good);
    expect(checkedEvent({ ...good, more: 1 })).toEqual(good);
  });

  it("has texts that can be shown, and NaN for what is not finite", () => {
    const given = JSON.parse('{"kind":"noted","run":"\\ud800","at_s":1e999}') as object;
    const read = checkedEvent({ ...given, text: "x".repeat(1e6) });
    expect(read).toEqual({ kind: "noted", run: "\ufffd", at_s: NaN, text: `${"x".repeat(2000)}…` });
    expect(checkedEvent({ ...good, at_s: null })).toEqual({ ...good, at_s: NaN });
  });

  it.each([
    [{ ...good, text: 3 }],
    [{ kind: "noted", run: "r", at_s: 1 }],
    [{ ...good, at_s: "now" }],
    [{ kind: "measured", run: "r", at_s: 0, step: 0, values: { loss: "x" } }],
    [
      {
        kind: "live_measured",
        run: "r",
        at_s: 0,
        target: "m",
        graph: "g",
        eager_ms: 1,
        median_ms: 1,
        speedup: 1,
        speedup_ci95: [1],
        num_rounds: 1,
        load: 0,
      },
    ],
    [Object.create({ kind: "noted", run: "r", at_s: 1, text: "x" })],
  ])("is refused where it is not: %j", (event) => {
    expect(checkedEvent(event)).toBeNull();
  });
});

describe("words", () => {
  it("writes times and values as people do", () => {
    expect([3.21, 59.6, 250, 7300].map(duration)).toEqual(["3.2 s", "1 min 0 s", "4 min 10 s", "2 h 1 min"]);
    expect([0.00012, 1.23456, 12345678, 0, NaN, -Infinity].map(digits)).toEqual([
      "1.20e-4",
      "1.235",
      "1.23e+7",
      "0",
      "–",
      "−∞",
    ]);
  });
});
