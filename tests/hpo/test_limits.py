"""Batch sizes and learning rates that a training bears, measured in real processes."""

from __future__ import annotations

import copyreg
import hashlib
import math
import os
import random
import threading
import time
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler, TensorDataset

from deepseek_lab import views
from deepseek_lab.base.errors import TargetError
from deepseek_lab.base.limits import MARGIN, BatchRow, LimitsReport, RateCurve, RateRange, number
from deepseek_lab.hpo.limits import curve, loops
from deepseek_lab.hpo.limits.job import Job, Task, Turn
from deepseek_lab.hpo.limits.measure import Measurement, Options, interval, sealed, task_of
from deepseek_lab.hpo.limits.process import Child, OutOfTime
from deepseek_lab.hpo.limits.sizes import Sizes, Tried, granule
from deepseek_lab.hpo.limits.watch import Enough, Watch, num_rows, resized, why_fixed

LOOP = """
for epoch in range(2):
    for x, y in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
"""


class Wide(nn.Module):
    """Keeps much for the backward pass and computes little."""

    WIDTH, KEPT = 1024, 12

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.out = nn.BatchNorm1d(16), nn.Linear(16, 4)
        self.drop = nn.Dropout(0.1)
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        h = self.scale * x[:, :1]
        for _ in range(self.KEPT):
            h = torch.tanh(h)
        return self.drop(self.out(x)) + h.mean(1, keepdim=True)


class Own(torch.optim.AdamW):
    """An optimizer of the user's own that sees its learning rates in each step."""

    def step(self, closure: Any = None) -> Any:
        large, small = (float(group["lr"]) for group in self.param_groups)
        if not math.isclose(small, 0.1 * large, rel_tol=1e-9):
            raise AssertionError(f"{small} beside {large}")
        return super().step(closure)


def parts(value: Any) -> list[bytes]:
    """Everything that a value holds, in order."""
    match value:
        case torch.Tensor():
            head = f"{value.dtype} {tuple(value.shape)} {value.requires_grad} {value._version}"
            return [head.encode(), value.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()]
        case np.ndarray():
            return [value.tobytes()]
        case nn.Module():
            held = [*value.parameters(), *value.buffers(), *(one.grad for one in value.parameters())]
            return parts(
                [held, [id(one) for one in value.parameters()], [one.training for one in value.modules()]]
            )
        case torch.optim.Optimizer() | torch.optim.lr_scheduler.LRScheduler():
            return parts(value.state_dict())
        case DataLoader():
            generator = value.generator.get_state() if value.generator is not None else None
            return parts([value.batch_size, value.drop_last, generator, value.dataset])
        case TensorDataset():
            return parts(value.tensors)
        case dict():
            return parts([[key, one] for key, one in value.items()])
        case list() | tuple():
            return [part for one in value for part in parts(one)]
        case bool() | int() | float() | str() | None | torch.dtype():
            return [repr(value).encode()]
        case _:
            return [str(id(value)).encode()]


def digest(names: dict[str, Any]) -> str:
    """Of everything that a measurement must leave alone, bit for bit."""
    process = [
        torch.get_rng_state().clone(), random.getstate(), np.random.get_state(),
        torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype(),
        id(DataLoader.__iter__), id(torch.autograd.backward),
    ]  # fmt: skip
    streams = [part for one in process[1:] for part in parts(one)]
    return hashlib.sha256(b"|".join([process[0].numpy().tobytes(), *streams, *parts(names)])).hexdigest()


def notebook(num: int = 1024, batch: int = 32, width: int = 16, **others: Any) -> dict[str, Any]:
    """A model that has trained a little, with what belongs to it."""
    torch.manual_seed(0)
    model = Wide(width)
    scale = [model.scale]
    rest = [one for one in model.parameters() if one is not model.scale]
    optimizer = Own([{"params": rest}, {"params": scale, "lr": 1e-4}], lr=1e-3)
    x = torch.randn(num, 16)
    data = TensorDataset(x, (x.sum(1) > 0).long() + 2 * (x[:, 0] > 0).long())
    loader = DataLoader(data, batch, shuffle=True, generator=torch.Generator().manual_seed(5))
    names = {
        "model": model,
        "optimizer": optimizer,
        "loader": loader,
        "nn": nn,
        "torch": torch,
        "os": os,
        **others,
    }
    for values, labels in loader:
        nn.functional.cross_entropy(model(values), labels).backward()
        optimizer.step()
        break
    model.drop.eval()
    return names


def limits(
    source: str,
    names: dict[str, Any],
    *,
    told: Callable[[LimitsReport], None] = lambda report: None,
    **options: Any,
) -> LimitsReport:
    """Measure, and see that nothing has changed."""
    before = digest(names)
    content = sealed(names, list(names))
    try:
        return Measurement(
            task_of(source, "<cell>"), content, Options(**{"time_s": 120.0, "timed_s": 0.2, **options}), told
        ).run()
    finally:
        content.close()
        assert digest(names) == before


# A whole measurement.


@pytest.fixture(scope="module")
def whole() -> tuple[LimitsReport, list[str]]:
    """Of a loop with a schedule that is made for fewer steps than are tried, within 600 MiB."""
    names = notebook(num=8192, width=Wide.WIDTH)
    names["schedule"] = torch.optim.lr_scheduler.LambdaLR(names["optimizer"], lambda step: 1.0)
    said: list[str] = []
    source = (
        "cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, [1e-3, 1e-4], total_steps=20)\n"
        + LOOP.replace("optimizer.step()", "optimizer.step()\n        cycle.step()")
    )
    report = limits(
        source, names, told=lambda one: said.append(views.limits_line(one)), limit_bytes=600 << 20, seed=3
    )
    return report, said


def test_the_largest_batch_is_what_memory_allows(whole: tuple[LimitsReport, list[str]]) -> None:
    report, _ = whole
    assert report.reason == "", report
    assert (report.own, report.num_samples, report.device, report.optimizer) == (32, 8192, "cpu", "Own")
    assert report.limit_bytes == 600 << 20
    largest = report.largest
    assert largest is not None
    assert largest.peak_bytes is not None
    assert report.start_bytes is not None
    assert report.start_bytes < largest.peak_bytes <= (1 - MARGIN) * report.limit_bytes
    # What a sample takes is known: the results that tanh keeps.
    each = Wide.KEPT * Wide.WIDTH * 4
    room = (1 - MARGIN) * report.limit_bytes - report.start_bytes
    assert 0.3 * room / each < largest.size < 1.1 * room / each  # the heap has holes
    beyond = [one for one in report.rows if one.size > largest.size]
    assert beyond or report.bound == "predicted"
    assert all(one.status in {"tight", "memory", "killed"} for one in beyond)


def test_memory_grows_by_what_samples_take(whole: tuple[LimitsReport, list[str]]) -> None:
    rows = [one for one in whole[0].rows if one.ran and one.size >= 128 and one.peak_bytes]
    small, large = rows[0], rows[-1]
    grown = (large.peak_bytes or 0) - (small.peak_bytes or 0)
    each = Wide.KEPT * Wide.WIDTH * 4
    assert 0.7 < grown / (each * (large.size - small.size)) < 3


def test_throughput_has_an_interval(whole: tuple[LimitsReport, list[str]]) -> None:
    report, _ = whole
    timed = [one for one in report.rows if one.samples_per_s]
    assert [one.size for one in timed][:2] == [32, 64] or 16 in [one.size for one in timed]
    for row in timed:
        assert row.interval is not None
        assert row.interval[0] <= row.samples_per_s <= row.interval[1]  # type: ignore[operator]
        assert row.num_steps >= 3
        assert row.step_s == pytest.approx(row.size / row.samples_per_s)  # type: ignore[operator]
    assert report.fastest is not None
    assert report.gain is not None


def test_learning_rates_of_several_seeds(whole: tuple[LimitsReport, list[str]]) -> None:
    report, _ = whole
    assert [one.seed for one in report.curves][:1] == [3]
    assert len({one.losses for one in report.curves}) == len(report.curves)
    assert report.num_groups == 2
    assert report.rates is not None, report.rates_reason
    assert 1e-6 < report.rates.low <= report.rates.value <= report.rates.high <= 10
    assert report.rates.low <= report.rates.high / 10


def test_what_is_under_way_is_told(whole: tuple[LimitsReport, list[str]]) -> None:
    _, said = whole
    assert said[0].startswith("limits  (starting a process")
    assert any("batch 64" in line for line in said)
    assert any("learning rates, run 1" in line for line in said)


def test_the_suggestion_trains_better_than_what_lies_far_outside(
    whole: tuple[LimitsReport, list[str]],
) -> None:
    report, _ = whole
    assert report.rates is not None

    def trained(rate: float) -> float:
        names = notebook(num=8192, width=Wide.WIDTH)
        model, optimizer = names["model"], names["optimizer"]
        for group, share in zip(optimizer.param_groups, (1.0, 0.1), strict=True):
            group["lr"] = rate * share
        losses = []
        while len(losses) < 40:
            for x, y in names["loader"]:
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
                if len(losses) == 40:
                    break
        return sum(losses[-10:]) / 10

    assert trained(report.rates.value) < trained(report.rates.low / 10)
    assert trained(report.rates.value) < trained(100 * report.rates.high)


# What goes wrong.


def test_a_process_that_is_killed_is_a_result() -> None:
    kill = "        if len(x) >= 128:\n            os.kill(os.getpid(), 9)\n        optimizer.zero_grad()"
    report = limits(LOOP.replace("        optimizer.zero_grad()", kill), notebook())
    largest, killed = report.largest, report.row(128)
    assert killed is not None
    assert killed.status == "killed"
    assert "SIGKILL" in killed.reason
    assert largest is not None
    assert 64 <= largest.size < 128
    assert report.rates is not None, report.rates_reason  # another process went on
    assert "128" in report.bound_words


def test_an_interrupt_ends_it_with_what_is_known() -> None:
    stop = "        if len(x) >= 64:\n            os.kill(os.getppid(), 2)\n            import time; time.sleep(60)\n"
    source = LOOP.replace("        optimizer.zero_grad()\n", stop + "        optimizer.zero_grad()\n")
    report = limits(source, notebook())
    assert report.reason == "interrupted"
    assert [one.size for one in report.rows if one.ran] == [32]
    assert report.rates is None
    assert "interrupted after" in views.limits_text(report)


def test_a_loop_that_hangs_is_left_in_time() -> None:
    began_s = time.monotonic()
    report = limits("import time\nwhile True:\n    time.sleep(1)", notebook(num=64), time_s=1.0)
    assert report.reason == "time"
    assert time.monotonic() - began_s < 30
    assert views.limits_line(report).startswith(
        "limits  no batch size was measured  no lr: there was no time"
    )


def test_a_divergence_is_found_where_theory_has_it() -> None:
    """Gradient descent on a quadratic function diverges from a learning rate of 2 / L on; there is no loader."""
    torch.manual_seed(0)
    curvature = torch.linspace(0.5, 40.0, 20)
    names = {"curvature": curvature, "w": nn.Parameter(torch.ones(20)), "torch": torch}
    source = (
        "optimizer = torch.optim.SGD([w], lr=1e-3)\n"
        "for step in range(81):\n"
        "    optimizer.zero_grad()\n"
        "    (0.5 * (curvature * w * w).sum()).backward()\n"
        "    optimizer.step()\n"
    )
    report = limits(source, names)
    assert report.bound == "fixed"
    assert "DataLoader" in report.bound_words
    assert report.own is None
    edge = 2 / 40
    rates = report.rates
    assert rates is not None, report.rates_reason
    assert edge / 10 < rates.high < 2 * edge
    assert rates.value < edge
    assert len(report.curves[0].rates) <= 80
    assert report.curves[0].reason.startswith("diverged at")
    assert "all runs are the same" in " ".join(report.notes)


class Stream(IterableDataset[tuple[torch.Tensor, torch.Tensor]]):
    def __iter__(self) -> Any:
        generator = torch.Generator().manual_seed(0)
        for _ in range(300):
            x = torch.randn(16, generator=generator)
            yield x, (x.sum() > 0).long()


def test_a_stream_and_an_optimizer_without_learning_rates() -> None:
    names = notebook(num=64)
    model = nn.Linear(16, 4)
    names |= {"loader": DataLoader(Stream(), 100), "model": model}
    names["optimizer"] = torch.optim.LBFGS(model.parameters(), max_iter=2)
    source = """
for x, y in loader:
    def closure():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss
    optimizer.step(closure)
"""
    report = limits(source, names)
    assert report.own == 100
    assert report.num_samples is None
    assert report.row(200) is not None
    assert report.row(200).ran  # type: ignore[union-attr]
    assert report.row(400) is not None
    assert report.row(400).status == "failed"  # type: ignore[union-attr]
    assert report.bound == "error"
    assert "the data ended before so many samples came" in report.bound_words
    assert report.largest is not None
    assert report.largest.size == 200
    assert report.curves == []
    assert "LBFGS" in report.rates_reason


def test_dicts_accumulated_gradients_little_data_and_a_loss_that_is_nan() -> None:
    """Four batches make an update; at one sample batch norm fails, which says nothing of larger batches."""
    rows = [{"x": torch.randn(16), "y": torch.tensor(index % 4)} for index in range(50)]
    names = notebook(num=64)
    names |= {"loader": DataLoader(rows, 2, shuffle=True), "bad": torch.tensor(math.nan)}  # type: ignore[arg-type]
    source = """
for step, batch in enumerate(loader):
    assert len(batch["x"]) > 1 or model.norm(batch["x"]) is not None
    loss = nn.functional.cross_entropy(model(batch["x"]), batch["y"]) / 4 * bad
    loss.backward()
    if step % 4 == 3:
        optimizer.step()
        optimizer.zero_grad()
    if len(batch["x"]) > 2: raise RuntimeError("never more than 2")
"""
    report = limits(source, names)
    own = report.row(2)
    assert own is not None
    assert own.ran
    assert own.samples_per_s is not None
    assert own.step_s is not None
    assert own.samples_per_s * own.step_s == pytest.approx(8)  # of four batches
    assert report.num_samples == 50
    assert report.row(4) is not None
    assert "never more than 2" in report.row(4).reason  # type: ignore[union-attr]
    assert report.largest is not None
    assert report.largest.size == 2
    assert all(one.size > 1 or one.status == "failed" for one in report.rows)
    assert report.rates is None
    assert "the loss is nan before any update: %%deepseek inspect" in report.rates_reason
    assert "no lr: the loss is nan" in views.limits_line(report)


def test_a_cell_with_nothing_to_measure() -> None:
    with pytest.raises(TargetError, match="without a step of an optimizer"):
        limits("x = 1", notebook(num=64))


def test_a_limit_below_what_a_process_holds_is_refused() -> None:
    with pytest.raises(TargetError, match="before the first step") as raised:
        limits(LOOP, notebook(num=64), limit_bytes=50 << 20)
    assert "--memory" in raised.value.hint


def test_what_cannot_travel_is_named() -> None:
    with pytest.raises(TargetError, match="lock, which the cell uses, is a lock that cannot be sent"):
        sealed({"lock": threading.Lock()}, ["lock"])


def test_a_loader_with_live_workers_travels_without_them() -> None:
    from deepseek_lab.processes import travel

    loader = DataLoader(TensorDataset(torch.zeros(8, 1)), 2, num_workers=1, persistent_workers=True)
    next(iter(loader))
    before, table = loader._iterator, dict(copyreg.dispatch_table)
    assert before is not None
    content = sealed({"held": [loader]}, ["held"])
    came = travel.unpack(content.open(), {}).value["names"]["held"][0]
    content.close()
    assert came._iterator is None
    assert len(list(came)) == 4
    assert loader._iterator is before
    assert copyreg.dispatch_table == table


def test_a_process_out_of_time_is_ended() -> None:
    content = sealed({"torch": torch}, ["torch"])
    task = Task("1", "<cell>", 1)
    with pytest.raises(OutOfTime), Child(task, content, time.monotonic(), lambda what: None) as child:
        child.ask(Job(1, 1))
    assert not child.alive
    content.close()


# Which sizes.


def test_the_search_for_sizes_ends_at_what_fits() -> None:
    """For any memory that grows by the sample and any throughput."""
    rng = random.Random(0)
    for _ in range(400):
        own, most = rng.choice([1, 3, 8, 20, 32, 100, 256]), rng.choice([None, 300, 5000])
        base, each, room = rng.uniform(10, 1000), rng.uniform(0.1, 20), rng.uniform(20, 10_000)
        search, num = Sizes(own, most, int(room)), 0
        fits: set[int] = set()
        while (one := search.next(lambda size, timed: True)) is not None:
            peak = int(base + each * one.size)
            num += 1
            assert num < 40
            assert one.size >= 1
            assert most is None or one.size <= max(most, own)
            if peak <= room:
                fits.add(one.size)
            search.add(
                Tried(
                    one.size,
                    peak <= room,
                    peak if peak < 1.1 * room else None,
                    rng.random() if one.timed else None,
                )
            )
        true = (room - base) / each
        if true < 1:
            assert not fits
        elif search.bound == "memory":
            assert max(fits, default=0) + granule(max(fits, default=1)) + 1 >= true
        elif search.bound == "predicted":
            assert max(fits) > true / 1.35
        else:
            assert search.bound == "data"
            assert max(fits) > most / 2  # type: ignore[operator]


def test_no_time_for_larger_sizes_is_said() -> None:
    search = Sizes(32, None, 1000)
    while (one := search.next(lambda size, timed: size < 100)) is not None:
        search.add(Tried(one.size, True, one.size, float(one.size)))
        assert one.size < 100
    assert search.bound == "time"


def test_what_fails_by_itself_is_not_bisected() -> None:
    search = Sizes(32, None, 1000)
    tried = []
    while (one := search.next(lambda size, timed: True)) is not None:
        tried.append(one.size)
        search.add(Tried(one.size, one.size == 32, one.size, 1.0 / one.size, broken=one.size != 32))
    assert search.bound == "error"
    assert tried == [32, 64, 16]


# Learning rates.


def test_a_curve_is_read_as_it_was_drawn() -> None:
    """It falls from 1e-4 on, most steeply at 1e-3, is least at 1e-2 and diverges."""
    rng = random.Random(0)
    for level, depth in ((2.3, 1.5), (-5.0, 3.0), (1e-3, 9e-4)):
        rates = curve.growing(100)
        losses = []
        for rate in rates:
            place = math.log10(rate)
            fall = depth / (1 + math.exp(-6 * (place + 3)))
            rise = depth * 8 * max(0.0, place + 1.7) ** 2
            losses.append(level - fall + rise + rng.gauss(0, 0.02 * depth))
        made = curve.found(rates, losses, curve.smoothed(losses))
        assert isinstance(made, RateRange), made
        assert 1e-4 < made.low < 1.1e-3
        assert 4e-4 < made.steepest < 2.5e-3
        assert made.value == pytest.approx(math.sqrt(made.low * made.high))
        assert 3e-3 < made.high < 4e-2


def test_noise_is_no_range() -> None:
    rng, wrong = random.Random(0), 0
    for _ in range(200):
        losses = [rng.gauss(1.0, 0.2) for _ in range(100)]
        wrong += isinstance(curve.found(curve.growing(100), losses, curve.smoothed(losses)), RateRange)
    assert wrong <= 12


def test_a_run_ends_where_nothing_comes_back() -> None:
    assert curve.diverged([1.0, math.nan])
    assert curve.diverged([1.0] * 20 + [3.0] * 3)
    assert not curve.diverged([1.0] * 20 + [3.0] * 2)
    assert not curve.diverged([-4.0] * 20 + [-1.0] * 3)
    assert curve.diverged([-4.0] * 20 + [1.0] * 3)
    assert not curve.diverged([])


def test_ranges_of_several_runs_become_one() -> None:
    found = curve.together([RateRange(1e-4, 1e-2, 1e-3, 1e-3), RateRange(1e-4, 4e-2, 2e-3, 4e-3)])
    assert (found.low, found.high) == (pytest.approx(1e-4), 1e-2)
    assert (found.value, found.steepest) == (pytest.approx(1e-3), pytest.approx(2e-3))
    narrow = curve.together([RateRange(5e-3, 1e-2, 7e-3, 7e-3)])
    assert (narrow.low, narrow.value) == (1e-3, pytest.approx(10**-2.5))


def test_an_interval_holds_the_median_as_often_as_it_says() -> None:
    rng, num = random.Random(0), 400
    for size in (8, 15, 40):
        holds = sum(
            low <= 0.0 <= high
            for low, high in (interval([rng.gauss(0, 1) for _ in range(size)]) for _ in range(num))
        )
        assert holds / num > 0.9
    assert interval([3.0, 1.0]) == (1.0, 3.0)


# What a loop is seen to do.


def watched(
    size: int | None, run: Callable[[], None], steps: int = 3, **options: Any
) -> tuple[Watch, list[Turn]]:
    """A loop of this process, left after so many turns."""
    turns: list[Turn] = []

    def turned(turn: Turn) -> bool:
        turns.append(turn)
        return len(turns) < steps

    before = DataLoader.__iter__, torch.autograd.backward, torch.optim.lr_scheduler.LRScheduler.step
    with Watch(size=size, seed=0, turned=turned, **options) as watch, pytest.raises(Enough):
        run()
    after = DataLoader.__iter__, torch.autograd.backward, torch.optim.lr_scheduler.LRScheduler.step
    assert after == before
    return watch, turns


def test_loaders_of_a_loop_grow_together_and_others_stay() -> None:
    data = TensorDataset(torch.randn(64, 3))
    one, other, whole = DataLoader(data, 8), DataLoader(data, 4), DataLoader(data, 64)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sizes: list[tuple[int, int]] = []

    def run() -> None:
        assert sum(len(x) for (x,) in whole) == 64  # a pass that trains nothing ends
        for (x,), (z,) in zip(one, other, strict=False):
            sizes.append((len(x), len(z)))
            with torch.no_grad():
                assert [len(y) for (y,) in one] == [8] * 8
            (model(x).mean() + model(z).mean()).backward()
            optimizer.step()

    watch, _ = watched(None, run)
    assert sizes == [(8, 4)] * 3
    assert (watch.seen.own, watch.seen.skip) == (8, 1)
    sizes.clear()
    watch, _ = watched(32, run, skip=1)
    assert sizes == [(32, 16)] * 3


def test_steps_count_whatever_ends_a_pass() -> None:
    data = TensorDataset(torch.randn(20, 3))
    loader = DataLoader(data, 4, shuffle=True)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD([{"params": model.weight}, {"params": model.bias, "lr": 1.0}], lr=0.1)
    sizes, rates = [], []

    def run() -> None:
        for (x,) in loader:
            sizes.append(len(x))
            model(x).mean().backward()
            optimizer.step()
            rates.append([group["lr"] for group in optimizer.param_groups])

    watch, turns = watched(16, run, steps=5, rate=lambda turn: 10.0**-turn)
    assert sizes == [16] * 5
    assert [one.samples for one in turns] == sizes
    assert rates == [[0.1, 1.0]] * 4
    assert watch.seen.num_groups == 2
    assert watch.seen.num_samples == 20


def test_a_scaled_loss_is_told_as_it_was() -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def run() -> None:
        while True:
            loss = model(torch.ones(2, 3)).square().mean() + 5
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()

    _, turns = watched(None, run)
    assert all(one.loss is not None and 5 <= one.loss < 100 for one in turns)


def test_loaders_that_cannot_be_resized_are_known() -> None:
    data = TensorDataset(torch.randn(20, 3))
    assert why_fixed(DataLoader(data, 4)) == ""
    assert why_fixed(DataLoader(Stream(), 4)) == ""
    assert "batch_size=None" in why_fixed(DataLoader(Stream(), None))

    class Mine(BatchSampler):
        pass

    own = DataLoader(data, batch_sampler=Mine(SequentialSampler(range(20)), 4, True))
    assert "Mine, whose sizes only it knows" in why_fixed(own)
    assert [len(x) for (x,) in resized(DataLoader(data, 4), 8)] == [8, 8]
    assert [len(x) for (x,) in resized(DataLoader(data, 4), 32)] == [20]
    assert num_rows({"a": [torch.tensor(1), torch.zeros(7, 2)]}) == 7
    assert num_rows("words") is None


# The line form's loop.


class Gives(nn.Module):
    """Answers with a mapping, as models of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        logits = self.f(x)
        made: dict[str, Any] = {"logits": logits}
        if labels is not None:
            made["loss"] = nn.functional.cross_entropy(logits, labels)
        return made


def test_batches_of_all_kinds_give_a_loss() -> None:
    x, y, loss = torch.randn(5, 3), torch.zeros(5, dtype=torch.long), nn.CrossEntropyLoss()
    plain, gives = nn.Linear(3, 2), Gives()
    assert loops.loss_of(plain, loss, (x, y)).equal(loss(plain(x), y))
    assert loops.loss_of(gives, None, {"x": x, "labels": y}).equal(gives(x, y)["loss"])
    assert loops.loss_of(gives, loss, {"x": x, "labels": y}).equal(gives(x, y)["loss"])
    for batch, given, message in (
        (x, loss, "a batch is a Tensor without a target"),
        ({"x": x, "z": y}, loss, "no labels among them"),
        ((x, y), nn.CrossEntropyLoss(reduction="none"), r"of shape \(5,\), not one number"),
        (x, None, "gives no loss of its own"),
    ):
        with pytest.raises(TargetError, match=message):
            loops.loss_of(plain, given, batch)


# What is shown.


def _report() -> LimitsReport:
    curves = [
        RateCurve(
            seed, (1e-4, 1e-3, 1e-2), (1.0, 0.5, 0.4), (1.0, 0.6, 0.4), RateRange(3e-4, 2e-2, 4e-3, 5e-3)
        )
        for seed in (0, 1)
    ]
    return LimitsReport(
        optimizer="Adam",
        num_groups=1,
        own=32,
        num_samples=1000,
        limit_bytes=8 << 30,
        start_bytes=300 << 20,
        rows=[
            BatchRow(32, "safe", 1 << 30, 100.0, (90.0, 110.0), 0.32, 9),
            BatchRow(128, "safe", 2 << 30, 180.0, (170.0, 12345.6), 0.71, 9),
            BatchRow(256, "safe", int(3.1 * (1 << 30)), 181.0, (170.0, 190.0), 1.4, 9),
            BatchRow(512, "killed", None, reason="<b>its process</b> was ended"),
        ],
        bound="memory",
        bound_words="512 does not fit",
        curves=curves,
        rates=RateRange(3e-4, 2e-2, 4e-3, 5e-3),
        doing="",
        notes=["<script>alert(1)</script>"],
    )


def test_one_line_says_it() -> None:
    assert views.limits_line(_report()) == (
        "limits  batch 256 safe (peak 3.10 GiB of 8.00 GiB), fastest 128 (1.8x of your 32)  lr 3e-4 .. 2e-2, try 4e-3"
    )
    assert _report().next == "lr = ds.log(3e-4, 2e-2, default=4e-3)"
    assert float(number(3.4e-4)) == 3e-4


def test_the_page_is_static_and_escaped() -> None:
    page = views.limits_html(_report())
    assert "<script" not in page
    assert "<b>its" not in page
    assert page.count("data:image/svg+xml") == 2
    parser = HTMLParser()
    parser.feed(page)
    parser.close()
    text = views.limits_text(_report())
    for words in (
        "512",
        "ended",
        "170-12,346",
        "together",
        "lr = ds.log(3e-4, 2e-2, default=4e-3)",
        "10% of it free",
    ):
        assert words in text
    data = _report().to_dict()
    assert (data["largest"], data["fastest"]) == (256, 128)


def test_a_size_that_memory_contradicts_is_not_safe() -> None:
    report = LimitsReport(
        rows=[BatchRow(1, "failed"), BatchRow(2, "safe"), BatchRow(4, "tight"), BatchRow(8, "safe")]
    )
    assert report.largest is not None
    assert report.largest.size == 2
    report.put(BatchRow(4, "safe"))
    assert report.largest.size == 8
