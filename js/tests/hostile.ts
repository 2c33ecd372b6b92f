/** Payloads that somebody wrote to do harm, as `tests/views/hostile.py` makes them, and a page that shows them. */

import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { build } from "esbuild";
import type { Browser, CDPSession, Page } from "playwright-core";
import type * as Harness from "./hostile.page";
import { python } from "./python";

export interface Payload {
  /** What it tries. */
  readonly name: string;
  /** The data of an output as JSON; `@kind` in it stands for a kind of view. */
  readonly text: string;
  /** What a reader must see. */
  readonly shows: "data" | "message" | "either";
  /** Kinds of view that must say why they show nothing. */
  readonly refused: readonly string[];
}

/** Every kind that `kinds.ts` registers. */
export const KINDS: readonly string[] = Array.from(
  readFileSync("src/core/kinds.ts", "utf8").matchAll(/^ {2}\["(\w+)", \w+\],\n/gm),
  ([, kind = ""]) => kind,
);

/** How long a page may take to answer, however busy the machine is: more is a page that hangs. */
const PATIENCE_MS = 30_000;

export function payloads(): readonly Payload[] {
  const path = join(mkdtempSync(join(tmpdir(), "hostile-")), "payloads.json");
  python(
    `import json, dataclasses\nfrom tests.views import hostile\n` +
      `json.dump([dataclasses.asdict(one) for one in hostile.payloads()], open(${JSON.stringify(path)}, "w"))`,
  );
  return JSON.parse(readFileSync(path, "utf8")) as Payload[];
}

/** Addresses of pages as a notebook has them, with frames that Python wrote for payloads. */
export function notebooks(): readonly string[] {
  const folder = mkdtempSync(join(tmpdir(), "hostile-"));
  return JSON.parse(
    python(
      `import json, pathlib\nfrom tests.views import hostile\n` +
        `print(json.dumps(hostile.notebooks(pathlib.Path(${JSON.stringify(folder)}), ${JSON.stringify(KINDS)})))`,
    ),
  ) as string[];
}

/** One page for many payloads. Whatever happens in it that must not is in `errors`. */
export class Target {
  readonly errors: string[] = [];
  #crashed = false;
  #devtools?: CDPSession;

  private constructor(
    readonly page: Page,
    readonly session: CDPSession,
  ) {
    page.on("pageerror", (error) => this.errors.push(`an error: ${error.message.slice(0, 300)}`));
    page.on("console", (said) => {
      if (said.type() === "error") this.errors.push(`the console: ${said.text().slice(0, 300)}`);
    });
    page.on("dialog", (dialog) => {
      this.errors.push(`a dialog: ${dialog.message().slice(0, 300)}`);
      void dialog.dismiss();
    });
    page.on("request", (request) => {
      if (!/^(about|blob):/.test(request.url()))
        this.errors.push(`a request: ${request.url().slice(0, 300)}`);
    });
    page.on("framenavigated", (frame) => {
      if (frame.url() !== "about:blank") this.errors.push(`went to ${frame.url().slice(0, 300)}`);
    });
    page.on("popup", () => this.errors.push("a window was opened"));
    page.on("crash", () => {
      this.#crashed = true;
      this.errors.push("the page crashed");
    });
  }

  /** A fresh page with the views as they are in the source. */
  static async open(browser: Browser, code: string): Promise<Target> {
    const context = await browser.newContext({ viewport: { width: 1100, height: 620 }, offline: true });
    const page = await context.newPage();
    const made = new Target(page, await browser.newBrowserCDPSession());
    await page.evaluate((text) => {
      const script = document.createElement("script");
      script.textContent = text;
      document.head.append(script);
    }, code);
    return made;
  }

  /** Whether other payloads can still be shown in this page. */
  get usable(): boolean {
    return !this.#crashed;
  }

  /** Let the page do something with a payload; a page that does not answer in time is given up. */
  async run<Name extends "shown" | "tabbed" | "live">(
    name: Name,
    payload: Payload,
    kinds: readonly string[],
  ): Promise<Harness.Seen[]> {
    const asked = this.page.evaluate(
      ([what, text, which]) => {
        const { harness } = window as unknown as { harness: typeof Harness };
        return harness[what](text, which);
      },
      [name, payload.text, kinds] as const,
    );
    asked.catch(() => undefined); // a page that is given up answers with an error later
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        this.#crashed = true;
        reject(new Error(`${name} of ${kinds.join(", ")} took more than ${PATIENCE_MS} ms`));
      }, PATIENCE_MS);
    });
    try {
      return await Promise.race([asked, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Give back what earlier payloads have left behind, so that the next one's memory is its own. */
  async forget(): Promise<void> {
    this.#devtools ??= await this.page.context().newCDPSession(this.page);
    await this.#devtools.send("HeapProfiler.collectGarbage");
    const { processInfo } = await this.session.send("SystemInfo.getProcessInfo");
    for (const { type, id } of processInfo)
      if (type === "renderer") writeFileSync(`/proc/${id}/clear_refs`, "5"); // the peak is what there is now
  }

  /** The most memory that any page has had since `forget`, in bytes, and the seconds that all of them have worked. */
  async cost(): Promise<{ memory: number; seconds: number }> {
    const { processInfo } = await this.session.send("SystemInfo.getProcessInfo");
    const pages = processInfo.filter((one) => one.type === "renderer");
    const peaks = pages.map(({ id }) => {
      const status = readFileSync(`/proc/${id}/status`, "utf8");
      return 1024 * Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1] ?? 0);
    });
    return {
      memory: Math.max(0, ...peaks),
      seconds: pages.reduce((sum, { cpuTime }) => sum + cpuTime, 0),
    };
  }

  async close(): Promise<void> {
    await this.page.context().close();
  }
}

/** What runs in the page, as one script. */
export async function harness(): Promise<string> {
  const { outputFiles } = await build({
    entryPoints: ["tests/hostile.page.ts"],
    bundle: true,
    format: "iife",
    globalName: "harness",
    target: "es2022",
    charset: "ascii",
    write: false,
  });
  return outputFiles[0]?.text ?? "";
}
