"""A process that finds what an earlier one left: fast from the call after the first, and judged anew."""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

import deepseek_lab
from deepseek_lab.base.settings import settings
from deepseek_lab.engine import candidates, digests
from deepseek_lab.engine.background import helpers, quietly
from deepseek_lab.engine.digests import Ahead, weights_digest
from deepseek_lab.engine.tensors import load_tensors, save_tensors
from tests.engine.cases import FAST, Tower, equal, installed, pristine, rows

pytestmark = pytest.mark.usefixtures("strangers", "own_store")


def record(store: Path) -> dict[str, Any]:
    (manifest,) = store.glob("artifacts/*/manifest.json")
    found: dict[str, Any] = json.loads(manifest.read_text())["record"]
    return found


def again(module: Tower) -> tuple[Any, Any]:
    """Optimise a module and make one call; the run and its lane."""
    fast = deepseek_lab.optimize(module, backends=FAST)
    with torch.no_grad():
        fast(rows())
    (dispatcher,) = fast.run.dispatchers.values()
    (lane,) = dispatcher.lanes.values()
    return fast, lane


def test_what_won_before_serves_from_the_second_call_on(own_store: Path) -> None:
    settings.store_wait_s = 60.0
    module = Tower()
    installed(module, rows()).restore()
    assert record(own_store)["live"]["speedup"] > 1.0
    fast, lane = again(module)
    assert lane.accelerated
    assert lane.state == "racing", "what was measured before is measured again"
    (runner,) = lane.runners
    before = runner.num_calls
    with torch.no_grad():
        fast(rows())
    assert runner.num_calls == before + 1, "the program goes first"
    with torch.no_grad():
        assert deepseek_lab.wait(60)
    assert fast.report.chosen == "planted-fast"
    fast.restore()


def test_what_does_not_win_any_more_is_dropped(own_store: Path) -> None:
    settings.store_wait_s = 60.0
    module = Tower()
    installed(module, rows()).restore()
    fast, lane = again(module)
    (runner,) = lane.runners
    program = runner.installed.program

    def slow(live: Any, weights: Any) -> Any:
        time.sleep(0.02)
        return program(live, weights)

    object.__setattr__(runner.installed, "program", slow)
    with torch.no_grad():
        assert deepseek_lab.wait(60)
    assert (lane.state, fast.report.chosen) == ("eager", "eager")
    assert "live" not in record(own_store), "the next process does not begin with it"
    fast.restore()


def test_no_call_waits_for_a_store_that_has_nothing() -> None:
    settings.store_wait_s = 600.0
    start = time.monotonic()
    fast, _ = again(Tower())
    assert time.monotonic() - start < 300
    fast.restore()


def test_digests_taken_ahead_are_those_of_the_values(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = [torch.randn(64, 64), torch.arange(5), torch.randn(3, 4).t()]
    ahead = Ahead()
    plain = weights_digest(weights[:2])
    read: list[int] = []
    digest_of = digests.tensor_digest
    monkeypatch.setattr(
        digests, "tensor_digest", lambda weight: (read.append(id(weight)), digest_of(weight))[1]
    )
    ahead.start(weights)
    assert weights_digest(weights[:2], ahead) == plain
    assert sorted(read) == sorted(map(id, weights)), "each was read once"
    ahead.release([torch.zeros(1)])
    assert ahead.total, "another target's end leaves it"
    ahead.release(weights[1:])
    assert not ahead.total
    assert weights_digest(weights[:2], ahead) == plain
    ahead.start(weights)
    weights[0].data.mul_(2)
    assert weights_digest(weights[:2], ahead) == weights_digest(weights[:2]) != plain
    ahead.start(weights)
    ahead.drop()


def test_tensors_come_back_as_they_were(tmp_path: Path) -> None:
    big = torch.randn(1000, 1000)
    whole = torch.randn(6, 8)
    tensors = [
        big[500:502, 3:7],
        whole,
        whole.t(),
        whole[2:, ::3],
        torch.empty(0, 4),
        torch.tensor(3),
        torch.randn(3, dtype=torch.complex64).conj(),
        torch.tensor([True, False]),
        torch.randn(5).bfloat16(),
        torch.randn(2, 1).expand(2, 4),
    ]
    path = tmp_path / "tensors.bin"
    save_tensors(path, tensors)
    assert path.stat().st_size < 100_000, "a view does not bring along all that it is a view of"
    loaded = load_tensors(path)
    for one, other in zip(tensors, loaded, strict=True):
        assert (one.dtype, one.shape, one.stride()) == (other.dtype, other.shape, other.stride())
        assert torch.equal(one, other)
    assert loaded[1].untyped_storage().data_ptr() == loaded[2].untyped_storage().data_ptr()
    assert loaded[0].untyped_storage().data_ptr() != loaded[1].untyped_storage().data_ptr()
    loaded[1].zero_()
    assert torch.equal(load_tensors(path)[1], whole), "the file is as it was"


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's scheduling classes")
def test_work_that_a_call_waits_for_stands_back_when_it_does_not_wait_any_more() -> None:
    waits, seen = threading.Event(), []

    def work() -> int:
        seen.append(os.sched_getscheduler(0))
        waits.set()
        until = time.monotonic() + 30
        while os.sched_getscheduler(0) == os.SCHED_OTHER and time.monotonic() < until:
            time.sleep(0.01)
        with helpers(1) as pool:
            seen.append(pool.submit(os.sched_getscheduler, 0).result())
        return os.sched_getscheduler(0)

    last = quietly(work, awaited=lambda: not waits.is_set())
    policies = [policy & ~os.SCHED_RESET_ON_FORK for policy in (*seen, last)]
    assert policies == [os.SCHED_OTHER, os.SCHED_IDLE, os.SCHED_IDLE]


def test_weights_saved_ahead_become_the_builders(tmp_path: Path) -> None:
    weights = [torch.randn(20, 30), torch.arange(5.0), torch.randn(3, 4)]
    for name in ("one", "other", "claimed"):
        (tmp_path / name).mkdir()
    ahead = Ahead()
    ahead.start(weights, lambda total: tmp_path / "one")
    assert ahead.claim([weights[2], torch.zeros(1)], tmp_path / "claimed") is None, "one of them is not there"
    places = ahead.claim([weights[2], weights[0]], tmp_path / "claimed")
    assert places is not None
    loaded = load_tensors(tmp_path / "claimed" / digests.WEIGHTS)
    assert torch.equal(loaded[places[0]], weights[2])
    assert torch.equal(loaded[places[1]], weights[0])
    assert not (tmp_path / "one").exists()
    assert ahead.claim([weights[0]], tmp_path / "claimed") is None, "claimed is claimed"
    ahead.start(weights, lambda total: tmp_path / "other")
    weights[1].add_(1)
    assert ahead.claim([weights[0]], tmp_path / "claimed") is None, "not as they are now"


def test_weights_are_let_go_of_when_all_is_decided() -> None:
    module = Tower()
    held = weakref.ref(module.first.weight)
    installed(module, rows()).restore()
    deepseek_lab.engine.api._RUNS.clear()
    torch._dynamo.reset()
    del module
    gc.collect()
    assert held() is None


def test_what_nobody_claims_is_removed(tmp_path: Path) -> None:
    ahead = Ahead()
    (tmp_path / "one").mkdir()
    ahead.start([torch.randn(5)], lambda total: tmp_path / "one")
    until = time.monotonic() + 30
    while not (tmp_path / "one" / digests.WEIGHTS).with_suffix(".json").exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    ahead.drop()
    while (tmp_path / "one").exists() and time.monotonic() < until:
        time.sleep(0.01)
    assert not (tmp_path / "one").exists()


def test_what_won_before_is_loaded_while_the_call_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    settings.store_wait_s = 60.0
    module = Tower()
    installed(module, rows()).restore()
    one = candidates.registered()["planted-fast"]
    load, threads = type(one).load, []

    def watched(self: Any, directory: Path, spec: Any) -> Any:
        threads.append(threading.current_thread().name)
        return load(self, directory, spec)

    monkeypatch.setattr(type(one), "load", watched)
    fast, lane = again(module)
    assert lane.accelerated
    assert threads == ["deepseek-digests"]
    with torch.no_grad():
        x = rows()
        equal(fast(x), pristine(module)(x))
        module.first.weight.mul_(2)
        equal(fast(x), pristine(module)(x))
    fast.restore()
    fast, lane = again(module)
    assert not lane.accelerated, "other weights are another entry"
    fast.restore()
