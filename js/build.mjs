// Scripts for pages, into the Python package: one with every view, and one for each kind of view by itself, so that a
// notebook carries no more than what it shows.
import { build } from "esbuild";
import { gzipSync } from "node:zlib";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";

const out = "../deepseek_lab/views/_static";
const registry = readFileSync("src/core/kinds.ts", "utf8");
const LINE = /^ {2}\["(\w+)", \w+\],\n/gm;
const kinds = Array.from(registry.matchAll(LINE), ([, kind]) => kind);
if (kinds.length === 0) throw new Error("src/core/kinds.ts has no lines that register kinds");

/** Kinds that a live output in other front ends goes without: nothing live is of them, and uPlot weighs most. */
const NOT_IN_WIDGET = ["lines", "heatmap", "scatter", "timeline"];

/** The registry with the lines of some kinds: what only the others import is left out. */
const only = (wanted) => ({
  name: "only",
  setup(making) {
    making.onLoad({ filter: /[\\/]core[\\/]kinds\.ts$/ }, () => ({
      loader: "ts",
      contents: registry.replaceAll(LINE, (line, name) => (wanted(name) ? line : "")),
    }));
  },
});
/** What a kernel may send to a page, once. */
const MAX_WIDGET_BYTES = 62_000;
const notice = `/* Holds uPlot.\n${readFileSync("node_modules/uplot/LICENSE", "utf8").trim()}\n*/\n`;

/** Bundle one script and say how large it is. */
async function bundle(name, entry, options) {
  const { metafile, outputFiles } = await build({
    entryPoints: [entry],
    bundle: true,
    minify: true,
    target: "es2022",
    charset: "ascii",
    legalComments: "none",
    write: false,
    metafile: true,
    ...options,
  });
  const holdsUplot = Object.keys(metafile.inputs).some((path) => path.includes("node_modules/uplot/"));
  const code = (holdsUplot ? notice : "") + outputFiles[0].text;
  writeFileSync(`${out}/${name}.js`, code);
  const zipped = gzipSync(code).length;
  console.log(`${out}/${name}.js: ${code.length} bytes, ${zipped} gzipped`);
  return zipped;
}

mkdirSync(out, { recursive: true });
const page = { format: "iife", globalName: "deepseekLab" };
await bundle("page", "src/page/index.ts", page);
for (const kind of kinds)
  await bundle(`page-${kind}`, "src/page/index.ts", { ...page, plugins: [only((name) => name === kind)] });

const live = { format: "esm", plugins: [only((name) => !NOT_IN_WIDGET.includes(name))] };
const sent = await bundle("widget", "src/widget/index.ts", live);
if (sent > MAX_WIDGET_BYTES)
  throw new Error(`the widget's module is larger than ${MAX_WIDGET_BYTES} bytes gzipped`);
await bundle("widget-loader", "src/widget/loader.ts", { format: "esm" });
