import type { Browser } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { firstLine } from "../src/core/payload";
import { launch, opened } from "./browser";
import type { Seen } from "./hostile.page";
import { harness, KINDS, notebooks, type Payload, payloads, Target } from "./hostile";

/** Hostile notebooks in a real browser: none executes anything, none ends a page, each shows data or says why not. */

const PAYLOADS = payloads();
/** The most bytes that a page may have while it shows one payload. */
const MOST_MEMORY = 1.6e9;
/** The most seconds that a page may work for one kind of view. */
const MOST_SECONDS = 4;

let browser: Browser;
let code: string;
let target: Target;
beforeAll(async () => {
  [browser, code] = await Promise.all([launch(), harness()]);
  target = await Target.open(browser, code);
});
afterAll(() => browser.close());

/** Everything that is wrong with how a payload is shown. */
async function problemsOf(payload: Payload, number: number): Promise<string[]> {
  const problems = new Set<string>();
  const take = async (way: "shown" | "tabbed" | "live", kinds: readonly string[]): Promise<void> => {
    await target.forget();
    const before = await target.cost();
    const found: Seen[] = await target.run(way, payload, kinds);
    const after = await target.cost();
    const seconds = after.seconds - before.seconds;
    if (seconds > MOST_SECONDS * kinds.length)
      problems.add(`${way} ${kinds.join()}: worked for ${seconds} s`);
    if (after.memory > MOST_MEMORY) problems.add(`${way} ${kinds.join()}: had ${after.memory} bytes`);
    for (const { kind, wrong, text, alerts } of found) {
      for (const one of wrong) problems.add(`${way} ${kind}: ${one}`);
      if (text === "") problems.add(`${way} ${kind}: shows nothing`);
      if (payload.shows === "data") for (const one of alerts) problems.add(`${way} ${kind}: ${one}`);
      const refused = payload.shows === "message" || payload.refused.includes(kind);
      if (refused && alerts.length === 0) problems.add(`${way} ${kind}: believes it: ${text}`);
    }
  };
  target.errors.length = 0;
  // What would fill the memory is not tried as every kind at once.
  const groups = payload.name.startsWith("bomb") ? KINDS.map((kind) => [kind]) : [KINDS];
  for (const kinds of groups) await take("shown", kinds);
  await take("tabbed", [KINDS[number % KINDS.length] ?? "", KINDS[(number + 3) % KINDS.length] ?? ""]);
  await take("live", [number % 2 === 0 ? "run" : "search"]);
  return [...target.errors, ...problems];
}

describe("hostile payloads", () => {
  it("are many, and each is another", () => {
    expect(new Set(PAYLOADS.map(({ text }) => text)).size).toBe(PAYLOADS.length);
    expect(PAYLOADS.length).toBeGreaterThanOrEqual(100);
    expect(KINDS).toEqual([
      "graph",
      "run",
      "search",
      "text",
      "timeline",
      "heatmap",
      "lines",
      "scatter",
      "table",
    ]);
  });

  it.each(PAYLOADS.map((payload, number) => [payload.name, payload, number] as const))(
    "%s",
    async (_, payload, number) => {
      if (!target.usable) {
        await target.close();
        target = await Target.open(browser, code);
      }
      const problems = await problemsOf(payload, number);
      expect(problems.join("\n").slice(0, 1500)).toBe("");
    },
  );
});

describe("the text beside a payload", () => {
  it.each([
    [["one\n", { toString: 1 }, "two"], "one"],
    [[[["one"]], null, 7], ""],
    [{ toString: 1, split: 1 }, ""],
    ["x".repeat(10_000_000), `${"x".repeat(300)}…`],
    ["\ud800\nrest", "\ufffd"],
  ])("is a short line of text, whatever it is", (plain, line) => {
    expect(firstLine(plain)).toBe(line);
  });
});

describe("frames of hostile payloads in one notebook", () => {
  it("show data or say why not, and leave the notebook alone", async () => {
    let shown = 0;
    for (const address of notebooks()) {
      const { page, errors } = await opened(browser, address, { view: false });
      for (const frame of page.frames().slice(1)) {
        await frame.locator("#view .dsl-view").waitFor();
        const found = await frame.evaluate(() => ({
          text: document.querySelector("main")?.innerText.trim() ?? "",
          strange: Array.from(
            document.querySelectorAll(
              "#view :is(a, img, svg, iframe, script, object, embed, form, link, meta)",
            ),
            (one) => one.outerHTML.slice(0, 200),
          ),
          scripts: document.scripts.length,
        }));
        expect(found.text).not.toBe("");
        expect(found.strange).toEqual([]);
        expect(found.scripts).toBe(4); // data, code, what starts it, and the code once more as it runs
        shown++;
      }
      expect(
        await page.evaluate(() => document.body.querySelectorAll(":not(div, style, iframe)").length),
      ).toBe(0);
      expect(await page.title()).toBe("a notebook");
      expect(errors).toEqual([]);
      await page.context().close();
    }
    expect(shown).toBeGreaterThan(100);
  });
});
