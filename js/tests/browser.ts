/** Debian's chromium, and pages as the Python package writes them. */

import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import axe from "axe-core";
import { type Browser, chromium, type Page } from "playwright-core";
import { python } from "./python";

export function launch(): Promise<Browser> {
  return chromium.launch({
    executablePath: process.env["CHROMIUM"] ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu"],
  });
}

/** Run Python that has `out`, the path of a file to write; returns the file's address. */
export function written(code: string, name = "page.html"): string {
  const path = join(mkdtempSync(join(tmpdir(), "views-")), name);
  python(`out = ${JSON.stringify(path)}\n${code}`);
  return `file://${path}`;
}

/** A page for a packed table that anybody may have made. */
export function pageOf(packed: string, title = "graph", kind = "graph"): string {
  const data = join(mkdtempSync(join(tmpdir(), "packed-")), "packed");
  writeFileSync(data, packed);
  return written(
    `from pathlib import Path
from deepseek_lab.views import _page
Path(out).write_text(_page.page(${JSON.stringify(kind)}, ${JSON.stringify(title)}, Path(${JSON.stringify(data)}).read_text()))`,
  );
}

/**
 * Open an address; whatever is executed that should not be, and every error of the page, is collected.
 *
 * Returns when the page's view stands there, or with `view: false` when the page has loaded.
 */
export async function opened(
  browser: Browser,
  address: string,
  options: { dark?: boolean; view?: boolean } = {},
): Promise<{ page: Page; errors: string[] }> {
  const context = await browser.newContext({
    viewport: { width: 1100, height: 620 },
    colorScheme: options.dark === true ? "dark" : "light",
    offline: true,
  });
  const page = await context.newPage();
  const errors: string[] = [];
  page.on("pageerror", (error) => errors.push(error.message));
  page.on("dialog", (dialog) => {
    errors.push(`a dialog: ${dialog.message()}`);
    void dialog.dismiss();
  });
  page.on("request", (request) => {
    if (!/^(file|blob|data|about):/.test(request.url())) errors.push(`a request: ${request.url()}`);
  });
  await page.goto(address);
  // a view unpacks its data before it stands there: on a busy machine long after the page has loaded
  if (options.view !== false) await page.waitForSelector(".dsl-view", { state: "attached" });
  return { page, errors };
}

/** Everything on a page, or within a part of it, that does not meet WCAG 2.2 AA. */
export async function violations(page: Page, within?: string): Promise<string[]> {
  await page.evaluate(axe.source);
  return page.evaluate(async (part) => {
    const { axe: checker } = window as unknown as { axe: typeof axe };
    const found = await checker.run(part ?? document, {
      runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"],
    });
    return found.violations.map(
      ({ id, nodes }) =>
        `${id}: ${nodes
          .map((node) => node.html)
          .join(" ")
          .slice(0, 300)}`,
    );
  }, within);
}
