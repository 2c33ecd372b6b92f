"""Findings so far, each once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

from deepseek_lab.base.inspection import KINDS, Finding
from deepseek_lab.inspector.rules import Key, key_of


class Ledger:
    """Keeps findings; ``told`` hears of each when it first appears."""

    def __init__(self, told: Callable[[Finding], None]) -> None:
        self._told = told
        self._known: dict[Key, Finding] = {}

    def add(self, finding: Finding) -> None:
        """Keep it; one that is known keeps the step since when it is."""
        key = key_of(finding)
        known = self._known.get(key)
        if known is not None:
            if (
                known.module == finding.module
                and known.since <= finding.since
                and finding.kind not in ("loss spike", "nonfinite")
            ):
                self._known[key] = dataclasses.replace(finding, since=known.since)
            return
        self._known[key] = finding
        self._told(finding)

    def add_all(self, findings: Iterable[Finding]) -> None:
        """Keep each."""
        for one in findings:
            self.add(one)

    def drop(self, kind: str, module: str) -> None:
        """It is no longer so."""
        self._known.pop((kind, module), None)

    @property
    def findings(self) -> list[Finding]:
        """Causes before what they cause."""
        kinds = list(KINDS)
        return sorted(self._known.values(), key=lambda one: (one.is_note, kinds.index(one.kind), one.since))
