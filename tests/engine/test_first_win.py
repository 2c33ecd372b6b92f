"""A program that the builder trusts is used while the search goes on."""

from __future__ import annotations

import time

import pytest
import torch

import deepseek_lab
from deepseek_lab.engine import dispatch
from tests.engine.cases import Tower, rows

pytestmark = pytest.mark.usefixtures("strangers")


def lane_of(fast: object) -> object:
    (dispatcher,) = fast.run.dispatchers.values()  # type: ignore[attr-defined]
    (lane,) = dispatcher.lanes.values()
    return lane


def test_first_win_is_used_while_other_candidates_are_built() -> None:
    """The second candidate hangs for good; calls are fast all the same, right, and stay so when the search ends."""
    module = Tower()
    fast = deepseek_lab.optimize(module, backends=("planted-fast", "planted-hung"))
    x = rows()
    with torch.no_grad():
        expected = fast(x)
        lane = lane_of(fast)
        until = time.monotonic() + 90
        while lane.state != "fast" and time.monotonic() < until:  # type: ignore[attr-defined]
            torch.testing.assert_close(fast(x), expected)
        assert lane.state == "fast"  # type: ignore[attr-defined]
        assert not lane.final  # type: ignore[attr-defined]
        assert fast.run.undecided
        fast.run.interrupt()
        deepseek_lab.wait(30)
        before = sum(runner.num_calls for runner in lane.runners)  # type: ignore[attr-defined]
        torch.testing.assert_close(fast(x), expected)
    assert fast.report.chosen == "planted-fast"
    assert sum(runner.num_calls for runner in lane.runners) == before + 1  # type: ignore[attr-defined]
    fast.restore()


def test_call_that_is_shorter_than_its_checks_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the builder found faster is neither raced nor kept, and the reason says so."""
    monkeypatch.setattr(dispatch, "TOO_SHORT_S", 10.0)
    fast = deepseek_lab.optimize(Tower(), backends=("planted-fast",))
    x = rows()
    with torch.no_grad():
        fast(x)
        lane = lane_of(fast)
        lane.eager_s = 1e-3  # type: ignore[attr-defined]  # as a call has it that is made before the builder is done
        until = time.monotonic() + 90
        while lane.undecided and time.monotonic() < until:  # type: ignore[attr-defined]
            fast(x)
    assert fast.report.chosen == "eager"
    assert "too short to gain from" in lane.reason  # type: ignore[attr-defined]
