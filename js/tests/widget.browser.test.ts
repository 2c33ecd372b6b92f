import type { Browser, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { launch, violations } from "./browser";
import { idle, Lab, run } from "./lab";

/** Live outputs in a real JupyterLab that has widgets and not our extension. */

const LOAD = "%load_ext deepseek_lab\nimport deepseek_lab, time";
const LOOP = `for step in (run := deepseek_lab.track(range(100_000), name="training")):
    run.log(loss=1 / (1 + step))
    time.sleep(0.005)`;
const SHORT = LOOP.replace("100_000", "700");

let browser: Browser;
let lab: Lab;
beforeAll(async () => {
  [browser, lab] = await Promise.all([launch(), Lab.start({ extension: false })]);
}, 120_000);
afterAll(async () => {
  lab.stop();
  await browser.close();
});
afterEach(() => lab.endKernels());

let numbered = 0;

async function loaded(cells: readonly string[], dark = false): Promise<Page> {
  const name = `book${++numbered}`;
  lab.write(
    name,
    [LOAD, ...cells].map((source) => ({ source })),
  );
  const page = await lab.open(browser, name, { dark });
  await idle(page);
  await run(page, 0);
  await idle(page);
  return page;
}

const phase = (page: Page): Promise<string> => page.locator(".dsl-phase").first().innerText();

async function steps(page: Page): Promise<number> {
  const text = await page.locator(".dsl-progress").first().innerText();
  return Number((/([\d,]+) of/.exec(text)?.[1] ?? "-1").replaceAll(",", ""));
}

describe("a live output without our extension", () => {
  it("follows the run, shares its module with the next, and leaves a page that needs no kernel", async () => {
    const page = await loaded([SHORT, SHORT]);
    await run(page, 1);
    await expect.poll(() => phase(page), { timeout: 20_000 }).toBe("running");
    const before = await steps(page);
    await expect.poll(() => steps(page), { timeout: 20_000 }).toBeGreaterThan(before);
    await idle(page);
    await page.locator(".jp-OutputArea-output iframe").first().waitFor();
    expect(await page.locator(".jp-OutputArea-output .dsl-tabbed").count()).toBe(0);
    const modules = (): Promise<number> =>
      page.evaluate(
        () => (globalThis as { deepseekLabModules?: Map<string, unknown> }).deepseekLabModules?.size ?? 0,
      );
    expect(await modules()).toBe(1);
    await run(page, 2);
    await expect.poll(() => phase(page), { timeout: 20_000 }).toBe("running");
    expect(await modules()).toBe(1);
    await page.close();
  });

  it.each([false, true])(
    "is stopped, or says what stops it; readable by all, dark theme: %s",
    async (dark) => {
      const page = await loaded([LOOP, "print('after', run.done, run.ended)"], dark);
      await run(page, 1);
      await expect.poll(() => phase(page), { timeout: 20_000 }).toBe("running");
      expect(await violations(page, ".dsl-tabbed")).toEqual([]);
      await page.locator(".dsl-stop").click();
      const hint = page.locator(".dsl-widget-hint");
      const ended = page.locator(".jp-OutputArea-output iframe").first();
      await Promise.race([ended.waitFor(), hint.filter({ hasText: "Interrupt" }).waitFor()]);
      if (await hint.isVisible().catch(() => false)) {
        await page.keyboard.press("Escape");
        await page
          .locator(
            ".jp-NotebookPanel-toolbar [data-jp-item-name=interrupt] jp-button, [data-command='notebook:interrupt-kernel']",
          )
          .first()
          .click();
      }
      await idle(page);
      await ended.waitFor();
      await run(page, 2);
      await page
        .locator(".jp-OutputArea-output pre", { hasText: /after \d+ (stopped|KeyboardInterrupt) after/ })
        .waitFor();
      await page.close();
    },
  );
});
