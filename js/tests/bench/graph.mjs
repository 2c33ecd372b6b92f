// A graph of 50,000 operations traced from real models: first paint, opening and closing, moving and zooming.
// `make bench-views`. Figures are those of headless Chromium on the machine that runs it.
import { execFileSync } from "node:child_process";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

const BARS = { first_paint_ms: 300, toggle_ms: 50, frame_ms: 17 };
const path = join(mkdtempSync(join(tmpdir(), "bench-")), "page.html");
execFileSync("../.venv/bin/python", ["-W", "ignore", "tests/bench/stacked.py", path], { stdio: "inherit" });
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu"],
});
const page = await browser.newPage({ viewport: { width: 1100, height: 620 } });
await page.goto(`file://${path}`);
await page.waitForSelector("[role=treeitem]");

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
    firsts.push(await timed(async () => (view = await deepseekLab.show(host, text))));
  }
  const { tree, layout } = view;
  const groups = tree.parent
    .map((_, item) => item)
    .filter((item) => item > 0 && tree.parent[item] >= 0 && tree.isGroup(item));
  const chosen = groups.filter((_, index) => index % Math.ceil(groups.length / 60) === 0);
  const toggles = [];
  for (const item of chosen) {
    for (const around of tree.ancestors(item)) view.setOpen(around, true);
    toggles.push(await timed(() => view.setOpen(item, true)));
    toggles.push(await timed(() => view.setOpen(item, false)));
  }
  const everything = await timed(() => {
    layout.setDepth(99);
    view.fit();
  });
  const picture = document.querySelector(".dsl-picture");
  const box = picture.getBoundingClientRect();
  const at = { clientX: box.left + 300, clientY: box.top + 200, bubbles: true, ctrlKey: true };
  const frames = [];
  for (let step = 0; step < 120; step++) {
    const start = await frame();
    picture.dispatchEvent(
      new WheelEvent("wheel", { ...at, deltaY: step % 60 < 30 ? -60 : 60, cancelable: true }),
    );
    frames.push((await frame()) - start);
  }
  return {
    operations: tree.size[0],
    items: tree.count,
    first_paint_ms: median(firsts),
    toggle_ms: Math.max(...toggles),
    toggle_median_ms: median(toggles),
    everything_open_ms: everything,
    frame_ms: median(frames),
    page_memory_mb: performance.memory ? performance.memory.usedJSHeapSize / 1e6 : null,
  };
});
await browser.close();
let missed = 0;
for (const [name, value] of Object.entries(figures)) {
  const bar = BARS[name];
  if (bar !== undefined && value > bar) missed++;
  console.log(
    `${name.padEnd(20)} ${typeof value === "number" ? Math.round(value * 10) / 10 : value}${bar === undefined ? "" : `   (bar ${bar})`}`,
  );
}
process.exit(missed === 0 ? 0 : 1);
