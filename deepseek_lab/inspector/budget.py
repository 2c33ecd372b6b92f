"""How often to look: as often as it costs no more than its share."""

from __future__ import annotations

import time

SHARE = 0.02
"""Of the loop's time. Looking also has costs that do not show in its own time (caches, hooks), hence less than the
5 % that are promised."""
FIRST = 3
"""Samples that are taken in any case: fewer say nothing."""
GAP = 4
"""Calls of models between two samples at least, after the first ones: a sample also costs what its own clock does not
see."""
ALLOWANCE_S = 0.02
"""What the first samples may cost on top, so that a short loop has some."""


class Budget:
    """What was spent, against what has passed.

    Args:
        share: Of the time that may be spent; from 1 on every step is looked at.
    """

    def __init__(self, share: float = SHARE) -> None:
        self.share = share
        self.start_s = time.perf_counter()
        self.spent_s = 0.0
        self.num_samples = 0
        self._least_s = float("inf")
        self._asked = 0

    def add(self, cost_s: float) -> None:
        """One sample was taken."""
        self.spent_s += cost_s
        self.num_samples += 1
        self._asked = 0
        self._least_s = min(self._least_s, cost_s)

    def allows(self) -> bool:
        """Whether one more sample fits; the first ones always do.

        What counts is at most twice the least that a sample took: the rest is a cold start, or other work of the
        machine's.
        """
        self._asked += 1
        if self.num_samples < FIRST or self.share >= 1.0:
            return True
        if self._asked < GAP:
            return False
        passed = time.perf_counter() - self.start_s
        counted = min(self.spent_s, 2 * self._least_s * self.num_samples)
        return counted + self._least_s <= self.share * passed + ALLOWANCE_S
