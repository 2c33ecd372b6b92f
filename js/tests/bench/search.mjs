// A search of 10,000 trials with 8 ranges: first paint, and what each word of a live one costs, every picture in sight.
// `make bench-views`. Figures are those of headless Chromium on the machine that runs it.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { build } from "esbuild";
import { chromium } from "playwright-core";

const folder = mkdtempSync(join(tmpdir(), "bench-"));
const BARS = { first_paint_ms: 500, update_ms: 50, update_block_ms: 50 };
execFileSync("../.venv/bin/python", ["-W", "ignore", "tests/bench/search.py", folder], {
  env: { ...process.env, PYTHONPATH: ".." },
  stdio: "inherit",
});
const news = JSON.parse(readFileSync(`${folder}/news.json`, "utf8"));
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu"],
});
const page = await browser.newPage({ viewport: { width: 1100, height: 1900 } });
page.setDefaultTimeout(120_000);
await page.goto(`file://${folder}/search.html`);
await page.waitForSelector(".dsl-search");
const { outputFiles } = await build({
  stdin: {
    contents: 'export { show } from "./src/page/index"; export { unpack } from "./src/core/packed";',
    resolveDir: ".",
  },
  bundle: true,
  minify: true,
  format: "iife",
  globalName: "measured",
  write: false,
});
await page.addScriptTag({ content: outputFiles[0].text });
const figures = await page.evaluate(async (packed) => {
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
  let view;
  const firsts = [];
  for (let round = 0; round < 5; round++) {
    view?.dispose();
    firsts.push(await timed(async () => (view = await measured.show(host, text))));
    await painted();
  }
  const updates = [];
  for (const one of packed) {
    const table = await measured.unpack(one);
    // What the view would do in its next frame, at once: taking in, and drawing all that is in sight.
    updates.push(
      await timed(() => {
        view.push(table);
        view.drawNow();
      }),
    );
  }
  // What the view does by itself, picture by picture: how long the page does not answer at most.
  const blocks = [];
  for (const one of packed) {
    const table = await measured.unpack(one);
    await new Promise((done) => setTimeout(done, 300));
    view.push(table);
    const until = performance.now() + 600;
    let [longest, last] = [0, performance.now()];
    while (performance.now() < until) {
      await new Promise((done) => {
        const { port1, port2 } = new MessageChannel();
        port1.onmessage = done;
        port2.postMessage(0);
      });
      longest = Math.max(longest, performance.now() - last);
      last = performance.now();
    }
    blocks.push(longest);
  }
  const filters = [];
  for (let round = 0; round < 5; round++) filters.push(await timed(() => view.filter(`lr>0.00${round + 1}`)));
  view.filter("");
  const hovers = [];
  const plot = document.querySelector(".dsl-plot");
  for (let round = 0; round < 9; round++)
    hovers.push(
      await timed(() => {
        const { x, y } = plot.getBoundingClientRect();
        const at = { clientX: x + 100 + 40 * round, clientY: y + 90 };
        plot.dispatchEvent(new PointerEvent("pointermove", at));
      }),
    );
  window.benched = view;
  return {
    trials: view.state.trials.count,
    first_paint_ms: median(firsts),
    update_ms: median(updates),
    update_block_ms: median(blocks),
    filter_ms: median(filters),
    hover_ms: median(hovers),
  };
}, news);
/** Processor time of the page's main thread, in ms: what the machine does beside does not count. */
const devtools = await page.context().newCDPSession(page);
await devtools.send("Performance.enable", { timeDomain: "threadTicks" });
const worked = async () => {
  const { metrics } = await devtools.send("Performance.getMetrics");
  return 1000 * metrics.find(({ name }) => name === "TaskDuration").value;
};
const before = await worked();
await page.evaluate(async (packed) => {
  for (const one of packed) {
    const table = await measured.unpack(one);
    benched.push(table);
    benched.drawNow();
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  }
}, news);
figures.update_cpu_ms = ((await worked()) - before) / news.length;
await browser.close();
let missed = 0;
for (const [name, value] of Object.entries(figures)) {
  const bar = BARS[name];
  if (bar !== undefined && value > bar) missed++;
  console.log(
    `search ${name}`.padEnd(26),
    Math.round(value * 10) / 10,
    bar === undefined ? "" : `   (bar ${bar})`,
  );
}
process.exit(missed === 0 ? 0 : 1);
