"""Recordings of training steps: what every block was for, and peaks that another tracker agrees with."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from deepseek_lab.base.timeline import MemoryTimeline
from deepseek_lab.measure.profiler import Session, recorder, room
from deepseek_lab.measure.profiler.allocations import Allocations, Held
from tests.measure import test_profiler
from tests.measure.storages import Storages, peak, peak_bytes, walk
from tests.measure.test_profiler import Twice


def recorded(call: Callable[[], object], names: dict[str, object]) -> MemoryTimeline:
    session = Session(__file__, names, memory=True)
    with session:
        call()
    timeline = session.timeline()
    assert timeline is not None
    return timeline


def bytes_of(tensors: object) -> int:
    return sum(one.numel() * one.element_size() for one in tensors)  # type: ignore[attr-defined]


def test_every_purpose_of_a_training_step() -> None:
    model = Twice()
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    x = torch.randn(64, 512)

    def step() -> None:
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    names = {"model": model, "optimizer": optimizer, "x": x}
    first = recorded(step, names)
    parameters = bytes_of(model.parameters())
    most = {name: max(state.get(name, 0) for state in walk(first)) for name in peak(first)}
    assert most["parameters"] == parameters
    assert most["gradients"] == pytest.approx(parameters, rel=0.01)
    assert most["optimizer state"] == pytest.approx(2 * parameters, rel=0.01)
    # What each product and each relu saves; the mean's and the square's are small.
    saved = 2 * (64 * 2048 + 64 * 512) * 4
    assert saved <= most["activations"] <= 2.2 * saved
    # The second time the optimiser's state is there from the start.
    second = recorded(step, names)
    there = zip(second.bytes, second.category, second.at_s, strict=True)
    states = sum(size for size, category, at_s in there if category == "optimizer state" and at_s == 0.0)
    assert states == pytest.approx(2 * parameters, rel=0.01)


def test_what_was_there_before_goes_when_it_is_freed() -> None:
    model = Twice()
    model(torch.ones(4, 512)).sum().backward()
    size = bytes_of(model.parameters())
    alias = model.wide.weight.grad

    def cell() -> None:
        model.zero_grad()
        torch.ones(100).sum()
        model(torch.ones(4, 512)).sum().backward()

    states = walk(recorded(cell, {"model": model, "alias": alias}))
    assert states[0].get("gradients", 0) + max(state.get("gradients", 0) for state in states[:9]) == size
    least = min(state.get("gradients", 0) for state in states[9:])
    assert least == bytes_of([alias])  # a name of the user's still holds one
    assert states[-1]["gradients"] == size + least
    assert {state.get("parameters", 0) for state in states[9:]} == {size}


def test_blocks_stand_on_their_module_and_line() -> None:
    model, x = Twice(), torch.randn(64, 512)
    kept: list[Tensor] = []

    def cell() -> None:
        kept.append(model(x))  # forward
        kept[0].sum().backward()

    timeline = recorded(cell, {"model": model})
    rows = [row for row in range(len(timeline)) if timeline.bytes[row] > 0 and timeline.at_s[row] > 0]
    # What the layer returns is freed when relu has read it; what relu returns is what the backward pass needs.
    wide = [row for row in rows if timeline.module[row] == "model.wide" and timeline.operator[row] == "addmm"]
    relu = [row for row in rows if timeline.operator[row] == "clamp_min"]
    for found, category in ((wide, "temporary"), (relu, "activations")):
        assert [timeline.bytes[row] for row in found] == [64 * 2048 * 4] * 2
        assert {timeline.category[row] for row in found} == {category}
        assert {timeline.file[row] for row in found} == {test_profiler.__file__}
    assert {timeline.module[row] for row in relu} == {"model"}
    gradients = [row for row in rows if timeline.category[row] == "gradients"]
    assert {timeline.module[row] for row in gradients} >= {"model.wide", "model.narrow"}


@pytest.mark.parametrize("kind", ["mlp", "cnn", "transformer"])
def test_peak_is_that_of_another_tracker(kind: str) -> None:
    """One that follows tensors through the operators, and not the allocator."""
    model: nn.Module
    if kind == "mlp":
        model, x = Twice(), torch.randn(256, 512)
    elif kind == "cnn":
        model = nn.Sequential(
            nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.Flatten(1)
        )
        x = torch.randn(16, 3, 64, 64)
    else:
        model, x = nn.TransformerEncoderLayer(256, 4, 1024, batch_first=True), torch.randn(8, 128, 256)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step() -> None:
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    with Storages([*model.parameters(), *model.buffers(), x]) as tracker:
        step()
    ours = peak_bytes(recorded(step, {"model": model, "optimizer": optimizer, "x": x}))
    assert ours == pytest.approx(tracker.most, rel=0.02)


def test_a_long_recording_ends_before_it_fills_memory_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever an operator costs: room is for events, and they are counted as it goes."""
    monkeypatch.setattr(room, "MAX_EVENTS", 8_000)
    monkeypatch.setattr(room, "FIRST_MARKS", 400)
    model, x = nn.Linear(8, 8), torch.randn(2, 8)

    def cell() -> None:
        for _ in range(5000):
            model(x)
        time.sleep(0.05)

    session = Session(__file__, {"model": model}, memory=True)
    with session:
        cell()
    assert session.recorded < 0.95
    assert session._recorder is not None
    counts = [len(window.events()) for window in session._recorder.windows]
    assert len(counts) > 1
    assert 2_000 < sum(counts) < 12_000
    timeline = session.timeline()
    assert timeline is not None
    assert 0 < len(timeline) < 12_000


def test_lines_that_do_a_lot_end_a_recording_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few lines, and each is thousands of events: they are counted after a time, not after so many lines."""
    monkeypatch.setattr(room, "MAX_EVENTS", 20_000)
    monkeypatch.setattr(room, "FIRST_S", 0.0)
    x = torch.ones(4)

    def cell() -> None:
        for _ in range(60):
            deque((torch.neg(x) for _ in range(1000)), maxlen=0)

    session = Session(__file__, {}, memory=True)
    with session:
        cell()
    assert session._recorder is not None
    counts = [len(window.events()) for window in session._recorder.windows]
    assert len(counts) > 1
    assert 10_000 < sum(counts) < 40_000


def test_windows_of_a_recording_have_no_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block of every step, one that lives from one window to the next among them."""
    monkeypatch.setattr(room, "FIRST_MARKS", 8)
    monkeypatch.setattr(room, "MAX_EVENTS", 10_000_000)
    last: list[Tensor] = []
    sizes = list(range(1_000, 1_200))

    def cell() -> None:
        for size in sizes:
            last[:] = [torch.empty(size)]  # kept

    session = Session(__file__, {}, memory=True)
    with session:
        cell()
    assert session._recorder is not None
    assert len(session._recorder.windows) > 2
    timeline = session.timeline()
    assert timeline is not None
    found = [size // 4 for size in timeline.bytes if size >= 4_000]
    assert found == sizes
    gone = [-size // 4 for size in timeline.bytes if size <= -4_000]
    assert gone == sizes[:-1]
    lines = {timeline.line[row] for row in range(len(timeline)) if timeline.bytes[row] >= 4_000}
    assert len(lines) == 1


def test_a_recording_without_lines_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Millions of operators can be one line, and nobody is told of them while they run."""
    monkeypatch.setattr(recorder, "MAX_WHOLE_S", 0.05)
    x = torch.ones(4)
    session = Session(__file__, {}, memory=True)
    assert session._recorder is not None
    with session:
        stop = time.perf_counter() + 60
        deque(iter(lambda: session._recorder.is_open and time.perf_counter() < stop, False), maxlen=0)  # type: ignore[union-attr]
        assert not session._recorder.is_open
        count = len(session._recorder.windows[0].events())
        deque((torch.neg(x) for _ in range(1000)), maxlen=0)
    assert len(session._recorder.windows) == 1
    assert len(session._recorder.windows[0].events()) == count


def test_a_block_that_another_thread_frees_ends_where_its_address_is_used_again() -> None:
    """The recorder does not see the free, and the address comes back at once."""
    size = 12_345

    def cell() -> None:
        for _ in range(50):
            held = [torch.empty(size)]
            freeing = threading.Thread(target=held.clear)
            freeing.start()
            freeing.join()

    timeline = recorded(cell, {})
    rows = [row for row in range(len(timeline)) if timeline.bytes[row] == 4 * size]
    assert len(rows) == 50
    addresses = {timeline.block[row] for row in rows}
    assert len(addresses) < 50
    assert peak_bytes(timeline) <= len(addresses) * 4 * size + 10_000


def test_blocks_of_another_device_are_left_out() -> None:
    """A recording on a machine with CUDA has both; here the allocations are those of the processor."""
    session = Session(__file__, {}, memory=True)
    with session:
        torch.ones(100) + 1
    assert session._recorder is not None
    (window,) = session._recorder.windows
    named = {"x": torch.ones(3)}
    other = Allocations({}, {}).timeline([window], Held(named, "cuda"))
    assert (len(other), other.device) == (0, "cuda")
    own = Allocations({}, {}).timeline([window], Held(named, "cpu"))
    assert sum(size == 400 for size in own.bytes) == 2
    assert own.device == "cpu"
