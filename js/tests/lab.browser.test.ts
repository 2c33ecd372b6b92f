import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { launch } from "./browser";
import { python } from "./python";

/** A saved notebook with one output, in a real JupyterLab without our extension and without a kernel. */

const folder = mkdtempSync(join(tmpdir(), "lab-"));
let browser: Browser | undefined;
let server: ChildProcess | undefined;
let port: number;

function freePort(): Promise<number> {
  return new Promise((done) => {
    const probe = createServer().listen(0, "127.0.0.1", () => {
      const address = probe.address();
      probe.close(() => done(typeof address === "object" && address !== null ? address.port : 0));
    });
  });
}

async function answers(url: string): Promise<void> {
  for (let attempt = 0; attempt < 240; attempt++) {
    try {
      if ((await fetch(url)).ok) return;
    } catch {
      // not listening yet
    }
    await new Promise((done) => setTimeout(done, 250));
  }
  throw new Error("JupyterLab does not answer");
}

beforeAll(async () => {
  python(`
import os
import nbformat
from nbformat.sign import NotebookNotary
from tests.views import samples
from deepseek_lab import views
os.makedirs("${folder}/data")
nodes = samples.gpt2(12)
shown = views.bundle(samples.report(nodes, samples.gpt2_plan(nodes)))
for name in ("trusted", "untrusted"):
    output = nbformat.v4.new_output("display_data", data=shown)
    cell = nbformat.v4.new_code_cell(f"%%deepseek optimize  # {name}", outputs=[output], execution_count=1)
    book = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": {"name": "none", "display_name": "none"}})
    nbformat.write(book, f"${folder}/{name}.ipynb")
    if name == "trusted":
        notary = NotebookNotary(data_dir="${folder}/data")
        notary.sign(nbformat.read(f"${folder}/{name}.ipynb", 4))
`);
  [browser, port] = await Promise.all([launch(), freePort()]);
  const lab = resolve("../.venv/bin/jupyter");
  const options = [
    `--port=${port}`,
    "--no-browser",
    "--allow-root",
    "--IdentityProvider.token=",
    `--notebook-dir=${folder}`,
  ];
  server = spawn(lab, ["lab", ...options], {
    env: {
      ...process.env,
      JUPYTER_DATA_DIR: join(folder, "data"),
      JUPYTER_CONFIG_DIR: join(folder, "config"),
      JUPYTERLAB_SETTINGS_DIR: join(folder, "settings"),
    },
    stdio: "ignore",
  });
  await answers(`http://127.0.0.1:${port}/api`);
}, 120_000);

afterAll(async () => {
  await browser?.close();
  server?.kill("SIGKILL");
});

/** What a user has set in JupyterLab. */
function setting(plugin: string, value: unknown): void {
  const place = join(folder, "settings", "@jupyterlab", "apputils-extension");
  mkdirSync(place, { recursive: true });
  writeFileSync(join(place, `${plugin}.jupyterlab-settings`), JSON.stringify(value));
}

async function notebook(name: string, dark = false): Promise<Page> {
  if (browser === undefined) throw new Error("no browser");
  setting("themes", { theme: dark ? "JupyterLab Dark" : "JupyterLab Light" });
  setting("notification", { fetchNews: "false", checkForUpdates: false });
  const page = await browser.newPage({ viewport: { width: 1300, height: 900 }, colorScheme: "light" });
  await page.goto(`http://127.0.0.1:${port}/lab/tree/${name}.ipynb?reset`);
  await page.locator(".jp-Notebook .dsl").first().waitFor({ timeout: 60_000 });
  const dialog = page.getByRole("button", { name: "No Kernel", exact: true });
  await dialog.click({ timeout: 5_000 }).catch(() => undefined); // it comes late, or not at all
  await page.locator(".dsl details").evaluateAll((all) => {
    for (const one of all) (one as HTMLDetailsElement).open = true;
  });
  return page;
}

describe("a saved output in JupyterLab, without a kernel and without our extension", () => {
  it.each([false, true])("can be explored where the notebook is trusted, dark theme: %s", async (dark) => {
    const page = await notebook("trusted", dark);
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
    await page.locator(".dsl iframe").scrollIntoViewIfNeeded();
    if (process.env["SHOTS"])
      await page.screenshot({ path: `${process.env["SHOTS"]}/lab_${dark ? "dark" : "light"}.png` });
    await page.close();
  });

  it("is a picture where it is not", async () => {
    const page = await notebook("untrusted");
    expect(await page.locator(".dsl iframe[srcdoc]").count()).toBe(0);
    const width = await page
      .locator(".dsl img")
      .evaluate((image) => (image as HTMLImageElement).naturalWidth);
    expect(width).toBeGreaterThan(100);
    await page.close();
  });
});
