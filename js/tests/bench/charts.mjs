// Tables and charts as large as they may be: first paint, and the first things that one does with them.
// `make bench-views`. Figures are those of headless Chromium on the machine that runs it.
import { execFileSync } from "node:child_process";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

const folder = mkdtempSync(join(tmpdir(), "bench-"));
const BARS = { first_paint_ms: 300, sort_ms: 300, filter_ms: 150, zoom_ms: 100, push_ms: 50, hover_ms: 50 };
execFileSync("../.venv/bin/python", ["-W", "ignore", "tests/bench/charts.py", folder], { stdio: "inherit" });
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu"],
});

/** What is done with each kind, after its first paint; each is one figure. */
const actions = {
  table: {
    sort_ms: "view.grid.sort(view.grid.columns[round % 3])",
    filter_ms: "view.filter(`latency>${round} adam`)",
  },
  scatter: {
    zoom_ms: "view.zoom([-1 + round / 9, 1], [-1, 1])",
    fit_ms: "view.fit()",
    hover_ms:
      "document.querySelector('.dsl-plot').dispatchEvent(new PointerEvent('pointermove', { clientX: 300 + 9 * round, clientY: 200 }))",
  },
  lines: {
    zoom_ms: "view.zoom(1e5 * round, 1e5 * round + 3e5)",
    fit_ms: "view.fit()",
    push_ms:
      "view.push([1e6 + round * 100].flatMap((x) => Array.from({ length: 100 }, (_, at) => x + at)), new Map([['loss', Array(100).fill(0.5)]]))",
  },
  heatmap: {
    zoom_ms: "view.zoom({ top: 0, bottom: 2000 - round, left: 0, right: 2000 })",
    fit_ms: "view.fit()",
  },
};

let missed = 0;
for (const [kind, steps] of Object.entries(actions)) {
  const page = await browser.newPage({ viewport: { width: 1100, height: 620 } });
  page.setDefaultTimeout(120_000);
  await page.goto(`file://${folder}/${kind}.html`);
  await page.waitForSelector(".dsl-bar");
  const figures = await page.evaluate(async (todo) => {
    const frame = () => new Promise((done) => requestAnimationFrame(done));
    const painted = () => frame().then(() => new Promise((done) => setTimeout(done)));
    const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1];
    const timed = async (action) => {
      const start = performance.now();
      await action();
      await painted();
      return performance.now() - start;
    };
    const text = document.getElementById("data").textContent;
    const host = document.getElementById("view");
    host.replaceChildren();
    const found = {};
    let view;
    const firsts = [];
    for (let round = 0; round < 3; round++) {
      view?.dispose();
      firsts.push(await timed(async () => (view = await deepseekLab.show(host, text))));
    }
    found.first_paint_ms = median(firsts);
    await painted();
    for (const [name, code] of Object.entries(todo)) {
      const act = new Function("view", "round", code);
      const times = [];
      for (let round = 0; round < 7; round++) times.push(await timed(() => act(view, round)));
      found[name] = median(times);
    }
    return found;
  }, steps);
  for (const [name, value] of Object.entries(figures)) {
    const bar = kind === "table" || name !== "first_paint_ms" ? BARS[name] : undefined;
    if (bar !== undefined && value > bar) missed++;
    const shown = `${kind} ${name}`.padEnd(26);
    console.log(`${shown} ${Math.round(value * 10) / 10}${bar === undefined ? "" : `   (bar ${bar})`}`);
  }
  await page.close();
}
await browser.close();
process.exit(missed === 0 ? 0 : 1);
