from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from deepseek_lab.base import events as ev
from deepseek_lab.base.ranks import RankState, RankVitals
from deepseek_lab.distributed.ranks import Ranks
from deepseek_lab.distributed.training import Trained, train
from deepseek_lab.distributed.watch import Watch
from deepseek_lab.distributed.worker.vitals import Vitals, Waits
from deepseek_lab.notebook import cells
from deepseek_lab.notebook.host import ScriptHost
from deepseek_lab.notebook.live_ranks import LiveRanks
from deepseek_lab.notebook.parse import parse
from tests.distributed.cells import notebook

DEFINE = """
import os, time, torch
from torch import nn
torch.manual_seed(0)
model = nn.Linear(8, 3)
opt = torch.optim.SGD(model.parameters(), lr=0.1)
data = torch.utils.data.TensorDataset(torch.randn(360, 8), torch.randint(3, (360,)))
loader = torch.utils.data.DataLoader(data, batch_size=4)
losses = []
"""
LOOP = """
for x, y in loader:
    loss = nn.functional.cross_entropy(model(x), y)
    opt.zero_grad(); loss.backward(); opt.step()
    losses.append(loss.item())
"""


@contextlib.contextmanager
def watched(ranks: Ranks) -> Iterator[tuple[Watch, list[ev.RanksSeen], ev.EventLog]]:
    log = ev.EventLog()
    seen: list[ev.RanksSeen] = []
    log.listen(lambda event: seen.append(event) if isinstance(event, ev.RanksSeen) else None)
    watch = ranks.watcher = Watch(log, len(ranks))
    yield watch, seen, log
    ranks.watcher = None


def run(ranks: Ranks, names: dict[str, Any], source: str, **options: Any) -> Trained:
    found = cells.names(source)
    options |= {"uses": found.loads | found.changes, "binds": found.binds | found.changes}
    return train(ranks, names, source, "cell", **options)


class TestOnARank:
    def test_sleeping_is_waiting_and_computing_is_not(self) -> None:
        waits = Waits()
        with waits:
            until = time.thread_time() + 0.3
            while time.thread_time() < until:
                pass
        computed_s = waits.seconds
        began = time.perf_counter()
        with waits, waits:
            time.sleep(0.4)
        lasted = time.perf_counter() - began
        time.sleep(0.1)
        assert computed_s < 0.1
        assert 0.4 <= waits.seconds - computed_s + 0.01 < lasted + 0.02
        waits.close()

    def test_what_goes_on_counts_and_other_threads_do_not(self) -> None:
        waits = Waits()
        inside, over = threading.Event(), threading.Event()

        def other() -> None:
            with waits:
                inside.set()
                over.wait()

        thread = threading.Thread(target=other)
        thread.start()
        inside.wait()
        time.sleep(0.1)
        assert waits.seconds == 0
        over.set()
        thread.join()
        found: list[float] = []
        with waits:
            thread = threading.Thread(target=lambda: (time.sleep(0.2), found.append(waits.seconds)))  # type: ignore[func-returns-value]
            thread.start()
            thread.join()
        assert 0.15 < found[0] <= waits.seconds + 0.01
        waits.close()

    def test_losses_are_what_backward_is_called_on(self) -> None:
        original = torch.autograd.backward
        with Vitals("cpu", lambda: 7) as vitals:
            assert vitals.now() is None
            weight = torch.ones(3, requires_grad=True)
            counts = [0, 0]
            with vitals.counting(lambda: (counts[0], counts[1])):
                (2.5 * weight.sum()).backward()
                (weight * 3).backward(torch.ones(3))  # no loss
                counts[:] = 4, 32
            counts[:] = 9, 9
            found = vitals.now()
        assert torch.autograd.backward is original
        assert weight.grad is not None
        assert weight.grad.tolist() == [5.5] * 3
        assert found is not None
        assert (found["loss"], found["num_updates"], found["num_samples"]) == (7.5, 4, 32)
        assert (found["link_bytes"], found["device_bytes"]) == (7, None)
        assert found["memory_bytes"] > 50e6


def told(
    waits_s: list[float], *, seconds: float = 4.0, update_s: float = 0.1, request: int = 1
) -> tuple[Watch, ev.EventLog]:
    """Ranks that update in the same time and wait so long in each update."""
    log = ev.EventLog()
    watch = Watch(log, len(waits_s))
    for tick in range(int(seconds / 0.5) + 1):
        for rank, wait_s in enumerate(waits_s):
            updates = int(tick * 0.5 / update_s)
            watch.measured(rank, sample(tick * 0.5 + 100 * rank, updates, updates * wait_s, request))
    return watch, log


def sample(at_s: float, num_updates: int, waited_s: float | None, request: int = 1) -> dict[str, Any]:
    return {
        "request": request,
        "at_s": at_s,
        "num_updates": num_updates,
        "num_samples": 16 * num_updates,
        "waited_s": waited_s,
        "memory_bytes": 2**30,
        "device_bytes": None,
        "loss": 0.5,
        "link_bytes": 1000 * num_updates,
    }


class TestInTheNotebook:
    @pytest.mark.parametrize(
        ("waits_s", "late"),
        [
            ([0.04, 0.01, 0.04], {1: 0.03}),
            ([0.01, 0.04, 0.01, 0.04], {0: 0.03, 2: 0.03}),
            ([0.04, 0.04, 0.04], {}),  # a slow link, and nobody is late
            ([0.01, 0.01, 0.01, 0.05], {}),  # one comes early
            ([0.005, 0.001], {}),  # 4 % of an update
            ([0.00, 0.03, 0.06], {0: 0.045}),
            ([0.06], {}),
        ],
    )
    def test_who_waits_less_than_the_others_is_waited_for(
        self, waits_s: list[float], late: dict[int, float]
    ) -> None:
        watch, _ = told(waits_s)
        notes = watch.end()
        assert {one.rank: one.late_s for one in watch.vitals if one.late_s is not None} == pytest.approx(late)
        assert [one.updates_per_s for one in watch.vitals] == pytest.approx([10] * len(waits_s))
        assert [one.samples_per_s for one in watch.vitals] == pytest.approx([160] * len(waits_s))
        assert [one.link_bytes_per_s for one in watch.vitals] == pytest.approx([10_000] * len(waits_s))
        assert [one.waiting for one in watch.vitals] == pytest.approx([10 * one for one in waits_s])
        assert bool(notes) == bool(late)
        if len(late) == 1:
            (rank,) = late
            assert notes[0].startswith(
                f"the others waited for rank {rank}, {1e3 * late[rank]:.3g} ms an update"
            )

    def test_a_moment_names_nobody(self) -> None:
        watch, _ = told([0.04, 0.01, 0.04], seconds=1.5)
        assert watch.end() == []

    def test_a_training_that_goes_on_in_another_process_has_no_rate_of_what_was_before(self) -> None:
        log = ev.EventLog()
        watch = Watch(log, 1)
        for tick in range(8):
            watch._told_s = 0.0
            watch.measured(0, sample(tick * 0.5, tick * 5, 0.0))
        watch.changed(RankState(0, "dead", 1, why="was ended by SIGKILL"))
        assert watch.vitals == (RankVitals(0, "dead", "was ended by SIGKILL", num_updates=35),)
        watch.changed(RankState(0, "ready", 2))
        for tick in range(8):
            watch._told_s = 0.0
            watch.measured(0, sample(5000 + tick * 0.5, 20 + tick * 5, 0.0, request=2))
        watch.end()
        drawn = [step for step, _, _ in log.series.steps()]
        assert drawn == [10, 15, 20, 25, 30, 35, 40, 45, 50, 55]
        (one,) = watch.vitals
        assert (one.state, one.num_replaced, one.num_updates) == ("ended", 1, 55)
        assert one.updates_per_s == pytest.approx(10)

    def test_what_is_not_known_is_not_made_up(self) -> None:
        watch = Watch(ev.EventLog(), 2)
        for tick in range(8):
            watch.measured(0, sample(tick * 0.5, tick * 5, None) | {"link_bytes": None, "num_samples": 0})
        watch.end()
        measured, silent = watch.vitals
        assert (measured.waiting, measured.link_bytes_per_s, measured.samples_per_s) == (None, None, None)
        assert measured.updates_per_s == pytest.approx(10)
        assert silent == RankVitals(1, "ended")

    def test_a_loss_that_is_no_number_is_said_once(self) -> None:
        log = ev.EventLog()
        watch = Watch(log, 1)
        for tick in range(4):
            watch.measured(0, sample(tick, tick, 0.0) | {"loss": float("nan")})
        assert [event.text for event in log.since() if isinstance(event, ev.Noted)] == [
            "the loss of rank 0 is nan after 0 updates"
        ]

    def test_a_long_training_keeps_one_word_and_its_curves(self, tmp_path: Path) -> None:
        watch, log = told([0.04, 0.01, 0.04])
        watch.end()
        assert [event.kind for event in log.since()] == ["run_started", "noted", "run_ended"]
        assert {"loss", "samples per second", "waiting of rank 1, %", "loss of rank 2"} <= set(
            log.series.since().names
        )
        log.save(tmp_path / "log")
        again = ev.EventLog.load(tmp_path / "log")
        assert again.ranks is not None
        assert again.ranks.ranks == watch.vitals


class TestTraining:
    def test_a_rank_that_is_slow_is_named(self, three: Ranks) -> None:
        names = notebook(DEFINE)
        slow = LOOP + "    time.sleep(0.13 * (torch.distributed.get_rank() == 1))\n"
        with watched(three) as (watch, _, log):
            assert not run(three, names, slow).failed
            assert watch.end() == [event.text for event in log.since() if isinstance(event, ev.Noted)] != []
        first, late, third = watch.vitals
        assert [one.num_updates for one in watch.vitals] == [len(names["losses"])] * 3 == [30] * 3
        assert late.late_s is not None
        assert 0.04 < late.late_s < 1 / (late.updates_per_s or 0)
        assert late.waiting is not None
        assert min(first.waiting or 0, third.waiting or 0) > late.waiting + 0.1
        assert late.samples_per_s == pytest.approx(4 * (late.updates_per_s or 0), rel=0.3)
        assert first.loss == names["losses"][-1]
        assert all((one.link_bytes_per_s or 0) > 1000 for one in watch.vitals)
        assert all((one.memory_bytes or 0) > 50e6 for one in watch.vitals)
        assert all(name in log.series.since().names for name in ("loss", "waiting of rank 1, %"))

    def test_a_rank_that_dies_is_marked_at_once_and_when_it_was_replaced(
        self, three: Ranks, tmp_path: Path
    ) -> None:
        names = notebook(DEFINE) | {"mark": str(tmp_path / "mark")}
        dying = LOOP + (
            "    time.sleep(0.02)\n    if len(losses) == 20 and torch.distributed.get_rank() == 2:\n"
            "        if not os.path.exists(mark):\n"
            "            open(mark, 'w').close()\n            os.kill(os.getpid(), 9)\n"
        )
        with watched(three) as (watch, seen, log):
            assert not run(three, names, dying, save_s=0.1).failed
            watch.end()
        states = [[one.state for one in event.ranks] for event in seen]
        dead = states.index(["training", "training", "dead"])
        assert ["training"] * 3 in states[dead:]
        assert seen[dead].ranks[2].why.startswith("was ended by SIGKILL")
        assert [(one.num_updates, one.num_replaced) for one in watch.vitals] == [(30, 0), (30, 0), (30, 1)]
        said = [event.text for event in log.since() if isinstance(event, ev.Noted)]
        assert said[0].startswith("rank 2 was ended by SIGKILL")
        assert said[1] == "rank 2 was replaced"

    def test_a_terminal_has_a_table_at_the_end(
        self, three: Ranks, capsys: pytest.CaptureFixture[str]
    ) -> None:
        command = parse(["distributed"], "cell")
        with LiveRanks(command, ScriptHost(), three) as live:
            assert not run(three, notebook(DEFINE), LOOP).failed
        line, head, *rows = capsys.readouterr().err.splitlines()
        assert line.startswith("training  3 ranks  30 updates  ")
        assert head.startswith("rank  state  updates")
        assert [row.split()[:3] for row in rows] == [[str(rank), "ended", "30"] for rank in range(3)]
        assert [one.num_updates for one in live.vitals] == [30] * 3
        assert three.watcher is None

    @pytest.mark.parametrize("options", [{"way": "local", "every": 4}, {"strategy": "fsdp"}])
    def test_waits_beside_the_backward_pass_are_seen(self, three: Ranks, options: dict[str, Any]) -> None:
        names = notebook(DEFINE)
        slow = (
            LOOP
            + "    time.sleep(0.08 * (torch.distributed.get_rank() == 1))\n    if len(losses) == 40: break\n"
        )
        with watched(three) as (watch, _, _):
            assert not run(three, names, slow, **options).failed
            watch.end()
        first, late, third = (one.waiting or 0 for one in watch.vitals)
        assert min(first, third) > late + 0.1
