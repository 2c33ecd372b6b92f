import { build } from "esbuild";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { launch, opened, pageOf, violations, written } from "./browser";
import { frames } from "./charted";
import { python } from "./python";

/** A search in a real browser: its pictures, its filter, the keyboard, and what Stop and Prune say to a kernel. */

const MADE = "made = Made().begin().search(60).compare().end()";

/** A page of a whole search. */
const page = (code = MADE, title = "search digits"): string =>
  written(`
from pathlib import Path
from deepseek_lab.views import _page
from deepseek_lab.views._search_packed import packed_search
from tests.views.searches import Made
${code}
Path(out).write_text(_page.page("search", ${JSON.stringify(title)}, packed_search(made.log)))`);

let browser: Browser;
beforeAll(async () => {
  browser = await launch();
});
afterAll(() => browser.close());

/** How many colours each picture in sight has: one where nothing was drawn. */
async function drawn(shown: Page): Promise<Record<string, number>> {
  const found: Record<string, number> = {};
  for (const plot of await shown.locator(".dsl-plot").all()) {
    if (!(await plot.isVisible())) continue;
    await plot.scrollIntoViewIfNeeded();
    await frames(shown);
    const name = (await plot.getAttribute("aria-label")) ?? "";
    found[name.split(":")[0] ?? ""] = await plot.evaluate((one) => {
      const canvas = one.querySelector("canvas");
      const pixels = canvas?.getContext("2d")?.getImageData(0, 0, canvas.width, canvas.height);
      return new Set(new Uint32Array(pixels?.data.buffer ?? new ArrayBuffer(0))).size;
    });
  }
  return found;
}

const readout = (shown: Page): Promise<string> => shown.locator(".dsl-readout").innerText();

describe("a search", () => {
  it.each([false, true])("draws all its pictures, readable by all (dark: %s)", async (dark) => {
    const { page: shown, errors } = await opened(browser, page(), { dark });
    const found = await drawn(shown);
    expect(Object.keys(found)).toEqual(["History", "Curves", "Parallel coordinates", "Slices"]);
    for (const colours of Object.values(found)) expect(colours).toBeGreaterThan(8);
    await shown.getByText("Trials", { exact: true }).click();
    await shown.getByRole("grid").getByRole("row").nth(8).waitFor();
    expect(await violations(shown)).toEqual([]);
    const text = await shown.locator(".dsl-body").innerText();
    expect(text).toContain("accuracy 0.8970 → 0.9210");
    expect(text).toContain("+2.4 points (95 % +1.9 to +2.9)");
    expect(text).toMatch(/61 configurations, [\d.]+ whole trials, 3 failed/);
    expect(text).toContain("OutOfMemoryError: 512 MiB");
    expect(await shown.getByRole("row", { name: /^lr/ }).innerText()).toContain("60 %");
    expect(await shown.locator(".dsl-stop, .dsl-search tbody button").filter({ visible: true }).count()).toBe(
      0,
    );
    expect(errors).toEqual([]);
    await shown.close();
  });

  it("of two metrics has a Pareto front, and shows the metric that is chosen", async () => {
    const code = 'made = Made(("accuracy", "ms"), ("max", "min")).begin().search(60, small=False).end()';
    const { page: shown, errors } = await opened(browser, page(code));
    expect(Object.keys(await drawn(shown))).toContain("Pareto front");
    await shown.getByRole("combobox", { name: "Metric" }).selectOption("ms");
    await frames(shown);
    const history = shown.locator(".dsl-plot").first();
    await history.focus();
    await shown.keyboard.press("Home");
    expect(await readout(shown)).toMatch(/^trial 0 .*defaults.*accuracy: .*ms: /s);
    expect(errors).toEqual([]);
    await shown.close();
  });

  it("is gone through by the keyboard, the same trial marked in every picture", async () => {
    const { page: shown } = await opened(browser, page());
    await shown.locator(".dsl-plot").first().focus();
    await shown.keyboard.press("Home");
    expect(await readout(shown)).toMatch(/^trial 0 /);
    await shown.keyboard.press("ArrowRight");
    expect(await readout(shown)).toMatch(/^trial 1 .*1\/9/s);
    const parallel = shown.getByRole("application", { name: /^Parallel/ });
    await parallel.focus();
    await shown.keyboard.press("Home");
    expect(await readout(shown)).toContain("the best whole trial");
    const marks = await shown.evaluate(() =>
      Array.from(document.querySelectorAll(".dsl-plot"), (plot) => {
        const canvas = plot.querySelectorAll("canvas")[1];
        const pixels = canvas?.getContext("2d")?.getImageData(0, 0, canvas.width, canvas.height).data ?? [];
        return Array.from(pixels).some((value) => value > 0);
      }),
    );
    expect(marks[0]).toBe(true);
    await shown.keyboard.press("Escape");
    expect(await readout(shown)).toContain("Point at a trial");
    await shown.close();
  });

  it("is narrowed by a filter, and by a drag along an axis", async () => {
    const { page: shown, errors } = await opened(browser, page());
    const filter = shown.getByRole("searchbox");
    await filter.fill("lr>0.01 status=complete");
    await filter.press("Enter");
    const said = await shown.locator(".dsl-hits").innerText();
    const [some, all] = (/(\d+) of (\d+) trials/.exec(said) ?? []).slice(1).map(Number);
    expect(some).toBeGreaterThan(0);
    expect(some).toBeLessThan((all ?? 0) / 2);
    await filter.press("Escape");
    expect(await shown.locator(".dsl-hits").innerText()).toBe("");
    const parallel = shown.getByRole("application", { name: /^Parallel/ });
    await parallel.scrollIntoViewIfNeeded();
    const box = await parallel.boundingBox();
    if (box === null) throw new Error("there is no picture");
    await shown.mouse.move(box.x + 50, box.y + 60);
    await shown.mouse.down();
    await shown.mouse.move(box.x + 50, box.y + 120, { steps: 4 });
    await shown.mouse.up();
    expect(await filter.inputValue()).toMatch(/^lr>=0\.0\d+ lr<=0\.0\d+$/);
    expect(await shown.locator(".dsl-hits").innerText()).toMatch(/\d+ of \d+ trials/);
    expect(errors).toEqual([]);
    await shown.close();
  });

  it("says that it is empty, and in words what is no search", async () => {
    const { page: shown } = await opened(browser, page("made = Made()"));
    expect(await shown.locator(".dsl-progress").innerText()).toContain("No trial has ended yet.");
    await shown.close();
    const { page: other } = await opened(browser, pageOf("AAAA", "search", "search"));
    expect(await other.getByRole("alert").innerText()).toMatch(/^This view cannot be shown: /);
    await other.close();
  });

  it("shows hostile words as words", async () => {
    const word = "</script><img src=x onerror=alert(1)>\u202e";
    const code = `made = Made(word=${JSON.stringify(word)}).begin().search(24).running().compare().end(${JSON.stringify(word)})`;
    const { page: shown, errors } = await opened(browser, page(code, word));
    await drawn(shown);
    await shown.getByText("Trials", { exact: true }).click();
    await shown.locator(".dsl-plot").first().focus();
    await shown.keyboard.press("End");
    expect(await readout(shown)).toContain("<img src=x onerror=alert(1)>");
    expect(await shown.locator("img, svg, iframe, object, a").count()).toBe(0);
    expect(errors).toEqual([]);
    await shown.close();
  });
});

/** The module that a kernel sends to pages without our extension, as a script for a page. */
async function widget(): Promise<string> {
  const { outputFiles } = await build({
    entryPoints: ["src/widget/index.ts"],
    bundle: true,
    format: "iife",
    globalName: "deepseekWidget",
    target: "es2022",
    charset: "ascii",
    write: false,
  });
  return outputFiles[0]?.text ?? "";
}

/** What a live search says, as Python packs it: its output, then the whole as it stands, and once more later. */
function live(): { payload: unknown; before: string; later: string } {
  return JSON.parse(
    python(`
import json
from deepseek_lab import views
from deepseek_lab.views import _page, _search_packed
from tests.views.searches import Made
made = Made().begin().search(9, small=False)
payload = views.search_bundle("r", made.log, live=True)[_page.MIME]
made.running()
facts = dict(now_s=made.at_s + 5, state="live")
before = _search_packed.packed_search(made.log, 120_000, **facts)
made.trial("more", made.draw())
later = _search_packed.packed_search(made.log, 120_000, **facts, pruning=[made.num - 2])
print(json.dumps({"payload": payload, "before": before, "later": later}))`),
  ) as { payload: unknown; before: string; later: string };
}

describe("a live search", () => {
  it("sends what Stop and Prune mean, shows what the kernel says of it, and is found by a view that comes late", async () => {
    const [context, code, told] = [await browser.newContext(), await widget(), live()];
    const shown = await context.newPage();
    await shown.addScriptTag({ content: code });
    await shown.evaluate(({ payload, before }) => {
      const hears = new Map<string, () => void>();
      const traits: Record<string, unknown> = { payload, packed: before, stopping: false };
      const sent: unknown[] = [];
      const model = {
        get: (name: string) => traits[name],
        on: (name: string, hear: () => void) => hears.set(name, hear),
        off: (name: string) => hears.delete(name),
        send: (message: unknown) => sent.push(message),
      };
      const { default: module } = (
        window as unknown as { deepseekWidget: { default: { render(props: unknown): () => void } } }
      ).deepseekWidget;
      const host = document.body.appendChild(document.createElement("div"));
      module.render({ model, el: host });
      Object.assign(window, { model, traits, hears, sent, again: () => module.render({ model, el: host }) });
    }, told);
    const sent = (): Promise<unknown> => shown.evaluate(() => (window as unknown as { sent: unknown }).sent);
    await shown.getByText("searching").waitFor();
    const running = shown.getByRole("region", { name: "Running" });
    expect(
      (await running.getByRole("row").allInnerTexts()).slice(1).map((row) => row.split("\t")[0]),
    ).toEqual(["10", "11"]);
    await running.getByRole("button", { name: "Prune trial 11" }).click();
    expect(await sent()).toEqual([{ do: "prune", trial: 11 }]);
    await shown.evaluate((packed) => {
      const { traits, hears } = window as unknown as {
        traits: Record<string, unknown>;
        hears: Map<string, () => void>;
      };
      traits["packed"] = packed;
      hears.get("change:packed")?.();
    }, told.later);
    const asked = running.getByRole("button", { name: "Trial 11" });
    await asked.filter({ hasText: "ends at its next step" }).waitFor();
    expect(await asked.isDisabled()).toBe(true);
    expect(await shown.locator(".dsl-progress").innerText()).toMatch(/11 of 60 configurations.*2 running/);
    expect(await violations(shown, ".dsl-search")).toEqual([]);
    await shown.getByRole("button", { name: /^Stop the search/ }).click();
    expect(await sent()).toEqual([{ do: "prune", trial: 11 }, { do: "stop" }]);
    await shown.evaluate(() => (window as unknown as { again: () => void }).again());
    const late = shown.locator(".dsl-search").nth(1);
    await late.getByText("searching").waitFor();
    expect(await late.locator(".dsl-progress").innerText()).toMatch(/11 of 60 configurations.*2 running/);
    await context.close();
  });
});
