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
FIXED_S, LEAST = 1e-5, 0.25
"""What a step costs that is not looked at, which is taken off what samples may cost down to this part of it: in steps
of less than a millisecond it is all of the share (``python -m tests.benchmarks.inspector cost``)."""
_MAX_REST = 256
"""Calls after which the clock is asked again in any case."""


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
        self.rest = 0
        """Calls of models that need not ask: it is known that no sample will fit. Who calls counts them down."""
        self._least_s = float("inf")
        self._num_asked = 0
        self._rested = 0
        self._sampled_at = 0

    def add(self, cost_s: float) -> None:
        """One sample was taken."""
        self.spent_s += cost_s
        self.num_samples += 1
        self._sampled_at = self._num_asked
        self._least_s = min(self._least_s, cost_s)

    def allows(self) -> bool:
        """Whether one more sample fits; the first ones always do.

        What counts is at most twice the least that a sample took: the rest is a cold start, or other work of the
        machine's.
        """
        self._num_asked += 1 + self._rested
        self._rested = 0
        if self.num_samples < FIRST or self.share >= 1.0:
            return True
        if self._num_asked - self._sampled_at < GAP:
            return False
        passed = time.perf_counter() - self.start_s
        counted = min(self.spent_s, 2 * self._least_s * self.num_samples)
        share = max(self.share * passed - FIXED_S * self._num_asked, LEAST * self.share * passed)
        missing = counted + self._least_s - share - ALLOWANCE_S
        if missing <= 0.0:
            return True
        # Half of the calls that it will take if all of the share is for samples, which is the least that it can take.
        self.rest = self._rested = min(
            _MAX_REST, int(0.5 * missing / self.share * self._num_asked / max(passed, 1e-9))
        )
        return False
