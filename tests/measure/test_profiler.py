"""Profiles of code that is known: every kind of cost stands where it belongs."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from deepseek_lab.base.costs import PHASES, CellCosts, LineCost, ModuleCost
from deepseek_lab.measure.profiler import Session, recorder
from deepseek_lab.measure.profiler.calibration import RecordingCost
from deepseek_lab.measure.profiler.digest import Digest

HERE = __file__


@pytest.fixture(autouse=True)
def _whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """One window, as long as it may be, so that counts are those of all calls; other tests set it back."""
    monkeypatch.setattr(recorder, "MIN_S", 100.0)


def profiled(call: Callable[[], object], names: dict[str, object] | None = None) -> CellCosts:
    session = Session(HERE, names or {})
    with session:
        call()
    return session.costs()


def line_of(costs: CellCosts, words: str) -> LineCost:
    (found,) = [line for line in costs.lines if words in line.text and "line_of" not in line.text]
    return found


def module(costs: CellCosts, path: str) -> ModuleCost:
    return next(one for one in costs.modules if one.path == path)


class Twice(nn.Module):
    """A wide layer, then a narrow one, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(512, 2048), nn.Linear(2048, 512)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = self.narrow(torch.relu(self.wide(x)))
        return x


def test_lines_get_the_time_that_they_take() -> None:
    def cell() -> None:
        until = time.perf_counter() + 0.8
        while time.perf_counter() < until:
            sum(range(500_000))  # busy
        time.sleep(0.4)  # asleep

    costs = profiled(cell)
    busy, asleep = line_of(costs, "# busy"), line_of(costs, "# asleep")
    assert asleep.self_s == pytest.approx(0.4, abs=0.2)
    assert asleep.waiting_s > 0.5 * asleep.self_s
    assert busy.self_s > asleep.self_s
    assert busy.waiting_s < 0.5 * busy.self_s
    assert costs.attributed >= 0.95
    assert sum(costs.phases.values()) == pytest.approx(costs.wall_s, rel=0.05)


def test_nothing_is_printed_on_the_cells_behalf() -> None:
    """Neither that a window opens nor that blocks from before it are freed; C++ writes to the process's stderr."""
    code = (
        "import torch; from deepseek_lab.measure.profiler import Session\n"
        "x = [torch.ones(10_000) for _ in range(3000)]\n"
        "with Session('', {}, memory=True): x.clear()\n"
        "with Session('', {}): torch.ones(3)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "KINETO_LOG_LEVEL"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_called_functions_count_for_the_line_that_calls_them_too() -> None:
    def inner() -> None:
        time.sleep(0.1)  # inside

    def cell() -> None:
        inner()  # outside

    costs = profiled(cell)
    assert line_of(costs, "# inside").self_s > 0.08
    assert line_of(costs, "# outside").total_s > 0.08
    assert line_of(costs, "# outside").self_s < 0.05


def test_modules_and_operators_of_a_training_step() -> None:
    model, x = Twice(), torch.randn(64, 512)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def cell() -> None:
        for _ in range(5):
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            optimizer.step()

    costs = profiled(cell, {"model": model})
    whole, wide, narrow = (module(costs, path) for path in ("model", "model.wide", "model.narrow"))
    assert (whole.num_calls, wide.num_calls, narrow.num_calls) == (5, 10, 10)
    assert whole.type_name == "Twice"
    assert whole.forward_s > max(wide.forward_s, narrow.forward_s)
    assert whole.backward_s > 0.9 * (wide.backward_s + narrow.backward_s) > 0
    # Forward: a product each; backward: one for the weight, one for the input, which the first call has no need of.
    product = 2 * 64 * 512 * 2048
    assert wide.flops == 5 * (2 * product + 3 * product)
    assert narrow.flops == 5 * (2 * product + 4 * product)
    assert whole.flops == wide.flops + narrow.flops
    assert costs.flops == whole.flops
    assert costs.operators[0].name in ("mm", "addmm")
    assert costs.recorded_s == pytest.approx(costs.wall_s, rel=0.3)


class _Asleep(torch.autograd.Function):
    """Takes known times that other programs on the machine do not change much."""

    FORWARD_S, BACKWARD_S, STEP_S = 0.003, 0.006, 0.001

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        time.sleep(_Asleep.FORWARD_S)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        time.sleep(_Asleep.BACKWARD_S)
        return grad


class _Sleeper(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return _Asleep.apply(self.layer(x))


class _SlowSGD(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        time.sleep(_Asleep.STEP_S)
        return super().step(closure)


@pytest.mark.parametrize("min_s", [0.005, 100.0], ids=["windows", "whole"])
def test_phases_of_a_training_loop(monkeypatch: pytest.MonkeyPatch, min_s: float) -> None:
    """Against the loop's own clock. What the engine does between the nodes of a backward pass counts as Python."""
    monkeypatch.setattr(recorder, "MIN_S", min_s)
    model, x = _Sleeper(), torch.randn(4, 8)
    optimizer = _SlowSGD(model.parameters(), lr=0.01)
    clock = time.perf_counter
    spent = dict.fromkeys(("forward", "backward", "optimizer"), 0.0)

    def cell() -> None:
        until = clock() + 1.0
        while clock() < until:
            optimizer.zero_grad()
            start = clock()
            loss = model(x).square().mean()
            spent["forward"] += clock() - start
            start = clock()
            loss.backward()
            spent["backward"] += clock() - start
            start = clock()
            optimizer.step()
            spent["optimizer"] += clock() - start

    costs = profiled(cell, {"model": model})
    assert set(spent) <= set(costs.phases) <= set(PHASES)
    for phase, seconds in spent.items():
        assert costs.phases[phase] == pytest.approx(seconds, abs=0.2 * costs.wall_s)


def test_calls_of_operators_are_those_that_pytorch_counts() -> None:
    model, x = Twice(), torch.randn(8, 512)
    with torch.profiler.profile() as reference:
        model(x).sum().backward()
    model.zero_grad()
    costs = profiled(lambda: model(x).sum().backward())
    expected = {
        event.key.removeprefix("aten::"): event.count
        for event in reference.key_averages()
        if event.key.startswith("aten::")
    }
    found = {one.name: one.num_calls for one in costs.operators if one.name in expected}
    assert found == expected


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(8, 16, 3, padding=1), (2, 8, 20, 20)),
        (nn.Conv2d(8, 16, 3, stride=2, dilation=2), (2, 8, 21, 19)),
        (nn.Conv2d(8, 16, 3, padding=(1, 0)), (2, 8, 20, 20)),
        (nn.Conv1d(8, 16, 5), (2, 8, 40)),
        (nn.Linear(32, 48), (4, 32)),
        (nn.Linear(32, 48, bias=False), (2, 4, 32)),
        (nn.MultiheadAttention(32, 4, batch_first=True), (2, 10, 32)),
    ],
    ids=str,
)
def test_floating_point_operations_are_those_of_the_formulas(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    """Against PyTorch's own counter, forward and backward."""
    from torch.utils.flop_counter import FlopCounterMode

    x = torch.randn(shape, requires_grad=True)

    def step() -> None:
        out = layer(x, x, x)[0] if isinstance(layer, nn.MultiheadAttention) else layer(x)
        out.sum().backward()

    with FlopCounterMode(display=False) as counter:
        step()
    assert profiled(step).flops == counter.get_total_flops()


def test_floating_point_operations_of_a_grouped_convolution() -> None:
    """As many in the backward pass for each of its two gradients as forward; PyTorch's own counter says five times."""
    layer, x = nn.Conv2d(8, 16, 3, groups=4, padding=(1, 0)), torch.randn(2, 8, 20, 20, requires_grad=True)
    forward = 2 * (2 * 16 * 20 * 18) * (2 * 3 * 3)
    assert profiled(lambda: layer(x)).flops == forward
    assert profiled(lambda: layer(x).sum().backward()).flops == 3 * forward


def test_bytes_by_line_are_those_of_the_tensors() -> None:
    kept: list[Tensor] = []

    def cell() -> None:
        kept.append(torch.empty(250_000))  # kept
        gone = torch.ones(500_000)  # made
        del gone  # freed
        (torch.ones(1000) + 1).sum()

    costs = profiled(cell)
    made, freed = line_of(costs, "# made"), line_of(costs, "# freed")
    assert line_of(costs, "# kept").kept_bytes == 1_000_000
    assert (made.allocated_bytes, made.kept_bytes) == (2_000_000, 2_000_000)
    assert (freed.allocated_bytes, freed.kept_bytes) == (0, -2_000_000)


class Slow(Dataset[Tensor]):
    """Takes its time."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, at: int) -> Tensor:
        time.sleep(0.02)
        return torch.zeros(4)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_waiting_for_data_is_a_phase_of_its_own(num_workers: int) -> None:
    loader = DataLoader(Slow(), batch_size=2, num_workers=num_workers)

    def cell() -> None:
        for batch in loader:
            batch.sum()

    costs = profiled(cell)
    assert costs.phases["data loading"] > 0.15
    assert costs.waiting_s > 0.15


def test_waiting_is_told_from_computing() -> None:
    """For a lock, for a queue and for another process; each longer than between two looks, 0.1 s at most."""
    lock, words = threading.Lock(), queue.SimpleQueue[int]()
    lock.acquire()

    def later() -> None:
        time.sleep(0.4)
        lock.release()
        time.sleep(0.4)
        words.put(1)

    def cell() -> None:
        other = threading.Thread(target=later)
        other.start()
        lock.acquire()  # locked
        words.get()  # empty
        other.join()
        subprocess.run([sys.executable, "-c", "import time; time.sleep(0.4)"], check=True)  # outside
        until = time.thread_time() + 0.4
        while time.thread_time() < until:
            sum(range(10_000))  # busy

    costs = profiled(cell)
    for words_of_line in ("# locked", "# empty", "# outside"):
        line = line_of(costs, words_of_line)
        assert line.waiting_s > 0.2
        assert line.waiting_s > 0.5 * line.self_s
    busy = line_of(costs, "# busy")
    assert busy.waiting_s < 0.5 * busy.self_s
    assert costs.waiting_s >= 1.0


def test_a_long_cell_is_recorded_in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "MIN_S", 0.005)
    model, x = Twice(), torch.randn(16, 512)
    count = 0

    def cell() -> None:
        nonlocal count
        until = time.perf_counter() + 2.0
        with torch.no_grad():
            while time.perf_counter() < until:
                model(x)  # called
                count += 1

    session = Session(HERE, {"model": model})
    with session:
        cell()
    assert session._recorder is not None
    assert len(session._recorder.windows) > 1
    costs = session.costs()
    assert 2 * recorder.MIN_S <= costs.recorded_s < 0.7 * costs.wall_s
    assert 0 < module(costs, "model").num_calls < count
    assert costs.attributed >= 0.95
    assert line_of(costs, "# called").self_s + line_of(costs, "x = self.narrow").self_s > 0.8 * costs.wall_s
    assert costs.overhead_s > 0
    assert sys.gettrace() is None


def test_a_window_that_opens_in_the_middle_of_a_line_gives_it_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Calls into code of others, in which no line of the user's begins while the window is open."""
    monkeypatch.setattr(recorder, "MAX_MARKS", 400)
    monkeypatch.setattr(recorder, "COST", 10.0)
    model, x = nn.Sequential(*(nn.Linear(64, 64) for _ in range(3))), torch.randn(4, 64)

    def outer() -> None:
        deque(map(model, repeat(x, 12_000)), maxlen=0)  # all in one

    def cell() -> None:
        outer()  # called

    costs = profiled(cell, {"model": model})  # the first window ends before the line does
    one, calling = line_of(costs, "# all in one"), line_of(costs, "# called")
    assert costs.recorded_s > 0.1 * costs.wall_s
    assert costs.attributed >= 0.95
    assert one.self_s > 0.8 * costs.wall_s
    assert one.total_s <= calling.total_s * 1.02 <= costs.wall_s * 1.05


def test_windows_of_a_long_cell_have_a_bound() -> None:
    """They are kept until the cell has ended: after so many, and after so much to close, there are no more."""
    made = recorder.Recorder({}, threading.get_ident())
    made.open()
    made.close()
    assert made.wants(600.0, 0.0, "python") is not None
    assert made.wants(600.0, 0.0, "compiling") is None
    made.overhead_s = recorder.MAX_CLOSING_S + 0.01
    assert made.overhead_s * (1 + recorder.COLLECTING) < recorder.COST * 600.0
    assert made.wants(600.0, 0.0, "python") is None
    made.overhead_s = 0.0
    made.windows *= 20
    assert made.wants(600.0, 0.0, "python") is None


def test_windows_hold_whole_rounds_of_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "MIN_S", 0.005)
    first, second, x = nn.Linear(64, 64), nn.Linear(64, 64), torch.randn(64, 64)

    def cell() -> None:
        until = time.perf_counter() + 1.0
        while time.perf_counter() < until:
            first(x)
            time.sleep(0.004)
            second(x)

    costs = profiled(cell, {"first": first, "second": second})
    assert costs.recorded_s < 0.7 * costs.wall_s
    assert module(costs, "first").num_calls >= 1
    assert abs(module(costs, "first").num_calls - module(costs, "second").num_calls) <= 1


class Deep(nn.Module):
    """A loop of its own in each pass, longer than a window must be."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(8))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            time.sleep(0.003)
            x = layer(x)
        return x


def test_loops_of_a_model_do_not_end_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "MIN_S", 0.005)
    monkeypatch.setattr(recorder, "_MAX_WINDOWS", 1)
    model, x = Deep(), torch.randn(4, 64)

    def cell() -> None:
        for _ in range(5):
            model(x)

    costs = profiled(cell, {"model": model})
    calls = {module(costs, f"model.layers.{at}").num_calls for at in range(8)}
    assert calls == {module(costs, "model").num_calls}
    assert calls <= {1, 2, 3, 4}


@pytest.mark.parametrize("where", ["_place", "_module"])
def test_an_error_of_ours_ends_the_recording_and_says_so(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def broken(self: object, frame: object) -> str:
        raise LookupError("planted")

    monkeypatch.setattr(recorder.Recorder, where, broken)
    model = nn.Linear(8, 8)
    done = []

    def cell() -> None:
        for _ in range(3):
            done.append(model(torch.ones(2, 8)))
        time.sleep(0.03)

    costs = profiled(cell, {"model": model})
    assert len(done) == 3
    assert any("LookupError: planted" in note for note in costs.notes)
    assert sys.gettrace() is None
    assert not torch._C._autograd._profiler_enabled()


def test_a_window_that_cannot_be_closed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "MIN_S", 0.005)
    close = recorder.profile.__exit__

    def broken(self: object, *arguments: object) -> None:
        close(self, *arguments)
        raise OSError("planted")

    monkeypatch.setattr(recorder.profile, "__exit__", broken)
    done = []

    def cell() -> None:
        for _ in range(100):
            time.sleep(0.001)
            done.append(torch.ones(3) + 1)

    costs = profiled(cell)
    assert len(done) == 100
    assert any("OSError: planted" in note for note in costs.notes)
    assert costs.attributed >= 0.9
    assert sys.gettrace() is None


def test_short_lines_end_a_window_instead_of_slowing_the_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "MAX_MARKS", 500)

    def cell() -> None:
        total = 0
        for number in range(20_000):
            total += number

    session = Session(HERE, {})
    with session:
        cell()
        assert sys.gettrace() is None
    assert session.costs().recorded_s < session.costs().wall_s


def test_an_exception_leaves_nothing_behind() -> None:
    model = nn.Linear(3, 3)
    session = Session(HERE, {"model": model})
    with pytest.raises(RuntimeError), session:
        model(torch.zeros(2, 4))
    costs = session.costs(error="RuntimeError")
    assert sys.gettrace() is None
    assert not torch._C._autograd._profiler_enabled()
    assert not [one for one in threading.enumerate() if one.name == "deepseek-sampler"]
    assert module(costs, "model").num_calls == 1
    assert costs.error == "RuntimeError"


def test_generators_and_recursion_nest() -> None:
    model = nn.Linear(64, 64)

    def batches() -> object:
        for _ in range(3):
            yield torch.ones(8, 64)  # yielded

    def deep(depth: int, x: Tensor) -> Tensor:
        return model(x) if depth == 0 else deep(depth - 1, x)

    def cell() -> None:
        for x in batches():  # type: ignore[attr-defined]
            deep(5, x)

    costs = profiled(cell, {"model": model})
    assert module(costs, "model").num_calls == 3
    assert line_of(costs, "# yielded").allocated_bytes == 3 * 8 * 64 * 4


def test_a_debugger_keeps_its_trace_function() -> None:
    def trace(frame: object, event: str, arg: object) -> None:
        return None

    sys.settrace(trace)
    try:
        costs = profiled(lambda: time.sleep(0.05))
        assert sys.gettrace() is trace
    finally:
        sys.settrace(None)
    assert costs.recorded_s == 0
    assert "debugger" in costs.notes[0]
    assert costs.attributed >= 0.9


def test_a_debugger_that_starts_meanwhile_stays() -> None:
    def trace(frame: object, event: str, arg: object) -> None:
        return None

    session = Session(HERE, {})
    try:
        with session:
            sys.settrace(trace)
        assert sys.gettrace() is trace
    finally:
        sys.settrace(None)


def test_times_do_not_exceed_the_whole_however_short_the_lines_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading what was recorded takes a multiple of the loop here, and is part of nothing."""
    monkeypatch.setattr(recorder, "MIN_S", 0.005)

    def cell() -> None:
        sum(number * number for number in range(1_000_000))
        for number in range(100_000):
            abs(number)

    costs = profiled(cell)
    assert sum(line.self_s for line in costs.lines) <= 1.05 * costs.wall_s
    assert sum(costs.phases.values()) <= 1.05 * costs.wall_s
    assert costs.attributed >= 0.9


def test_times_are_those_without_what_recording_takes() -> None:
    """An operator that does next to nothing, a thousand times in another one's name."""
    x = torch.ones(1)
    costs = profiled(lambda: [x.expand_as(x) for _ in range(2000)])
    assert 0 < costs.recording_s < costs.recorded_s
    assert all(one.self_s >= 0 for one in costs.operators)
    bare = Digest({}, {})
    with torch.profiler.profile(record_shapes=True) as made:
        for _ in range(2000):
            x.expand_as(x)
    bare.add(made.profiler.kineto_results)  # type: ignore[union-attr]
    priced = Digest({}, {}, RecordingCost(operator_s=1.0, allocation_s=1.0))
    priced.add(made.profiler.kineto_results)  # type: ignore[union-attr]
    # Each calls the next: all of a caller's own time may be the recorder's, and none of the last one's.
    assert priced.operators["expand_as"]["self_s"] == priced.operators["expand"]["self_s"] == 0
    assert priced.operators["as_strided"]["self_s"] == bare.operators["as_strided"]["self_s"] > 0
    lost = bare.operators["expand_as"]["self_s"] + bare.operators["expand"]["self_s"]
    assert priced.recording_s == pytest.approx(lost)


def test_arithmetic_of_windows_without_shapes_is_that_of_the_others() -> None:
    """Twice as many calls as were recorded with shapes: twice as much arithmetic."""
    a = torch.ones(8, 8)
    digest = Digest({}, {})
    for shapes in (True, False):
        with torch.profiler.profile(record_shapes=shapes) as made:
            a @ a
            a @ a
        digest.add(made.profiler.kineto_results, shapes=shapes)  # type: ignore[union-attr]
    found = digest.operator("mm")
    assert found["num_calls"] == 4
    assert found["flops"] == 4 * 2 * 8**3


def test_another_profiler_is_left_alone() -> None:
    with torch.profiler.profile() as theirs:
        costs = profiled(lambda: torch.ones(3) + 1)
    assert costs.recorded_s == 0
    assert "another profiler" in costs.notes[0]
    assert any(event.key == "aten::add" for event in theirs.key_averages())


def test_trace_opens_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several windows in one file, by the rules of the format that Perfetto reads (Trace Event Format, sections 2-4):
    a time and a place for each event, slices of a thread inside of each other, and arrows with one start and one end.
    """
    monkeypatch.setattr(recorder, "MIN_S", 0.005)
    monkeypatch.setattr(recorder, "COST", 0.5)
    model, x = nn.Linear(8, 8), torch.zeros(2, 8)
    session = Session(HERE, {"model": model})
    with session:
        until = time.perf_counter() + 0.5
        while time.perf_counter() < until or len(session._recorder.windows) < 2:  # type: ignore[union-attr]
            model(x).sum().backward()
    session.save_trace(tmp_path / "trace.json")
    made = json.loads((tmp_path / "trace.json").read_text(), parse_constant=pytest.fail)
    assert made["traceName"] == "trace.json"
    slices: dict[tuple[object, object], list[tuple[float, float]]] = {}
    arrows: dict[int, list[str]] = {}
    names = set()
    for event in made["traceEvents"]:
        assert event["ph"] in "XisfM"
        assert event["ts"] >= 0
        if event["ph"] == "X":
            assert event["dur"] >= 0
            names.add(event["name"])
            slices.setdefault((event["pid"], event["tid"]), []).append(
                (event["ts"], -event["ts"] - event["dur"])
            )
        elif event["ph"] in "sf":
            arrows.setdefault(event["id"], []).append(event["ph"])
    assert {"aten::addmm", "model"} <= names
    assert any(name.startswith(f"{Path(HERE).name}:") for name in names)
    assert arrows
    assert all(sorted(ends) == ["f", "s"] for ends in arrows.values())
    for found in slices.values():
        around: list[float] = []
        for start, minus_end in sorted(found):
            while around and around[-1] <= start:
                around.pop()
            assert not around or -minus_end <= around[-1] + 1e-3  # a nanosecond, in microseconds
            around.append(-minus_end)


def test_nothing_recorded_is_a_trace_without_events(tmp_path: Path) -> None:
    session = Session(HERE, {})
    session._recorder = None
    with session:
        pass
    session.save_trace(tmp_path / "trace.json")
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"] == []


def test_costs_are_plain_data() -> None:
    costs = profiled(lambda: torch.ones(8, 8) @ torch.ones(8, 8))
    again = json.loads(json.dumps(costs.to_dict()))
    assert again["flops"] == 2 * 8**3
    assert costs.limits is not None
    assert costs.limits.flops_per_s > 1e9
    assert costs.limits.bytes_per_s > 1e8
