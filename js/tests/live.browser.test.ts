import axe from "axe-core";
import type { Browser, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { launch } from "./browser";
import { idle, Lab, run } from "./lab";

/** Runs as they happen, in a real JupyterLab with our extension and a real kernel. */

const LOAD = "%load_ext deepseek_lab\nimport deepseek_lab, time, os, signal, torch";
const LOOP = `for step in (run := deepseek_lab.track(range(100_000), name="training")):
    run.log(loss=1 / (1 + step))
    time.sleep(0.005)`;

let browser: Browser;
let lab: Lab;
beforeAll(async () => {
  [browser, lab] = await Promise.all([launch(), Lab.start({ extension: true })]);
}, 120_000);
afterAll(async () => {
  lab.stop();
  await browser.close();
});
afterEach(() => lab.endKernels());

let numbered = 0;

/** A new notebook whose first cell has run. */
async function loaded(cells: readonly string[], options: { dark?: boolean } = {}): Promise<[Page, string]> {
  const name = `book${++numbered}`;
  lab.write(
    name,
    [LOAD, ...cells].map((source) => ({ source })),
  );
  const page = await lab.open(browser, name, options);
  await idle(page);
  await run(page, 0);
  await page.locator(".dsl-toggle[data-state=off]").waitFor({ timeout: 60_000 });
  return [page, name];
}

const phase = (page: Page): Promise<string> => page.locator(".dsl-phase").first().innerText();

async function until(page: Page, words: RegExp): Promise<void> {
  await expect.poll(() => phase(page), { timeout: 20_000 }).toMatch(words);
}

async function steps(page: Page): Promise<number> {
  const text = await page.locator(".dsl-progress").first().innerText();
  return Number((/([\d,]+) of/.exec(text)?.[1] ?? "-1").replaceAll(",", ""));
}

describe("a run", () => {
  it("is followed, stopped while its cell is busy, and keeps what it has", async () => {
    const [page] = await loaded([LOOP, "print('after', run.done, run.ended)"]);
    await run(page, 1);
    await until(page, /running/);
    await expect.poll(() => steps(page)).toBeGreaterThan(50);
    await page.locator(".dsl-stop").click();
    await until(page, /stopped after/);
    await idle(page);
    await run(page, 2);
    const said = page.locator(".jp-OutputArea-output pre", { hasText: "after" });
    expect(await said.innerText()).toContain(await phase(page));
    expect(await page.locator(".dsl-run table").innerText()).toContain("loss");
    await page.close();
  });

  it("is found again by a page that was loaded in its middle", async () => {
    const [page, name] = await loaded([LOOP]);
    await run(page, 1);
    await until(page, /running/);
    await expect.poll(() => steps(page)).toBeGreaterThan(50);
    await page.keyboard.press("Control+s");
    await page.waitForTimeout(1000);
    const before = await steps(page);
    await page.close();
    const again = await lab.open(browser, name);
    await until(again, /running/);
    expect(await steps(again)).toBeGreaterThan(before);
    await again.locator(".dsl-stop").click(); // JupyterLab gives such a page no channel: the kernel is interrupted
    await until(again, /(stopped|KeyboardInterrupt) after/);
    await again.close();
  });

  it("is said to be lost when its kernel is restarted", async () => {
    const [page] = await loaded([LOOP]);
    await run(page, 1);
    await until(page, /running/);
    await page.keyboard.press("Escape");
    await page.keyboard.press("0");
    await page.keyboard.press("0");
    await page.getByRole("button", { name: "Confirm Kernel Restart" }).click();
    await until(page, /no longer known/);
    expect(await page.locator(".dsl-stop").isVisible()).toBe(false);
    expect(await page.locator(".dsl-run table").innerText()).toContain("loss");
    await page.close();
  });

  it("is said to be lost when its kernel is killed", async () => {
    const [page] = await loaded([`${LOOP}\n    if step == 200: os.kill(os.getpid(), signal.SIGKILL)`]);
    await run(page, 1);
    await until(page, /running/);
    await until(page, /no longer known/);
    expect(await page.locator(".dsl-run table").innerText()).toContain("loss");
    await page.close();
  });

  it("is shown by two views of one output, which say the same in the end", async () => {
    const [page] = await loaded([LOOP]);
    await run(page, 1);
    await until(page, /running/);
    await page.locator(".dsl-output").click({ button: "right", position: { x: 5, y: 5 } });
    await page.getByText("Create New View for Cell Output").click();
    await expect.poll(() => page.locator(".dsl-run").count()).toBe(2);
    await expect.poll(() => page.locator(".dsl-phase").last().innerText()).toBe("running");
    await page.locator(".dsl-stop").first().click();
    await until(page, /stopped after/);
    await expect.poll(() => page.locator(".dsl-phase").last().innerText()).toBe(await phase(page));
    await page.close();
  });

  it("goes on when its notebook is closed", async () => {
    const [page, name] = await loaded([LOOP]);
    await run(page, 1);
    await until(page, /running/);
    await page.keyboard.press("Control+s");
    await page.waitForTimeout(500);
    const before = await steps(page);
    await page.close();
    await new Promise((done) => setTimeout(done, 1500));
    const again = await lab.open(browser, name);
    await until(again, /running/);
    expect(await steps(again)).toBeGreaterThan(before + 100);
    await again.close();
  });
});

describe("the race of candidates", () => {
  it.each([false, true])(
    "is shown with its graph, dark: %s",
    async (dark) => {
      const [page] = await loaded(
        [
          `%%deepseek optimize --backends onnxruntime,openvino,kernels --wait 90
model = torch.nn.Sequential(torch.nn.Linear(512, 2048), torch.nn.GELU(), torch.nn.Linear(2048, 512)).eval()
x = torch.randn(64, 512)
with torch.no_grad():
    for _ in range(3):
        y = model(x)`,
        ],
        { dark },
      );
      await run(page, 1);
      const output = page.locator(".dsl-output");
      await output.getByRole("tab", { name: /Graph/ }).waitFor({ timeout: 120_000 });
      await expect
        .poll(() => output.locator(".dsl-run h3 small").first().innerText(), { timeout: 120_000 })
        .toMatch(/runs now|eager is kept/);
      const table = await output.locator(".dsl-run table").first().innerText();
      for (const candidate of ["openvino", "onnxruntime", "kernels"]) expect(table).toContain(candidate);
      await output.getByRole("tab", { name: /Graph/ }).click();
      await output.locator("[role=treeitem]").first().waitFor();
      if (process.env["SHOTS"]) {
        await page.screenshot({ path: `${process.env["SHOTS"]}/race_graph_${dark ? "dark" : "light"}.png` });
        await output.getByRole("tab", { name: "Run", exact: true }).click();
        await page.screenshot({ path: `${process.env["SHOTS"]}/race_run_${dark ? "dark" : "light"}.png` });
      }
      await page.evaluate(axe.source);
      const found = await page.evaluate(async () => {
        const { violations } = await (globalThis as unknown as { axe: typeof axe }).axe.run(".dsl-output", {
          runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"],
        });
        return violations.map(
          (one) =>
            `${one.id}: ${one.nodes
              .map((node) => node.html)
              .join(" ")
              .slice(0, 300)}`,
        );
      });
      expect(found).toEqual([]);
      await page.close();
    },
    200_000,
  );
});

describe("the toggle and the panel", () => {
  it("shows the state that the kernel reports, and changes it", async () => {
    const [page] = await loaded(["%deepseek on", "%deepseek off", "1 + 1"]);
    const toggle = page.locator(".dsl-toggle");
    await run(page, 1);
    await expect.poll(() => toggle.innerText()).toBe("DeepSeek: on");
    await toggle.click();
    await expect.poll(() => toggle.innerText()).toBe("DeepSeek: off");
    await toggle.press("Enter");
    await expect.poll(() => toggle.innerText()).toBe("DeepSeek: on");
    await expect.poll(() => page.locator(".dsl-status").innerText()).toContain("every cell optimised");
    await run(page, 2);
    await expect.poll(() => toggle.innerText()).toBe("DeepSeek: off");
    await page.close();
  });

  it("loads the extension where it is not loaded, and says so where it cannot be", async () => {
    const name = `book${++numbered}`;
    lab.write(name, [{ source: "import sys; sys.modules['deepseek_lab'] = None" }]);
    const page = await lab.open(browser, name);
    const toggle = page.locator(".dsl-toggle");
    await expect.poll(() => toggle.innerText(), { timeout: 30_000 }).toBe("DeepSeek: not loaded");
    await toggle.click();
    await expect.poll(() => toggle.innerText(), { timeout: 30_000 }).toBe("DeepSeek: on");
    await page.close();
  });

  it("lists the notebook's runs, stops them and compares two", async () => {
    const quick = LOOP.replace("100_000", "30");
    const [page] = await loaded([quick, LOOP]);
    await run(page, 1);
    await idle(page);
    await run(page, 2);
    await expect.poll(() => page.locator(".dsl-stop:visible").count()).toBe(1);
    await page.getByRole("tab", { name: "Runs" }).click();
    const panel = page.locator(".dsl-panel");
    await expect.poll(() => panel.locator("li").count()).toBe(2);
    await panel.getByRole("button", { name: "Stop the run" }).click();
    await expect
      .poll(() => page.locator(".dsl-phase").allInnerTexts())
      .toContainEqual(expect.stringMatching(/stopped after/));
    for (const box of await panel.getByRole("checkbox").all()) await box.check();
    await panel.getByRole("button", { name: "Open two chosen runs" }).click();
    await expect.poll(() => page.locator(".dsl-comparison .dsl-run").count()).toBe(2);
    await page.close();
  });
});

describe("an output of another version", () => {
  it("says what to do", async () => {
    const name = `book${++numbered}`;
    const data = {
      "application/vnd.deepseek-lab.v1+json": { schema: 99, views: [] },
      "text/plain": "optimize",
    };
    const output = { output_type: "display_data", data, metadata: {} };
    lab.write(name, [{ source: "", outputs: [output] }]);
    const page = await lab.open(browser, name);
    expect(await page.locator(".dsl-output [role=alert]").innerText()).toContain(
      "pip install -U deepseek_lab",
    );
    await page.close();
  });
});
