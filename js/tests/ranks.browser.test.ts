import type { Browser } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { launch, opened, violations, written } from "./browser";

/** Ranks of a training, in a real browser: one is waited for, one was replaced, one is dead. */

const page = (more = ""): string =>
  written(`
from pathlib import Path
from deepseek_lab.base import events as ev
from deepseek_lab.base.ranks import RankVitals
from deepseek_lab.views import _page, _run
log = ev.EventLog()
log.emit(ev.RunStarted(run="r", at_s=1, verb="distributed", targets=("3 ranks",)))
ranks = [
    RankVitals(0, "training", num_updates=1200, updates_per_s=25.4, samples_per_s=813, waiting=0.62, loss=0.5,
               memory_bytes=2**29, link_bytes_per_s=2**24),
    RankVitals(1, "training", num_updates=1200, updates_per_s=25.4, samples_per_s=813, waiting=0.08, late_s=0.0213,
               loss=0.25, memory_bytes=2**30, link_bytes_per_s=2**24, num_replaced=1, why="was ended by SIGKILL"),
    RankVitals(2, "dead", why="<b>exited</b> with 3", num_updates=1100),
]
${more}
log.emit(ev.RanksSeen(run="r", ranks=tuple(ranks)))
Path(out).write_text(_page.page("run", "training on 3 ranks", _run.packed_log(log)))`);

let browser: Browser;
beforeAll(async () => {
  browser = await launch();
});
afterAll(() => browser.close());

describe("ranks", () => {
  it.each([false, true])("are a table that says whom the others wait for (dark: %s)", async (dark) => {
    const { page: shown, errors } = await opened(browser, page(), { dark });
    const table = shown.getByRole("region", { name: "Ranks" });
    const rows = await table.getByRole("row").allInnerTexts();
    expect(rows.map((row) => row.split("\t").map((cell) => cell.trim()))).toEqual([
      ["rank", "state", "updates", "updates/s", "samples/s", "waiting", "loss", "memory", "link", "remarks"],
      ["0", "training", "1,200", "25.4", "813", "62 %", "0.5", "512 MiB", "16.0 MiB/s", ""],
      [
        ...["1", "training", "1,200", "25.4", "813", "8 %", "0.25", "1.00 GiB", "16.0 MiB/s"],
        "the others wait for it, 21.3 ms an update, its process was ended by SIGKILL, replaced",
      ],
      ["2", "dead", "1,100", "", "", "", "", "", "", "<b>exited</b> with 3"],
    ]);
    expect(await violations(shown)).toEqual([]);
    expect(errors).toEqual([]);
    await shown.close();
  });

  it("have a column for GPUs where there are some", async () => {
    const { page: shown } = await opened(
      browser,
      page('ranks.append(RankVitals(3, "training", device_bytes=3 * 2**30))'),
    );
    const table = shown.getByRole("region", { name: "Ranks" });
    expect(await table.getByRole("columnheader", { name: "on the GPU" }).isVisible()).toBe(true);
    expect(await table.getByRole("row").last().innerText()).toContain("3.00 GiB");
    await shown.close();
  });
});
