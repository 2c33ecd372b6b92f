"""Which configuration to run next, and how far: many are begun, and the best of them are run whole.

Successive halving without waiting (ASHA, arXiv 1810.05934). A cell that says how good it is while it trains is stopped
on a rung where it is not among the best so far; one that does not is run small first, in fewer turns or on a share of
the data, and the best of those are run whole. How well rungs tell what whole trials give is measured on those that ran
as both; where they tell little, more are run whole.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

SMALL_SHARE, SMALL_TURNS = 1 / 6, 1 / 4
"""Of a whole trial, what a small one is: of the data, or of the turns."""
FIRST, SECOND = 1 / 9, 1 / 3
"""Of the steps at which a whole trial reports, where the rungs are."""
KEPT = (0.35, 0.33)
"""Of those that came to a rung, the part that goes on."""
RISES = 0.25
"""Of small trials, the part that is run whole."""
POOR, MIN_PAIRS = 0.25, 6
"""A rank correlation below this, over so many pairs, says that a rung tells little."""
EASED = 1.6
"""From such a rung so many times as many go on."""
FEW = 3
"""Whoever comes first to a rung goes on, as there is nothing to compare with."""
LEAST_WHOLE = 3


@dataclasses.dataclass(frozen=True)
class Rung:
    """How large a trial is."""

    turns: float
    """Of the turns of the training loop."""
    share: float = 1.0
    """Of the training data."""
    step: int | None = None
    """The step that is reported there, where trials are stopped on it."""

    @property
    def cost(self) -> float:
        """Of a whole trial."""
        return self.turns * self.share


WHOLE = Rung(1.0)


def rungs(steps: Sequence[int], num_turns: int, loads: bool) -> tuple[Rung, ...]:
    """The rungs of a cell, the lowest first; the last one is :data:`WHOLE`.

    Args:
        steps: At which a whole trial reports.
        num_turns: Of the training loop in a whole trial; 0 where none was found.
        loads: Whether a share of the training data can be taken.
    """
    num = len(steps)
    if num > 2:
        first = max(1, round(FIRST * num))
        places = sorted({first, max(first, round(SECOND * num))})
        return (*(Rung(place / num, step=steps[place - 1]) for place in places), WHOLE)
    if num_turns > 1:
        return (Rung(max(1, round(SMALL_TURNS * num_turns)) / num_turns), WHOLE)
    return (Rung(1.0, SMALL_SHARE), WHOLE) if loads else (WHOLE,)


@dataclasses.dataclass
class Config:
    """A configuration and how it did."""

    name: str
    values: dict[int, float | None] = dataclasses.field(default_factory=dict)
    """By rung; None where it failed there."""
    violation: float = 0.0
    running: int | None = None
    """The rung that it is to come to."""

    @property
    def failed(self) -> bool:
        """Whether it did not come to a value somewhere."""
        return any(value is None for value in self.values.values())


@dataclasses.dataclass(frozen=True)
class Step:
    """What to run."""

    config: str | None
    """None for a new configuration."""
    rung: int
    """To come to."""


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How well a rung tells what whole trials give."""

    rung: int
    correlation: float
    """Spearman's, between -1 and 1."""
    num: int

    @property
    def poor(self) -> bool:
        """Whether it tells little."""
        return self.num >= MIN_PAIRS and self.correlation < POOR


class Ladder:
    """The schedule of one search for one metric.

    Args:
        sizes: The rungs, the lowest first; the last one is :data:`WHOLE`.
        largest: Whether large values are good.
        num: Configurations at most; None for as many as there is time for.
    """

    def __init__(self, sizes: Sequence[Rung], largest: bool, num: int | None) -> None:
        self.sizes, self._sign, self.num = tuple(sizes), -1.0 if largest else 1.0, num
        self.configs: dict[str, Config] = {}
        self.closing = False
        """No new configurations any more: those that may still rise do."""

    @property
    def top(self) -> int:
        """The rung of whole trials."""
        return len(self.sizes) - 1

    @property
    def stops(self) -> bool:
        """Whether trials are stopped on rungs, and not begun small."""
        return self.sizes[0].step is not None

    @property
    def num_running(self) -> int:
        """Configurations that are being run."""
        return sum(one.running is not None for one in self.configs.values())

    def next(self) -> Step | None:
        """What to run now; None where that is nothing, until something ends or for good."""
        if self.top and not self.stops and (found := self._rising()) is not None:
            return Step(found.name, self.top)
        if not self.closing and (self.num is None or len(self.configs) < self.num):
            return Step(None, self.top if self.stops else 0)
        return None if self.num_running else self._last()

    def _kept(self, rung: int) -> float:
        """The part of those on a rung that goes on."""
        part = KEPT[min(rung, len(KEPT) - 1)] if self.stops else RISES
        return min(1.0, part * EASED) if self.agreement(rung).poor else part

    def _rising(self) -> Config | None:
        """The best small trial that is among the part that is run whole and has not been."""
        there = sorted(
            (one for one in self.configs.values() if 0 in one.values), key=lambda one: self._rank(one, 0)
        )
        for one in there[: int(len(there) * self._kept(0))]:
            if one.running is None and self.top not in one.values and not one.failed:
                return one
        return None

    def _last(self) -> Step | None:
        """When no more are to come, the best few are run whole, whatever was thought of them before."""
        whole = [one for one in self.configs.values() if one.values.get(self.top) is not None]
        waiting = [
            one
            for one in self.configs.values()
            if one.values and self.top not in one.values and not one.failed
        ]
        if not self.top or len(whole) >= LEAST_WHOLE or not waiting:
            return None
        return Step(
            min(waiting, key=lambda one: (-max(one.values), *self._rank(one, max(one.values)))).name, self.top
        )

    def _rank(self, one: Config, rung: int) -> tuple[float, float]:
        value = one.values.get(rung)
        return (one.violation, math.inf if value is None else self._sign * value)

    def begin(self, name: str, rung: int) -> None:
        """A configuration is run to come to a rung."""
        self.configs.setdefault(name, Config(name)).running = rung

    def reached(self, name: str, step: int, value: float) -> bool:
        """A trial reports; returns whether it goes on."""
        for rung, size in enumerate(self.sizes):
            if size.step == step:
                one = self.configs[name]
                one.values[rung] = value
                return self._among(one, rung)
        return True

    def _among(self, one: Config, rung: int) -> bool:
        """Whether a configuration is among those of its rung that go on."""
        there = [other for other in self.configs.values() if rung in other.values]
        if len(there) <= FEW:
            return True
        ranks = sorted(self._rank(other, rung) for other in there)
        kept = self._kept(rung)
        # A sampler that learns makes each better than most before: then it takes more to go on.
        went = sum(rung + 1 in other.values for other in there) / len(there)
        kept *= min(1.0, kept / max(went, 1e-9))
        return self._rank(one, rung) <= ranks[max(0, math.ceil(len(ranks) * kept) - 1)]

    def end(self, name: str, values: dict[int, float | None], violation: float = 0.0) -> None:
        """It has ended; a whole trial also says what it had reached on the rungs below."""
        one = self.configs.setdefault(name, Config(name))
        one.running = None
        one.values |= values
        one.violation = violation

    def abandon(self, name: str) -> None:
        """It will not end."""
        one = self.configs.get(name)
        if one is not None:
            one.running = None
            if not one.values:
                del self.configs[name]

    def agreement(self, rung: int) -> Agreement:
        """How well a rung tells what whole trials give, over the configurations that have both values."""
        pairs = [
            (low, high)
            for one in self.configs.values()
            if (low := one.values.get(rung)) is not None and (high := one.values.get(self.top)) is not None
        ]
        return Agreement(rung, spearman(pairs), len(pairs))

    def order(self) -> dict[str, float]:
        """What a sampler is told: 0 for the best configuration to 1 for the last one.

        Those that would go on from a rung stand before those that would not, whatever their values, which differ in
        what they mean; those that failed stand last.
        """
        limits = [self._limit(rung) for rung in range(self.top)]
        ended = [one for one in self.configs.values() if one.values and one.running is None]
        judged = sorted(ended, key=lambda one: self._place(one, limits))
        return {one.name: index / max(1, len(judged) - 1) for index, one in enumerate(judged)}

    def _limit(self, rung: int) -> tuple[float, float]:
        """The last rank on a rung from which one goes on."""
        ranks = sorted(self._rank(one, rung) for one in self.configs.values() if rung in one.values)
        return ranks[max(0, math.ceil(len(ranks) * self._kept(rung)) - 1)] if ranks else (math.inf, math.inf)

    def _place(self, one: Config, limits: Sequence[tuple[float, float]]) -> tuple[float, ...]:
        if one.failed:
            return (1.0, 0.0, 0.0, 0.0)
        rung = min(one.values)
        while rung < self.top and rung + 1 in one.values and self._rank(one, rung) <= limits[rung]:
            rung += 1
        return (0.0, -float(rung), *self._rank(one, rung))


def spearman(pairs: Sequence[tuple[float, float]]) -> float:
    """Rank correlation, ties sharing their ranks; 0 where there are fewer than 2 pairs or all are equal."""
    if len(pairs) < 2:
        return 0.0
    first, second = (_ranks([pair[side] for pair in pairs]) for side in (0, 1))
    mean = (len(pairs) - 1) / 2
    top = sum((a - mean) * (b - mean) for a, b in zip(first, second, strict=True))
    bottom = math.sqrt(sum((a - mean) ** 2 for a in first) * sum((b - mean) ** 2 for b in second))
    return top / bottom if bottom else 0.0


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=lambda index: values[index])
    ranks = [0.0] * len(values)
    at = 0
    while at < len(order):
        end = at
        while end + 1 < len(order) and values[order[end + 1]] == values[order[at]]:
            end += 1
        for index in order[at : end + 1]:
            ranks[index] = (at + end) / 2
        at = end + 1
    return ranks
