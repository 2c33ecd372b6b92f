import { readFileSync } from "node:fs";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { launch, opened, pageOf, violations } from "./browser";
import { aliveAfter, bytesOf, type Event, packedTimeline, randomEvents } from "./timelines";

let browser: Browser;
beforeAll(async () => {
  browser = await launch();
});
afterAll(() => browser.close());

const KiB = 1024;
/** Weights, what the forward pass leaves, a peak in the middle, and its end; a tick is a millisecond. */
const STEP: Event[] = [
  {
    at: 0,
    bytes: 400 * KiB,
    category: "parameters",
    module: "net.a",
    operator: "empty",
    file: "cell.py",
    line: 2,
  },
  {
    at: 100,
    bytes: 200 * KiB,
    category: "activations",
    module: "net.a",
    operator: "mm",
    file: "cell.py",
    line: 3,
  },
  {
    at: 300,
    bytes: 100 * KiB,
    category: "activations",
    module: "net.b",
    operator: "mm",
    file: "cell.py",
    line: 4,
  },
  {
    at: 500,
    bytes: 300 * KiB,
    category: "temporary",
    module: "net.b",
    operator: "mul",
    file: "cell.py",
    line: 5,
  },
  { at: 501, bytes: -300 * KiB, frees: 3, operator: "mul", file: "cell.py", line: 5 },
  { at: 800, bytes: -100 * KiB, frees: 2, operator: "backward", file: "cell.py", line: 7 },
  { at: 1000, bytes: -200 * KiB, frees: 1, operator: "backward", file: "cell.py", line: 7 },
];
const step = (meta: Record<string, unknown> = {}): string =>
  pageOf(packedTimeline(STEP, { tick_s: 1e-3, ...meta }), "one step", "timeline");

const cursor = (page: Page): Promise<string | null> =>
  page.getByRole("slider").getAttribute("aria-valuetext");
const alive = (page: Page): Promise<string[]> => page.locator(".dsl-alive tbody tr").allInnerTexts();
const side = (page: Page): Promise<string> => page.locator(".dsl-side").innerText();
const look = (page: Page): Promise<string> =>
  page.evaluate(() => document.querySelector("canvas")?.toDataURL() ?? "");
const frame = (page: Page): Promise<unknown> =>
  page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));

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

/** Collect what the view tells others. */
async function places(page: Page): Promise<() => Promise<unknown[]>> {
  await page.evaluate(() => {
    const told: unknown[] = [];
    Object.assign(window, { told });
    document.addEventListener("dsl-place", (event) => {
      const { detail } = event as CustomEvent<Record<string, unknown> | null>;
      const { file, line, module } = detail ?? {};
      told.push({ file, line, module });
    });
  });
  return () => page.evaluate(() => (window as unknown as { told: unknown[] }).told);
}

describe("the timeline", () => {
  it.each([false, true])("shows memory in a page without a network, dark: %s", async (dark) => {
    const { page, errors } = await opened(browser, step({ device: "cuda:0" }), { dark });
    await page.waitForSelector("[role=slider]");
    expect(await colours(page)).toBeGreaterThan(5);
    const bar = await page.locator(".dsl-title").innerText();
    expect(bar).toContain("peak 0.98 MiB at 500.0 ms, 7 events, cuda:0");
    expect(errors).toEqual([]);
    await page.context().close();
  });

  it("lists what was there at the peak, largest first", async () => {
    const { page } = await opened(browser, step());
    const rows = (await alive(page)).map((row) => row.split(/\s+/).join(" ").trim());
    expect(rows).toEqual([
      "400 KiB 40 % 1 parameters net.a empty cell.py:2",
      "300 KiB 30 % 1 temporary net.b mul cell.py:5",
      "200 KiB 20 % 1 activations net.a mm cell.py:3",
      "100 KiB 10 % 1 activations net.b mm cell.py:4",
    ]);
    await page.context().close();
  });

  it("lists the same as a slow count, on random events", async () => {
    const random = randomEvents(9, 900);
    const many = Array.from({ length: 150 }, (_, row) => ({
      at: 1e5 + row,
      bytes: 7e6 + row,
      line: row + 1,
    }));
    const events: Event[] = [...random, ...many];
    const { page, errors } = await opened(browser, pageOf(packedTimeline(events), "random", "timeline"));
    const totals = events.map((_, row) => bytesOf(aliveAfter(events, row + 1)));
    const peak = totals.indexOf(Math.max(...totals)) + 1;
    const there = aliveAfter(events, peak).sort((a, b) => Math.abs(b.bytes) - Math.abs(a.bytes));
    const exact = await page
      .locator(".dsl-alive tbody tr td:first-child")
      .evaluateAll((cells) => cells.map((cell) => Number(cell.getAttribute("title")?.replace(/\D/g, ""))));
    expect(exact).toEqual(there.slice(0, 100).map(({ bytes }) => Math.abs(bytes)));
    expect(there.length).toBeGreaterThan(100);
    expect(await page.locator(".dsl-alive header").innerText()).toContain(`${there.length - 100} more rows`);
    expect(errors).toEqual([]);
    await page.context().close();
  });

  it("is steered by the keyboard alone", async () => {
    const { page, errors } = await opened(browser, step());
    const told = await places(page);
    const slider = page.getByRole("slider");
    await slider.focus();
    await page.keyboard.press("Home");
    expect(await cursor(page)).toMatch(/^0\.?0* (ms|µs), 0 B$/);
    await page.keyboard.press(".");
    expect(await cursor(page)).toMatch(/^0\.?0* (ms|µs), 400 KiB, cell\.py:2$/);
    await page.keyboard.press(".");
    expect(await cursor(page)).toMatch(/^100\.?\d* ms, 600 KiB, cell\.py:3$/);
    await page.keyboard.press(",");
    expect(await cursor(page)).toContain("400 KiB");
    await page.keyboard.press("p");
    expect(await cursor(page)).toMatch(/^500.* ms, 0\.98 MiB, cell\.py:5$/);
    await page.keyboard.press("Enter");
    expect(await told()).toEqual([{ file: "cell.py", line: 5, module: "net.b" }]);
    const now = async (): Promise<number> => Number(await slider.getAttribute("aria-valuenow"));
    const at = await now();
    await page.keyboard.press("ArrowRight");
    const next = await now();
    expect(next).toBeGreaterThan(at);
    await page.keyboard.press("ArrowRight");
    expect(await now()).toBeGreaterThan(next);
    await page.keyboard.press("End");
    expect(await cursor(page)).toContain("400 KiB");
    await page.keyboard.press("PageDown");
    expect(await now()).toBeCloseTo(0.9, 2);
    await page.keyboard.press("Home");
    for (let presses = 0; presses < 5; presses++) await page.keyboard.press("Shift+PageUp");
    expect(await side(page)).toContain("700 KiB allocated, 0 B freed, at most 700 KiB at 300 ms; 3 events");
    await page.keyboard.press("+");
    await frame(page);
    const zoomed = await look(page);
    await page.keyboard.press("0");
    await frame(page);
    expect(await look(page)).not.toBe(zoomed);
    await page.keyboard.press("Escape");
    expect(await side(page)).not.toContain("allocated, ");
    await page.keyboard.press("Home");
    await page.keyboard.press("[");
    await page.keyboard.press("End");
    await page.keyboard.press("]");
    expect(await side(page)).toContain("0.98 MiB allocated, 600 KiB freed, at most 0.98 MiB at 500");
    await page.keyboard.press("Tab");
    expect(await page.evaluate(() => document.activeElement?.className)).toBe("dsl-side");
    expect(errors).toEqual([]);
    await page.context().close();
  });

  it("selects a range by a drag, zooms into it and out again, and leaves the wheel to the page", async () => {
    const { page } = await opened(browser, step());
    await page.waitForSelector("[role=slider]");
    await frame(page);
    const whole = await look(page);
    const box = await page.locator(".dsl-picture").boundingBox();
    if (box === null) throw new Error("no picture");
    const x = (share: number): number => box.x + 64 + share * (box.width - 74);
    await page.mouse.move(x(0.2), box.y + 90);
    await page.mouse.wheel(0, 200);
    await frame(page);
    expect(await look(page)).toBe(whole);
    await page.mouse.down();
    await page.mouse.move(x(0.6), box.y + 90, { steps: 5 });
    await page.mouse.up();
    expect(await side(page)).toContain("400 KiB allocated, 300 KiB freed, at most 0.98 MiB at 500");
    expect(await side(page)).toContain("3 events");
    await page.getByRole("button", { name: "Zoom in" }).click();
    await frame(page);
    const zoomed = await look(page);
    expect(zoomed).not.toBe(whole);
    await page.getByRole("button", { name: "Show what was later" }).click();
    await frame(page);
    expect(await look(page)).not.toBe(zoomed);
    await page.getByRole("button", { name: "Zoom out" }).click();
    await page.getByRole("button", { name: "Show all" }).click();
    await frame(page);
    expect(await look(page)).toBe(whole);
    await page.context().close();
  });

  it("sets the cursor by a click, and can list what is there then", async () => {
    const { page } = await opened(browser, step());
    const told = await places(page);
    const box = await page.locator(".dsl-picture").boundingBox();
    if (box === null) throw new Error("no picture");
    await page.mouse.click(box.x + 64 + 0.7 * (box.width - 74), box.y + 60);
    expect(await cursor(page)).toContain("700 KiB");
    expect(await told()).toEqual([{ file: "cell.py", line: 5, module: "" }]);
    await page.getByRole("combobox", { name: "Alive" }).selectOption("cursor");
    expect((await alive(page)).length).toBe(3);
    await page.context().close();
  });

  it("tells other views of the block that is chosen, and lets the module stand out of which they tell", async () => {
    const { page, errors } = await opened(browser, step());
    const told = await places(page);
    await page.getByRole("button", { name: "Show cell.py:3 in other views" }).click();
    expect(await told()).toEqual([{ file: "cell.py", line: 3, module: "net.a" }]);
    const tell = (detail: unknown): Promise<void> =>
      page.evaluate((given) => {
        document.body.dispatchEvent(new CustomEvent("dsl-place", { detail: given, bubbles: true }));
      }, detail);
    await tell({ file: "", line: 0, module: "net.b" });
    expect(await side(page)).toContain("net.b: 100 KiB at the cursor, 400 KiB at the peak");
    expect(await cursor(page)).toMatch(/^300 ms/);
    await tell({ file: "cell.py", line: 5, module: "net.b" });
    expect(await cursor(page)).toMatch(/^500 ms/);
    expect(await told()).toHaveLength(3);
    expect(await page.locator("tr.dsl-told").count()).toBe(2);
    for (const hostile of [null, 7, {}, { module: {} }, { module: "__proto__" }, { module: "net" }]) {
      await tell(hostile);
    }
    expect(await page.locator("tr.dsl-told").count()).toBe(4);
    expect(errors).toEqual([]);
    await page.context().close();
  });

  it("stacks by module", async () => {
    const { page } = await opened(browser, step());
    await page.getByLabel("Stack by").selectOption({ label: "module" });
    const parts = await page.locator(".dsl-side tbody tr").allInnerTexts();
    expect(parts.map((row) => row.split(/\s+/).join(" "))).toEqual([
      "net.b 400 KiB 400 KiB",
      "net.a 600 KiB 600 KiB",
    ]);
    await page.context().close();
  });

  it("saves what shows as SVG that is well-formed, and as PNG", async () => {
    const events = STEP.map((event) => ({ ...event, category: `<&"' \u0000${event.category ?? ""}` }));
    const { page, errors } = await opened(
      browser,
      pageOf(packedTimeline(events, { out_of_memory_at: 1100 }), "one step", "timeline"),
    );
    const [saved] = await Promise.all([
      page.waitForEvent("download"),
      page.getByRole("button", { name: "Save as SVG" }).click(),
    ]);
    expect(saved.suggestedFilename()).toBe("one_step.svg");
    const svg = readFileSync(await saved.path(), "utf8");
    const read = await page.evaluate((text) => {
      const found = new DOMParser().parseFromString(text, "image/svg+xml");
      return {
        wrong: found.querySelectorAll("parsererror").length,
        areas: found.querySelectorAll("polygon").length,
        text: found.documentElement.textContent,
      };
    }, svg);
    expect(read).toMatchObject({ wrong: 0, areas: 3 });
    expect(read.text).toContain("out of memory");
    expect(read.text).toContain("<&\"' ");
    const [png] = await Promise.all([
      page.waitForEvent("download"),
      page.getByRole("button", { name: "Save as PNG" }).click(),
    ]);
    expect(png.suggestedFilename()).toBe("one_step.png");
    expect(
      readFileSync(await png.path())
        .subarray(1, 4)
        .toString(),
    ).toBe("PNG");
    expect(errors).toEqual([]);
    await page.context().close();
  });

  it.each([false, true])("has no violation of WCAG 2.2 AA, dark: %s", async (dark) => {
    const { page } = await opened(browser, step({ out_of_memory_at: 1100 }), { dark });
    await page.getByRole("button", { name: "Show cell.py:3 in other views" }).click();
    await page.getByRole("button", { name: "Let the range begin at the cursor" }).click();
    expect(await violations(page)).toEqual([]);
    await page.setViewportSize({ width: 420, height: 700 });
    expect(await violations(page)).toEqual([]);
    await page.context().close();
  });

  it("says in words that nothing was recorded", async () => {
    const { page, errors } = await opened(browser, pageOf(packedTimeline([]), "nothing", "timeline"));
    expect(await cursor(page)).toContain("Nothing was recorded");
    await page.getByRole("slider").focus();
    for (const key of ["ArrowRight", ".", "End", "p", "+", "Enter", "Shift+ArrowLeft"]) {
      await page.keyboard.press(key);
    }
    expect(errors).toEqual([]);
    await page.context().close();
  });

  it("says that it was folded, and from how much", async () => {
    const more = {
      count: STEP.map(() => 1),
      churn_bytes: STEP.map(() => 0),
      churn_events: STEP.map(() => 0),
    };
    const packed = packedTimeline(STEP, { folded: true, events: 123_456 }, more);
    const { page } = await opened(browser, pageOf(packed, "folded", "timeline"));
    expect(await page.locator(".dsl-title").innerText()).toContain("123,456 events, folded");
    expect(await side(page)).toContain("123,456 events are folded to 7 rows");
    await page.context().close();
  });
});

const MARKUP = [
  "<script>alert(1)</script>",
  "<img src=x onerror=alert(1)>",
  "</script><script>alert(1)</script>",
  "'\"><svg onload=alert(1)>",
  "<!--",
  "__proto__",
  "constructor",
  "\u202eevil\u0000\u0007",
  "\ud800",
  "a".repeat(100_000),
  ".".repeat(50_000),
];

describe("what comes from a notebook is data", () => {
  it("whatever it is called, and however large", async () => {
    const events = MARKUP.map((text, row) => ({
      at: row % 3 === 0 ? -row : 2 ** 40,
      bytes: 2 ** 46 - row,
      category: text,
      module: `net.${text}.x.${text}`,
      operator: text,
      file: text,
      line: 1e300,
    }));
    const { page, errors } = await opened(
      browser,
      pageOf(
        packedTimeline(events, { device: "<b>", events: 1e308 }),
        MARKUP.join(" ").slice(0, 300),
        "timeline",
      ),
    );
    await page.waitForSelector("[role=slider]");
    for (const way of await page.locator(".dsl-bar option").allInnerTexts()) {
      await page.getByLabel("Stack by").selectOption({ label: way });
    }
    await page.getByRole("slider").focus();
    for (const key of [".", ".", "p", "+", "+", "End", "Shift+ArrowLeft", "Enter", "0"]) {
      await page.keyboard.press(key);
    }
    await page.getByRole("button", { name: "Save as SVG" }).click();
    await page.locator(".dsl-alive td button").first().click();
    expect(errors).toEqual([]);
    expect(await page.locator("img, svg, script[src], iframe, object, b").count()).toBe(0);
    await page.context().close();
  });

  it.each([
    ["no base64", "%%%"],
    ["cut off", packedTimeline(STEP).slice(0, 120)],
    ["nothing", ""],
    ["without contexts", packedTimeline(STEP, { contexts: 7 })],
    ["a free of what is not there", packedTimeline([{ at: 0, bytes: 1, frees: 0 }])],
  ])("that is %s becomes a sentence", async (_, text) => {
    const { page, errors } = await opened(browser, pageOf(text, "broken", "timeline"));
    expect(await page.getByRole("alert").innerText()).toMatch(/^This view cannot be shown: /);
    expect(errors).toEqual([]);
    await page.context().close();
  });
});
