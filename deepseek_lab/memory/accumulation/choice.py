"""The size of a micro-batch: tried in the loop's own steps, none of which is wasted.

Every size is weighed once (its peak, by :class:`~deepseek_lab.memory.meter.Meter`) and then timed in turn with the best
one so far. A step's peak grows linearly with its samples, so that two sizes say what a third one would hold before it
is tried.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from deepseek_lab.measure.race import Ratio

NUM_TIMED = 6
"""Micro-batches of each of two sizes that are compared."""
MAX_TIMED = 16
"""The same where so few leave it open which size is faster."""
MIN_GAIN = 1.05
"""A larger micro-batch must be faster by this, a sample: it holds more."""
FILLED = 0.92
"""Share of a limit that a predicted peak may fill."""


@dataclasses.dataclass
class Tried:
    """A size, and what was measured of it."""

    size: int
    seconds: list[float] = dataclasses.field(default_factory=list)
    """Of a micro-batch's forward and backward pass, a sample."""
    peak_bytes: int = 0

    @property
    def samples_per_s(self) -> float:
        """The median."""
        ordered = sorted(self.seconds)
        return 1 / ordered[len(ordered) // 2] if ordered else 0.0


class Choice:
    """Looks for the size.

    Args:
        goal: Samples of an update.
        room: Bytes that a step may hold; None where nobody says.
    """

    def __init__(self, goal: int, room: Callable[[], int | None]) -> None:
        self.goal, self._room = goal, room
        self.best = 0
        self.settled = False
        self.reason = ""
        self.ratio: Ratio | None = None
        """Seconds a sample of the size that the loop began with, over those of the one that stays."""
        self.tried: dict[int, Tried] = {}
        self._first = self._rival = 0
        self._confirms = False
        self._bound = goal

    def begin(self, size: int) -> None:
        """Begin with this size."""
        self._first = self.best = min(size, self.goal)

    def next_size(self, gathered: int) -> int:
        """The size that the next micro-batch is to have, where so many samples are there towards an update."""
        left = self.goal - gathered
        if self.settled or not self._rival:
            return min(self.best, left)
        best, rival = self._of(self.best), self._of(self._rival)
        wanted = rival if not rival.peak_bytes or len(rival.seconds) <= len(best.seconds) else best
        return wanted.size if wanted.size <= left else min(self.best, self._rival, left)

    def is_weighed(self, size: int) -> bool:
        """Whether a size's peak is known."""
        return size in self.tried and self.tried[size].peak_bytes > 0

    def weighed(self, size: int, peak_bytes: int) -> None:
        """A micro-batch of that size held this at most. Its time, with the counting, does not count."""
        if not self.settled and size in (self.best, self._rival):
            self._of(size).peak_bytes = peak_bytes
            self._go_on()

    def timed(self, size: int, seconds: float) -> None:
        """A micro-batch of that size took so long, forward and backward."""
        if not self.settled and size in (self.best, self._rival):
            self._of(size).seconds.append(seconds / size)
            self._go_on()

    def _of(self, size: int) -> Tried:
        return self.tried.setdefault(size, Tried(size))

    def _go_on(self) -> None:
        best = self._of(self.best)
        if not best.peak_bytes:
            return
        if not self._rival:
            room = self._room()
            if room is not None and best.peak_bytes > room:
                if self.best == 1:
                    self.settled, self.reason = True, "even one sample holds more than there is room for"
                    return
                self.best = self._first = self._bound = max(1, self.best // 2)  # smaller, and look again
                return
            self._challenge()
            return
        rival = self._of(self._rival)
        if min(len(best.seconds), len(rival.seconds)) < NUM_TIMED:
            return
        count = min(len(best.seconds), len(rival.seconds))
        pair = (best, rival) if not self._confirms else (rival, best)
        ratio = Ratio.of(pair[0].seconds[-count:], pair[1].seconds[-count:])
        if ratio.speedup >= MIN_GAIN and not _is_gain(ratio) and count < MAX_TIMED:
            return
        if self._confirms:
            self._confirmed(ratio)
        elif _is_gain(ratio):
            self.best = self._rival
            self._challenge()
        else:
            self._settle("")

    def _challenge(self) -> None:
        """Take the next larger size on, if there is one that may fit."""
        larger = min(2 * self.best, self.goal)
        if larger == self.best or larger > self._bound:
            self._settle("")
            return
        predicted, room = self._predicted(larger), self._room()
        if room is not None and predicted > FILLED * room:
            self._settle(f"{larger} samples at a time would hold more than there is room for")
            return
        self._rival = larger

    def _predicted(self, size: int) -> float:
        """The peak of a size, by the two largest that were weighed; proportional where there is one only."""
        known = sorted((one.size, one.peak_bytes) for one in self.tried.values() if one.peak_bytes)
        if len(known) < 2:
            return known[-1][1] * size / known[-1][0]
        (small, less), (large, more) = known[-2:]
        return more + (more - less) / (large - small) * (size - large)

    def _settle(self, reason: str) -> None:
        """No larger size is better. One that is not the loop's own is compared with that once more, in turn."""
        self.reason, self._rival = reason, 0
        if self.best == self._first:
            self.settled = True
            return
        self._confirms, self._rival = True, self._first
        for size in (self.best, self._first):
            self._of(size).seconds.clear()

    def _confirmed(self, ratio: Ratio) -> None:
        self.settled, self._rival = True, 0
        if _is_gain(ratio):
            self.ratio = ratio
        else:
            self.best = self._first


def _is_gain(ratio: Ratio) -> bool:
    return ratio.speedup >= MIN_GAIN and ratio.ci95[0] > 1.0
