import { mkdirSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { launch } from "./browser";
import { Lab } from "./lab";
import { python } from "./python";

/** A saved notebook with one output, in a real JupyterLab without a kernel. */

const folder = mkdtempSync(join(tmpdir(), "lab-"));
let browser: Browser;

beforeAll(async () => {
  mkdirSync(join(folder, "data"));
  python(`
import nbformat
from nbformat.sign import NotebookNotary
from tests.views import samples
from deepseek_lab import views
from deepseek_lab.base import events as ev
nodes = samples.gpt2(12)
log = ev.EventLog()
for event in samples.report_events(nodes, samples.gpt2_plan(nodes)):
    log.emit(event)
shown = views.bundle(samples.report(nodes, samples.gpt2_plan(nodes)), log, run="r")
for name in ("trusted", "untrusted"):
    output = nbformat.v4.new_output("display_data", data=shown)
    cell = nbformat.v4.new_code_cell(f"%%deepseek optimize  # {name}", outputs=[output], execution_count=1)
    book = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": {"name": "none", "display_name": "none"}})
    nbformat.write(book, f"${folder}/{name}.ipynb")
    if name == "trusted":
        notary = NotebookNotary(data_dir="${folder}/data")
        notary.sign(nbformat.read(f"${folder}/{name}.ipynb", 4))
`);
  browser = await launch();
}, 120_000);

afterAll(() => browser.close());

async function notebook(lab: Lab, name: string, dark = false): Promise<Page> {
  const page = await lab.open(browser, name, { dark });
  const dialog = page.locator(".jp-Dialog-button.jp-mod-reject", { hasText: "No Kernel" });
  await dialog.click({ timeout: 5_000 }).catch(() => undefined); // it comes late, or not at all
  return page;
}

describe("a saved output in JupyterLab without our extension", () => {
  let lab: Lab;
  beforeAll(async () => {
    lab = await Lab.start({ extension: false, folder });
  }, 120_000);
  afterAll(() => lab.stop());

  async function unfolded(name: string, dark = false): Promise<Page> {
    const page = await notebook(lab, name, dark);
    await page.locator(".jp-Notebook .dsl").first().waitFor();
    await page.locator(".dsl details").evaluateAll((all) => {
      for (const one of all) (one as HTMLDetailsElement).open = true;
    });
    return page;
  }

  it.each([false, true])("can be explored where the notebook is trusted, dark theme: %s", async (dark) => {
    const page = await unfolded("trusted", dark);
    const frame = page.frameLocator(".dsl iframe");
    await frame.locator("[role=treeitem]").first().waitFor();
    expect((await frame.locator("[role=treeitem]").allInnerTexts()).join(" ")).toContain("transformer");
    const colour = await frame
      .locator(".dsl-view")
      .evaluate((view) => getComputedStyle(view).backgroundColor);
    expect(colour).toBe(dark ? "rgb(20, 23, 27)" : "rgb(255, 255, 255)");
    await frame.getByRole("searchbox").fill("h.3.mlp");
    await frame.getByRole("searchbox").press("Enter");
    expect(await frame.locator(".dsl-hits").innerText()).toBe("1 of 3");
    await page.close();
  });

  it("is a picture where it is not", async () => {
    const page = await unfolded("untrusted");
    expect(await page.locator(".dsl iframe[srcdoc]").count()).toBe(0);
    const width = await page
      .locator(".dsl img")
      .evaluate((image) => (image as HTMLImageElement).naturalWidth);
    expect(width).toBeGreaterThan(100);
    await page.close();
  });
});

describe("a saved output in JupyterLab with our extension", () => {
  let lab: Lab;
  beforeAll(async () => {
    lab = await Lab.start({ extension: true, folder });
  }, 120_000);
  afterAll(() => lab.stop());

  it.each(["trusted", "untrusted"])("can be explored in a notebook that is %s", async (name) => {
    const page = await notebook(lab, name);
    const output = page.locator(".dsl-output");
    await output.getByRole("tab", { name: "Run", exact: true }).waitFor();
    expect(await output.locator(".dsl-run table").first().innerText()).toContain("openvino");
    await output.getByRole("tab", { name: "Run", exact: true }).press("ArrowRight");
    const selected = output.getByRole("tab", { selected: true });
    await expect.poll(() => selected.innerText()).toContain("plan");
    await page.keyboard.press("Escape"); // the notebook takes commands by single letters: none may go through
    await selected.press("x");
    await selected.press("d");
    await selected.press("d");
    expect(await output.count()).toBe(1);
    await selected.press("ArrowRight");
    await output.locator("[role=treeitem]").first().waitFor();
    expect((await output.locator("[role=treeitem]").allInnerTexts()).join(" ")).toContain("transformer");
    await page.close();
  });
});
