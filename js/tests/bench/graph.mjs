// A graph of 50,000 operations traced from real models: first paint, opening and closing, moving and zooming; then our
// layout beside dagre's and ELK's on the same graph.
// `make bench-views`. Figures are those of headless Chromium and Node on the machine that runs it.
import { opened, report, written } from "./shared/page.mjs";
import { compare } from "./shared/rivals.mjs";

const BARS = { first_paint_ms: 300, toggle_ms: 50, frame_ms: 17 };
const path = written(["tests/bench/stacked.py"]);
const { browser, page } = await opened(path, "[role=treeitem]");

const figures = await page.evaluate(async () => {
  const { frame, timed, median, firsts } = window.bench;
  const { times, view } = await firsts(5);
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
    first_paint_ms: median(times),
    toggle_ms: Math.max(...toggles),
    toggle_median_ms: median(toggles),
    everything_open_ms: everything,
    frame_ms: median(frames),
    page_memory_mb: performance.memory ? performance.memory.usedJSHeapSize / 1e6 : null,
  };
});
await browser.close();
const missed = report(figures, BARS);
await compare(path);
process.exit(missed === 0 ? 0 : 1);
