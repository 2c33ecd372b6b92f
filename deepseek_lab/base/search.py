"""What a search has found: a fold over events, numbers and strings only."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from deepseek_lab.base import events as ev

Value = float | str
"""Of a range: a number, or the label of a choice."""


@dataclasses.dataclass
class TrialRow:
    """One trial."""

    trial: int
    config: str
    purpose: str
    cost: float
    status: str = "running"
    params: dict[str, Value] = dataclasses.field(default_factory=dict)
    values: tuple[float, ...] = ()
    curve: list[tuple[int, float]] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    error: str = ""
    allowed: bool = True
    at_s: float = 0.0

    @property
    def whole(self) -> bool:
        """Whether it was the cell as it stands."""
        return self.cost >= 1.0

    @property
    def value(self) -> float | None:
        """Of the first metric, the last one that was reached."""
        if self.values:
            return self.values[0]
        return self.curve[-1][1] if self.curve else None


class SearchReport:
    """What was tried, what came of it, and how the best stands beside the defaults."""

    def __init__(self) -> None:
        self.run = ""
        self.started: ev.SearchStarted | None = None
        self.spaces: dict[str, ev.SpaceFound] = {}
        self.rows: dict[int, TrialRow] = {}
        self.ranks: tuple[ev.Rank, ...] = ()
        self.importances: dict[str, float] = {}
        self.compared: ev.Compared | None = None
        self.notes: list[str] = []
        self.began_s = self.last_s = 0.0
        self.ended = False
        self.reason = ""

    @classmethod
    def fold(cls, events: Iterable[ev.Event]) -> SearchReport:
        """Build the report that these events add up to."""
        report = cls()
        for event in events:
            report.add(event)
        return report

    def add(self, event: ev.Event) -> None:
        """Take one event in."""
        self.last_s = max(self.last_s, event.at_s)
        match event:
            case ev.SearchStarted():
                self.run, self.started, self.began_s = event.run, event, event.at_s
            case ev.SpaceFound():
                self.spaces[event.name] = event
            case ev.TrialBegan():
                self.rows[event.trial] = TrialRow(
                    event.trial, event.config, event.purpose, event.cost, at_s=event.at_s
                )
            case ev.TrialReported():
                if event.trial in self.rows:
                    self.rows[event.trial].curve.append((event.step, event.value))
            case ev.TrialEnded():
                self.rows[event.trial] = TrialRow(
                    event.trial,
                    event.config,
                    event.purpose,
                    event.cost,
                    event.status,
                    {**event.numbers, **event.labels},
                    event.values,
                    list(event.curve),
                    event.seconds,
                    event.error,
                    event.allowed,
                    event.at_s,
                )
            case ev.SearchJudged():
                self.ranks, self.importances = event.ranks, event.importances or self.importances
            case ev.SearchCompared():
                self.compared = event.compared
            case ev.Noted():
                self.notes.append(event.text)
            case ev.RunEnded():
                self.ended, self.reason = True, event.reason
            case _:
                pass

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what is searched for."""
        return self.started.metrics if self.started is not None else ()

    @property
    def directions(self) -> tuple[str, ...]:
        """``min`` or ``max``, for each metric."""
        return self.started.directions if self.started is not None else ()

    def better(self, value: float, other: float, metric: int = 0) -> bool:
        """Whether one value of a metric is better than another."""
        return value > other if self.directions[metric] == "max" else value < other

    @property
    def defaults(self) -> TrialRow | None:
        """The cell as it stands, run whole."""
        return next(
            (row for row in self.rows.values() if row.purpose == "defaults" and row.status == "complete"),
            None,
        )

    def whole(self) -> list[TrialRow]:
        """Whole trials of the search that came to their end within their constraints, the defaults among them."""
        return [
            row
            for row in self.rows.values()
            if row.whole
            and row.values
            and row.purpose != "repeat"
            and row.status == "complete"
            and row.allowed
        ]

    @property
    def best(self) -> TrialRow | None:
        """The whole trial with the best value of the first metric."""
        found: TrialRow | None = None
        for row in self.whole():
            if found is None or self.better(row.values[0], found.values[0]):
                found = row
        return found

    def front(self) -> list[TrialRow]:
        """With several metrics: whole trials that no other one is better than in all of them."""
        signs = [-1.0 if one == "max" else 1.0 for one in self.directions]
        costs = {
            row.trial: tuple(sign * value for sign, value in zip(signs, row.values, strict=True))
            for row in self.whole()
            if len(row.values) == len(signs) and all(map(math.isfinite, row.values))
        }
        found: list[tuple[float, ...]] = []
        kept: set[int] = set()
        for trial in sorted(costs, key=costs.__getitem__):  # none is beaten by one that comes after it
            cost = costs[trial]
            if not any(one != cost and all(a <= b for a, b in zip(one, cost, strict=True)) for one in found):
                found.append(cost)
                kept.add(trial)
        return [row for row in self.rows.values() if row.trial in kept]

    def num(self, status: str) -> int:
        """Trials of the search that ended so."""
        return sum(row.status == status and row.purpose != "repeat" for row in self.rows.values())

    @property
    def num_configs(self) -> int:
        """Configurations that were tried."""
        return len({row.config for row in self.rows.values() if row.status != "running"})

    @property
    def cost(self) -> float:
        """What the search came to, in whole trials, without the final comparison."""
        return sum(
            row.cost for row in self.rows.values() if row.purpose != "repeat" and row.status != "running"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        best = self.best
        return {
            "study": self.started.study if self.started is not None else "",
            "metrics": list(self.metrics),
            "directions": list(self.directions),
            "spaces": [dataclasses.asdict(one) for one in self.spaces.values()],
            "trials": [dataclasses.asdict(row) for row in self.rows.values()],
            "best": dataclasses.asdict(best) if best is not None else None,
            "front": [row.trial for row in self.front()] if len(self.metrics) > 1 else [],
            "ranks": [dataclasses.asdict(one) for one in self.ranks],
            "importances": self.importances,
            "compared": dataclasses.asdict(self.compared) if self.compared is not None else None,
            "cost": self.cost,
            "seconds": max(0.0, self.last_s - self.began_s),
            "notes": self.notes,
            "reason": self.reason,
        }
