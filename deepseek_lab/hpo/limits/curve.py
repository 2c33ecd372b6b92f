"""What a run with a growing learning rate tells (arXiv 1506.01186): where the loss falls, and how steeply."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from deepseek_lab.base.limits import RateRange

LOW, HIGH = 1e-7, 10.0
"""Learning rates of the first and the last step."""
_BEGIN = 0.15
"""Of the steps, the share whose losses say where it begins: too slow to learn anything."""
_WIDTH = 0.02
"""Of the steps, the standard deviation of the Gaussian by which losses are smoothed."""
_FALLEN = 0.1
"""Of the whole fall, what has to have come when the range begins."""
_SURE = 4.0
"""A fall of so many standard deviations is one."""
_LEAST_SPAN = 10.0
"""From the lower end of a range to its upper one, at least this factor."""
_SPIKE = 3
"""So many losses in a row beyond all bounds end a run."""


def growing(num: int) -> tuple[float, ...]:
    """So many learning rates, each in the same proportion to the one before.

    >>> [f"{one:.0e}" for one in growing(5)]
    ['1e-07', '1e-05', '1e-03', '1e-01', '1e+01']
    """
    return tuple(LOW * (HIGH / LOW) ** (index / (num - 1)) for index in range(num))


def diverged(losses: Sequence[float]) -> bool:
    """Whether the last losses are beyond what a training comes back from: not finite, or far above the first ones."""
    if losses and not math.isfinite(losses[-1]):
        return True
    if len(losses) < 10:
        return False
    bound = _ceiling(losses)
    return all(one > bound for one in losses[-_SPIKE:])


def _ceiling(losses: Sequence[float]) -> float:
    """Twice the loss of the beginning, or what its spread does not explain."""
    first = [one for one in losses[: max(5, min(10, round(_BEGIN * len(losses))))] if math.isfinite(one)]
    if not first:
        return math.inf
    level = statistics.median(first)
    spread = statistics.pstdev(first)
    return level + max(abs(level), 8 * spread, 1e-12)


def smoothed(losses: Sequence[float]) -> list[float]:
    """Weighted means of neighbours on both sides; what is beyond all bounds counts as the bound."""
    bound = _ceiling(losses)
    values = [min(one, bound) if math.isfinite(one) else bound for one in losses]
    width = max(1.0, _WIDTH * len(values))
    reach = math.ceil(3 * width)
    kernel = [math.exp(-0.5 * (step / width) ** 2) for step in range(-reach, reach + 1)]
    made = []
    for at in range(len(values)):
        first, last = max(at - reach, 0), min(at + reach, len(values) - 1)
        weights, part = kernel[first - at + reach : last - at + reach + 1], values[first : last + 1]
        made.append(math.fsum(w * v for w, v in zip(weights, part, strict=True)) / math.fsum(weights))
    return made


def found(rates: Sequence[float], losses: Sequence[float], smooth: Sequence[float]) -> RateRange | str:
    """The range in which the loss falls, or why there is none.

    Args:
        rates: Learning rates, rising.
        losses: After the step with the rate at the same place.
        smooth: What :func:`smoothed` made of them.
    """
    num = len(losses)
    if num < 10:
        return f"the run ended after {num} steps"
    begin = max(3, round(_BEGIN * num))
    level = statistics.median(losses[:begin])
    bottom = min(range(num), key=lambda at: smooth[at])
    fall = level - smooth[bottom]
    if fall <= max(_SURE * _noise(losses, smooth, bottom, begin), 1e-3 * abs(level)):
        return "the loss did not fall clearly at any learning rate"
    first = next(
        at
        for at in range(bottom + 1)
        if all(one <= level - _FALLEN * fall for one in smooth[at : bottom + 1])
    )
    steepest = min(range(first, bottom + 1), key=lambda at: _slope(smooth, at))
    return _range(rates[first], rates[bottom], rates[steepest])


def _range(low: float, high: float, steepest: float) -> RateRange:
    """At least a factor of ten wide. Its middle is told and not the steepest place, which was too high for two of the
    nine trainings of ``tests.benchmarks.limits``.
    """
    low = min(low, high / _LEAST_SPAN)
    return RateRange(low, high, math.sqrt(low * high), min(max(steepest, low), high))


def _noise(losses: Sequence[float], smooth: Sequence[float], bottom: int, begin: int) -> float:
    """Standard deviation of a smoothed loss beside the median of the first ones, from how far single losses are off."""
    off = [
        abs(one - two) for one, two in zip(losses[: bottom + 1], smooth, strict=False) if math.isfinite(one)
    ]
    if not off:
        return 0.0
    width = max(1.0, _WIDTH * len(losses))
    own, squares = 1 / (math.sqrt(2 * math.pi) * width), 1 / (2 * math.sqrt(math.pi) * width)
    single = 1.4826 * statistics.median(off) / math.sqrt(1 - 2 * own + squares)
    return single * math.sqrt(squares + math.pi / 2 / begin)


def _slope(smooth: Sequence[float], at: int) -> float:
    before, after = max(at - 1, 0), min(at + 1, len(smooth) - 1)
    return (smooth[after] - smooth[before]) / (after - before)


def together(ranges: Sequence[RateRange]) -> RateRange:
    """One range of several runs: geometric means of where it begins and of the steepest place, and the least of where
    it ends.
    """
    low, steepest = (
        statistics.geometric_mean(getattr(one, end) for one in ranges) for end in ("low", "steepest")
    )
    return _range(low, min(one.high for one in ranges), steepest)
