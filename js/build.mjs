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

/** The registry with the line of one kind: what only the others import is left out. */
const only = (kind) => ({
  name: "only",
  setup(making) {
    making.onLoad({ filter: /[\\/]core[\\/]kinds\.ts$/ }, () => ({
      loader: "ts",
      contents: registry.replaceAll(LINE, (line, name) => (name === kind ? line : "")),
    }));
  },
});
const notice = `/* Holds uPlot.\n${readFileSync("node_modules/uplot/LICENSE", "utf8").trim()}\n*/\n`;

mkdirSync(out, { recursive: true });
for (const kind of ["", ...kinds]) {
  const { metafile, outputFiles } = await build({
    entryPoints: ["src/page/index.ts"],
    bundle: true,
    minify: true,
    format: "iife",
    globalName: "deepseekLab",
    target: "es2022",
    charset: "ascii",
    legalComments: "none",
    plugins: kind === "" ? [] : [only(kind)],
    write: false,
    metafile: true,
  });
  const holdsUplot = Object.keys(metafile.inputs).some((path) => path.includes("node_modules/uplot/"));
  const code = (holdsUplot ? notice : "") + outputFiles[0].text;
  const path = `${out}/page${kind && `-${kind}`}.js`;
  writeFileSync(path, code);
  console.log(`${path}: ${code.length} bytes, ${gzipSync(code).length} gzipped`);
}
