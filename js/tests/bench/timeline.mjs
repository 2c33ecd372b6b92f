// 1,000,000 allocations and frees of real training steps: first paint, zooming and selecting, memory of the page.
// `make bench-views`. Figures are those of headless Chromium on the machine that runs it.
import { opened, report, written } from "./shared/page.mjs";

const BARS = { first_paint_ms: 500, zoom_ms: 50, page_memory_mb: 400 };
const path = written(["-m", "tests.views.training"], "..", [process.env.EVENTS ?? "1000000"]);
const { browser, page } = await opened(path, "[role=slider]");

const figures = await page.evaluate(async () => {
  const { timed, median, firsts } = window.bench;
  const { times, view } = await firsts(5);
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
    first_paint_ms: median(times),
    first_paint_worst_ms: Math.max(...times),
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
process.exit(report(figures, BARS) === 0 ? 0 : 1);
