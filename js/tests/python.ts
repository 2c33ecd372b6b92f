import { execFileSync } from "node:child_process";
import { resolve } from "node:path";

/** Run code with the project's own Python, at the project's root; returns what it printed. */
export function python(code: string): string {
  const interpreter = resolve("../.venv/bin/python");
  return execFileSync(interpreter, ["-W", "ignore", "-c", code], { cwd: "..", encoding: "utf8" });
}
