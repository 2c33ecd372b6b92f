import type { Browser } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { launch, opened, pageOf, violations } from "./browser";
import { active, cells, chosen, colours, frames, type Kind, KINDS, readout, sample, saved } from "./charted";
import { floatsOf, forged, packedTable, random } from "./tables";

let browser: Browser;
beforeAll(async () => {
  browser = await launch();
});
afterAll(() => browser.close());

const open = (kind: Kind, packed = sample(kind), dark = false): ReturnType<typeof opened> =>
  opened(browser, pageOf(packed, `a ${kind}`, kind), { dark });

describe("each kind", () => {
  it.each(KINDS.flatMap((kind) => [[kind, false] as const, [kind, true] as const]))(
    "%s draws and has no violation of WCAG 2.2 AA, dark: %s",
    async (kind, dark) => {
      const { page, errors } = await open(kind, sample(kind), dark);
      await page.waitForSelector(".dsl-bar");
      if (kind === "table") await page.locator("summary").click();
      else {
        expect(await colours(page)).toBeGreaterThan(8);
        await page.getByRole("button", { name: "Show the rows" }).click();
        await page.locator(".dsl-plot").focus();
        await page.keyboard.press("ArrowRight");
      }
      expect(await page.locator("[role=gridcell]").count()).toBeGreaterThan(20);
      expect(await violations(page)).toEqual([]);
      expect(errors).toEqual([]);
      await page.context().close();
    },
  );

  it.each([
    ["table", packedTable({ a: [] }), "The table has no rows."],
    ["scatter", packedTable({ a: [NaN], b: [1] }), "no row has a number for both axes"],
    ["lines", packedTable({ x: [], y: [] }), "no row has arrived"],
    ["heatmap", packedTable({ v: [] }, { shape: [0, 0] }), "The matrix is empty."],
  ] as const)("%s says in words that it is empty", async (kind, packed, words) => {
    const { page, errors } = await open(kind, packed);
    expect(await page.locator(".dsl-message").innerText()).toContain(words);
    expect(errors).toEqual([]);
    await page.context().close();
  });

  it.each(KINDS)("%s says how much was left out", async (kind) => {
    const cut = { cut: { shown: 2, total: 1000, how: "first" } };
    const { page } = await open(kind, packedTable({ x: [1, 2], y: [1, 2] }, { shape: [2, 1], ...cut }));
    expect(await page.locator(".dsl-note:visible").innerText()).toContain(
      "2 of 1,000 are kept here, the first ones",
    );
    await page.context().close();
  });

  it.each([
    ["table", packedTable({})],
    ["scatter", packedTable({ a: ["only", "text"] })],
    ["lines", packedTable({ x: [2, 1], y: [1, 2] })],
    ["lines", packedTable({ a: ["text"] })],
    ["heatmap", packedTable({ v: [1] }, { shape: [99, 99] })],
    ["heatmap", "AAAA"],
    [
      "table",
      forged({ schema: 1, rows: 3, columns: [{ name: "x", type: "float", bytes: 4 }] }, floatsOf([1])),
    ],
    ["scatter", forged({ schema: 1, rows: 1, columns: [{ name: "x", type: "int", bytes: 0 }] })],
  ] as const)("%s of what is no such thing becomes a sentence", async (kind, packed) => {
    const { page, errors } = await open(kind, packed);
    expect(await page.getByRole("alert").innerText()).toMatch(/^This view cannot be shown: /);
    expect(errors).toEqual([]);
    await page.context().close();
  });

  it.each(KINDS)("%s survives numbers of any size and names of any kind", async (kind) => {
    const hostile = ["<img src=x onerror=alert(1)>", "\ud800\u202e", "__proto__", "a".repeat(50_000), "=1+1"];
    const numbers = [3.4e38, -3.4e38, 1e-45, Infinity, -Infinity, NaN, 0, 1, 1, 1];
    const columns: Record<string, readonly number[] | readonly string[]> = {
      x: numbers.map((_, row) => row),
    };
    for (const name of hostile) columns[`${name} `] = numbers;
    columns["text <b>"] = numbers.map((_, row) => hostile[row % 5] ?? "");
    const meta = {
      shape: [2, 5],
      labels: { rows: hostile.slice(0, 2), columns: hostile },
      label: hostile[0],
      xLabel: hostile[0],
      yLabel: hostile[3],
      axes: { x: `${hostile[0] ?? ""} `, y: { length: 1e9 }, colour: "text <b>" },
      columns: {
        __proto__: { unit: 1 },
        [`${hostile[0] ?? ""} `]: { unit: hostile[0], better: "lower", bar: true },
      },
      cut: { shown: Infinity, total: "many" },
    };
    const { page, errors } = await opened(browser, pageOf(packedTable(columns, meta), hostile[0], kind));
    await page.waitForSelector(".dsl-bar");
    const buttons = page.locator(".dsl-bar button[aria-pressed]");
    for (let at = 0; at < (await buttons.count()); at++) await buttons.nth(at).click();
    const place = page.locator(kind === "table" ? "[role=grid]" : ".dsl-plot");
    if (await place.isVisible()) {
      await place.focus();
      for (const key of [
        "Home",
        "ArrowRight",
        "ArrowUp",
        "Enter",
        " ",
        "End",
        " ",
        "+",
        "+",
        "-",
        "ArrowDown",
        "Escape",
      ]) {
        await page.keyboard.press(key);
        await frames(page);
      }
    }
    expect(await page.locator("img, svg, script[src], iframe, object").count()).toBe(0);
    expect(errors).toEqual([]);
    await page.context().close();
  });
});

describe("the table", () => {
  it("is sorted, read and chosen from by the keyboard alone", async () => {
    const { page, errors } = await open("table");
    const rows = await chosen(page);
    const grid = page.locator("[role=grid]");
    await page.getByRole("searchbox").focus();
    for (let tab = 0; tab < 5 && !(await grid.evaluate((one) => one === document.activeElement)); tab++) {
      await page.keyboard.press("Tab");
    }
    expect(await active(page)).toBe("trial");
    await page.keyboard.press("End");
    await page.keyboard.press("ArrowLeft");
    expect(await active(page)).toBe("error");
    const heading = page.locator("[role=columnheader]").nth(3);
    await page.keyboard.press("Enter");
    expect(await heading.getAttribute("aria-sort")).toBe("ascending");
    const values = (await cells(page, 4)).map((text) => Number(text.replace(/[^\d.]/g, "")));
    expect(values).toEqual(values.toSorted((a, b) => a - b));
    expect(await cells(page, 4).then((all) => all[0])).toContain("★");
    await page.keyboard.press("Enter");
    expect(await heading.getAttribute("aria-sort")).toBe("descending");
    await page.keyboard.press("Control+End");
    expect(await active(page)).toMatch(/^\d+$/);
    await page.keyboard.press("ArrowLeft");
    expect(await active(page)).toBe("–");
    await page.keyboard.press("Enter");
    expect(await rows()).toEqual([3]);
    expect(await page.locator("[role=row][aria-selected=true]").getAttribute("aria-rowindex")).toBe("61");
    await page.keyboard.press("Control+Home");
    expect(await active(page)).toBe("trial");
    await page.keyboard.press("PageDown");
    await page.keyboard.press("PageUp");
    expect(await active(page)).toMatch(/^trial_/);
    expect(errors).toEqual([]);
    await page.context().close();
  });

  it("shows what the filter keeps, and says where it is wrong", async () => {
    const { page } = await open("table");
    const status = page.locator(".dsl-hits");
    await page.getByRole("searchbox").fill("adam layers>6");
    await page.keyboard.press("Enter");
    expect(await status.innerText()).toBe("5 of 60 rows");
    expect(new Set(await cells(page, 2))).toEqual(new Set(["adam"]));
    await page.getByRole("searchbox").fill("layers>many");
    await page.keyboard.press("Enter");
    expect(await status.innerText()).toContain("layers holds numbers");
    await page.getByRole("searchbox").fill("nothing is called so");
    await page.keyboard.press("Enter");
    expect(await page.locator(".dsl-message").innerText()).toContain("Clear it");
    await page.keyboard.press("Escape");
    expect(await status.innerText()).toBe("60 rows");
    await page.context().close();
  });

  it("is copied and saved as it shows, without hidden columns", async () => {
    const { page } = await open("table");
    await page.locator("summary").click();
    await page.getByRole("checkbox", { name: "optimiser" }).uncheck();
    await page.getByRole("searchbox").fill("trial_1 layers<1");
    await page.keyboard.press("Enter");
    const [name, text] = await saved(page, "Save the rows that show as CSV");
    expect(name).toBe("a_table.csv");
    expect(text).toMatch(/^trial,latency \(ms\),error,layers\r\ntrial_12,[\d.]+,[\d.]+,0\r\n$/);
    await page.getByRole("button", { name: "Copy the rows" }).click();
    expect(await page.locator(".dsl-hits").innerText()).toBe("1 row copied");
    await page.getByRole("searchbox").fill("");
    await page.keyboard.press("ControlOrMeta+v");
    expect(await page.getByRole("searchbox").inputValue()).toMatch(/trial\s*latency \(ms\).*trial_12/);
    await page.context().close();
  });

  it("of 100,000 rows has only those in sight in the page", async () => {
    const { page } = await open("table", sample("table", 100_000));
    await page.locator("[role=grid]").focus();
    await page.keyboard.press("Control+End");
    expect(await page.locator("[role=row]").count()).toBeLessThan(60);
    await page.keyboard.press("Home");
    expect(await active(page)).toBe("trial_99999");
    await page.locator("[role=columnheader]").first().click();
    expect((await cells(page, 1)).slice(0, 3)).toEqual(["trial_0", "trial_1", "trial_2"]);
    await page.context().close();
  });
});

describe("the scatter plot", () => {
  it("is read, selected from and zoomed by the keyboard alone", async () => {
    const { page, errors } = await open("scatter");
    const rows = await chosen(page);
    expect(await readout(page)).toMatch(/59 points.*Pareto front of latency and error: \d+ points/s);
    await page.locator(".dsl-plot").focus();
    const seen: number[] = [];
    await page.keyboard.press("Home");
    for (let step = 0; step < 10; step++) {
      seen.push(Number(/latency \(ms\): ([\d.]+)/.exec(await readout(page))?.[1]));
      await page.keyboard.press("ArrowRight");
    }
    expect(seen).toEqual(seen.toSorted((a, b) => a - b));
    await page.keyboard.press("Enter");
    expect((await rows()).length).toBe(1);
    await page.keyboard.press("Home");
    await page.keyboard.press(" ");
    expect(await readout(page)).toContain("Corner set");
    await page.keyboard.press("End");
    await page.keyboard.press(" ");
    const selected = Number(/(\d+) rows? selected/.exec(await readout(page))?.[1]);
    expect(selected).toBeGreaterThan(1);
    expect(await page.locator("[role=grid]").getAttribute("aria-rowcount")).toBe(String(selected + 1));
    await page.keyboard.press("Escape");
    expect(await page.locator("[role=grid]").getAttribute("aria-rowcount")).toBe("61");
    const before = await page.evaluate(() => document.querySelector("canvas")?.toDataURL());
    await page.keyboard.press("+");
    await frames(page);
    expect(await page.evaluate(() => document.querySelector("canvas")?.toDataURL())).not.toBe(before);
    expect(errors).toEqual([]);
    await page.context().close();
  });

  it("lists the rows in a box that is dragged, and zooms to them", async () => {
    const { page } = await open("scatter");
    const box = await page.locator(".dsl-plot").boundingBox();
    if (box === null) throw new Error("no picture");
    await page.mouse.move(box.x + 1, box.y + 1);
    await page.mouse.down();
    await page.mouse.move(box.x + box.width - 2, box.y + box.height - 2, { steps: 3 });
    await page.mouse.up();
    expect(await readout(page)).toBe("59 rows selected");
    expect(await page.locator("[role=grid]").getAttribute("aria-rowcount")).toBe("60");
    await page.getByRole("button", { name: "Zoom to selection" }).click();
    await page.getByRole("button", { name: "Clear selection" }).click();
    expect(await page.getByRole("button", { name: "Zoom to selection" }).isDisabled()).toBe(true);
    await page.context().close();
  });

  it("takes any columns, says what has no place on a logarithmic axis, and is saved", async () => {
    const { page } = await open("scatter");
    await page.getByRole("combobox", { name: "x", exact: true }).selectOption("layers");
    await page.getByRole("button", { name: "log x" }).click();
    expect(await readout(page)).toContain("5 values at or below 0");
    await page.getByLabel("Colour").selectOption("latency");
    await frames(page);
    expect(await page.locator(".dsl-legend").innerText()).toContain("latency (ms)");
    const [name, svg] = await saved(page, "Save as SVG");
    expect(name).toBe("a_scatter.svg");
    expect(svg.match(/<rect/g)?.length).toBeGreaterThan(54);
    expect((await saved(page, "Save as PNG"))[1]).toContain("PNG");
    await page.context().close();
  });

  it("of 1,000,000 points counts them by cells", async () => {
    const next = random(8);
    const values = (): Float32Array => Float32Array.from({ length: 1_000_000 }, () => next() + next());
    const { page, errors } = await open("scatter", packedTable({ a: values(), b: values() }));
    await page.waitForSelector(".dsl-ramp");
    expect(await page.locator(".dsl-legend").innerText()).toContain("points at a place");
    await page.locator(".dsl-plot").focus();
    await page.keyboard.press("Home");
    expect(await readout(page)).toMatch(/a: [\de−.]+/);
    expect(errors).toEqual([]);
    await page.context().close();
  });
});

describe("the line chart", () => {
  it("is read and zoomed by the keyboard alone, and lines can be hidden", async () => {
    const { page, errors } = await open("lines");
    const slider = page.getByRole("slider", { name: /^a lines/ });
    await slider.focus();
    await page.keyboard.press("ArrowRight");
    expect(await slider.getAttribute("aria-valuenow")).toBe("0");
    await page.keyboard.press("End");
    expect(await slider.getAttribute("aria-valuetext")).toMatch(/^x 59, loss [\d.]+, val loss 0.0666667$/);
    await page.keyboard.press("PageDown");
    expect(await slider.getAttribute("aria-valuenow")).toBe("53");
    for (let step = 0; step < 30; step++) await page.keyboard.press("ArrowLeft");
    expect(await readout(page)).toContain("loss missing");
    const look = async (): Promise<string> => {
      await frames(page);
      return page.evaluate(() => document.querySelector("canvas")?.toDataURL() ?? "");
    };
    let before = await look();
    for (const key of ["+", "0"]) {
      await page.keyboard.press(key);
      const after = await look();
      expect(after).not.toBe(before);
      before = after;
    }
    const loss = page.getByRole("button", { name: "Show val loss" });
    await loss.press("Enter");
    expect(await loss.getAttribute("aria-pressed")).toBe("false");
    expect(await readout(page)).not.toContain("val loss");
    expect(await look()).not.toBe(before);
    await page.getByRole("slider", { name: "Smoothing" }).fill("0.9");
    await page.getByRole("button", { name: "log y" }).press("Enter");
    expect(await colours(page)).toBeGreaterThan(8);
    expect(errors).toEqual([]);
    await page.context().close();
  });

  it("grows with a run that is going on", async () => {
    const { page, errors } = await open("lines", packedTable({ x: [], y: [] }));
    await page.locator(".dsl-message").waitFor(); // the page's own view, which would come beside ours
    await page.evaluate(async () => {
      const { deepseekLab } = window as unknown as {
        deepseekLab: { show(host: Element, text: string): Promise<unknown> };
      };
      const host = document.querySelector("main");
      const text = document.getElementById("data")?.textContent ?? "";
      if (host === null) throw new Error("no host");
      host.replaceChildren();
      (window as unknown as { view: unknown }).view = await deepseekLab.show(host, text);
    });
    const push = (xs: number[], series: [string, number[]][]): Promise<void> =>
      page.evaluate(
        ([x, values]) => {
          const { view } = window as unknown as {
            view: { push(x: number[], y: Map<string, number[]>): void };
          };
          view.push(x, new Map(values));
        },
        [xs, series] as const,
      );
    expect(await page.locator(".dsl-message").isVisible()).toBe(true);
    await push([0, 1, 2], [["y", [3, 2, 1]]]);
    await frames(page);
    expect(await page.locator(".dsl-message").isVisible()).toBe(false);
    expect(await colours(page)).toBeGreaterThan(8);
    await push(
      [3, 4],
      [
        ["y", [1, 1]],
        ["accuracy", [0.5, 0.6]],
      ],
    );
    await frames(page);
    expect(await page.getByRole("button", { name: "Show accuracy" }).count()).toBe(1);
    await page.getByRole("slider", { name: /cursor/i }).press("End");
    expect(await readout(page)).toContain("accuracy 0.6");
    expect(errors).toEqual([]);
    await page.context().close();
  });

  it("of 1,000,000 rows shows the extremes of each pixel", async () => {
    const next = random(9);
    const step = Float32Array.from({ length: 1_000_000 }, (_, row) => row);
    const { page, errors } = await open("lines", packedTable({ step, y: step.map(() => next()) }));
    await page.waitForSelector(".dsl-note:visible");
    expect(await page.locator(".dsl-note:visible").innerText()).toContain("1,000,000 rows in sight");
    const box = await page.locator(".dsl-plot").boundingBox();
    if (box === null) throw new Error("no picture");
    await page.mouse.move(box.x + 300, box.y + 100);
    await page.mouse.down();
    await page.mouse.move(box.x + 306, box.y + 100);
    await page.mouse.move(box.x + 312, box.y + 100);
    await page.mouse.up();
    await frames(page);
    expect(await page.locator(".dsl-note:visible").innerText()).toMatch(/^\d{1,2},\d{3} rows in sight/);
    expect(errors).toEqual([]);
    await page.context().close();
  });
});

describe("the heat map", () => {
  it("is read and zoomed by the keyboard alone", async () => {
    const { page, errors } = await open("heatmap");
    await page.locator(".dsl-plot").focus();
    for (let step = 0; step < 6; step++) await page.keyboard.press("ArrowRight");
    expect(await readout(page)).toBe("0, 5: missing");
    await page.keyboard.press("ArrowDown");
    expect(await readout(page)).toMatch(/^1, 5: −?0\.\d+$/);
    await page.keyboard.press(" ");
    await page.keyboard.press("ArrowRight");
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press(" ");
    await frames(page);
    expect(await page.locator(".dsl-legend").innerText()).toContain("2 × 2 cells");
    await page.keyboard.press("Control+End");
    await frames(page);
    expect(await readout(page)).toMatch(/^5, 9: /);
    expect(await page.locator(".dsl-legend").innerText()).toContain("2 × 2 cells");
    await page.keyboard.press("Escape");
    await frames(page);
    expect(await page.locator(".dsl-legend").innerText()).toContain("6 × 10 cells");
    expect(await page.locator(".dsl-legend").innerText()).toContain("around 0");
    expect(errors).toEqual([]);
    await page.context().close();
  });

  it("zooms to the cells that are dragged over, and is saved", async () => {
    const { page } = await open("heatmap");
    const box = await page.locator(".dsl-plot").boundingBox();
    if (box === null) throw new Error("no picture");
    await page.mouse.move(box.x + box.width * 0.5, box.y + box.height * 0.1);
    await page.mouse.down();
    await page.mouse.move(box.x + box.width * 0.7, box.y + box.height * 0.4, { steps: 4 });
    await page.mouse.up();
    await frames(page);
    expect(await page.locator(".dsl-legend").innerText()).toMatch(/[23] × [34] cells/);
    await page.getByRole("button", { name: "Show all" }).click();
    const [name, svg] = await saved(page, "Save as SVG");
    expect(name).toBe("a_heatmap.svg");
    expect(svg.match(/<rect/g)?.length).toBe(61);
    expect((await saved(page, "Save as PNG"))[1]).toContain("PNG");
    await page.context().close();
  });

  it("of 2048 × 2048 cells says what a pixel stands for", async () => {
    const values = Float32Array.from(
      { length: 1 << 22 },
      (_, at) => Math.sin(at / 999) + Math.cos((at >> 11) / 99),
    );
    const { page, errors } = await open("heatmap", packedTable({ values }, { shape: [2048, 2048] }));
    await page.waitForSelector(".dsl-ramp");
    expect(await page.locator(".dsl-legend").innerText()).toContain("mean of its cells");
    await page.getByLabel("Pixels show").selectOption("max");
    await frames(page);
    expect(await page.locator(".dsl-legend").innerText()).toContain("furthest from 0");
    expect(errors).toEqual([]);
    await page.context().close();
  });
});
