"""The report of training within a limit: a fold over events, numbers and strings only."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from deepseek_lab.base import events as ev


@dataclasses.dataclass
class MemoryRow:
    """One model: what was planned for it, and what was measured."""

    target: str
    planned: ev.MemoryPlanned | None = None
    measured: ev.MemoryMeasured | None = None


class MemoryReport:
    """What has become of a limit."""

    def __init__(self) -> None:
        self.run = ""
        self.cell = ""
        self.limit_bytes = 0
        self.rows: dict[str, MemoryRow] = {}
        self.notes: list[str] = []

    @classmethod
    def fold(cls, events: Iterable[ev.Event]) -> MemoryReport:
        """The report of these events."""
        report = cls()
        for event in events:
            report.add(event)
        return report

    def add(self, event: ev.Event) -> None:
        """Take one more event in."""
        match event:
            case ev.RunStarted():
                self.run, self.cell = event.run, event.cell
                self.limit_bytes = int(event.flags.get("memory_limit_bytes", 0))
            case ev.TargetFound():
                self.rows.setdefault(event.target, MemoryRow(event.target))
            case ev.MemoryPlanned():
                self.limit_bytes = event.limit_bytes
                self._row(event.target).planned = event
                self._row(event.target).measured = None
            case ev.MemoryMeasured():
                self._row(event.target).measured = event
            case ev.Noted() if event.text not in self.notes:
                self.notes.append(event.text)

    def _row(self, target: str) -> MemoryRow:
        return self.rows.setdefault(target, MemoryRow(target))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {
            "run": self.run,
            "cell": self.cell,
            "limit_bytes": self.limit_bytes,
            "models": [
                {
                    "target": row.target,
                    "planned": row.planned.to_dict() if row.planned else None,
                    "measured": row.measured.to_dict() if row.measured else None,
                }
                for row in self.rows.values()
            ],
            "notes": list(self.notes),
        }
