// 1,000,000 allocations and frees of real training steps: first paint, zooming and selecting, memory of the page.
// `make bench-views`. Figures are those of headless Chromium on the machine that runs it.
import { execFileSync } from "node:child_process";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

const BARS = { first_paint_ms: 500, zoom_ms: 50, page_memory_mb: 400 };
const path = join(mkdtempSync(join(tmpdir(), "bench-")), "page.html");
execFileSync(
  ".venv/bin/python",
  ["-W", "ignore", "-m", "tests.views.training", path, process.env.EVENTS ?? "1000000"],
  { stdio: "inherit", cwd: ".." },
);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu"],
});
const page = await browser.newPage({ viewport: { width: 1100, height: 620 } });
await page.goto(`file://${path}`);
await page.waitForSelector("[role=slider]");

const figures = await page.evaluate(async () => {
  const text = document.getElementById("data").textContent;
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  const painted = () => frame().then(() => new Promise((done) => setTimeout(done)));
  const timed = async (action) => {
    const start = performance.now();
    await action();
    await painted();
    return performance.now() - start;
  };
  const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1];
  const host = document.getElementById("view");
  host.replaceChildren();
  const firsts = [];
  let view;
  for (let round = 0; round < 5; round++) {
    view?.dispose();
    host.replaceChildren();
    await painted();
    firsts.push(await timed(async () => (view = await deepseekLab.show(host, text))));
  }
  const { data } = view;
  const changes = [];
  const change = async (action) => changes.push(await timed(action));
  for (let round = 0; round < 12; round++) {
    const middle = ((round + 0.5) / 12) * data.end;
    for (let step = 0; step < 12; step++) await change(() => view.zoom(3, middle));
    await change(() => view.pan(0.5));
    await change(() => view.reset());
    const from = (round / 24) * data.end;
    await change(() => view.select({ from, to: data.end - from / 2 }));
    await change(() => view.zoomIn());
    await change(() => view.moveBy(40));
    await change(() => view.reset());
  }
  const divided = await timed(() => view.divide("1"));
  const switched = await timed(() => view.divide("category"));
  const highlighted = await timed(() => view.highlight("layers.2"));
  return {
    events: data.rows,
    first_paint_ms: median(firsts),
    first_paint_worst_ms: Math.max(...firsts),
    zoom_ms: Math.max(...changes),
    zoom_median_ms: median(changes),
    by_module_ms: divided,
    by_category_again_ms: switched,
    highlight_ms: highlighted,
  };
});
// What the page's scripts hold, arrays outside of the heap too: with what is not collected yet, and without.
const client = await page.context().newCDPSession(page);
const held = async () => {
  const { usedSize, backingStorageSize, embedderHeapUsedSize } = await client.send("Runtime.getHeapUsage");
  return (usedSize + backingStorageSize + embedderHeapUsedSize) / 1e6;
};
figures.page_memory_mb = await held();
await client.send("HeapProfiler.collectGarbage");
figures.page_memory_collected_mb = await held();
await browser.close();
let missed = 0;
for (const [name, value] of Object.entries(figures)) {
  const bar = BARS[name];
  if (bar !== undefined && !(value <= bar)) missed++;
  console.log(
    `${name.padEnd(20)} ${typeof value === "number" ? Math.round(value * 10) / 10 : value}${bar === undefined ? "" : `   (bar ${bar})`}`,
  );
}
process.exit(missed === 0 ? 0 : 1);
