/** What was measured, both graphs beside each other, places at which capture stopped, and what views tell each other. */

import type { Browser, Locator, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { launch, opened, pageOf, violations, written } from "./browser";
import { packed, transformer } from "./graphs";
import { packedTimeline } from "./timelines";

let browser: Browser;
beforeAll(async () => {
  browser = await launch();
});
afterAll(() => browser.close());

const detail = (page: Page): Promise<string> => page.locator(".dsl-detail").innerText();
const shows = (page: Page): Locator => page.getByRole("combobox", { name: /^Show/ });
const outline = (page: Page): Promise<string> =>
  page.locator("[role=tree]:visible").getAttribute("aria-label").then(String);
const frames = (page: Page): Promise<unknown> =>
  page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
/** What the pictures look like, from left to right. */
const looks = (page: Page): Promise<string[]> =>
  page
    .locator(".dsl-picture canvas:first-child")
    .evaluateAll((all) => all.map((canvas) => (canvas as HTMLCanvasElement).toDataURL()));

/** How many pixels of each picture have the colour of what is selected. */
const selected = (page: Page): Promise<number[]> =>
  page.locator(".dsl-picture canvas:first-child").evaluateAll((all) =>
    all.map((one) => {
      const canvas = one as HTMLCanvasElement;
      const data = canvas.getContext("2d")?.getImageData(0, 0, canvas.width, canvas.height).data;
      const [red, green, blue] = [0x0b, 0x62, 0xc4];
      let count = 0;
      for (let at = 0; data !== undefined && at < data.length; at += 4)
        if (data[at] === red && data[at + 1] === green && data[at + 2] === blue) count++;
      return count;
    }),
  );

/** GPT-2 with a plan, what was measured of both, and a break. */
const GRAPH = `
from pathlib import Path
from deepseek_lab.base.events import GraphBreak
from deepseek_lab.views import Overlay, _page
from tests.views import samples
def overlays(nodes):
    time = [100.0 if node.op.startswith("linear") else None for node in nodes]
    names = ["oneDNN" if node.op.startswith("linear") else "" for node in nodes]
    return [Overlay("time", "time", "us", time, sum=True), Overlay("backend", "runs in", "", names)]
nodes = samples.gpt2(4)
plan = samples.gpt2_plan(nodes)
breaks = [GraphBreak(run="r", target="m", reason="print() was called", file=samples.CELL, line=33)]
content = _page.graph_content(nodes, "gpt", plan, overlays=overlays(nodes), plan_overlays=overlays(plan), breaks=breaks)
`;
const address = (): string => written(`${GRAPH}\nPath(out).write_text(_page.page(**content))`);

async function find(page: Page, text: string): Promise<void> {
  await page.getByRole("searchbox").fill(text);
  await page.getByRole("searchbox").press("Enter");
}

describe("the graph before and after", () => {
  it("shows both, marks both, and selects in both", async () => {
    const { page, errors } = await opened(browser, address());
    const heads = page.locator(".dsl-pane > button");
    expect(await heads.allInnerTexts()).toEqual(["as captured, 77 operations", "as it runs, 68 operations"]);
    const boxes = await page
      .locator(".dsl-pane")
      .evaluateAll((all) => all.map((one) => one.getBoundingClientRect()));
    expect(boxes[0]?.top).toBe(boxes[1]?.top);
    expect(await selected(page)).toEqual([0, 0]);
    await find(page, "gelu_2");
    await page.getByRole("searchbox").press("Escape"); // hits have that colour too
    await frames(page);
    for (const pixels of await selected(page)) expect(pixels).toBeGreaterThan(50);
    expect(await detail(page)).toContain("part of one fused operation");
    await page.locator(".dsl-detail").getByRole("button", { name: "act · linear_gelu" }).click();
    expect(await detail(page)).toContain("fused_gelu_2");
    expect(await outline(page)).toContain("as it runs");
    expect(await heads.nth(1).getAttribute("aria-pressed")).toBe("true");
    expect(await page.locator("[role=tree]:visible .dsl-selected").innerText()).toContain("linear_gelu");
    const stands = page.locator(".dsl-detail dl div", { hasText: "stands for" }).getByRole("button");
    expect(await stands.allInnerTexts()).toEqual(["c_fc · linear", "act · gelu"]);
    await page.getByRole("button", { name: "as captured" }).click();
    await find(page, "dropout_3");
    await page.getByRole("searchbox").press("Escape");
    await shows(page).selectOption("before and after");
    await frames(page);
    const [there, gone] = await selected(page);
    expect(there).toBeGreaterThan(50);
    expect(gone).toBe(0); // it does not run any more
    expect(errors).toEqual([]);
    await page.context().close();
  });

  it("moves, zooms and opens both together", async () => {
    const { page } = await opened(browser, address());
    const first = page.locator(".dsl-picture").first();
    const box = await first.boundingBox();
    if (box === null) throw new Error("no picture");
    await frames(page);
    let last = await looks(page);
    const changed = async (): Promise<void> => {
      await frames(page);
      const now = await looks(page);
      expect(now[0]).not.toBe(last[0]);
      expect(now[1]).not.toBe(last[1]);
      last = now;
    };
    await page.mouse.move(box.x + 100, box.y + 100);
    await page.mouse.down();
    await page.mouse.move(box.x + 60, box.y + 40, { steps: 4 });
    await page.mouse.up();
    await changed();
    await page.keyboard.down("Control");
    await page.mouse.wheel(0, -120);
    await page.keyboard.up("Control");
    await changed();
    await page.getByRole("button", { name: "Zoom in" }).click();
    await changed();
    const map = await page.locator(".dsl-map").nth(1).boundingBox();
    if (map === null) throw new Error("no map");
    await page.mouse.click(map.x + 5, map.y + map.height - 4);
    await changed();
    await page.getByRole("button", { name: "Open one level" }).click();
    await changed();
    await page.locator("[role=tree]:visible").focus();
    await page.keyboard.press("Home");
    await page.keyboard.type("transformer");
    await page.keyboard.press("ArrowLeft");
    await changed();
    await page.context().close();
  });

  it("is steered by the keyboard alone, and shows one of them alone", async () => {
    const { page, errors } = await opened(browser, address());
    await page.getByRole("button", { name: "as it runs" }).press("Enter");
    expect(await outline(page)).toContain("as it runs");
    await page.locator("[role=tree]:visible").focus();
    await page.keyboard.press("End");
    await page.keyboard.press("Enter");
    expect(await detail(page)).toContain("output");
    expect(await detail(page)).toContain("stands for");
    await shows(page).selectOption("as captured");
    expect(await page.locator(".dsl-picture:visible").count()).toBe(1);
    expect(await page.locator(".dsl-pane > button:visible").count()).toBe(0);
    expect(await outline(page)).toContain("as captured");
    await shows(page).selectOption("as it runs");
    expect(await outline(page)).toContain("as it runs");
    await frames(page);
    await shows(page).selectOption("before and after");
    expect(await page.locator(".dsl-picture:visible").count()).toBe(2);
    expect(errors).toEqual([]);
    await page.context().close();
  });

  it("stands one above the other where the page is narrow", async () => {
    const { page } = await opened(browser, address());
    await page.setViewportSize({ width: 420, height: 700 });
    const boxes = await page
      .locator(".dsl-pane")
      .evaluateAll((all) => all.map((one) => one.getBoundingClientRect()));
    expect(boxes[0]?.left).toBe(boxes[1]?.left);
    expect(boxes[1]?.top).toBeGreaterThanOrEqual(boxes[0]?.bottom ?? Infinity);
    expect(boxes[1]?.height).toBeGreaterThan(100);
    expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(420);
    await page.context().close();
  });

  it("goes to the other graph with a link where only one shows", async () => {
    const { page } = await opened(browser, address());
    await shows(page).selectOption("as captured");
    await find(page, "gelu_2");
    await page.locator(".dsl-detail").getByRole("button", { name: "act · linear_gelu" }).click();
    expect(await outline(page)).toContain("as it runs");
    expect(await shows(page).inputValue()).toBe("1");
    await page.context().close();
  });

  it("saves both in one picture", async () => {
    const { page } = await opened(browser, address());
    const [saved] = await Promise.all([
      page.waitForEvent("download"),
      page.getByRole("button", { name: "Save as SVG" }).click(),
    ]);
    const svg = await (await saved.createReadStream()).toArray();
    const text = Buffer.concat(svg as Buffer[]).toString();
    expect(text).toContain("as captured");
    expect(text).toContain("as it runs");
    await page.context().close();
  });

  it.each([false, true])("has no violation of WCAG 2.2 AA, dark: %s", async (dark) => {
    const { page } = await opened(browser, address(), { dark });
    await page.waitForSelector("[role=treeitem]");
    await page.getByLabel("Colour by").selectOption("time");
    await find(page, "gelu_2");
    expect(await violations(page)).toEqual([]);
    await page.context().close();
  });
});

describe("what was measured", () => {
  it("colours, stands beside names, and in the details; nothing where it was not measured", async () => {
    const { page, errors } = await opened(browser, address());
    await frames(page);
    const before = await looks(page);
    await page.getByLabel("Colour by").selectOption("time");
    await frames(page);
    expect((await looks(page))[0]).not.toBe(before[0]);
    expect(await page.locator(".dsl-legend").innerText()).toContain("100 µs");
    expect(await page.locator("[role=tree]:visible").innerText()).toContain("1.60 ms"); // four blocks of four
    await find(page, "h.1.attn.c_attn");
    expect(await detail(page)).toMatch(/time\s*100 µs/);
    expect(await detail(page)).toMatch(/runs in\s*oneDNN/);
    await find(page, "layer_norm_2");
    expect(await detail(page)).not.toMatch(/time|runs in/);
    await page.getByLabel("Colour by").selectOption("runs in");
    expect(await page.locator(".dsl-legend").innerText()).toBe("oneDNN");
    await page.locator("[role=tree]:visible").focus();
    await page.keyboard.press("Home");
    await page.keyboard.type("transformer");
    await page.keyboard.press("Enter");
    expect(await detail(page)).toMatch(/time in all\s*1.60 ms/);
    expect(errors).toEqual([]);
    await page.context().close();
  });

  it.each([
    [{ overlays: "time" }],
    [
      {
        overlays: [{ name: "op", kind: "text", label: "<img src=x onerror=alert(1)>" }],
        breaks: [{ reason: "<b>" }],
      },
    ],
    [{ overlays: [{ name: "nowhere", kind: "number" }], breaks: "break", after: null }],
  ])("never breaks the view: %j", async (meta) => {
    const { page, errors } = await opened(browser, pageOf(packed(transformer(3), { meta })));
    await page.waitForSelector("[role=treeitem], [role=alert]");
    for (const one of await page.getByLabel("Colour by").locator("option").allInnerTexts())
      await page.getByLabel("Colour by").selectOption(one);
    expect(await page.locator("img, b").count()).toBe(0);
    expect(errors).toEqual([]);
    await page.context().close();
  });
});

describe("places at which capture stopped", () => {
  it("are told of above the graph, shown in it, and lead to what was captured last", async () => {
    const { page, errors } = await opened(browser, address());
    const note = page.getByRole("note");
    expect(await note.innerText()).toContain(
      "Capture stopped at /tmp/ipykernel_1/2.py:33: print() was called",
    );
    await note.getByRole("button", { name: "Show where" }).press("Enter");
    expect(await detail(page)).toContain("Python went on by itself");
    expect(await page.locator("[role=tree]:visible .dsl-selected").innerText()).toContain("capture stopped");
    await page.locator(".dsl-detail").getByRole("button").first().click();
    expect(await detail(page)).toContain("lm_head");
    expect(errors).toEqual([]);
    await page.context().close();
  });
});

describe("a graph and a timeline in one page", () => {
  /** Both, as an output of our extension has them; what they tell is counted. */
  const both = (): string => {
    const step = packedTimeline(
      [
        { at: 0, bytes: 4096, module: "transformer.wte", file: "other.py", line: 5 },
        { at: 100, bytes: 2048, module: "transformer.h.1.mlp.act", file: "/tmp/ipykernel_1/2.py", line: 41 },
        { at: 300, bytes: 1024, module: "transformer.h.2", file: "/tmp/ipykernel_1/2.py", line: 21 },
      ],
      { tick_s: 1e-3 },
    );
    return written(`${GRAPH}
import base64, html, json, zlib
code = zlib.decompress(base64.b64decode(_page.script())).decode()
timeline = _page.content("timeline", "memory", ${JSON.stringify(step)})
data = [json.dumps(one).replace("<", "\\\\u003c") for one in (content, timeline)]
Path(out).write_text("<!DOCTYPE html><html lang=en><head><meta charset=utf-8><title>both</title></head><body>"
    "<main id=graph></main><main id=timeline></main>"
    + "".join(f"<script type='application/json' id=data{at}>{one}</script>" for at, one in enumerate(data))
    + f"<script>{code}</script><script>window.told=[];document.addEventListener('dsl-place',e=>told.push(e.detail));"
    "for(const [at,id] of ['graph','timeline'].entries())"
    "deepseekLab.show(document.getElementById(id),document.getElementById('data'+at).textContent)</script></body></html>")`);
  };

  it("goes with the cursor to what is selected, and selects what the cursor is at, without a loop", async () => {
    const { page, errors } = await opened(browser, both());
    const graph = page.locator("#graph");
    const told = (): Promise<number> =>
      page.evaluate(() => (window as unknown as { told: unknown[] }).told.length);
    const cursor = (): Promise<string | null> => page.getByRole("slider").getAttribute("aria-valuetext");
    await find(page, "h.1.mlp.act");
    expect(await cursor()).toMatch(/^100\.0 ms/);
    expect(await told()).toBe(1);
    await page.getByRole("slider").focus();
    await page.keyboard.press("Period");
    expect(await cursor()).toMatch(/^300\.0 ms/);
    await page.keyboard.press("Enter");
    expect(await graph.locator(".dsl-detail").innerText()).toContain("add");
    expect(await graph.locator(".dsl-detail").innerText()).toContain("transformer.h.2");
    expect(await told()).toBe(2);
    await page.keyboard.press("Home");
    await page.keyboard.press("Period");
    await page.keyboard.press("Comma");
    const before = await graph.locator(".dsl-detail").innerText();
    await page.evaluate(() => {
      const tell = (detail: unknown): boolean =>
        document.body.dispatchEvent(new CustomEvent("dsl-place", { detail, bubbles: true }));
      for (const one of [null, 7, {}, { module: "nowhere" }, { file: "x", line: 3 }]) tell(one);
    });
    expect(await graph.locator(".dsl-detail").innerText()).toBe(before);
    await page.evaluate(() =>
      document.body.dispatchEvent(
        new CustomEvent("dsl-place", { detail: { module: "transformer.h.3.attn" }, bubbles: true }),
      ),
    );
    const selected = graph.locator("[role=tree]:visible .dsl-selected");
    expect(await selected.innerText()).toContain("attn");
    expect(await selected.getAttribute("aria-expanded")).toBe("true");
    expect(errors).toEqual([]);
    await page.context().close();
  });
});
