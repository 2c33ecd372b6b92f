"""What a timeline of memory costs and how true it is: ``python -m tests.benchmarks.timeline_cost [SECONDS]``.

Bars: training steps at most 10 % slower under ``%%deepseek memory``, on a CNN and on a transformer, and a peak within
2 % of a reference tracker's. Steps with and without a recording alternate in one process. What is done once the steps
have ended, closing the recording and reading it, is told apart: it makes no step slower, but somebody waits for it. The
reference follows tensors through the operators (a dispatch mode) and knows nothing of the allocator; on CUDA it is the
allocator's own peak.
"""

from __future__ import annotations

import statistics
import sys
import time

import torch
from torch import Tensor

from deepseek_lab.measure.profiler import Session
from deepseek_lab.measure.race import Ratio
from tests.benchmarks.profile import Steps, gpt2, resnet, small
from tests.measure.storages import Storages, peak_bytes

ROUNDS = 9
MAX_SLOWER, MAX_OFF = 1.10, 0.02
CUDA = torch.cuda.is_available()


def cost(steps: Steps, seconds: float) -> tuple[Ratio, int, float]:
    """Recorded against plain; events of one recording, and seconds that it took to close and read it."""
    start = time.perf_counter()
    for _ in range(3):
        steps()
    num_steps = max(2, int(seconds / ((time.perf_counter() - start) / 3)))

    def cell() -> float:
        begun = time.perf_counter()
        for _ in range(num_steps):
            steps()
        synchronize()
        return time.perf_counter() - begun

    cell()
    plain, watched, reading = [], [], []
    num_events = 0
    for number in range(ROUNDS):
        for recorded in (False, True) if number % 2 else (True, False):
            if not recorded:
                plain.append(cell())
                continue
            session = Session(__file__, steps.names, memory=True)
            begun = time.perf_counter()
            with session:
                opened = time.perf_counter()
                seconds_taken = cell()
                ended = time.perf_counter()
            watched.append(seconds_taken + opened - begun)
            timeline = session.timeline()
            reading.append(time.perf_counter() - ended)
            assert timeline is not None
            num_events = len(timeline)
    return Ratio.of(watched, plain), num_events, statistics.median(reading)


def peaks(steps: Steps) -> tuple[int, int]:
    """Most bytes at once in one step: as recorded, and as the reference has them."""
    steps()
    held = [one for one in steps.names.values() if isinstance(one, Tensor)]
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
        steps()
        most = torch.cuda.max_memory_allocated()
    else:
        with Storages(
            [*steps.model.parameters(), *steps.model.buffers(), *steps.states(), *held]
        ) as reference:
            steps()
        most = reference.most
    session = Session(__file__, steps.names, memory=True)
    with session:
        steps()
    timeline = session.timeline()
    assert timeline is not None
    return peak_bytes(timeline), most


def synchronize() -> None:
    """Wait for the device."""
    if CUDA:
        torch.cuda.synchronize()


def main(seconds: float) -> int:
    """Print one row a model; the number of bars that were missed."""
    missed = 0
    Session(
        __file__, {}, memory=True
    ).open().stop()  # PyTorch's profiler takes its time when it is first used
    for build, has_bar in ((resnet, True), (gpt2, True), (small, False)):
        torch.manual_seed(0)
        torch.set_default_device("cuda" if CUDA else "cpu")
        steps = build()
        ratio, num_events, read_s = cost(steps, seconds)
        ours, theirs = peaks(steps)
        low, high = ratio.ci95
        print(
            f"{build.__name__:8} {ratio.speedup - 1:+.1%} slower (95% {low - 1:+.1%} to {high - 1:+.1%}), "
            f"{num_events:,} events in {ratio.base_ms / 1e3:.2f} s, closed and read in {read_s:.2f} s; "
            f"peak {ours / 2**20:.1f} MiB, by the reference {theirs / 2**20:.1f} MiB ({ours / theirs - 1:+.2%})"
            f"{'' if has_bar else '  (cost without a bar)'}",
            flush=True,
        )
        missed += (has_bar and ratio.speedup > MAX_SLOWER) + (abs(ours / theirs - 1) > MAX_OFF)
    print(f"{missed} bars missed" if missed else "every bar held")
    return missed


if __name__ == "__main__":
    raise SystemExit(min(1, main(float(sys.argv[1]) if len(sys.argv) > 1 else 4.0)))
