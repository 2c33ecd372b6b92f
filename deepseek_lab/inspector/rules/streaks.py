"""That a rule holds, and in how many samples in a row it has."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from deepseek_lab.base.inspection import Finding
from deepseek_lab.inspector import thresholds as at

Key = tuple[str, str]
_OF_MODEL = frozenset({"vanishing gradient", "exploding gradient"})
"""Kinds that are about the model: the module named is the one that shows it most, the next time perhaps another."""


def key_of(finding: Finding) -> Key:
    """What a finding is counted and kept under: its kind, and its module or its model."""
    return finding.kind, finding.model if finding.kind in _OF_MODEL else finding.module


@dataclasses.dataclass(frozen=True)
class Hit:
    """A rule that holds in one sampled step."""

    finding: Finding
    persists: int = at.PERSISTS


class Streaks:
    """Counts in how many samples in a row each rule held for each module."""

    def __init__(self) -> None:
        self._counts: dict[Key, tuple[int, int]] = {}

    def persisting(self, step: int, hits: Sequence[Hit]) -> list[Finding]:
        """Those that have held for long enough, each since its first step."""
        counts: dict[Key, tuple[int, int]] = {}
        found = []
        for hit in hits:
            key = key_of(hit.finding)
            since, count = self._counts.get(key, (step, 0))
            counts[key] = (since, count + 1)
            if count + 1 >= hit.persists:
                found.append(dataclasses.replace(hit.finding, since=min(since, hit.finding.since)))
        self._counts = counts
        return found
