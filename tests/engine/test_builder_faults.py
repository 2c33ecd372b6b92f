"""Whatever happens to the builder, the user's calls are right, and the report says in a sentence what happened."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import deepseek_lab
from deepseek_lab.base import events as ev
from deepseek_lab.base.settings import settings
from deepseek_lab.engine.runs import workshop
from tests.engine.cases import FAST, Tower, decided, equal, installed, pristine, reasons, rows, uses_program

pytestmark = pytest.mark.usefixtures("strangers", "own_store")


def _unharmed(fast: object, module: torch.nn.Module, x: torch.Tensor, *words: str) -> None:
    """Eager was kept, its results are right, and the candidate's row says why in these words."""
    with torch.no_grad():
        equal(fast(x), pristine(module)(x))  # type: ignore[operator]
    assert fast.report.chosen == "eager"  # type: ignore[attr-defined]
    assert not uses_program(fast)  # type: ignore[arg-type]
    for word in words:
        assert word in reasons(fast), reasons(fast)  # type: ignore[arg-type]


def _the_next_one_wins() -> None:
    """A new builder is started for the next graph."""
    module, x = Tower(), rows()
    fast = installed(module, x)
    assert uses_program(fast)
    with torch.no_grad():
        equal(fast(x), pristine(module)(x))


def test_builder_killed_while_it_builds() -> None:
    module, x = Tower(), rows()
    fast = deepseek_lab.optimize(module, backends=("planted-hung",))

    def kill(event: ev.Event) -> None:
        if isinstance(event, ev.CandidateStarted):
            pid = workshop().builder.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)

    fast.run.log.listen(kill)
    with torch.no_grad():
        fast(x)
        assert deepseek_lab.wait(120)
    _unharmed(fast, module, x, "ended by SIGKILL")
    assert [row.status for row in fast.report.candidates] == ["failed"]
    _the_next_one_wins()


def test_killing_the_builder_costs_only_the_candidate_that_was_under_way() -> None:
    module, x = Tower(), rows()
    fast = decided(module, x, backends=("planted-crashing", "planted-fast"))
    with torch.no_grad():
        equal(fast(x), pristine(module)(x))
    assert {row.name: row.status for row in fast.report.candidates} == {
        "planted-crashing": "failed",
        "planted-fast": "won",
    }


def test_candidate_that_crashes_natively() -> None:
    module, x = Tower(), rows()
    fast = decided(module, x, backends=("planted-crashing",))
    _unharmed(fast, module, x, "the builder was ended by SIGSEGV")


def test_candidate_that_crashes_in_the_race() -> None:
    module, x = Tower(), rows()
    fast = decided(module, x, backends=("planted-crashing-later",))
    _unharmed(fast, module, x, "the builder was ended by SIGABRT")
    _the_next_one_wins()


def test_candidate_that_hangs_past_its_budget() -> None:
    _the_next_one_wins()  # the builder runs from here on, so that the budget is the candidate's alone
    settings.build_budget_s = 6.0
    module, x = Tower(), rows()
    fast = decided(module, x, backends=("planted-hung",))
    _unharmed(fast, module, x, "took longer than its budget of 6 s")
    assert workshop().builder.pid is None


@pytest.fixture
def new_builder() -> Iterator[None]:
    """No builder runs before or after, for its memory limit is set when it starts."""
    workshop().builder.kill()
    yield
    workshop().builder.kill()


@pytest.mark.usefixtures("new_builder")
def test_candidate_that_eats_all_memory() -> None:
    settings.builder_memory_bytes = 4 * 2**30
    module, x = Tower(), rows()
    fast = decided(module, x, backends=("planted-hungry", "planted-fast"))
    rows_by_name = {row.name: row for row in fast.report.candidates}
    assert rows_by_name["planted-hungry"].status == "failed"
    assert "alloc" in rows_by_name["planted-hungry"].reason
    assert rows_by_name["planted-fast"].status == "won"
    with torch.no_grad():
        equal(fast(x), pristine(module)(x))


@pytest.mark.usefixtures("new_builder")
def test_builder_that_cannot_even_start() -> None:
    settings.builder_memory_bytes = 64 * 2**20
    module, x = Tower(), rows()
    fast = decided(module, x)
    _unharmed(fast, module, x, "the builder could not open the graph: ")
    workshop().builder.kill()
    settings.builder_memory_bytes = 0
    _the_next_one_wins()


def test_candidate_whose_build_raises() -> None:
    module, x = Tower(), rows()
    fast = decided(module, x, backends=("planted-raising",))
    _unharmed(fast, module, x, "ValueError: this operation is beyond me")
    assert "more lines" not in reasons(fast)


def test_failure_of_the_builder_is_not_remembered() -> None:
    module, x = Tower(), rows()
    decided(module, x, backends=("planted-crashing",))
    count, _ = workshop().store.usage()
    assert count == 0
    decided(module, x, backends=("planted-raising",))
    assert workshop().store.usage()[0] == 1


def test_builder_leaves_nothing_behind(own_store: Path) -> None:
    module, x = Tower(), rows()
    decided(module, x, backends=("planted-crashing", *FAST))
    assert not list((own_store / "artifacts").glob(".scratch-*"))


def test_builder_ends_with_the_process_that_started_it(planted_folder: Path, own_store: Path) -> None:
    """Also when that process is killed and can close nothing."""
    import subprocess
    import sys

    code = (
        "import torch, deepseek_lab, sys, time\n"
        "from deepseek_lab.engine.runs import workshop\n"
        "b = workshop().builder; b.start(); print(b.pid, flush=True); time.sleep(600)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    pid = int(child.stdout.readline())
    child.kill()
    child.wait()
    child.stdout.close()
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists() and "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < deadline, "the builder outlived its kernel"
        time.sleep(0.1)
