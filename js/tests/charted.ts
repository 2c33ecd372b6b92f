/** What tests of tables and charts show, and how they look at what is shown. */

import { readFileSync } from "node:fs";
import type { Page } from "playwright-core";
import { packedTable, random } from "./tables";

export const KINDS = ["table", "scatter", "lines", "heatmap"] as const;
export type Kind = (typeof KINDS)[number];

const OPTIMISERS = ["adam", "sgd", "lion"];

/** What each kind shows in these tests: a little of everything, also of what is missing. */
export function sample(kind: Kind, rows = 60): string {
  const next = random(7);
  const numbers = (value: (row: number) => number): number[] =>
    Array.from({ length: rows }, (_, row) => value(row));
  if (kind === "heatmap") {
    const values = numbers((row) => (row === 5 ? NaN : next() - 0.5));
    return packedTable({ values }, { shape: [rows / 10, 10], label: "weight" });
  }
  if (kind === "lines") {
    const loss = numbers((row) => (row > 20 && row < 25 ? NaN : 3 / (1 + row) + next() / 10));
    return packedTable({ step: numbers((row) => row), loss, "val loss": numbers((row) => 4 / (1 + row)) });
  }
  return packedTable(
    {
      trial: Array.from({ length: rows }, (_, row) => `trial_${row}`),
      optimiser: Array.from({ length: rows }, (_, row) => OPTIMISERS[row % 3] ?? ""),
      latency: numbers(() => 1 + next() * 20),
      error: numbers((row) => (row === 3 ? NaN : next())),
      layers: numbers((row) => row % 12),
    },
    {
      columns: { latency: { unit: "ms", better: "lower", bar: true }, error: { better: "lower" } },
      axes: { x: "latency", y: "error", colour: "optimiser" },
    },
  );
}

export const frames = (page: Page): Promise<unknown> =>
  page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));

/** How many different colours the first picture has: one where nothing was drawn. */
export async function colours(page: Page): Promise<number> {
  await frames(page);
  return page.evaluate(() => {
    const canvas = document.querySelector("canvas");
    const context = canvas?.getContext("2d");
    if (!canvas || !context) return 0;
    return new Set(new Uint32Array(context.getImageData(0, 0, canvas.width, canvas.height).data.buffer)).size;
  });
}

export const cells = (page: Page, column: number): Promise<string[]> =>
  page.locator(`[role=gridcell][aria-colindex="${column}"]`).allInnerTexts();
export const active = (page: Page): Promise<string> =>
  page.evaluate(() => {
    const id = document.querySelector("[role=grid]")?.getAttribute("aria-activedescendant") ?? "";
    return (document.getElementById(id) as HTMLElement | null)?.innerText ?? "";
  });
export const readout = (page: Page): Promise<string> => page.locator(".dsl-readout").innerText();

/** The rows that the view said were chosen, from now on. */
export async function chosen(page: Page): Promise<() => Promise<number[]>> {
  await page.evaluate(() => {
    const rows: number[] = [];
    (window as unknown as { rows: number[] }).rows = rows;
    document.addEventListener("dsl-row", (event) =>
      rows.push((event as CustomEvent<{ row: number }>).detail.row),
    );
  });
  return () => page.evaluate(() => (window as unknown as { rows: number[] }).rows);
}

export async function saved(page: Page, name: string): Promise<[string, string]> {
  const [download] = await Promise.all([
    page.waitForEvent("download"),
    page.getByRole("button", { name }).click(),
  ]);
  return [download.suggestedFilename(), readFileSync(await download.path(), "latin1")];
}
