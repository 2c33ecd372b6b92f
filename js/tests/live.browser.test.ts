import type { Browser, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { launch, violations } from "./browser";
import { APP, BESIDE, command, idle, Lab, LOST, run, STOPPED } from "./lab";

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
async function loaded(cells: readonly string[]): Promise<[Page, string]> {
  const name = `book${++numbered}`;
  lab.write(
    name,
    [LOAD, ...cells].map((source) => ({ source })),
  );
  const page = await lab.open(browser, name);
  await idle(page);
  await run(page, 0);
  await page.locator(".dsl-toggle[data-state=off]").waitFor({ timeout: 60_000 });
  return [page, name];
}

const phase = (page: Page): Promise<string> => page.locator(".dsl-phase").first().innerText();

async function until(page: Page, words: RegExp): Promise<void> {
  await expect.poll(() => phase(page), { timeout: 20_000 }).toMatch(words);
}

/** Look at a page in its light theme, and then in the dark one. */
async function inBothThemes(page: Page, look: (theme: string) => Promise<void>): Promise<void> {
  for (const theme of ["Light", "Dark"]) {
    await command(page, `Use Theme: JupyterLab ${theme}`);
    await page
      .locator(`body[data-jp-theme-light=${String(theme === "Light")}]`)
      .waitFor({ state: "attached" });
    await look(theme);
  }
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
    await until(page, STOPPED);
    await idle(page);
    await run(page, 2);
    const said = page.locator(".jp-OutputArea-output pre", { hasText: "after" });
    expect(await said.innerText()).toContain(await phase(page));
    expect(await page.locator(".dsl-run table").innerText()).toContain("loss");
    await page.close();
  });

  it("has no row for a rank that the others go on without", async () => {
    const ranks = `
from deepseek_lab.base import events as ev
from deepseek_lab.base.ranks import RankVitals
for step in (run := deepseek_lab.track(range(100_000), name="training")):
    num = 3 if step < 300 else 2
    ranks = tuple(RankVitals(number, "training", num_updates=step) for number in range(num))
    if step % 20 == 0: run.log_of_events.emit(ev.RanksSeen(run=run.id, ranks=ranks))
    time.sleep(0.005)`;
    const [page] = await loaded([ranks]);
    await run(page, 1);
    const rows = page.getByRole("region", { name: "Ranks" }).getByRole("rowheader");
    await expect.poll(() => rows.allInnerTexts(), { timeout: 20_000 }).toEqual(["0", "1", "2"]);
    await expect.poll(() => rows.allInnerTexts(), { timeout: 20_000 }).toEqual(["0", "1"]);
    await page.locator(".dsl-stop").click();
    await until(page, STOPPED);
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
    await until(page, LOST);
    expect(await page.locator(".dsl-stop").isVisible()).toBe(false);
    expect(await page.locator(".dsl-run table").innerText()).toContain("loss");
    await page.close();
  });

  it("is said to be lost when its kernel is killed", async () => {
    const [page] = await loaded([`${LOOP}\n    if step == 700: os.kill(os.getpid(), signal.SIGKILL)`]);
    await run(page, 1);
    await until(page, /running/);
    await until(page, /no longer known/);
    expect(await page.locator(".dsl-run table").innerText()).toContain("loss");
    await page.close();
  });

  // Notebook 7 has no second view of an output.
  it.runIf(APP === "lab")("is shown by two views of one output, which say the same in the end", async () => {
    const [page] = await loaded([LOOP]);
    await run(page, 1);
    await until(page, /running/);
    await page.locator(".dsl-output").click({ button: "right", position: { x: 5, y: 5 } });
    await page.getByText("Create New View for Cell Output").click();
    await expect.poll(() => page.locator(".dsl-run").count()).toBe(2);
    const other = page.locator(".dsl-phase").last();
    await expect.poll(() => other.innerText(), { timeout: 20_000 }).toBe("running");
    await page.locator(".dsl-stop").first().click();
    await until(page, STOPPED);
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
  it("is shown with its graph, in both themes", async () => {
    const [page] = await loaded([
      `%%deepseek optimize --backends onnxruntime,openvino,kernels --wait 90
model = torch.nn.Sequential(torch.nn.Linear(512, 2048), torch.nn.GELU(), torch.nn.Linear(2048, 512)).eval()
x = torch.randn(64, 512)
with torch.no_grad():
    for _ in range(3):
        y = model(x)`,
    ]);
    await run(page, 1);
    const output = page.locator(".dsl-output");
    const tabs = {
      Graph: output.getByRole("tab", { name: /Graph/ }),
      Run: output.getByRole("tab", { name: "Run", exact: true }),
    };
    await tabs.Graph.waitFor({ timeout: 120_000 });
    await expect
      .poll(() => output.locator(".dsl-run h3 small").first().innerText(), { timeout: 120_000 })
      .toMatch(/runs now|eager is kept/);
    const table = await output.locator(".dsl-run table").first().innerText();
    for (const candidate of ["openvino", "onnxruntime", "kernels"]) expect(table).toContain(candidate);
    await inBothThemes(page, async (theme) => {
      for (const [name, tab] of Object.entries(tabs)) {
        await tab.click();
        if (name === "Graph") await output.locator("[role=treeitem]").first().waitFor();
        if (process.env["SHOTS"])
          await page.screenshot({ path: `${process.env["SHOTS"]}/race_${name}_${theme}.png`.toLowerCase() });
        expect(await violations(page, ".dsl-output")).toEqual([]);
      }
    });
    await page.close();
  }, 200_000);
});

// Notebook 7 has no setting that turns it off.
describe.runIf(APP === "lab" || !BESIDE)("Stop where nothing is served beside a busy cell", () => {
  const SETTING = "@jupyterlab/apputils-extension:kernels-settings";
  beforeAll(() => BESIDE && lab.setting(SETTING, { commsOverSubshells: "disabled" }));
  afterAll(() => BESIDE && lab.setting(SETTING, {}));

  it("interrupts the loop of the cell, which keeps what it has", async () => {
    const [page] = await loaded([LOOP]);
    await run(page, 1);
    await until(page, /running/);
    await page.locator(".dsl-stop").click();
    await until(page, /KeyboardInterrupt after/);
    expect(await page.locator(".dsl-run table").innerText()).toContain("loss");
    await page.close();
  });

  it("leaves another cell alone that is busy while a run goes on behind it", async () => {
    const [page] = await loaded([
      `%%deepseek optimize --backends inductor,onnxruntime,openvino
model = torch.nn.Sequential(*[torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.GELU()) for _ in range(12)]).eval()
x = torch.randn(64, 512)
with torch.no_grad():
    y = model(x)`,
      "time.sleep(8); print('not interrupted')",
    ]);
    await run(page, 1);
    await page.locator(".dsl-stop:visible").waitFor({ timeout: 60_000 });
    await idle(page);
    await run(page, 2);
    await page.locator(".dsl-stop").click();
    await page.locator(".dsl-output > .dsl-note", { hasText: "when that cell has ended" }).waitFor();
    await page.locator(".jp-OutputArea-output pre", { hasText: "not interrupted" }).waitFor();
    await expect.poll(() => page.locator(".dsl-stop:visible").count(), { timeout: 30_000 }).toBe(0);
    await page.close();
  });
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
    // Notebook 7 has no status bar.
    if (APP === "lab")
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

  it("lists the notebook's runs, stops them and compares two, in both themes", async () => {
    const quick = LOOP.replace("100_000", "30");
    const [page] = await loaded([quick, LOOP]);
    await run(page, 1);
    await idle(page);
    await run(page, 2);
    await expect.poll(() => page.locator(".dsl-stop:visible").count(), { timeout: 20_000 }).toBe(1);
    await command(page, "Show Runs");
    const panel = page.locator(".dsl-panel");
    await expect.poll(() => panel.locator("li").count()).toBe(2);
    expect(await violations(page, ".dsl-panel")).toEqual([]);
    await panel.getByRole("button", { name: "Stop the run" }).click();
    await expect
      .poll(() => page.locator(".dsl-phase").allInnerTexts(), { timeout: 20_000 })
      .toContainEqual(expect.stringMatching(STOPPED));
    for (const box of await panel.getByRole("checkbox").all()) await box.check();
    await panel.getByRole("button", { name: "Open two chosen runs" }).click();
    await expect.poll(() => page.locator(".dsl-comparison .dsl-run").count()).toBe(2);
    await inBothThemes(page, async () => {
      for (const part of [".dsl-panel", ".dsl-comparison", ".dsl-toggle"])
        expect(await violations(page, part)).toEqual([]);
    });
    await page.close();
  });
});

describe("an output of another version", () => {
  it("of a kernel whose package is another one says so, with the command that mends it", async () => {
    const [page] = await loaded([
      `import deepseek_lab.views._page as page_data\npage_data.__version__ = "9.8.7"\n${LOOP.replace("100_000", "300")}`,
    ]);
    await run(page, 1);
    const note = page.locator(".dsl-output > .dsl-note");
    await note.filter({ hasText: 'pip install "deepseek-lab==9.8.7"' }).waitFor();
    await idle(page);
    await expect.poll(() => note.isVisible()).toBe(false); // saved, it is as good as any
    await page.close();
  });

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
