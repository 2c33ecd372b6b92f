import { mkdirSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Browser, FrameLocator, Page } from "playwright-core";
import { afterAll, beforeAll, expect, it } from "vitest";
import { launch, violations } from "./browser";
import { command, idle, Lab, run } from "./lab";
import { python } from "./python";

/** Studies of a search in tabs of a real JupyterLab, which stands at a base URL and wants a token. */

const folder = mkdtempSync(join(tmpdir(), "studies-"));
const STUDY = "digits ö 1";
const TRIALS = 12;
let browser: Browser;
let lab: Lab;

beforeAll(async () => {
  mkdirSync(join(folder, "cache"));
  python(`
from pathlib import Path
from deepseek_lab.base.settings import settings
settings.cache_dir = Path(${JSON.stringify(join(folder, "cache"))})
from tests.server.served import searched
searched(${JSON.stringify(STUDY)})
`);
  browser = await launch();
  lab = await Lab.start({ extension: true, folder, base: "/x/y", token: "a-token" });
  lab.write("search", [
    { source: "%load_ext deepseek_lab" },
    { source: `%deepseek hpo dashboard "${STUDY}"` },
  ]);
}, 120_000);

afterAll(async () => {
  await browser.close();
  lab.stop();
});

function frame(page: Page): FrameLocator {
  return page.frameLocator(".dsl-study:visible iframe");
}

/** Until the dashboard shows the study's trials and what its parameter matters. */
async function shown(page: Page): Promise<void> {
  await frame(page).locator(".plotly text", { hasText: "narrowest" }).first().waitFor({ timeout: 60_000 });
  expect(await frame(page).locator(".plotly .scatterlayer .point").count()).toBeGreaterThanOrEqual(TRIALS);
}

function background(page: Page): Promise<string> {
  return frame(page)
    .locator("#dashboard > div")
    .first()
    .evaluate((place) => getComputedStyle(place).backgroundColor);
}

it("opens the link of an output in a tab, where the dashboard reads and writes", async () => {
  const page = await lab.open(browser, "search");
  await run(page, 0);
  await run(page, 1);
  const link = page.locator(".jp-OutputArea a[data-deepseek-study]");
  await link.waitFor({ timeout: 60_000 });
  expect(await link.getAttribute("href")).toBe(`/x/y/deepseek-lab/studies/${encodeURIComponent(STUDY)}/`);
  await link.click();
  await shown(page);
  await page.screenshot({ path: join(folder, "light.png") });
  expect(await background(page)).toBe("rgb(255, 255, 255)");
  expect(page.context().pages()).toHaveLength(1);

  const place = page.locator(".dsl-study:visible iframe");
  const inside = await (await place.elementHandle())?.contentFrame();
  const wrote = await inside?.evaluate(async () => {
    const { studyRoot } = globalThis as unknown as { studyRoot: string };
    const body = JSON.stringify({ body: "from the tab", version: 1 });
    const headers = { "Content-Type": "application/json" };
    const put = await fetch(`${studyRoot}/api/studies/0/note`, { method: "PUT", headers, body });
    const read = await (await fetch(`${studyRoot}/api/studies/0`)).json();
    return [put.status, read.note.body, read.trials.length] as unknown;
  });
  expect(wrote).toEqual([204, "from the tab", TRIALS]);

  // The dashboard's own ways from page to page, and back to one that was loaded again.
  const root = `/x/y/deepseek-lab/studies/${encodeURIComponent(STUDY)}`;
  await frame(page).getByTitle("Trials (List)").getByRole("link").click();
  await frame(page).getByText(`${TRIALS} Trials`).waitFor();
  const selection = frame(page).getByTitle("Smart Selection").getByRole("link");
  await selection.click();
  const csv = frame(page).getByRole("link", { name: "Download CSV File" });
  const href = (await csv.getAttribute("href")) ?? "";
  expect(href.split("?")[0]).toBe(`${root}/csv/0`);
  await inside?.evaluate(() => location.reload());
  await csv.waitFor({ timeout: 30_000 });
  expect(await selection.getAttribute("href")).toBe(`${root}/dashboard/studies/0/smartSelection`);
  expect(new URL(inside?.url() ?? "").pathname).toBe(`${root}/dashboard/studies/0/smartSelection`);
  await page.close();
});

it("lists studies by a command, in the colours of JupyterLab", async () => {
  const page = await lab.open(browser, "search", { dark: true });
  await page.emulateMedia({ colorScheme: null }); // what a browser does by itself, not what a test wants of it
  await idle(page); // until then the notebook takes the focus, and the palette closes
  await page.locator(".jp-InputPrompt").first().click();
  await command(page, "DeepSeek: studies");
  const link = frame(page).getByRole("link", { name: STUDY });
  await link.waitFor({ timeout: 30_000 });
  await page.screenshot({ path: join(folder, "list.png") });
  await link.click();
  await shown(page);
  await page.screenshot({ path: join(folder, "dark.png") });
  expect(await background(page)).toBe("rgb(18, 18, 18)");
  expect(await violations(page, ".dsl-study")).toEqual([]);
  await page.close();
});

it("says so where the server shows no such study", async () => {
  const page = await lab.open(browser, "search");
  await page.evaluate(() => {
    const link = document.createElement("a");
    link.href = "https://elsewhere.invalid/";
    link.textContent = "lured";
    link.setAttribute("data-deepseek-study", "../../api/contents");
    document.querySelector(".jp-Notebook")?.prepend(link);
  });
  await page.getByText("lured").click();
  const note = page.locator(".dsl-study:visible .dsl-note");
  await note.waitFor({ timeout: 30_000 });
  expect(await note.innerText()).toContain("shows no study ../../api/contents");
  expect(page.url()).toContain("/x/y/lab");
  await page.close();
});
