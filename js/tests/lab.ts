/** A real JupyterLab or Notebook 7 for tests: its own settings and notebooks, with our extension or without. */

import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { Browser, Locator, Page } from "playwright-core";

/** Which front end the tests drive: JupyterLab or Notebook 7. */
export const APP = process.env["LAB_APP"] === "notebook" ? "notebook" : "lab";
/** Whether kernel and front end serve pages beside a busy cell, as they do since ipykernel 7 and JupyterLab 4.4. */
export const BESIDE = process.env["LAB_BESIDE"] !== "no";
/** How a run that was stopped while its cell was busy says that it ended. */
export const STOPPED = BESIDE ? /stopped after/ : /(stopped|KeyboardInterrupt) after/;

/** What a run says whose kernel was restarted: older ones interrupt the cell before, and it says so. */
export const LOST = BESIDE ? /no longer known/ : /no longer known|KeyboardInterrupt after/;

function freePort(): Promise<number> {
  return new Promise((done) => {
    const probe = createServer().listen(0, "127.0.0.1", () => {
      const address = probe.address();
      probe.close(() => done(typeof address === "object" && address !== null ? address.port : 0));
    });
  });
}

export interface Cell {
  readonly source: string;
  readonly outputs?: readonly unknown[];
}

export class Lab {
  readonly #server: ChildProcess;
  #pages = 0;

  private constructor(
    readonly folder: string,
    readonly url: string,
    readonly token: string,
    server: ChildProcess,
  ) {
    this.#server = server;
  }

  /** Start a server; `folder` is where its notebooks and settings are, `base` what stands before all of its paths. */
  static async start(options: {
    extension: boolean;
    folder?: string;
    bin?: string;
    base?: string;
    token?: string;
  }): Promise<Lab> {
    const folder = options.folder ?? mkdtempSync(join(tmpdir(), "lab-"));
    const port = await freePort();
    mkdirSync(join(folder, "config", "labconfig"), { recursive: true });
    writeFileSync(
      join(folder, "config", "labconfig", "page_config.json"),
      JSON.stringify({ disabledExtensions: { "deepseek-lab": !options.extension } }),
    );
    const lab = join(options.bin ?? process.env["LAB_BIN"] ?? resolve("../.venv/bin"), "jupyter");
    const server = spawn(
      lab,
      [
        APP,
        `--port=${port}`,
        "--no-browser",
        "--allow-root",
        `--IdentityProvider.token=${options.token ?? ""}`,
        `--ServerApp.base_url=${options.base ?? ""}/`,
        `--notebook-dir=${folder}`,
      ],
      {
        env: {
          ...process.env,
          PYTHONPATH: resolve(".."),
          JUPYTER_DATA_DIR: join(folder, "data"),
          JUPYTER_CONFIG_DIR: join(folder, "config"),
          JUPYTERLAB_SETTINGS_DIR: join(folder, "settings"),
          IPYTHONDIR: join(folder, "ipython"),
          DEEPSEEK_LAB_CACHE_DIR: join(folder, "cache"),
        },
        stdio: "ignore",
      },
    );
    const made = new Lab(
      folder,
      `http://127.0.0.1:${port}${options.base ?? ""}`,
      options.token ?? "",
      server,
    );
    await made.#answers();
    return made;
  }

  stop(): void {
    this.#server.kill("SIGKILL");
  }

  async #answers(): Promise<void> {
    for (let attempt = 0; attempt < 240; attempt++) {
      try {
        if ((await fetch(`${this.url}/api`)).ok) return;
      } catch {
        // not listening yet
      }
      await new Promise((done) => setTimeout(done, 250));
    }
    throw new Error("the server does not answer");
  }

  /** What a user has set. */
  setting(plugin: string, value: unknown): void {
    const [scope = "", name = ""] = plugin.split(":");
    const place = join(this.folder, "settings", scope);
    mkdirSync(place, { recursive: true });
    writeFileSync(join(place, `${name}.jupyterlab-settings`), JSON.stringify(value));
  }

  /** Write a notebook for the kernel of this environment. */
  write(name: string, cells: readonly Cell[]): void {
    const made = cells.map(({ source, outputs = [] }, number) => ({
      cell_type: "code",
      id: `cell-${number}`,
      execution_count: null,
      metadata: {},
      source,
      outputs,
    }));
    const kernelspec = { name: "python3", display_name: "Python 3" };
    writeFileSync(
      join(this.folder, `${name}.ipynb`),
      JSON.stringify({ cells: made, metadata: { kernelspec }, nbformat: 4, nbformat_minor: 5 }),
    );
  }

  /** Open a notebook in a page of its own. */
  async open(browser: Browser, name: string, options: { dark?: boolean } = {}): Promise<Page> {
    const theme = options.dark === true ? "JupyterLab Dark" : "JupyterLab Light";
    this.setting("@jupyterlab/apputils-extension:themes", { theme });
    this.setting("@jupyterlab/apputils-extension:notification", {
      fetchNews: "false",
      checkForUpdates: false,
    });
    const page = await browser.newPage({ viewport: { width: 1300, height: 900 }, colorScheme: "light" });
    // A workspace of its own: what other pages had open is not opened again.
    const path = APP === "lab" ? `lab/workspaces/w${++this.#pages}/tree` : "notebooks";
    const query = this.token === "" ? "" : `?token=${this.token}`;
    await page.goto(`${this.url}/${path}/${name}.ipynb${query}`);
    const cell = page.locator(".jp-Notebook .jp-Cell").first();
    // JupyterLab 4.2 now and then lays out no cell of a notebook until its window changes.
    for (let height = 899; !(await visible(cell, 15_000)); height -= 1) {
      if (height < 896) throw new Error(`no cell of ${name} is to be seen`);
      await page.setViewportSize({ width: 1300, height });
    }
    return page;
  }

  /** End all kernels, as they outlive their pages. */
  async endKernels(): Promise<void> {
    const sessions = (await (await fetch(`${this.url}/api/sessions`)).json()) as { id: string }[];
    for (const { id } of sessions) await fetch(`${this.url}/api/sessions/${id}`, { method: "DELETE" });
  }
}

/** Whether an element is to be seen in time. */
function visible(element: Locator, timeout: number): Promise<boolean> {
  return element.waitFor({ timeout }).then(
    () => true,
    () => false,
  );
}

/** Run a cell by its number, without waiting for its end. A notebook that is not ready yet takes no keys: try again. */
export async function run(page: Page, number: number): Promise<void> {
  const cell = page.locator(`.jp-Notebook .jp-CodeCell >> nth=${number}`);
  const prompt = (): Promise<string> => cell.locator(".jp-InputPrompt").innerText();
  const before = await prompt();
  for (let attempt = 0; attempt < 20; attempt++) {
    await cell
      .locator(".jp-InputPrompt")
      .click({ timeout: 3_000 })
      .catch(() => undefined);
    await page.keyboard.press("Control+Enter");
    for (let wait = 0; wait < 10; wait++) {
      const now = await prompt();
      if (now !== before && /[*\d]/.test(now)) return;
      await page.waitForTimeout(100);
    }
  }
  throw new Error(`cell ${number} does not run`);
}

/** Until the kernel has nothing to do. */
export async function idle(page: Page): Promise<void> {
  await page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").waitFor({ timeout: 120_000 });
}

/** Run a command by its name in the palette. */
export async function command(page: Page, name: string): Promise<void> {
  await page.keyboard.press("Control+Shift+C");
  await page.locator(".lm-CommandPalette-input:visible").fill(name);
  await page.locator(".lm-CommandPalette-item:visible", { hasText: name }).first().click();
}
