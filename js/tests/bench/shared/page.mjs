// What benchmarks of a page share: a page that Python writes, a browser that opens it, and figures beside their bars.
import { execFileSync } from "node:child_process";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

/** Run the project's Python with the path of a page to write as its first argument after `args`; returns the path. */
export function written(args, cwd = ".", more = []) {
  const path = join(mkdtempSync(join(tmpdir(), "bench-")), "page.html");
  const python = cwd === "." ? "../.venv/bin/python" : ".venv/bin/python";
  execFileSync(python, ["-W", "ignore", ...args, path, ...more], { stdio: "inherit", cwd });
  return path;
}

/**
 * Open a page once `selector` is there. In it, `bench` has: `frame`, the next frame; `painted`, once it is painted;
 * `timed`, milliseconds of an action until it is painted; `median`; and `firsts`, the times that the page's own view
 * takes to be shown, with the last of them left standing as `view`.
 */
export async function opened(path, selector) {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu"],
  });
  const page = await browser.newPage({ viewport: { width: 1100, height: 620 } });
  await page.goto(`file://${path}`);
  await page.waitForSelector(selector);
  await page.evaluate(() => {
    const frame = () => new Promise((done) => requestAnimationFrame(done));
    const painted = () => frame().then(() => new Promise((done) => setTimeout(done)));
    const timed = async (action) => {
      const start = performance.now();
      await action();
      await painted();
      return performance.now() - start;
    };
    const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1];
    const firsts = async (rounds) => {
      const text = document.getElementById("data").textContent;
      const host = document.getElementById("view");
      const times = [];
      let view;
      for (let round = 0; round < rounds; round++) {
        view?.dispose();
        host.replaceChildren();
        await painted();
        times.push(await timed(async () => (view = await deepseekLab.show(host, text))));
      }
      return { times, view };
    };
    window.bench = { frame, painted, timed, median, firsts };
  });
  return { browser, page };
}

/** Print figures with their bars; returns how many missed theirs. */
export function report(figures, bars) {
  let missed = 0;
  for (const [name, value] of Object.entries(figures)) {
    const bar = bars[name];
    if (bar !== undefined && !(value <= bar)) missed++;
    const said = typeof value === "number" ? Math.round(value * 10) / 10 : value;
    console.log(`${name.padEnd(24)} ${said}${bar === undefined ? "" : `   (bar ${bar})`}`);
  }
  return missed;
}
