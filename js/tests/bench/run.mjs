// Every benchmark of the views, one after the other; fails where one of them misses a bar.
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";

let missed = 0;
for (const name of readdirSync("tests/bench").toSorted()) {
  if (!name.endsWith(".mjs") || name === "run.mjs") continue;
  console.log(`\n${name}`);
  if (spawnSync(process.execPath, [`tests/bench/${name}`], { stdio: "inherit" }).status !== 0) missed++;
}
process.exit(missed === 0 ? 0 : 1);
