// One script for each way in which the views are shown, into the Python package.
import { build } from "esbuild";
import { gzipSync } from "node:zlib";
import { readFileSync } from "node:fs";

const out = "../deepseek_lab/views/_static/page.js";
await build({
  entryPoints: ["src/page/index.ts"],
  bundle: true,
  minify: true,
  format: "iife",
  globalName: "deepseekLab",
  target: "es2022",
  charset: "ascii",
  legalComments: "none",
  outfile: out,
});
const code = readFileSync(out);
console.log(`${out}: ${code.length} bytes, ${gzipSync(code).length} gzipped`);
