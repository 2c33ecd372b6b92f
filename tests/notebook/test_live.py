"""What a page is told of a run, through a real kernel's comms, beside its main thread."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from kernel import Kernel
from page import Page, meta

from deepseek_lab.base.events import EventLog
from deepseek_lab.views import live

LOOP = """
import time
for step in (run := deepseek_lab.track(range({steps}), name="training")):
    run.log(loss=step)
    time.sleep({pause})
"""


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    made.ok("%load_ext deepseek_lab\nimport deepseek_lab")
    yield made
    made.stop()


def start(kernel: Kernel, page: Page, steps: int, pause: float) -> str:
    before = len(page.displays)
    message = kernel.client.execute(LOOP.format(steps=steps, pause=pause))
    page.listen(lambda: len(page.displays) > before)
    return str(message)


def test_a_run_is_followed_and_stopped_while_its_cell_is_busy(kernel: Kernel) -> None:
    page = Page(kernel)
    cell = start(kernel, page, 100_000, 0.002)
    page.send("comm_open", comm_id="a", target_name=live.TARGET, data={"run": page.run_of()})
    page.listen(lambda: len(page.of("a")) >= 4)
    assert cell not in page.idle
    first = page.of("a")[0]
    assert first["first"]
    assert meta(first)["events"][0]["kind"] == "run_started"
    page.send("comm_msg", comm_id="a", data={"do": "stop"})
    page.listen(lambda: page.closed("a") and cell in page.idle)
    told = [meta(data) for data in page.of("a")]
    assert told[-1]["state"] == "ended"
    assert told[-1]["events"][-1]["reason"].startswith("stopped after")
    done = int(kernel.ok("print(run.done)").stdout)
    assert told[-1]["done"] == done
    values = int(kernel.ok("print(len(run.log_of_events.series))").stdout)
    assert sum(one["rows"] for one in told) == told[-1]["values"] == values
    assert kernel.ok("print(run.ended)").stdout.startswith("stopped after")
    assert "live" not in page.displays[-1]["application/vnd.deepseek-lab.v1+json"]


def test_at_most_ten_messages_a_second_for_two_views_and_none_is_lost(kernel: Kernel) -> None:
    page = Page(kernel)
    cell = start(kernel, page, 3000, 0.001)
    for comm in ("b", "c"):
        page.send("comm_open", comm_id=comm, target_name=live.TARGET, data={"run": page.run_of()})
    page.listen(lambda: page.closed("b") and page.closed("c") and cell in page.idle)
    times = [
        at for at, kind, content in page.heard if kind == "comm_msg" and content["comm_id"] in {"b", "c"}
    ]
    most = max(sum(start <= at < start + 1 for at in times) for start in times)
    assert most <= 12  # ten, and the two first words
    for comm in ("b", "c"):
        assert sum(meta(data)["rows"] for data in page.of(comm)) == meta(page.of(comm)[-1])["values"] >= 3000


def test_a_page_that_does_not_keep_up_is_told_the_rest_at_once(kernel: Kernel) -> None:
    page = Page(kernel)
    page.answers = False
    cell = start(kernel, page, 1500, 0.002)
    page.send("comm_open", comm_id="d", target_name=live.TARGET, data={"run": page.run_of()})
    page.listen(lambda: cell in page.idle and page.closed("d"))
    told = [meta(data) for data in page.of("d")]
    assert len(told) <= live.MAX_UNANSWERED + 1
    assert told[-1]["state"] == "ended"
    assert sum(one["rows"] for one in told) == told[-1]["values"] >= 1500


def test_a_run_that_nobody_knows_is_gone(kernel: Kernel) -> None:
    page = Page(kernel)
    page.send("comm_open", comm_id="e", target_name=live.TARGET, data={"run": "track-of-yesterday"})
    page.listen(lambda: page.closed("e"))
    assert page.of("e") == [{"gone": True}]


@pytest.mark.parametrize("data", [{}, {"run": None}, {"run": ["x"]}, {"ask": {"a": 1}}, {"ask": "format"}])
def test_a_page_that_talks_nonsense_changes_nothing(kernel: Kernel, data: dict[str, Any]) -> None:
    page = Page(kernel)
    page.send("comm_open", comm_id="f", target_name=live.TARGET, data=data)
    page.send("comm_msg", comm_id="f", data={"seen": "x", "do": ["stop"]})
    assert kernel.ok("1 + 1").result == "2"


def test_the_toggle_is_told_of_every_change(kernel: Kernel) -> None:
    page = Page(kernel)
    page.send("comm_open", comm_id="g", target_name=live.TARGET, data={"ask": "state"})
    page.listen(lambda: page.of("g"))
    assert page.of("g")[-1]["state"] == "off"
    page.send("comm_msg", comm_id="g", data={"ask": "on"})
    page.listen(lambda: page.of("g")[-1]["state"] == "on")
    assert "optimize" in page.of("g")[-1]["always"]
    kernel.client.execute("%deepseek off")
    page.listen(lambda: page.of("g")[-1]["state"] == "off")
    page.send("comm_msg", comm_id="g", data={"ask": "nonsense"})
    page.listen(lambda: "error" in page.of("g")[-1])


def test_a_loop_that_its_cell_leaves_has_ended(kernel: Kernel) -> None:
    kernel.run(
        "for step in (run := deepseek_lab.track(range(9), name='x')):\n    if step == 4: raise ValueError('no')"
    )
    assert kernel.ok("print(run.ended)").stdout == "ValueError after 4 steps\n"
    kernel.ok("for step in (run := deepseek_lab.track(range(9))):\n    if step == 4: break")
    assert kernel.ok("print(run.ended)").stdout == "left after 4 steps\n"


@pytest.mark.parametrize(
    ("age_s", "period_s"), [(0.0, live.PERIOD_S), (5.0, 0.5), (3600.0, live.LONG_PERIOD_S)]
)
def test_a_long_run_is_told_less_often(age_s: float, period_s: float) -> None:
    nothing = live.Source("run", EventLog(), stop=lambda: None, ended=lambda: False)
    nothing.began_s -= age_s
    assert nothing.period_s == pytest.approx(period_s, abs=0.05)


def test_the_end_of_a_long_run_is_told_at_once(kernel: Kernel) -> None:
    """However seldom a run is told of by then."""
    page = Page(kernel)
    cell = start(kernel, page, 100_000, 0.002)
    page.send("comm_open", comm_id="g", target_name=live.TARGET, data={"run": page.run_of()})
    page.listen(lambda: len(page.of("g")) >= 3)
    # From now on the next message is an hour away.
    kernel_side = """from deepseek_lab.views import live
usual = live.LONG_PERIOD_S, live.MAX_PAUSE_S
live.LONG_PERIOD_S = live.MAX_PAUSE_S = 3600.0
for channel in live._channels:
    channel.source.began_s -= 100_000.0"""
    asked = page.send("execute_request", code=kernel_side, silent=True, store_history=False)
    page.listen(lambda: asked in page.idle)
    page.send("comm_msg", comm_id="g", data={"do": "stop"})
    page.listen(lambda: page.closed("g") and cell in page.idle)
    kernel.ok("live.LONG_PERIOD_S, live.MAX_PAUSE_S = usual")
    assert meta(page.of("g")[-1])["state"] == "ended"
