import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { launch, opened, pageOf, violations } from "./browser";
import { packed, transformer } from "./graphs";

let browser: Browser;
beforeAll(async () => {
  browser = await launch();
});
afterAll(() => browser.close());

const rows = (page: Page): Promise<string[]> => page.locator("[role=treeitem]").allInnerTexts();
const active = (page: Page): Promise<string> => page.locator(".dsl-active").innerText();

/** How many different colours the picture has: one where nothing was drawn. */
function colours(page: Page): Promise<number> {
  return page.evaluate(() => {
    const canvas = document.querySelector("canvas");
    const context = canvas?.getContext("2d");
    if (!canvas || !context) return 0;
    const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
    return new Set(new Uint32Array(data.buffer)).size;
  });
}

describe("the graph view", () => {
  const address = (): string => pageOf(packed(transformer(12)), "gpt");

  it.each([false, true])("shows the graph in a page without a network, dark: %s", async (dark) => {
    const { page, errors } = await opened(browser, address(), { dark });
    await page.waitForSelector("[role=treeitem]");
    expect(await colours(page)).toBeGreaterThan(5);
    expect((await rows(page)).join(" ")).toContain("layers.0 … 11");
    expect(errors).toEqual([]);
    await page.context().close();
  });

  it("is steered by the keyboard alone", async () => {
    const { page, errors } = await opened(browser, address());
    await page.waitForSelector("[role=treeitem]");
    const expanded = (): Promise<string | null> => page.locator(".dsl-active").getAttribute("aria-expanded");
    await page.getByRole("button", { name: "Close one level" }).press("Enter");
    await page.getByRole("button", { name: "Close one level" }).press("Enter");
    await page.locator("[role=tree]").focus();
    await page.keyboard.press("Home");
    await page.keyboard.press("ArrowDown");
    expect(await active(page)).toContain("model");
    expect(await expanded()).toBe("false");
    await page.keyboard.press("ArrowRight");
    expect(await expanded()).toBe("true");
    await page.keyboard.type("layers");
    expect(await active(page)).toContain("× 12");
    const before = (await rows(page)).length;
    await page.keyboard.press("ArrowRight");
    expect(await active(page)).toContain("× 12");
    expect((await rows(page)).length).toBeGreaterThan(before);
    await page.keyboard.press("ArrowRight");
    expect(await active(page)).toContain("012 operations");
    await page.keyboard.press("Enter");
    expect(await page.locator("[role=treeitem][aria-selected=true]").count()).toBe(1);
    await page.keyboard.press("ArrowLeft");
    expect(await active(page)).toContain("× 12");
    await page.keyboard.press("ArrowLeft");
    expect(await expanded()).toBe("false");
    expect((await rows(page)).length).toBe(before);
    await page.keyboard.press("End");
    expect(await active(page)).toContain("output");
    expect(errors).toEqual([]);
    await page.context().close();
  });

  it("finds operations inside of what is closed, and shows them in detail", async () => {
    const { page } = await opened(browser, address());
    await page.getByRole("searchbox").fill("layers.7.mlp.up");
    expect(await page.locator(".dsl-hits").innerText()).toBe("1 found");
    await page.keyboard.press("Enter");
    expect(await page.locator(".dsl-hits").innerText()).toBe("1 of 1");
    expect(await page.locator(".dsl-detail").innerText()).toContain("model.layers.7.mlp.up");
    expect(await page.locator(".dsl-detail").innerText()).toContain("layers.7.mlp.up.weight");
    await page.getByRole("button", { name: "gelu" }).click();
    expect(await page.locator(".dsl-detail strong").innerText()).toContain("gelu");
    await page.getByRole("searchbox").fill("there is no such thing");
    expect(await page.locator(".dsl-hits").innerText()).toBe("not found");
    await page.context().close();
  });

  it("opens and closes by a click, moves by a drag, and leaves the wheel to the page", async () => {
    const { page } = await opened(browser, address());
    await page.waitForSelector("[role=treeitem]");
    const picture = page.locator(".dsl-picture");
    const box = await picture.boundingBox();
    if (box === null) throw new Error("no picture");
    const look = (): Promise<string> =>
      page.evaluate(() => document.querySelector("canvas")?.toDataURL() ?? "");
    const frame = (): Promise<unknown> =>
      page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
    await frame();
    const first = await look();
    await page.mouse.move(box.x + box.width / 2, box.y + box.height / 2);
    await page.mouse.wheel(0, 200);
    await frame();
    expect(await look()).toBe(first);
    await page.mouse.down();
    await page.mouse.move(box.x + box.width / 2 + 80, box.y + box.height / 2 + 30, { steps: 4 });
    await page.mouse.up();
    await frame();
    expect(await look()).not.toBe(first);
    expect(await page.locator("[role=treeitem][aria-selected=true]").count()).toBe(0);
    await page.getByRole("button", { name: "Open one level" }).click();
    expect(await page.locator("[role=treeitem][aria-expanded=true]").count()).toBeGreaterThan(0);
    await page.getByRole("button", { name: "Close one level" }).click();
    await page.context().close();
  });

  it("saves the picture as SVG that holds what shows", async () => {
    const { page } = await opened(browser, address());
    const [saved] = await Promise.all([
      page.waitForEvent("download"),
      page.getByRole("button", { name: "Save as SVG" }).click(),
    ]);
    expect(saved.suggestedFilename()).toBe("gpt.svg");
    const [png] = await Promise.all([
      page.waitForEvent("download"),
      page.getByRole("button", { name: "Save as PNG" }).click(),
    ]);
    expect(png.suggestedFilename()).toBe("gpt.png");
    await page.context().close();
  });

  it.each([false, true])("has no violation of WCAG 2.2 AA, dark: %s", async (dark) => {
    const { page } = await opened(browser, address(), { dark });
    await page.waitForSelector("[role=treeitem]");
    await page.getByRole("searchbox").fill("gelu");
    await page.keyboard.press("Enter");
    expect(await violations(page)).toEqual([]);
    await page.context().close();
  });

  it("says in words that an empty graph is empty", async () => {
    const { page, errors } = await opened(browser, pageOf(packed([])));
    expect(await page.locator(".dsl-detail").innerText()).toContain("nothing was captured");
    expect(errors).toEqual([]);
    await page.context().close();
  });
});

const MARKUP = [
  "<script>alert(1)</script>",
  "<img src=x onerror=alert(1)>",
  "</script><script>alert(1)</script>",
  "'\"><svg onload=alert(1)>",
  "javascript:alert(1)",
  "<!--",
  "]]>",
  "&lt;script&gt;",
  "__proto__",
  "constructor",
  "\u202eevil\u0000\u0007",
  "\ud800",
  "a".repeat(100_000),
  "{{7*7}}${alert(1)}",
];

describe("what comes from a notebook is data", () => {
  it("whatever it is called", async () => {
    const operations = MARKUP.flatMap((text, number) => [
      {
        op: text,
        name: `${text}${number}`,
        module: `${text}.inner`,
        dtype: text,
        shape: text,
        mark: "fused",
      },
      { op: "relu", name: `relu${number}`, module: text, inputs: [2 * number] },
    ]);
    const { page, errors } = await opened(
      browser,
      pageOf(packed(operations), MARKUP.join(" ").slice(0, 300)),
    );
    await page.waitForSelector("[role=treeitem]");
    await page.getByRole("button", { name: "Open one level" }).click();
    for (const kind of ["dtype", "operation", "bytes of the result", "what became of it"]) {
      await page.getByLabel("Colour by").selectOption(kind);
    }
    await page.getByRole("searchbox").fill("<");
    for (let step = 0; step < 8; step++) await page.keyboard.press("Enter");
    await page.evaluate(() => new Promise((done) => setTimeout(done, 200)));
    expect(errors).toEqual([]);
    expect(await page.locator("img, svg, script[src], iframe, object").count()).toBe(0);
    await page.context().close();
  });

  it.each([
    ["no base64", "%%%"],
    ["cut off", packed(transformer(2)).slice(0, 200)],
    ["nothing", ""],
  ])("that is %s becomes a sentence", async (_, text) => {
    const { page, errors } = await opened(browser, pageOf(text));
    expect(await page.getByRole("alert").innerText()).toMatch(/^This view cannot be shown: /);
    expect(errors).toEqual([]);
    await page.context().close();
  });
});
