"""What work in the background must not do to the user's own threads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

import deepseek_lab
from deepseek_lab.base import events as ev
from deepseek_lab.engine import background
from deepseek_lab.engine.background import Meter, keep_one_openmp_thread, quietly
from deepseek_lab.engine.builder import Builder
from deepseek_lab.engine.runs import workshop
from tests.engine.cases import FAST, Tower, rows

TASKS = Path("/proc/self/task")


def busy() -> None:
    for _ in range(3):
        torch.cat([torch.ones(1 << 20), torch.ones(1 << 20)]).sum()
        torch.ones(512, 512) @ torch.ones(512, 512)


def test_background_threads_start_no_openmp_team() -> None:
    """A second team in the process puts the user's own to sleep at every barrier."""
    ours = torch.get_num_threads()
    found: list[int] = []

    def directs() -> None:
        keep_one_openmp_thread()
        before = len(list(TASKS.iterdir()))
        busy()
        found.extend((torch.get_num_threads(), len(list(TASKS.iterdir())) - before))

    def computes() -> tuple[int, int]:
        before = len(list(TASKS.iterdir()))
        busy()
        return torch.get_num_threads(), len(list(TASKS.iterdir())) - before

    busy()
    thread = threading.Thread(target=directs)
    thread.start()
    thread.join()
    assert (found[0], max(found[1], 0)) == (1, 0), "threads that torch would use there, and that it started"
    width, started = quietly(computes)
    assert (width, max(started, 0)) == (1, 0)
    assert torch.get_num_threads() == ours


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's scheduling classes")
def test_heavy_work_stands_back_and_what_it_started_comes_forward() -> None:
    stop = threading.Event()
    started: list[int] = []

    def work() -> int:
        child = threading.Thread(target=stop.wait, daemon=True)
        child.start()
        assert child.native_id is not None
        started.append(child.native_id)
        return os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK

    assert quietly(work) == os.SCHED_IDLE
    assert os.sched_getscheduler(started[0]) == os.SCHED_OTHER
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
    stop.set()


def test_errors_of_the_work_are_raised() -> None:
    def fails() -> None:
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        quietly(fails)


def test_meter_tells_who_starves(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            busy()

    meter = Meter(lambda: None)
    time.sleep(background.WINDOW_S * 1.2)
    assert meter.starving(), "nothing runs at all"
    thread = threading.Thread(
        target=spin
    )  # of ordinary priority: other processes here must not decide the test
    monkeypatch.setattr(background, "_working", {thread})
    thread.start()
    meter.starving()
    verdicts = []
    for _ in range(20):
        time.sleep(background.WINDOW_S * 1.2)
        verdicts.append(meter.starving())
    stop.set()
    thread.join()
    assert not all(verdicts), "a thread that computes all the time was taken for one that starves"


def test_process_that_ends_while_the_engine_works_ends_well(repository: Path, tmp_path: Path) -> None:
    """Daemon threads inside of C++ bring the interpreter down when it ends; ours are waited for."""
    code = """
import torch, deepseek_lab
layers = [torch.nn.Linear(512, 512) for _ in range(8)]
model = torch.nn.Sequential(*layers).eval()
with torch.no_grad():
    fast = deepseek_lab.optimize(model)
    fast(torch.randn(4, 512))
import time; time.sleep({delay})
print("end")
"""
    for delay in (0.0, 1.0, 6.0):
        done = subprocess.run(
            [sys.executable, "-c", code.format(delay=delay)],
            env={
                **os.environ,
                "PYTHONPATH": str(repository),
                "DEEPSEEK_LAB_CACHE_DIR": str(tmp_path / str(delay)),
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.strip() == "end"


def test_meter_bears_threads_that_have_not_started_and_that_have_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is asked from inside of the user's calls, at any moment of a background thread's life."""
    ended = threading.Thread(target=busy)
    ended.start()
    ended.join()
    monkeypatch.setattr(background, "_working", {threading.Thread(target=busy), ended})
    meter = Meter(lambda: None)
    time.sleep(background.WINDOW_S * 1.2)
    assert meter.starving()


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_builder_is_still_while_a_call_is_measured() -> None:
    builder = Builder()
    builder.start()
    state = Path(f"/proc/{builder.pid}/stat")

    def is_stopped() -> bool:
        return state.read_text().rpartition(")")[2].split()[0] == "T"

    try:
        with builder.held():
            until = time.monotonic() + 10
            while not is_stopped():
                assert time.monotonic() < until
                time.sleep(0.001)
        assert builder.ask("close", budget_s=60.0) is None, "it goes on"
        assert not is_stopped()
    finally:
        builder.kill()
    with builder.held():
        pass  # there is none


@pytest.mark.usefixtures("strangers")
def test_of_several_graphs_the_one_that_costs_most_comes_first() -> None:
    """What waits for the builder is taken by the time that its calls have cost, not by when it came."""
    targets = [Tower() for _ in range(3)]
    fast = [
        deepseek_lab.optimize(one, name=name, backends=FAST) for one, name in zip(targets, "abc", strict=True)
    ]
    workshop().builder.start()
    with torch.no_grad(), workshop().builder.held():  # the first graph gets no further than to be opened
        fast[0](rows(1))
        for _ in range(5):
            fast[1](rows(1))
            fast[2](rows(2000))
    assert deepseek_lab.wait(120)
    started = {
        event.at_s: name
        for name, one in zip("abc", fast, strict=True)
        for event in one.run.log
        if isinstance(event, ev.CandidateStarted)
    }
    assert [started[at] for at in sorted(started)] == ["a", "c", "b"]
