"""Which configuration to run next, and how large: many small trials, of which the best go on to be run whole.

Successive halving without waiting (ASHA, arXiv 1810.05934): whoever is free takes the best configuration that may
rise, else a new one. No more rise than their share of a rung, although a sampler that learns makes each better than
those before. How well small trials tell what whole ones give is measured on those that ran as both; where they
tell little, more of them are run whole.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

SMALLEST = 1 / 16
"""Of a whole trial, the least that a small one is."""
LARGEST = 0.55
"""Small trials that are larger than this save too little."""
POOR, MIN_PAIRS = 0.25, 6
"""A rank correlation below this, over so many pairs, says that small trials tell little."""
TESTS, GOOD = 8, 0.5
"""The smallest size is used once so many configurations have run on it and on the next one, and so did their ranks
agree."""
STEP, POOR_STEP = 4, 2
"""Of so many configurations on a rung, one rises."""
LEAST_WHOLE = 3


@dataclasses.dataclass(frozen=True)
class Rung:
    """How large a trial is."""

    turns: float
    """Of the turns of the training loop."""
    share: float
    """Of the training data."""

    @property
    def cost(self) -> float:
        """Of a whole trial."""
        return self.turns * self.share


WHOLE = Rung(1.0, 1.0)


def rungs(num_turns: int, loads: bool) -> tuple[Rung, ...]:
    """The sizes of trials, the smallest first.

    Args:
        num_turns: Of the training loop in a whole trial; 0 where none was found.
        loads: Whether a share of the training data can be taken.
    """
    least = 1.0 / max(1, num_turns)
    if loads:
        least = min(least, max(SMALLEST, least / 4))
    smallest = max(SMALLEST, least)
    if smallest > LARGEST:
        return (WHOLE,)
    middle = [math.sqrt(smallest)] if smallest <= 0.17 else []
    return (*(_rung(cost, num_turns, loads) for cost in [smallest, *middle]), WHOLE)


def _rung(cost: float, num_turns: int, loads: bool) -> Rung:
    """Whole turns on all of the data where that comes to the cost, else fewer data."""
    turns = max(1, round(cost * num_turns)) if num_turns else 1
    part = turns / num_turns if num_turns else 1.0
    if not loads or part <= 1.2 * cost:
        return Rung(part, 1.0)
    return Rung(part, cost / part)


@dataclasses.dataclass
class Config:
    """A configuration and how it did."""

    name: str
    values: dict[int, float | None] = dataclasses.field(default_factory=dict)
    """By rung; None where it failed there."""
    violation: float = 0.0
    running: int | None = None
    rose: int = 0
    """The highest rung that it was sent to for being good on the one below."""

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
    rises: bool = False
    """Whether it is run there for being good on the rung below."""


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How well a rung tells what the next one gives."""

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
        sizes: Of trials, the smallest first; the last one is :data:`WHOLE`.
        largest: Whether large values are good.
        num: Configurations at most; None for as many as there is time for.
    """

    def __init__(self, sizes: Sequence[Rung], largest: bool, num: int | None) -> None:
        self.sizes, self._sign, self.num = tuple(sizes), -1.0 if largest else 1.0, num
        self.configs: dict[str, Config] = {}
        self.closing = False
        """No new configurations any more: those that may still rise do."""
        self.start = 1 if len(self.sizes) > 2 else 0
        """The rung on which new configurations begin."""
        self.tested: Agreement | None = None
        """How well the smallest size tells what the next one gives, once that is known."""

    @property
    def top(self) -> int:
        """The rung of whole trials."""
        return len(self.sizes) - 1

    @property
    def num_running(self) -> int:
        """Configurations that are being run."""
        return sum(one.running is not None for one in self.configs.values())

    def next(self) -> Step | None:
        """What to run now; None where that is nothing, until something ends or for good."""
        for rung in range(self.top - 1, self.start - 1, -1):
            if (found := self._rising(rung)) is not None:
                return Step(found.name, rung + 1, rises=True)
        if (found := self._untested()) is not None:
            return Step(found.name, 0)
        if not self.closing and (self.num is None or len(self.configs) < self.num):
            return Step(None, self.start)
        if self.num_running:
            return None
        return self._last()

    def _rising(self, rung: int) -> Config | None:
        """The best configuration of a rung that is among the share that rises and has not yet."""
        there = [one for one in self.configs.values() if rung in one.values]
        step = POOR_STEP if rung == self.top - 1 and self.agreement(rung).poor else STEP
        quota = len(there) // step
        if sum(one.rose > rung for one in self.configs.values()) >= quota:
            return None
        ordered = sorted(there, key=lambda one: self._rank(one, rung))
        for one in ordered[:quota]:
            if one.values[rung] is None:
                break
            if one.running is None and rung + 1 not in one.values and not one.failed:
                return one
        return None

    def _last(self) -> Step | None:
        """When no more are to come, the best few of each rung go on, whoever rose while they were not yet there."""
        for rung in range(self.start, self.top):
            there = [
                one for one in self.configs.values() if one.values.get(rung) is not None and not one.failed
            ]
            for one in sorted(there, key=lambda one: self._rank(one, rung))[:LEAST_WHOLE]:
                if rung + 1 not in one.values and self.top not in one.values:
                    return Step(one.name, rung + 1, rises=True)
        return None

    def _untested(self) -> Config | None:
        """While the smallest size is on trial: a configuration that ran on the next one and not on it."""
        if self.top < 2 or self.tested is not None or self.closing:
            return None
        waiting = (
            one
            for one in self.configs.values()
            if one.running is None and one.values.get(1) is not None and 0 not in one.values and not one.rose
        )
        return next(waiting, None)

    def _test(self) -> None:
        """Begin with the smallest size where it tells enough of what the next one gives."""
        if self.top < 2 or self.tested is not None:
            return
        pairs = [
            (low, high)
            for one in self.configs.values()
            if (low := one.values.get(0)) is not None and (high := one.values.get(1)) is not None
        ]
        if len(pairs) >= TESTS:
            self.tested = Agreement(0, spearman(pairs), len(pairs))
            self.start = 0 if self.tested.correlation >= GOOD else 1

    def _rank(self, one: Config, rung: int) -> tuple[float, float]:
        value = one.values.get(rung)
        return (one.violation, math.inf if value is None else self._sign * value)

    def begin(self, name: str, rung: int, *, rises: bool) -> None:
        """A configuration runs on a rung; ``rises`` where it was sent there for being good on the one below."""
        one = self.configs.setdefault(name, Config(name))
        one.running = rung
        if rises:
            one.rose = max(one.rose, rung)

    def end(self, name: str, values: dict[int, float | None], violation: float = 0.0) -> None:
        """It has ended; a whole trial also says what it had reached where smaller ones end."""
        one = self.configs.setdefault(name, Config(name))
        one.running = None
        one.values |= values
        one.violation = violation
        self._test()

    def abandon(self, name: str) -> None:
        """It will not end."""
        one = self.configs.get(name)
        if one is not None:
            one.running = None
            if not one.values:
                del self.configs[name]

    def agreement(self, rung: int) -> Agreement:
        """How well a rung tells what whole trials give, over the configurations that ran as both."""
        pairs = [
            (low, high)
            for one in self.configs.values()
            if (low := one.values.get(rung)) is not None and (high := one.values.get(self.top)) is not None
        ]
        return Agreement(rung, spearman(pairs), len(pairs))

    def order(self) -> dict[str, float]:
        """What a sampler is told: 0 for the best configuration to 1 for the last one.

        Those that rose stand before those that did not, whatever their values, which differ in what they mean; those
        that failed stand last.
        """
        judged = sorted((one for one in self.configs.values() if one.values), key=self._place)
        return {one.name: index / max(1, len(judged) - 1) for index, one in enumerate(judged)}

    def _place(self, one: Config) -> tuple[float, ...]:
        if one.failed:
            return (1.0, 0.0, 0.0, 0.0)
        rung = one.rose or self.start
        if rung not in one.values:
            rung = min(one.values)
        return (0.0, -float(one.rose), *self._rank(one, rung))


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
