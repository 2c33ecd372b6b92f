"""Which batch size to try next: twice as many samples as before until that does not fit or brings nothing, then between
what fits and what does not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

RISES = 1.03
"""Throughput has risen where it is so many times the best so far."""
FLAT = 2
"""So many doublings in a row without a rise end doubling."""
_CAREFUL = 0.97
"""Of what a line through the last peaks says would fit."""
_BLIND = 4
"""A leap to so many times the largest size where peaks say nothing, as they hardly grow."""
_WORTH = 1.25
"""A leap to a size less than so many times the largest one is not worth it."""


@dataclasses.dataclass(frozen=True)
class Try:
    """A size to try."""

    size: int
    timed: bool
    """Whether its throughput counts, or only whether it fits."""


@dataclasses.dataclass(frozen=True)
class Tried:
    """What came of it."""

    size: int
    fits: bool
    peak_bytes: int | None = None
    throughput: float | None = None
    broken: bool = False
    """Whether it failed for another reason than memory."""


Affordable = Callable[[int, bool], bool]
"""Whether there is time for a size, timed or not."""


class Sizes:
    """The search for the largest size that fits and the fastest one.

    Args:
        own: The loader's own.
        most: Samples that there are; None for a stream.
        room_bytes: What a size that fits holds at most; None where that is not known.
    """

    def __init__(self, own: int, most: int | None, room_bytes: int | None) -> None:
        self._own, self._most, self.room_bytes = own, most, room_bytes
        self._tried: dict[int, Tried] = {}
        self._doubles = True
        self._halves = True
        self.bound = ""
        """Why no larger size was tried: ``memory``, ``predicted`` (the same, by the last peaks), ``data``,
        ``throughput``, ``time`` or ``error``.
        """

    def add(self, tried: Tried) -> None:
        """Take in what came of a size."""
        if tried.broken and tried.size < self._own:
            self._halves = False  # such as one sample for batch norm, which says nothing of larger sizes
            return
        self._tried[tried.size] = tried
        if not tried.fits:
            self.bound = "error" if tried.broken else "memory"

    def next(self, affordable: Affordable) -> Try | None:
        """What to try now; None where nothing is left."""
        for find in (self._smaller, self._doubled, self._halved, self._leap, self._between):
            if (made := find(affordable)) is not None:
                return made
        return None

    @property
    def _good(self) -> int | None:
        """The largest size that fits, below all that do not."""
        bad = self._bad
        fits = [size for size, one in self._tried.items() if one.fits and (bad is None or size < bad)]
        return max(fits, default=None)

    @property
    def _bad(self) -> int | None:
        return min((size for size, one in self._tried.items() if not one.fits), default=None)

    def _smaller(self, affordable: Affordable) -> Try | None:
        """As long as nothing fits: the loader's own size, then half of it, and so on."""
        if not self._tried:
            return Try(self._own, True)
        if self._good is not None:
            return None
        size = min(self._tried) // 2
        return Try(size, True) if size >= 1 and affordable(size, True) else None

    def _doubled(self, affordable: Affordable) -> Try | None:
        good = self._good
        if not self._doubles or self._bad is not None or good is None:
            return None
        self._doubles = False
        size = 2 * good
        if self._most is not None and size > self._most:
            self.bound = "data"
        elif self._flat():
            self.bound = "throughput"
        elif not affordable(size, True):
            self.bound = "time"
        else:
            self._doubles = True
            return Try(size, True)
        return None

    def _flat(self) -> bool:
        """Whether the last doublings brought nothing."""
        best, num = 0.0, 0
        for size in sorted(self._tried):
            speed = self._tried[size].throughput
            if size < self._own or speed is None:
                continue
            num = 0 if speed > RISES * best else num + 1
            best = max(best, speed)
        return num >= FLAT

    def _halved(self, affordable: Affordable) -> Try | None:
        """Where no larger size was faster: smaller ones, as long as these are."""
        timed = {size: one.throughput for size, one in self._tried.items() if one.fits and one.throughput}
        if not self._halves or not timed:
            return None
        least = min(timed)
        rising = all(timed[least] * RISES >= speed for size, speed in timed.items() if size > least)
        best_above = max((speed for size, speed in timed.items() if size > least), default=0.0)
        fell = least < self._own and timed[least] <= RISES * best_above
        if least < 2 or not rising or fell or not affordable(least // 2, True):
            self._halves = False
            return None
        return Try(least // 2, True)

    def _leap(self, affordable: Affordable) -> Try | None:
        """Where doubling ended before memory did: to what a line through the peaks says would fit, or where that says
        nothing to a much larger size.
        """
        good = self._good
        if good is None or self._bad is not None or not self.bound or self.room_bytes is None:
            return None
        before, guess = self.bound, self._predicted()
        size, self.bound = (_BLIND * good, before) if guess is None else (guess, "predicted")
        if self._most is not None and size >= self._most:
            size, self.bound = self._most, "data"
        while size >= _WORTH * good and not affordable(size, False):
            size, self.bound = _round(size // 2), "time"
        if size >= _WORTH * good and size not in self._tried:
            return Try(size, False)
        if self.bound == "time":
            self.bound = before
        return None

    def _predicted(self) -> int | None:
        """The size that a line through the peaks of the largest size and of one at most half as large ends at."""
        known = [(one.size, one.peak_bytes) for one in self._tried.values() if one.peak_bytes]
        if not known or self.room_bytes is None:
            return None
        large, high = max(known)
        small, low = max(((size, peak) for size, peak in known if 2 * size <= large), default=(0, 0))
        if not small or high <= low:
            return None
        size = int(large + _CAREFUL * (self.room_bytes - high) * (large - small) / (high - low))
        return _round(size) if size >= 1 else None

    def _between(self, affordable: Affordable) -> Try | None:
        """Between what fits and what does not: where the line says, else the middle."""
        good, bad = self._good, self._bad
        if good is None or bad is None or self._tried[bad].broken:
            return None
        step = granule(good)
        first, last = good + step, bad - step
        if first > last:
            return None
        guess = self._predicted() or (good + bad) // 2
        size = min(max(guess // step * step, first), last)
        return Try(size, False) if affordable(size, False) else None


def _round(size: int) -> int:
    """Down to a size that is told apart."""
    return size // granule(size) * granule(size)


def granule(size: int) -> int:
    """Sizes that are told apart: eighths of a power of two.

    >>> granule(5), granule(48), granule(300)
    (1, 4, 32)
    """
    return max(1, (1 << (max(size, 1).bit_length() - 1)) // 8)
