import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { launch, violations } from "./browser";
import { APP, BESIDE, idle, Lab, run } from "./lab";

/** A search as it goes on, in a real JupyterLab with our extension, a real kernel and real trials. */

const LOAD = "%load_ext deepseek_lab\nimport math, time";
const SEARCH = `%%deepseek hpo --metric accuracy --trials 400 --workers 2 --name pages --repeats 0 --to found
lr = ds.log(1e-5, 1e-1)
width = ds.choice(32, 64)
accuracy = 0.0
for epoch in range(120):
    time.sleep(0.02 if lr != 1e-3 else 0.001)
    accuracy = 1 - abs(math.log10(lr) + 2) / 5 - 0.5 / (epoch + 1) + width / 1000`;

let browser: Browser;
let lab: Lab;
beforeAll(async () => {
  [browser, lab] = await Promise.all([launch(), Lab.start({ extension: true })]);
}, 120_000);
afterAll(async () => {
  await lab.endKernels();
  lab.stop();
  await browser.close();
});

const SETTING = "@jupyterlab/apputils-extension:kernels-settings";

const progress = (page: Page): Promise<string> => page.locator(".dsl-progress").first().innerText();

async function configs(page: Page): Promise<number> {
  return Number(/^(\d+) (of 400 )?configurations/.exec(await progress(page))?.[1] ?? "-1");
}

describe("a search in JupyterLab", () => {
  it("is followed, a trial of it pruned, found again by a page that comes late, and stopped", async () => {
    lab.write(
      "search",
      [
        LOAD,
        SEARCH,
        "print('after', found.reason, 'stopped' in [r.status for r in found.rows.values()])",
      ].map((source) => ({ source })),
    );
    const page = await lab.open(browser, "search");
    await idle(page);
    await run(page, 0);
    await page.locator(".dsl-toggle[data-state=off]").waitFor({ timeout: 60_000 });
    await run(page, 1);
    const running = page.getByRole("region", { name: "Running" });
    await expect.poll(() => configs(page), { timeout: 60_000 }).toBeGreaterThan(0);
    if (BESIDE) {
      // Before there are enough of them for a hopeless one to be ended by itself.
      await running
        .getByRole("button", { name: /^Prune trial/ })
        .last()
        .click();
      await expect.poll(() => progress(page), { timeout: 20_000 }).toContain("1 stopped early");
    }
    expect(await violations(page, ".dsl-output")).toEqual([]);
    if (process.env["SHOTS"]) await page.screenshot({ path: `${process.env["SHOTS"]}/search_live.png` });
    await page.keyboard.press("Control+s");
    await page.waitForTimeout(500);
    const known = await configs(page);
    await page.close();
    const again = await lab.open(browser, "search");
    await expect.poll(() => configs(again), { timeout: 30_000 }).toBeGreaterThan(known);
    await again.locator(".dsl-stop").click();
    // JupyterLab gives a page that came while the cell runs no channel: the kernel is interrupted.
    await expect
      .poll(() => again.locator(".dsl-phase").first().innerText(), { timeout: 30_000 })
      .toMatch(/^(stopped|interrupted)$/);
    await idle(again);
    await run(again, 2);
    const said = again.locator(".jp-OutputArea-output pre", { hasText: "after" });
    expect(await said.innerText()).toMatch(BESIDE ? /after (stopped|interrupted) True/ : /after interrupted/);
    if (process.env["SHOTS"]) await again.screenshot({ path: `${process.env["SHOTS"]}/search_ended.png` });
    await again.close();
  }, 200_000);

  // Notebook 7 has no setting that turns the way beside a busy cell off.
  it.runIf(APP === "lab")(
    "is followed where nothing is served beside its busy cell, and says what does not reach it",
    async () => {
      lab.setting(SETTING, { commsOverSubshells: "disabled" });
      lab.write(
        "busy",
        [LOAD, SEARCH.replace("--name pages", "--name busy"), "print('after', found.reason)"].map(
          (source) => ({
            source,
          }),
        ),
      );
      const page = await lab.open(browser, "busy");
      await idle(page);
      await run(page, 0);
      await page.locator(".dsl-toggle[data-state=off]").waitFor({ timeout: 60_000 });
      await run(page, 1);
      await expect.poll(() => configs(page), { timeout: 60_000 }).toBeGreaterThan(0);
      await page
        .getByRole("button", { name: /^Prune trial/ })
        .last()
        .click();
      await page.locator(".dsl-output > .dsl-note", { hasText: "hears no more than Stop" }).waitFor();
      await page.locator(".dsl-stop").click();
      await expect
        .poll(() => page.locator(".dsl-phase").first().innerText(), { timeout: 30_000 })
        .toBe("interrupted");
      await idle(page);
      await page.close();
      lab.setting(SETTING, {});
    },
    200_000,
  );
});
