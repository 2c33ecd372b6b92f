"""Searches from end to end over cells whose best values are known."""

from __future__ import annotations

import json
import random
import threading
import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from deepseek_lab.base.search import SearchReport
from deepseek_lab.hpo.record import Record
from deepseek_lab.hpo.replay import events_of
from deepseek_lab.hpo.search import CellFails
from deepseek_lab.hpo.workers import Processes
from tests.hpo.searched import CURVE, PLAIN, Look


def test_a_search_finds_what_is_better_for_a_part_of_the_cost(look: Look) -> None:
    done = look(CURVE, trials=40, repeats=2, binds=("lr", "width"))
    result = done.result
    assert result.best.params["width"] == "256"
    assert result.best.values[0] > result.defaults.values[0] + 0.1
    assert result.num_configs == 40
    assert result.cost < 40 * 0.6
    assert result.compared.difference > 0.1
    assert result.ranks
    assert all(one.correlation > 0.5 for one in result.ranks if one.num >= 5)
    assert max(result.importances, key=result.importances.get) in {"lr", "width"}
    assert done.kept is not None
    assert done.kept.params["width"] == "256"


@pytest.mark.parametrize(("proof", "kept"), [("-x", 0.5), ("x", None)])
def test_what_is_not_better_on_unseen_data_is_not_kept(look: Look, proof: str, kept: float | None) -> None:
    cell = f"x = ds.uniform(0.0, 1.0, default=0.5)\naccuracy = x\nproof = {proof}\n"
    done = look(cell, trials=8, repeats=2, final="proof", binds=("x",))
    assert done.result.best.values[0] > 0.5
    assert done.result.compared.difference < 0 if kept else done.result.compared.difference > 0
    assert done.kept is not None
    assert done.kept.params["x"] == (kept or done.result.best.params["x"])
    told = "no configuration was better than the defaults with fresh seeds on data that the search never saw"
    assert any(note.startswith(told) for note in done.result.notes) is bool(kept)


def test_the_defaults_come_first_and_whole(look: Look) -> None:
    rows = list(look(CURVE).result.rows.values())
    assert rows[0].purpose == "defaults"
    assert rows[0].whole
    assert rows[0].params == {"lr": pytest.approx(1e-3), "width": "128"}
    assert len(rows[0].curve) == 9


def test_two_processes_run_trials_and_give_back_what_the_best_made(look: Look) -> None:
    from deepseek_lab.processes import travel

    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # type: ignore[union-attr]
    done = look(
        CURVE + "model = nn.Linear(2, 1)\nscale = lambda x: x * lr\n",
        {"nn": nn},
        trials=12,
        workers=2,
        repeats=2,
        binds=("lr", "model", "scale"),
    )
    assert torch.equal(torch.get_rng_state(), state[0])
    assert random.getstate() == state[1]
    assert (np.random.get_state()[1] == state[2]).all()  # type: ignore[index]
    assert done.kept is not None
    names: dict[str, Any] = {}
    came = travel.unpack(done.kept.payload, names).value
    names |= came
    assert isinstance(came["model"], nn.Linear)
    assert came["scale"](2.0) == 2.0 * came["lr"]
    assert came["lr"] == done.kept.params["lr"]


def test_trials_begin_with_what_the_notebook_had_and_change_nothing_of_it(look: Look) -> None:
    model = nn.Linear(4, 4)
    before = [one.detach().clone() for one in model.parameters()]
    seen = [0]
    cell = """
lr = ds.log(1e-3, 1e-1)
accuracy = float(len(seen)) + float(model.weight.sum() == total)
seen.append(1)
with torch.no_grad():
    for one in model.parameters():
        one.data.add_(lr)
"""
    names = {"model": model, "seen": seen, "torch": torch, "total": model.weight.sum().detach()}
    for workers in (0, 1):
        result = look(cell, names, name=f"w{workers}", trials=5, workers=workers).result
        assert {row.values for row in result.rows.values()} == {(2.0,)}
    assert seen == [0]
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), before, strict=True))


def test_a_share_of_the_data_and_of_the_turns(look: Look) -> None:
    data = TensorDataset(torch.arange(64.0))
    cell = """
lr = ds.log(1e-3, 1e-1)
turns, batches = 0, 0
for epoch in range(2):
    turns += 1
    for (x,) in DataLoader(data, batch_size=4):
        batches += 1
    with torch.no_grad():
        seen = sum(len(x) for (x,) in DataLoader(data, batch_size=16))
    accuracy = batches + 1000 * seen + lr
"""
    names = {"data": data, "DataLoader": DataLoader, "torch": torch}
    result = look(cell, names, trials=9).result
    batches = {round(row.cost, 3): (row.values[0] - row.params["lr"]) % 1000 for row in result.rows.values()}
    seen = {int(row.values[0]) // 1000 for row in result.rows.values()}
    assert seen == {64}, "what is evaluated without gradients is whole"
    assert batches[1.0] == pytest.approx(32)
    assert len(batches) >= 2
    for cost, number in batches.items():
        assert number == pytest.approx(cost * 32, abs=1.01)


def test_subset_epochs_and_the_halves_of_validation_data(look: Look) -> None:
    rows = list(range(40))
    cell = """
lr = ds.log(1e-3, 1e-1)
x, y = ds.subset(rows, rows)
assert x == y
held = ds.validation(rows)
def train():
    return sum(1 for _ in ds.epochs(8))
turns = train()
accuracy = len(x) + 0.01 * turns
record = (turns, sorted(held))
final = float(sum(held))
"""
    done = look(cell, {"rows": rows}, trials=9, repeats=2, final="final", binds=("record",))
    whole = [row for row in done.result.rows.values() if row.whole]
    small = [row for row in done.result.rows.values() if not row.whole]
    assert {row.values[0] for row in whole} == {40.08}
    assert small
    assert all(row.values[0] < 40.08 for row in small)
    entries = Record("study")
    entries.load()
    finals = {(one.unseen, one.final) for one in entries.news() if one.purpose == "repeat"}
    by_half = dict(finals)
    assert by_half[True] + by_half[False] == sum(rows)


def test_a_conditional_range_and_one_name_for_two_ranges(look: Look) -> None:
    cell = """
kind = ds.choice("sgd", "adam")
if kind == "sgd":
    lr = ds.log(1e-2, 1.0)
    momentum = ds.uniform(0, 0.99)
else:
    lr = ds.log(1e-5, 1e-2)
loss = abs(math.log10(lr) + 3)
"""
    done = look(cell, metrics=("loss",), directions=("min",), trials=40)
    sgd = [row.params for row in done.result.rows.values() if row.params["kind"] == "'sgd'"]
    adam = [row.params for row in done.result.rows.values() if row.params["kind"] == "'adam'"]
    assert {tuple(sorted(one)) for one in sgd} == {("kind", "lr", "momentum")}
    assert {tuple(sorted(one)) for one in adam} == {("kind", "lr_2")}
    assert done.result.best.values[0] < 0.3


def test_several_metrics_give_a_front(look: Look) -> None:
    cell = "x = ds.uniform(0, 1)\nspeed = 1 - x\naccuracy = x ** 0.5\n"
    done = look(cell, metrics=("accuracy", "speed"), directions=("max", "max"), trials=12, repeats=2)
    front = done.result.front()
    assert len(front) == 12, "every point of this curve is the best of its kind"
    assert done.kept is None


def test_constraints_are_kept(look: Look) -> None:
    cell = "x = ds.uniform(0, 1, default=0.1)\nds.constrain(x - 0.5)\naccuracy = x\n"
    result = look(cell, trials=40).result
    assert result.best.params["x"] <= 0.5
    assert result.best.params["x"] > 0.3
    assert any(not row.allowed for row in result.rows.values())


def test_the_same_study_goes_on_and_counts_nothing_twice(look: Look) -> None:
    first = look(CURVE, trials=6)
    assert first.result.num_configs == 6
    second = look(CURVE, trials=10)
    assert second.result.started.num_found > 0
    assert second.result.num_configs == 10
    record = Record("study")
    record.load()
    entries = record.news()
    keys = [(one.config, one.rung) for one in entries]
    assert len(keys) == len(set(keys))
    assert len({one.config for one in entries}) == 10
    assert [one.purpose for one in entries].count("defaults") == 1


def test_no_configuration_is_drawn_twice(look: Look) -> None:
    look(CURVE, trials=5, workers=2)
    look(CURVE, trials=12, workers=2)
    record = Record("study")
    record.load()
    drawn = {one.config: tuple(sorted(one.params.items())) for one in record.news()}
    assert len(drawn) >= 12
    assert len(set(drawn.values())) == len(drawn)


def test_a_study_replayed_tells_what_its_search_told(look: Look) -> None:
    done = look(CURVE, trials=10, repeats=2)
    record = Record("study")
    record.load()
    again = SearchReport.fold(events_of(record))
    assert again.best is not None
    assert again.best.params == done.result.best.params
    assert again.best.values == done.result.best.values
    assert again.compared == done.result.compared
    assert again.num_configs == done.result.num_configs
    json.dumps(again.to_dict())


def test_a_database_keeps_a_study_as_well(look: Look, tmp_path: Any) -> None:
    where = f"sqlite:///{tmp_path}/studies.db"
    look(PLAIN, metrics=("loss",), directions=("min",), storage=where, trials=4)
    done = look(PLAIN, metrics=("loss",), directions=("min",), storage=where, trials=6)
    assert done.result.num_configs == 6


def test_two_searches_share_a_study(look: Look) -> None:
    slow = "import time\nx = ds.uniform(0, 1)\ntime.sleep(0.02)\nloss = x\n"
    results = []

    def run() -> None:
        results.append(look(slow, metrics=("loss",), directions=("min",), trials=14, workers=1))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for one in threads:
        one.start()
        time.sleep(0.2)
    for one in threads:
        one.join()
    record = Record("study")
    record.load()
    entries = record.news()
    assert 14 <= len({one.config for one in entries}) <= 16
    assert len({(one.config, one.rung) for one in entries}) == len(entries)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("float('nan')", "accuracy is nan"),
        ("'high'", "is a str"),
        ("torch.ones(3)", "of shape (3,)"),
        ("None", "is a NoneType"),
    ],
)
def test_a_metric_that_is_no_number_is_told(look: Look, value: str, told: str) -> None:
    cell = f"x = ds.uniform(0, 1, default=0)\naccuracy = x if x == 0 else {value}\n"
    result = look(cell, {"torch": torch}, trials=3).result
    errors = {row.error for row in result.rows.values() if row.status == "failed"}
    assert len(errors) == 1
    assert told in errors.pop()
    with pytest.raises(CellFails, match=told.replace("(", r"\(").replace(")", r"\)")):
        look(f"x = ds.uniform(0, 1)\naccuracy = {value}\n", {"torch": torch}, name="other")


def test_a_tensor_of_one_element_is_a_number(look: Look) -> None:
    result = look("x = ds.uniform(0, 1)\naccuracy = torch.tensor([x])\n", {"torch": torch}, trials=3).result
    assert result.best is not None


def test_a_failing_trial_is_kept_with_its_traceback_and_the_search_goes_on(look: Look) -> None:
    cell = "x = ds.uniform(0, 1, default=0)\naccuracy = x\nif x > 0.5:\n    raise RuntimeError(f'too large: {x}')\n"
    result = look(cell, trials=12).result
    assert result.num("failed") > 0
    assert result.num("complete") > 1
    record = Record("study")
    record.load()
    failed = [one for one in record.news() if one.status == "failed"]
    assert all("line 4" in one.text and "too large" in one.text for one in failed)
    assert {one.line for one in failed} == {4}


def test_every_trial_but_the_defaults_fails(look: Look) -> None:
    cell = "x = ds.uniform(0, 1, default=0)\naccuracy = 1 / (x == 0)\n"
    result = look(cell, trials=6, repeats=2).result
    assert result.num("failed") == 5
    assert result.best is not None
    assert result.best.purpose == "defaults"
    assert result.compared is None
    assert any("no configuration was better" in note for note in result.notes)


def test_a_dead_worker_loses_its_trial_only(look: Look) -> None:
    cell = """import os, signal
x = ds.uniform(0, 1, default=0)
if x > 0.6:
    os.kill(os.getpid(), signal.SIGKILL)
accuracy = x
"""
    result = look(cell, trials=8, workers=2).result
    killed = [row for row in result.rows.values() if "SIGKILL" in row.error]
    assert killed
    assert result.num("complete") + len(killed) == 8


def test_a_worker_that_dies_while_it_starts_is_started_again(
    look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = []
    plain = Processes._start

    def start(self: Processes) -> Any:
        worker = plain(self)
        if len(killed) < 2:
            killed.append(worker)
            worker._process.kill()
        return worker

    monkeypatch.setattr(Processes, "_start", start)
    result = look(PLAIN, metrics=("loss",), directions=("min",), trials=4, workers=1).result
    assert len(killed) == 2
    assert result.num("complete") == 4


def test_a_hung_trial_is_ended(look: Look) -> None:
    cell = "import time\nx = ds.uniform(0, 1, default=0)\naccuracy = x\nif x > 0.6:\n    time.sleep(600)\n"
    result = look(cell, trials=6, workers=2, timeout_s=2.0).result
    assert any("longer than 2 s" in row.error for row in result.rows.values())


def test_stop_and_prune(look: Look) -> None:
    cell = (
        "import time\nx = ds.uniform(0, 1)\nfor step in range(50):\n    accuracy = x\n    time.sleep(0.01)\n"
    )

    def ready(search: Any) -> None:
        def act() -> None:
            while len(search.result.rows) < 2 or search.result.rows[0].status == "running":
                time.sleep(0.01)
            running = next(row.trial for row in search.result.rows.values() if row.status == "running")
            search.prune(running)
            while search.result.rows[running].status == "running":
                time.sleep(0.01)
            pruned.append(running)
            search.stop()

        threading.Thread(target=act, daemon=True).start()

    pruned: list[int] = []
    result = look(cell, trials=1000, workers=1, schedule="whole", ready=ready).result
    assert result.rows[pruned[0]].status == "stopped"
    assert result.reason == "stopped"
    assert result.num_configs < 1000
