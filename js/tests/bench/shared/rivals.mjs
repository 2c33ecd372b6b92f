// Our layout beside dagre's and ELK's on the same graph, each in a process that is ended when it takes too long.
import { spawn } from "node:child_process";

const LIMIT_S = Number(process.env.LIMIT_S ?? 60);
const SIZES = [500, 2_000, 10_000, Infinity];
const LAYOUTS = ["ours", "dagre", "elk"];

/** The figures that a layout gives within the limit, and why there are no more. */
function run(which, page, operations, task) {
  return new Promise((done) => {
    const args = [
      "--stack-size=8000",
      "tests/bench/shared/layouts.mjs",
      which,
      page,
      String(operations),
      task,
    ];
    const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "pipe"] });
    let [printed, wrong, late] = ["", "", false];
    const timer = setTimeout(() => {
      late = true;
      child.kill("SIGKILL");
    }, LIMIT_S * 1000);
    child.stdout.on("data", (part) => (printed += part));
    child.stderr.on("data", (part) => (wrong += part));
    child.on("close", (code) => {
      clearTimeout(timer);
      const lines = printed.split("\n").slice(0, -1);
      const error = /^\w*Error.*|^.*out of memory.*/im.exec(wrong)?.[0].slice(0, 60);
      const why = late ? `not within ${LIMIT_S} s` : code === 0 ? "" : (error ?? `ended with ${code}`);
      done({ figures: lines.map((line) => JSON.parse(line)), why });
    });
  });
}

const ms = (value) => (value === undefined ? "" : value >= 100 ? value.toFixed(0) : value.toFixed(1));
/** Building the tree of modules, which the others are given, and the layout. */
const both = (found) =>
  found.build_ms === undefined ? ms(found.layout_ms) : `${ms(found.build_ms)} + ${ms(found.layout_ms)}`;
const row = (cells) =>
  console.log(cells.map((cell, at) => String(cell).padEnd(at === 0 ? 30 : 22)).join(" "));

/** Print a table of all layouts on all sizes. */
export async function compare(page) {
  console.log(
    "\nlayout alone, in Node, ms; ours with the building of the tree of modules, which the others are given",
  );
  row(["every operation open", ...LAYOUTS]);
  for (const size of SIZES) {
    const cells = [];
    let count = 0;
    for (const which of LAYOUTS) {
      const { figures, why } = await run(which, page, size, "all");
      const [found] = figures;
      count ||= found?.operations ?? 0;
      cells.push(found === undefined ? why : both(found));
    }
    row([`${count} operations`, ...cells]);
  }
  const glances = [];
  for (const which of LAYOUTS) glances.push(await run(which, page, Infinity, "glance"));
  row(["\nwhat shows at first of all", ...LAYOUTS]);
  row(["first layout", ...glances.map(({ figures: [found], why }) => (found ? both(found) : why))]);
  const toggles = glances.map(({ figures }) =>
    figures
      .slice(1)
      .map((one) => one.toggle_ms)
      .toSorted((a, b) => a - b),
  );
  row(["open or close, median", ...toggles.map((all, at) => ms(all[all.length >> 1]) || glances[at].why)]);
  row(["open or close, longest", ...toggles.map((all) => ms(all.at(-1)))]);
  row([
    "of so many",
    ...toggles.map((all, at) => `${all.length}${glances[at].why && `, ${glances[at].why}`}`),
  ]);
}
