"""What a page is told of a search and what it may do to it, through a real kernel's comms, beside its main thread."""

from __future__ import annotations

import base64
import itertools
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from kernel import Kernel
from page import Page, meta

from deepseek_lab.base import events as ev
from deepseek_lab.base.search import SearchReport
from deepseek_lab.notebook.live_search import LiveSearch
from deepseek_lab.notebook.parse import parse, split_line
from deepseek_lab.notebook.script import ScriptHost
from deepseek_lab.notebook.show import Shown
from deepseek_lab.views import live

OURS = "application/vnd.deepseek-lab.v1+json"
CELL = """%%deepseek hpo --metric accuracy --trials 400 --workers 2 --name {name} --repeats 0 {flags}
import time
lr = ds.log(1e-5, 1e-1)
accuracy = 0.0
for epoch in range(200):
    time.sleep(0.02 if lr != 1e-3 else 0.001)
    accuracy = 1 - abs(math.log10(lr) + 2) / 5 - 0.5 / (epoch + 1)
"""


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    made.ok("%load_ext deepseek_lab\nimport math")
    yield made
    made.stop()


def statuses(data: dict[str, Any]) -> dict[int, str]:
    """What one message says of trials, by number."""
    whole = zlib.decompress(base64.b64decode(data["packed"]))
    (length,) = struct.unpack_from("<I", whole)
    header = json.loads(whole[4 : 4 + length])
    at, found = 4 + length, {}
    for column in header["columns"]:
        found[column["name"]] = (column, whole[at : at + column["bytes"]])
        at += column["bytes"]
    numbers, codes = _varints(found["trial"][1]), _varints(found["status"][1])
    steps = [step // 2 if step % 2 == 0 else -(step + 1) // 2 for step in numbers]
    words = found["status"][0]["words"]
    return dict(zip(itertools.accumulate(steps), (words[code] for code in codes), strict=True))


def _varints(body: bytes) -> list[int]:
    found, value, shift = [], 0, 0
    for byte in body:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            found.append(value)
            value = shift = 0
    return found


def known(page: Page, comm: str) -> dict[int, str]:
    """What a page knows of trials by now."""
    return {trial: status for data in page.of(comm) for trial, status in statuses(data).items() if status}


def running(page: Page, comm: str) -> list[int]:
    return [trial for trial, status in known(page, comm).items() if status == "running"]


def test_a_search_is_followed_a_trial_pruned_and_all_of_it_stopped_while_its_cell_is_busy(
    kernel: Kernel,
) -> None:
    page = Page(kernel)
    cell = kernel.client.execute(CELL.format(name="live", flags="--to found"))
    page.listen(lambda: any(OURS in one for one in page.displays))
    run = page.run_of()
    page.send("comm_open", comm_id="a", target_name=live.TARGET, data={"run": run})
    page.listen(lambda: len(running(page, "a")) == 2 and 1 in known(page, "a"))
    assert cell not in page.idle
    for nonsense in (
        {"do": "prune"},
        {"do": "prune", "trial": "1"},
        {"do": "prune", "trial": 10**9},
        {"do": "x"},
    ):
        page.send("comm_msg", comm_id="a", data=nonsense)
    trial = max(running(page, "a"))
    page.send("comm_msg", comm_id="a", data={"do": "prune", "trial": trial})
    page.listen(lambda: known(page, "a")[trial] == "stopped")
    # A page that comes late is told all that there is.
    page.send("comm_open", comm_id="b", target_name=live.TARGET, data={"run": run})
    page.listen(lambda: page.of("b"))
    assert page.of("b")[0]["first"]
    assert statuses(page.of("b")[0])[trial] == "stopped"
    assert {"search_started", "space_found"} <= {one["kind"] for one in meta(page.of("b")[0])["events"]}
    page.send("comm_msg", comm_id="b", data={"do": "stop"})
    page.listen(lambda: page.closed("a") and page.closed("b") and cell in page.idle)
    assert meta(page.of("a")[-1])["state"] == "ended"
    assert known(page, "a") == known(page, "b")
    assert "running" not in known(page, "a").values()
    assert kernel.ok("print(found.reason)").stdout == "stopped\n"
    last = page.displays[-1]
    assert last["text/plain"].startswith("hpo  stopped  accuracy")
    assert "live" not in last[OURS]
    assert [view["kind"] for view in last[OURS]["views"]] == ["search"]
    assert "<iframe" in last["text/html"]


@pytest.mark.parametrize(("flags", "kinds"), [("--view text", {"text/plain"}), ("-q", set())])
def test_a_search_is_shown_as_was_asked(kernel: Kernel, flags: str, kinds: set[str]) -> None:
    cell = CELL.format(name=f"view{len(kinds)}", flags=flags).replace("--trials 400", "--trials 1")
    outcome = kernel.ok(cell.replace("range(200)", "range(2)"))
    shown = [*outcome.displays, *outcome.updates]
    assert {kind for one in shown for kind in one} == kinds


class Port:
    """A search that only hears."""

    run_id = "r"

    def __init__(self) -> None:
        self.pruned: list[int] = []

    def stop(self) -> None:
        self.pruned.append(-1)

    def prune(self, trial: int) -> None:
        self.pruned.append(trial)


def test_only_a_trial_of_the_search_that_runs_is_pruned(capsys: pytest.CaptureFixture[str]) -> None:
    log, port = ev.EventLog(), Port()
    command = parse(split_line("hpo --metric accuracy"), "cell")
    with LiveSearch(command, ScriptHost(), port, log) as shown:
        log.emit(
            ev.SearchStarted(run="r", study="s", metrics=("accuracy",), directions=("max",), num_trials=4,
                             limit_s=None, num_workers=1, sampler="tpe")
        )  # fmt: skip
        for trial, purpose in enumerate(("defaults", "search", "repeat", "search")):
            log.emit(ev.TrialBegan(run="r", trial=trial, config=str(trial), purpose=purpose, cost=1.0))
        for trial in range(6):
            shown._act({"do": "prune", "trial": trial})
        assert port.pruned == [1, 3]
        assert shown._facts() == {"pruning": [1, 3]}
        log.emit(
            ev.TrialEnded(run="r", trial=1, config="1", purpose="search", cost=1.0, status="stopped", numbers={},
                          labels={})
        )  # fmt: skip
        assert shown._facts() == {"pruning": [3]}
    shown.end(Shown("what came of it"))
    assert capsys.readouterr().err == "what came of it\n"
    assert SearchReport.fold(log.since()).num("stopped") == 1
