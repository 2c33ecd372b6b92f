import { describe, expect, it } from "vitest";
import { MalformedData, Table, unpack } from "../src/core/packed";
import { nextBy } from "../src/core/search/picture";
import { byImportance, rangeAxis } from "../src/core/search/ranges";
import { defaultsOf, failures, front, records, sampled, spanOf, standings } from "../src/core/search/ranking";
import { columnsOf } from "../src/core/search/stage";
import { SearchState } from "../src/core/search/state";
import { words } from "../src/core/search/words";
import { filtered } from "../src/core/charts/table/filter";
import { python } from "./python";

/** Tables as Python packs a search, one for each printed line. */
async function tables(code: string): Promise<Table[]> {
  const printed = python(`
from deepseek_lab.base import events as ev
from deepseek_lab.views._search_packed import SearchPacking, packed_search
from tests.views.searches import DEFAULTS, Made
${code}`);
  return Promise.all(
    printed
      .trim()
      .split("\n")
      .map((line) => unpack(line)),
  );
}

async function stateOf(code: string, nowS = 0): Promise<SearchState> {
  const state = new SearchState("ended");
  for (const table of await tables(code)) state.take(table, nowS);
  return state;
}

/** Numbers as far as single precision holds them, whatever they were packed beside. */
const short = (value: number | undefined): string => (value ?? NaN).toPrecision(4);

/** What is known of every trial, by its number. */
function told(state: SearchState): unknown[] {
  const { trials } = state;
  return Array.from({ length: trials.count }, (_, row) => ({
    trial: trials.trial.get(row),
    config: trials.config.get(row),
    status: trials.statusOf(row),
    purpose: trials.purposeOf(row),
    cost: trials.cost.get(row),
    at: trials.at.get(row).toFixed(0),
    seconds: short(trials.seconds.get(row)),
    error: trials.errors.list[trials.error.get(row)],
    value: short(trials.value(row)),
    params: trials.params.map((param) => [
      param.name,
      param.words?.list[param.values.get(row)] ?? short(param.values.get(row)),
    ]),
    curve: Array.from(trials.curves.get(row)?.values ?? [], short),
  })).sort((a, b) => a.trial - b.trial);
}

const SEARCH = "made = Made().begin().search(60).running().compare().end()\nevents = made.log.since()\n";

describe("the state of a search", () => {
  it("is the fold that Python makes", async () => {
    const [state, printed] = [
      await stateOf(`${SEARCH}print(packed_search(made.log))`),
      JSON.parse(
        python(`
import json
from tests.views.searches import Made
${SEARCH}
report = made.report
print(json.dumps({
    "best": report.best.trial, "cost": report.cost, "configs": report.num_configs, "failed": report.num("failed"),
    "defaults": report.defaults.trial, "trials": len(report.rows), "seconds": report.last_s - report.began_s,
    "lr": report.best.params["lr"], "activation": report.best.params["activation"],
}))`),
      ) as Record<string, number | string>,
    ];
    const { trials } = state;
    const best = records(state, 0).at(-1) ?? -1;
    expect(trials.trial.get(best)).toBe(printed["best"]);
    expect(trials.count).toBe(printed["trials"]);
    expect(trials.trial.get(defaultsOf(state))).toBe(printed["defaults"]);
    expect(state.totals.cost).toBeCloseTo(printed["cost"] as number, 4);
    expect(state.totals).toMatchObject({ configs: printed["configs"], failed: printed["failed"] });
    expect(state.elapsed(0)).toBeCloseTo(printed["seconds"] as number);
    const columns = new Map(columnsOf(state).map((column) => [column.name, column]));
    const lr = columns.get("lr");
    expect(lr?.kind === "number" ? lr.values[best] : NaN).toBeCloseTo(printed["lr"] as number, 6);
    const activation = columns.get("activation");
    expect(activation?.kind === "text" ? activation.words[activation.codes[best] ?? 0] : "").toBe(
      printed["activation"],
    );
    expect(state.compared?.difference).toBeCloseTo(0.024);
    expect(state.importances[0]).toEqual(["lr", 0.6]);
    expect(state.notes).toEqual(["back in the notebook, of the best: model"]);
  });

  it("adds up what came in parts as what came at once", async () => {
    const whole = await stateOf(`${SEARCH}print(SearchPacking().packed(events))`);
    const parts = await stateOf(`${SEARCH}
packing = SearchPacking()
for at in range(0, len(events), 5): print(packing.packed(events[at:at + 5]))`);
    expect(told(parts)).toEqual(told(whole));
    expect(parts.totals).toEqual(whole.totals);
    expect(parts.importances).toEqual(whole.importances);
  });

  it("follows a trial that runs, and forgets where it was told anew", async () => {
    const made = await tables(`
packing, made = SearchPacking(), Made().begin()
print(packing.packed(made.log.since()))
seen = len(made.log.since())
made.running(1)
made.log.emit(ev.TrialReported(run="r", trial=7, step=1, value=0.5))
news = made.log.since(seen)
print(packing.packed(news[:2], pruning=[1]))
print(packing.packed(news[2:], state="stopping"))
print(packing.packed([ev.TrialEnded(run="r", trial=1, config="new 0", purpose="search", cost=0.5, status="stopped",
    numbers={}, labels={}, curve=((0, 0.25),))], pruning=[]))`);
    const state = new SearchState("live");
    const [first, begun, more, ended] = made as [Table, Table, Table, Table];
    state.take(first, 0);
    state.take(begun, 0);
    const row = state.trials.rowOf(1);
    expect(state.trials.statusOf(row)).toBe("running");
    expect([...state.pruning]).toEqual([1]);
    state.take(more, 0);
    expect(Array.from(state.trials.curves.get(row)?.values ?? []).map((one) => one.toFixed(1))).toEqual([
      "0.5",
      "0.6",
      "0.7",
    ]);
    expect(state.phase).toBe("stopping");
    expect(state.trials.rowOf(7)).toBe(-1); // nobody said that it began
    state.take(ended, 0);
    expect(state.trials.statusOf(row)).toBe("stopped");
    expect(Array.from(state.trials.curves.get(row)?.values ?? [])).toEqual([0.25]);
    expect(state.pruning.size).toBe(0);
  });

  it("keeps exact totals, the best and each kind of end where trials were left out", async () => {
    const state = await stateOf("print(packed_search(Made().begin().search(3000).log, 20_000))");
    const all = await stateOf("print(packed_search(Made().begin().search(3000).log))");
    expect(state.trials.count).toBeLessThan(all.trials.count / 3);
    expect(state.cut).toBe(all.trials.count);
    expect({ ...state.totals, cost: 0 }).toEqual({ ...all.totals, cost: 0 });
    expect(state.totals.cost).toBeCloseTo(all.totals.cost, 1);
    const best = (one: SearchState): number => one.trials.trial.get(records(one, 0).at(-1) ?? -1);
    expect(best(state)).toBe(best(all));
    expect(failures(state).length).toBeGreaterThan(0);
  });

  it("tells how far it is and what time remains, by trials and by its limit", async () => {
    const begun = (limit: string): Promise<SearchState> =>
      stateOf(`
made = Made().begin(num_trials=11, limit_s=${limit})
for at in range(4): made.trial(f"c{at}", made.draw())
print(packed_search(made.log, now_s=1100.0))`);
    const state = await begun("None");
    state.phase = "live";
    expect(state.elapsed(0)).toBeCloseTo(100); // by the kernel's clock, whatever the page's says
    expect(state.share(0)).toBeCloseTo(5 / 11);
    expect(state.remaining(0)).toBeCloseTo((6 * 100) / 5);
    const limited = await begun("160");
    limited.phase = "live";
    expect(limited.share(0)).toBeCloseTo(100 / 160);
    expect(limited.remaining(0)).toBeCloseTo(60);
  });

  it("refuses a table without events, with curves that do not fit, and with ranges without names", async () => {
    const state = new SearchState("ended");
    const table = (meta: Record<string, unknown>): Table =>
      new Table(0, new Map(), new Map(Object.entries(meta)));
    expect(() => state.take(table({ events: 7 }), 0)).toThrow(MalformedData);
    state.take(table({ events: [null, 7, { kind: "__proto__" }, { kind: "search_started" }] }), 0);
    expect(state.started).toBeNull();
    expect(state.metrics).toEqual(["value"]);
    const code = (change: string): string => `
from deepseek_lab.views._packed import Packer
packer = Packer(1, {"events": [], "params": [["lr", False]]})
packer.integers("trial", [1]); packer.text("status", ["complete"]); packer.text("purpose", ["search"])
packer.lists("steps", [[1]]); packer.lists("curve", [[1]])
${change}
print(packer.base64())`;
    await expect(stateOf(code(""))).resolves.toBeDefined();
    await expect(stateOf(code('packer.meta["params"] = [[3, True]]'))).rejects.toThrow("no name");
    await expect(
      stateOf(code('del packer._columns[-1], packer._bodies[-1]; packer.lists("curve", [[1, 2]])')),
    ).rejects.toThrow("other steps");
  });
});

describe("what follows from the trials", () => {
  it("ranks configurations by their largest trial", async () => {
    const state = await stateOf(`
made = Made().begin()
for config, cost, wide in (("a", 0.1, 64), ("b", 0.1, 512), ("a", 1.0, 64), ("c", 1.0, 512), ("d", 1.0, 16)):
    made.trial(config, {**DEFAULTS, "width": float(wide)}, cost=cost, allowed=config != "d")
made.trial("e", DEFAULTS, status="failed", error="E: 1")
made.trial("f", DEFAULTS, status="failed", error="E: 22")
print(packed_search(made.log))`);
    const { trials } = state;
    const ranked = Array.from(standings(state, 0), (row) => trials.trial.get(row));
    expect(ranked[0]).toBe(4); // the wide one
    expect(ranked.slice(-1)).toEqual([5]); // not allowed
    expect(ranked.slice(-2, -1)).toEqual([2]); // small only
    expect(ranked).not.toContain(1); // "a" is known by its whole trial
    expect(failures(state).map(({ count, error, trials: numbers }) => [count, error, numbers])).toEqual([
      [2, "E: 1", [6, 7]],
    ]);
  });

  it("finds the Pareto front that Python finds", async () => {
    const code = 'made = Made(("accuracy", "ms"), ("max", "min")).begin().search(90, small=False)\n';
    const state = await stateOf(`${code}print(packed_search(made.log))`);
    const known = JSON.parse(
      python(`import json\nfrom tests.views.searches import Made\n${code}
print(json.dumps([row.trial for row in made.report.front()]))`),
    ) as number[];
    const found = front(state, 0, 1).map((row) => state.trials.trial.get(row));
    expect(found.toSorted((a, b) => a - b)).toEqual(known);
  });

  it("places values by the kind of their range, and reads them back", async () => {
    const state = await stateOf(`${SEARCH}print(packed_search(made.log))`);
    const places = new Map(state.trials.params.map((param, place) => [param.name, place]));
    const [lr, activation] = ["lr", "activation"].map((name) => rangeAxis(state, places.get(name) ?? -1));
    expect(Number(lr?.at(0.5))).toBeCloseTo(10 ** -2.5, 4);
    expect(lr?.marks.map(([, label]) => label)).toEqual(["1e−4", "0.0032", "0.1"]);
    expect([0.1, 0.5, 0.9].map((share) => activation?.at(share))).toEqual(["relu", "gelu", "silu"]);
    expect(activation?.share(0)).toBeCloseTo(1 / 6);
    expect(byImportance(state).map((place) => state.trials.params[place]?.name)[0]).toBe("lr");
    const { rows } = filtered("lr>=0.001 lr<=0.01 activation=gelu", columnsOf(state), state.trials.count);
    for (const row of rows) {
      expect(lr?.share(row)).toBeGreaterThanOrEqual(lr === undefined ? 0 : 1 / 3 - 1e-6);
      expect(activation?.said(row)).toBe("gelu");
    }
    expect(rows.length).toBeGreaterThan(0);
  });

  it("goes from one row to the next by a number, each once", () => {
    const [rows, numbers] = [
      [4, 9, 2, 7],
      [1, 3, 1, 2],
    ];
    const way = (forward: boolean): number[] => {
      const found: number[] = [];
      for (let row = nextBy(rows, numbers, -1, forward); row >= 0; row = nextBy(rows, numbers, row, forward))
        found.push(row);
      return found;
    };
    expect(way(true)).toEqual([2, 4, 7, 9]);
    expect(way(false)).toEqual([9, 7, 4, 2]);
  });

  it("leaves what is far away to the edge, and takes rows evenly", () => {
    const values = Float64Array.from({ length: 100 }, (_, at) => (at === 0 ? 1e9 : at / 100));
    expect(spanOf(values, false)).toEqual([0.01, 0.9]);
    expect(spanOf(values, true)[1]).toBe(1e9); // the best is never cut
    expect(spanOf(new Float64Array(), true)).toEqual([0, 1]);
    expect([
      ...sampled(
        Uint32Array.from({ length: 101 }, (_, at) => at),
        5,
      ),
    ]).toEqual([0, 25, 50, 75, 100]);
  });

  it("says differences in points where the metric is a share", () => {
    const compared = {
      config: "c",
      defaults: [0.5],
      found: [0.6],
      difference: 0.1,
      ci95: [0.05, 0.15],
      unseen: true,
    } as const;
    expect(words.difference(compared, true)).toBe("+10 points (95 % +5 to +15)");
    expect(words.difference({ ...compared, ci95: null }, false)).toBe("+0.1");
    expect([1, 0.25, 0.3, 1 / 9].map(words.size)).toEqual(["whole", "1/4", "30 %", "1/9"]);
  });
});
