"""How often to look: as often as it costs no more than its share."""

from __future__ import annotations

import time

SHARE = 0.02
"""Of the loop's time. Looking also has costs that do not show in its own time (caches, hooks), hence less than the
5 % that are promised."""
FIRST = 3
"""Samples that are taken in any case: fewer say nothing."""
ALLOWANCE_S = 0.02
"""What the first samples may cost on top, so that a short loop has some."""


class Budget:
    """What was spent, against what has passed.

    Args:
        share: Of the time that may be spent; 0 stops after the first sample.
    """

    def __init__(self, share: float = SHARE) -> None:
        self._share = share
        self.start_s = time.perf_counter()
        self.spent_s = 0.0
        self.num_samples = 0
        self._last_s = 0.0

    def allows(self) -> bool:
        """Whether one more sample fits; the first ones always do."""
        if self.num_samples < FIRST:
            return True
        cost = self.spent_s / self.num_samples
        passed = time.perf_counter() - self.start_s
        return self.spent_s + cost <= self._share * passed + ALLOWANCE_S
