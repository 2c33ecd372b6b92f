"""What recording an operator costs on this machine, so that it is not counted as the operator's own time.

PyTorch's profiler takes an operator's times last before it begins and first after it has ended, so what it costs to
record one falls on whatever called it; what it costs to tell of an allocation falls on whoever allocates. Operators
that do next to nothing would seem to be large.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch._C._profiler import _EventType
from torch.autograd.profiler import profile

_CALLS, _BLOCKS = 200, 7


@dataclasses.dataclass(frozen=True)
class RecordingCost:
    """Seconds that recording adds to what surrounds it."""

    operator_s: float
    """For each operator."""
    allocation_s: float
    """For each allocation, and each free."""


FREE = RecordingCost(0.0, 0.0)


@functools.cache
def recording_cost() -> RecordingCost:
    """Measured once in a process, in some 20 ms. No profiler may be open."""
    with torch.no_grad():
        x, out = torch.ones(4), torch.empty(4)

        def negate() -> None:
            torch.neg(x, out=out)

        def allocate() -> None:
            torch.empty(4)

        plain_s = _fastest(negate)
        with profile(use_cpu=True, use_kineto=True, record_shapes=True, profile_memory=True) as made:
            recorded_s = _fastest(negate)
            for _ in range(_CALLS):
                allocate()
        with profile(use_cpu=True, use_kineto=True, record_shapes=True, profile_memory=False) as without:
            for _ in range(_CALLS):
                allocate()
    return RecordingCost(max(0.0, recorded_s - plain_s), max(0.0, _duration_s(made) - _duration_s(without)))


def _fastest(call: Callable[[], None]) -> float:
    """Seconds of one call in the fastest of several blocks: what else runs can only add to it."""
    times = []
    for _ in range(_BLOCKS):
        start = time.perf_counter()
        for _ in range(_CALLS):
            call()
        times.append((time.perf_counter() - start) / _CALLS)
    return min(times)


def _duration_s(made: Any) -> float:
    """Median of what the recorded calls of ``empty`` took."""
    events = made.kineto_results.experimental_event_tree()
    times = (
        event.duration_time_ns
        for event in events
        if event.tag == _EventType.TorchOp and event.name == "aten::empty"
    )
    return float(statistics.median(times)) * 1e-9
