"""Which of several callables is faster, and how sure is that.

Timing rules that were learned the hard way on shared machines: time in blocks of at least 30 ms, drop
each block's first call (another runtime's thread pool may still be spinning), reverse the order every
round, compare a low quantile inside a block and the median of paired ratios over rounds.
"""

from __future__ import annotations

import dataclasses
import math
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

BLOCK_S = 0.03
MAX_SWITCHES = 3
"""Involuntary context switches that a block of :data:`BLOCK_S` may suffer and still count as undisturbed."""


def median_ci95(values: Sequence[float]) -> tuple[float, float]:
    """Distribution-free 95 % interval of the median by order statistics; the full range below six values.

    Source: Conover, Practical Nonparametric Statistics, 3rd ed., section 3.2.
    """
    ranked, count = sorted(values), len(values)
    tail, skip = 0.0, 0
    while skip < count // 2:
        tail += math.comb(count, skip) / 2**count
        if tail > 0.025:
            break
        skip += 1
    skip = max(skip - 1, 0)
    return (ranked[skip], ranked[count - 1 - skip])


@dataclasses.dataclass(frozen=True)
class Ratio:
    """How many times faster a contender is than the base, with its 95 % interval."""

    speedup: float
    ci95: tuple[float, float]
    base_ms: float
    median_ms: float
    num_rounds: int

    @classmethod
    def of(cls, base_s: Sequence[float], contender_s: Sequence[float]) -> Ratio:
        """From times paired round by round, in seconds."""
        logs = [math.log(a / b) for a, b in zip(base_s, contender_s, strict=True)]
        low, high = median_ci95(logs)
        return cls(
            speedup=math.exp(statistics.median(logs)),
            ci95=(math.exp(low), math.exp(high)),
            base_ms=statistics.median(base_s) * 1e3,
            median_ms=statistics.median(contender_s) * 1e3,
            num_rounds=len(logs),
        )


def time_block(call: Callable[[], object], block_s: float = BLOCK_S, max_calls: int = 1000) -> float:
    """Seconds of one call: a low quantile of the calls in a block, the first one dropped."""
    call()
    times: list[float] = []
    until = time.perf_counter() + block_s
    while True:
        start = time.perf_counter()
        call()
        end = time.perf_counter()
        times.append(end - start)
        if end >= until or len(times) >= max_calls:
            break
    times.sort()
    return times[len(times) // 4]


def involuntary_switches() -> int:
    """How often this process was put aside for another one so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def is_quiet(num_switches: int, num_blocks: int, seconds: float) -> bool:
    """Whether blocks that took so long together suffered no more switches than any process does."""
    return num_switches <= MAX_SWITCHES * max(num_blocks, seconds / BLOCK_S)


def race(
    calls: Mapping[str, Callable[[], object]],
    base: str,
    *,
    budget_s: float,
    min_rounds: int = 5,
    max_rounds: int = 15,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Ratio]:
    """Race all of ``calls`` against ``base``, interleaved, order reversed every round.

    A round in which other processes took the processor away is repeated while the time budget lasts. Ends after
    ``max_rounds``, or after ``min_rounds`` once the time budget is used up.
    """
    names = list(calls)
    times: dict[str, list[float]] = {name: [] for name in names}
    start = time.perf_counter()
    disturbed: dict[str, list[float]] = {name: [] for name in names}
    number = 0
    while len(times[base]) < max_rounds:
        before, begun = involuntary_switches(), time.perf_counter()
        seconds = {}
        for name in names if number % 2 == 0 else reversed(names):
            seconds[name] = time_block(calls[name])
        quiet = is_quiet(involuntary_switches() - before, len(names), time.perf_counter() - begun)
        for name in names:
            (times if quiet else disturbed)[name].append(seconds[name])
        number += 1
        if should_stop() or (number >= min_rounds and time.perf_counter() - start > budget_s):
            break
    if len(times[base]) < min_rounds:
        for name in names:
            times[name].extend(disturbed[name])
    return {name: Ratio.of(times[base], times[name]) for name in names if name != base}
