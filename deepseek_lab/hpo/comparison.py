"""The best few and the defaults once more, with fresh seeds, in the end on what the search never saw."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence

from deepseek_lab.base.events import Compared
from deepseek_lab.hpo.judge import beside
from deepseek_lab.hpo.record import Entry

FEW = 3
"""Configurations that are run again with fresh seeds."""
_APART = 1_000
"""Fresh seeds are so far from those of the search."""


@dataclasses.dataclass(frozen=True)
class Repeated:
    """A repeat that came to its end, and the number that its process knows it by."""

    entry: Entry
    number: int


Repeats = dict[tuple[str, int], Repeated]
"""By configuration and seed."""
Repeat = Callable[[Sequence[Entry], Sequence[int], bool], Repeats]
"""Runs configurations whole with these seeds; the last says whether on the half that the search does not see."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What is worth keeping."""

    best: Entry
    """The defaults', where nothing was shown to be better."""
    compared: Compared | None
    """None where the defaults were the best of the few already."""
    number: int | None
    """The repeat of the best whose names are kept; None where none came to its end."""


class Comparison:
    """The final comparison of one search.

    Args:
        entries: Trials that have ended, of this run and of earlier ones.
        largest: Whether large values are good.
        apart: Whether the cell gives a metric of its own on data that the search does not see (``--final``).
        seed: Of the search.
        repeats: Fresh seeds.
    """

    def __init__(
        self, entries: Sequence[Entry], *, largest: bool, apart: bool, seed: int, repeats: int
    ) -> None:
        self._sign, self._apart = -1.0 if largest else 1.0, apart
        self.seeds = [seed + _APART + index for index in range(repeats)]
        self.defaults = next(one for one in entries if one.purpose == "defaults" and one.status == "complete")
        whole = {
            one.config: one
            for one in entries
            if one.whole and one.status == "complete" and one.purpose == "search" and not one.violation
        }
        self.few = sorted(whole.values(), key=lambda one: self._sign * one.values[0])[:FEW]

    @property
    def num_runs(self) -> int:
        """Whole trials that it takes."""
        return len(self.seeds) * (len(self.few) + (2 if self.defaults.halves else 1))

    def fit(self, num_runs: float) -> None:
        """There is time for so many whole trials only: then the best one is compared, and no others."""
        if self.num_runs > num_runs:
            self.few = self.few[:1]

    def decide(self, repeat: Repeat) -> Verdict:
        """Run them; what was not better than the defaults is not kept."""
        defaults = self.defaults
        found = repeat([defaults, *self.few], self.seeds, False)
        best = self._winner(found)
        if defaults.halves:
            both = [defaults] if best is defaults else [defaults, best]
            found = repeat(both, self.seeds, True)
        compared = None if best is defaults else self._beside(best, found)
        if compared is None or not self._sign * compared.difference < 0.0:
            best = defaults
        numbers = [
            (self._sign * one.entry.values[0], one.number)
            for (config, _), one in found.items()
            if config == best.config
        ]
        return Verdict(best, compared, min(numbers)[1] if numbers else None)

    def _winner(self, found: Repeats) -> Entry:
        """The best by what the search sees, over fresh seeds."""
        means: dict[str, float] = {}
        for entry in [self.defaults, *self.few]:
            values = [one.entry.values[0] for (config, _), one in found.items() if config == entry.config]
            if values:
                means[entry.config] = self._sign * statistics.mean(values)
        there = [one for one in [self.defaults, *self.few] if one.config in means]
        return min(there, key=lambda one: means[one.config], default=self.defaults)

    def _beside(self, best: Entry, found: Repeats) -> Compared | None:
        names = (self.defaults.config, best.config)
        values = [
            [self._final(found[name, seed]) for name in names]
            for seed in self.seeds
            if all((name, seed) in found for name in names)
        ]
        pairs = [(a, b) for a, b in values if a is not None and b is not None]
        return beside(best.config, pairs, self.defaults.halves or self._apart)

    def _final(self, repeated: Repeated) -> float | None:
        entry = repeated.entry
        if self._apart:
            return entry.final
        return entry.values[0] if entry.values else None


def num_runs(repeats: int) -> int:
    """Whole trials that a comparison takes at most, where the cell holds data back by itself."""
    return repeats * (FEW + 1)
