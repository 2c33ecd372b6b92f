"""The optimisation report: a fold over events, numbers and strings only."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from deepseek_lab.base import events as ev

SUPERSEDED = "superseded by a later capture of the same kind of call"
"""Why a graph is no longer asked."""


@dataclasses.dataclass
class CandidateRow:
    """One line of the candidate table, for one graph."""

    name: str
    graph: str
    status: str = "building"
    reason: str = ""
    build_s: float = 0.0
    cached: bool = False
    median_ms: float | None = None
    eager_ms: float | None = None
    speedup: float | None = None
    speedup_ci95: tuple[float, float] | None = None
    max_rel_error: float | None = None
    eager_rel_error: float | None = None


@dataclasses.dataclass
class GraphRecord:
    """One captured graph and what became of it."""

    graph: str
    target: str
    signature: str
    nodes: tuple[ev.GraphNode, ...] = ()
    capture_s: float = 0.0
    dynamic: bool = False
    chosen: str = "eager"
    decided: bool = False
    reason: str = ""
    plan: str = ""
    plan_nodes: tuple[ev.GraphNode, ...] = ()
    coverage: float = 0.0
    eager_ms: float | None = None
    median_ms: float | None = None
    speedup: float | None = None
    speedup_ci95: tuple[float, float] | None = None


def _ms(value: float | None) -> float:
    return value if value is not None else math.nan


class OptimizeReport:
    """What was tried, what was measured and what runs now.

    Built from an iterable of events with :meth:`fold`; feeding the same events gives the same report.
    """

    def __init__(self) -> None:
        self.run = ""
        self.verb = ""
        self.targets: dict[str, ev.TargetFound] = {}
        self.graphs: dict[str, GraphRecord] = {}
        self.rows: dict[tuple[str, str], CandidateRow] = {}
        self.breaks: list[ev.GraphBreak] = []
        self.fallbacks: list[ev.FellBack] = []
        self.notes: list[str] = []
        self.batch: ev.BatchAccumulated | None = None
        self.machine: ev.MachineSeen | None = None
        self.started: ev.RunStarted | None = None
        self.ended = False

    @classmethod
    def fold(cls, events: Iterable[ev.Event]) -> OptimizeReport:
        """Build the report that these events add up to."""
        report = cls()
        for event in events:
            report.add(event)
        return report

    def add(self, event: ev.Event) -> None:
        """Take one event in."""
        match event:
            case ev.RunStarted():
                self.run, self.verb, self.started = event.run, event.verb, event
            case ev.MachineSeen():
                self.machine = event
            case ev.TargetFound():
                self.targets[event.target] = event
            case ev.GraphCaptured():
                self.graphs[event.graph] = GraphRecord(
                    graph=event.graph,
                    target=event.target,
                    signature=event.signature,
                    nodes=event.nodes,
                    capture_s=event.capture_s,
                    dynamic=event.dynamic,
                )
                self.ended = False
            case ev.GraphBreak():
                self.breaks.append(event)
            case ev.CandidateStarted():
                key = (event.graph, event.candidate)
                self.rows[key] = CandidateRow(name=event.candidate, graph=event.graph)
                if (record := self.graphs.get(event.graph)) is not None:
                    record.decided = False
            case ev.CandidateEnded():
                fields = {f.name for f in dataclasses.fields(CandidateRow)} - {"name"}
                self.rows[(event.graph, event.candidate)] = CandidateRow(
                    name=event.candidate, **{name: getattr(event, name) for name in fields}
                )
            case ev.PlanChosen():
                if (record := self.graphs.get(event.graph)) is not None:
                    record.chosen, record.plan = event.candidate, event.code
                    record.plan_nodes, record.coverage = event.nodes, event.coverage
            case ev.LiveMeasured():
                if (record := self.graphs.get(event.graph)) is not None:
                    record.eager_ms, record.median_ms = event.eager_ms, event.median_ms
                    record.speedup, record.speedup_ci95 = event.speedup, event.speedup_ci95
            case ev.Decided():
                if (record := self.graphs.get(event.graph)) is not None:
                    record.chosen, record.decided, record.reason = event.chosen, True, event.reason
                    if event.chosen == "eager":
                        record.coverage = 0.0
            case ev.FellBack():
                self.fallbacks.append(event)
            case ev.BatchAccumulated():
                self.batch = event
            case ev.Noted():
                self.notes.append(event.text)
            case ev.RunEnded():
                self.ended = True
            case _:
                pass

    def breaks_of(self, target: str) -> list[ev.GraphBreak]:
        """Where capture stopped in calls of a target."""
        return [item for item in self.breaks if item.target == target]

    @property
    def main_graph(self) -> GraphRecord | None:
        """The graph with the most operations: the one that a one-line summary speaks of."""
        return max(self.graphs.values(), key=lambda g: (g.reason != SUPERSEDED, len(g.nodes)), default=None)

    @property
    def decided(self) -> bool:
        """Whether every captured graph has its final word."""
        return bool(self.graphs) and all(record.decided for record in self.graphs.values())

    @property
    def chosen(self) -> str:
        """Name of the candidate that runs the main graph; ``eager`` where nothing was won."""
        return self.main_graph.chosen if self.main_graph else "eager"

    @property
    def speedup(self) -> float:
        """Eager time divided by the time now; 1.0 where eager was kept."""
        record = self.main_graph
        if record is None or record.chosen == "eager" or record.speedup is None:
            return 1.0
        return record.speedup

    @property
    def speedup_ci95(self) -> tuple[float, float]:
        """95 % interval of :attr:`speedup`."""
        record = self.main_graph
        if record is None or record.chosen == "eager" or record.speedup_ci95 is None:
            return (1.0, 1.0)
        return record.speedup_ci95

    @property
    def coverage(self) -> float:
        """Share of the captured operations that run in a chosen candidate rather than in eager mode."""
        total = sum(len(g.nodes) for g in self.graphs.values())
        covered = sum(g.coverage * len(g.nodes) for g in self.graphs.values() if g.chosen != "eager")
        return covered / total if total else 0.0

    @property
    def candidates(self) -> list[CandidateRow]:
        """The main graph's candidates, fastest first, then those without a time."""
        record = self.main_graph
        if record is None:
            return []
        rows = [row for row in self.rows.values() if row.graph == record.graph]
        return sorted(rows, key=lambda row: (row.median_ms is None, _ms(row.median_ms), row.name))

    @property
    def max_rel_error(self) -> float:
        """Largest relative difference from the float64 reference of what runs now; nan if not measured."""
        chosen = [
            row.max_rel_error
            for row in self.rows.values()
            if (g := self.graphs.get(row.graph)) is not None
            and g.chosen == row.name
            and row.max_rel_error is not None
        ]
        return max(chosen, default=0.0 if self.chosen == "eager" else math.nan)

    @property
    def build_s(self) -> float:
        """Seconds that the builder worked for this report."""
        return sum(row.build_s for row in self.rows.values())

    @property
    def pays_off_after(self) -> int | None:
        """Calls after which the time saved exceeds the time that capture and building took."""
        record = self.main_graph
        if record is None or record.median_ms is None or record.eager_ms is None:
            return None
        saved_s = (record.eager_ms - record.median_ms) / 1e3
        return math.ceil((record.capture_s + self.build_s) / saved_s) if saved_s > 0 else None

    def summary(self) -> str:
        """The one line that a cell shows first (design 6)."""
        if not self.graphs:
            return f"{self.verb or 'optimize'}  {self.notes[-1] if self.notes else 'nothing captured yet'}"
        if not self.decided:
            waiting = sum(not record.decided for record in self.graphs.values())
            verb, total = self.verb or "optimize", len(self.graphs)
            return f"{verb}  working: {waiting} of {total} graphs undecided, eager meanwhile"
        record = self.main_graph
        assert record is not None
        if record.chosen != "eager" and record.speedup is not None:
            low, high = self.speedup_ci95
            line = f"{self.verb}  {self.speedup:.2f}x (95% {low:.2f}-{high:.2f})  covered {self.coverage:.0%}"
            line += f"  agrees with eager (max rel {self.max_rel_error:.0e})  {record.chosen}"
            calls = self.pays_off_after
            return line + (f"  pays off after {calls} calls" if calls is not None else "")
        timed = [row for row in self.candidates if row.speedup is not None and row.status != "refused"]
        refused = [row for row in self.candidates if row.status == "refused"]
        if timed:
            best = max(timed, key=lambda row: row.speedup or 0.0)
            low, high = best.speedup_ci95 or (math.nan, math.nan)
            line = (
                f"{self.verb}  kept eager: best {best.speedup:.2f}x (95% {low:.2f}-{high:.2f}) by {best.name}"
            )
            return line + (f"; {record.reason}" if record.reason else "")
        if refused and not record.reason:
            return f"{self.verb}  refused {refused[0].name}: {refused[0].reason}"
        return f"{self.verb}  kept eager: {record.reason or 'no candidate could run this graph'}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data: what ``--to NAME`` binds shows this, and ``--save`` writes it."""

        def clean(value: Any) -> Any:
            if isinstance(value, float) and not math.isfinite(value):
                return None
            if isinstance(value, dict):
                return {str(key): clean(item) for key, item in value.items()}
            if isinstance(value, list | tuple):
                return [clean(item) for item in value]
            return value

        data = {
            "schema": ev.SCHEMA_VERSION,
            "run": self.run,
            "verb": self.verb,
            "summary": self.summary(),
            "decided": self.decided,
            "chosen": self.chosen,
            "speedup": self.speedup,
            "speedup_ci95": self.speedup_ci95,
            "coverage": self.coverage,
            "max_rel_error": self.max_rel_error,
            "pays_off_after": self.pays_off_after,
            "targets": {name: dataclasses.asdict(t) for name, t in self.targets.items()},
            "graphs": {name: dataclasses.asdict(record) for name, record in self.graphs.items()},
            "candidates": [dataclasses.asdict(row) for row in self.rows.values()],
            "breaks": [dataclasses.asdict(item) for item in self.breaks],
            "fallbacks": [dataclasses.asdict(item) for item in self.fallbacks],
            "notes": list(self.notes),
            "effective_batch": dataclasses.asdict(self.batch) if self.batch else None,
            "machine": dataclasses.asdict(self.machine) if self.machine else None,
        }
        result = clean(data)
        assert isinstance(result, dict)
        return result

    def __repr__(self) -> str:
        return self.summary()
