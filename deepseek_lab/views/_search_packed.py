"""A search as it travels to the page: a row a trial, and beside them what was said of the search as a whole."""

from __future__ import annotations

import array
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from deepseek_lab.base import events as ev
from deepseek_lab.base.search import SearchReport, TrialRow, Value
from deepseek_lab.views import _chart, _columns, _run, _words
from deepseek_lab.views._columns import Column
from deepseek_lab.views._packed import Packer

MAX_PARAMS, MAX_METRICS = 100, 16
"""Ranges and metrics whose values travel."""
MAX_LABEL, MAX_ERROR, MAX_ERRORS = 120, 300, 300
"""Characters of a choice and of an error, and different errors of one message."""
MAX_POINTS = 400
"""Points of one curve."""
KEPT_CURVES, KEPT_POINTS, KEPT_ERROR = 60, 40, 120
"""Curves that a notebook keeps, points of each, and characters of an error; a live page has more of them."""
MAX_NOTES, MAX_LABELS = 100, 60
"""Sentences, and options of one choice."""
_LEAST, _FEW = 24, 60
"""Characters that no trial takes less of, where there are more than a few of them."""
_TRIALS = (ev.TrialBegan, ev.TrialReported, ev.TrialEnded)


@dataclasses.dataclass
class _Row:
    """What is new of one trial; without a status only points of its curve."""

    trial: int
    config: str = ""
    purpose: str = ""
    cost: float = math.nan
    status: str = ""
    at_s: float = 0.0
    seconds: float = 0.0
    error: str = ""
    allowed: bool = True
    values: tuple[float, ...] = ()
    params: dict[str, Value] = dataclasses.field(default_factory=dict)
    curve: list[tuple[int, float]] = dataclasses.field(default_factory=list)


class SearchPacking:
    """Packs what is new of one search; what it has said before is known to who reads it.

    Columns: ``trial``, ``config`` (the number of the first trial with the same values), ``purpose``, ``cost``,
    ``status``, ``at_ms`` since ``start_s`` (when it began where it runs, else when it ended), ``seconds``, ``error``,
    ``allowed``, ``value0`` and so on by metric, ``param0`` and so on by the ranges in ``params``, ``steps`` and
    ``curve``.
    """

    def __init__(self) -> None:
        self._configs: dict[str, int] = {}
        self._params: dict[str, bool] = {}
        """Whether it is a choice, by name, in the order of the columns."""
        self._start_s: float | None = None

    def packed(self, events: Iterable[ev.Event], rows: object = None, **facts: Any) -> str:
        """Events as one packed table, ``facts`` beside them; ``rows`` of measured values say nothing here."""
        found: dict[int, _Row] = {}
        others: list[ev.Event] = []
        judged: ev.SearchJudged | None = None
        for event in events:
            if isinstance(event, _TRIALS):
                self._take(event, found)
            elif isinstance(event, ev.SearchJudged):
                judged = event
            else:
                if isinstance(event, ev.SpaceFound):
                    self._know(event.name, event.space == "choice")
                others.append(event)
        if judged is not None:
            others.append(judged)
        return self.table(list(found.values()), others, facts)

    def _take(self, event: ev.Event, found: dict[int, _Row]) -> None:
        match event:
            case ev.TrialBegan():
                found[event.trial] = _Row(
                    event.trial, event.config, event.purpose, event.cost, "running", event.at_s
                )
            case ev.TrialReported():
                row = found.setdefault(event.trial, _Row(event.trial))
                row.curve.append((event.step, event.value))
            case ev.TrialEnded():
                found[event.trial] = _Row(
                    event.trial,
                    event.config,
                    event.purpose,
                    event.cost,
                    event.status,
                    event.at_s,
                    event.seconds,
                    event.error,
                    event.allowed,
                    event.values,
                    {**event.numbers, **event.labels},
                    list(event.curve),
                )
            case _:
                pass

    def table(self, rows: Sequence[_Row], others: Iterable[ev.Event], facts: dict[str, Any]) -> str:
        """Rows and events as one packed table."""
        if self._start_s is None:
            self._start_s = min((row.at_s for row in rows if row.status), default=None)
        start_s = self._start_s or 0.0
        for row in rows:
            for name, value in row.params.items():
                self._know(name, isinstance(value, str))
        packer = Packer(len(rows))
        packer.integers("trial", [row.trial for row in rows])
        packer.integers("config", [self._config(row) for row in rows])
        packer.text("purpose", [_label(row.purpose) for row in rows])
        packer.text("status", [_label(row.status) for row in rows])
        packer.floats("cost", [row.cost for row in rows])
        packer.integers("at_ms", [round((row.at_s - start_s) * 1e3) if row.status else 0 for row in rows])
        packer.floats("seconds", [row.seconds for row in rows])
        packer.text("error", _errors([row.error for row in rows]))
        packer.integers("allowed", [int(row.allowed) for row in rows])
        roles: dict[str, Any] = {}
        for at in range(min(MAX_METRICS, max((len(row.values) for row in rows), default=0))):
            _numbers(packer, f"value{at}", [_at(row.values, at) for row in rows], roles)
        for at, (name, choice) in enumerate(self._params.items()):
            values = [row.params.get(name) for row in rows]
            if choice:
                packer.text(f"param{at}", ["" if one is None else _label(str(one)) for one in values])
            elif any(one is not None for one in values):
                _numbers(packer, f"param{at}", [_real(one) for one in values], roles)
        curves = [_thin(row.curve) for row in rows]
        packer.lists("steps", [[float(step) for step, _ in one] for one in curves])
        packer.lists("curve", [[value for _, value in one] for one in curves])
        packer.meta.update(
            events=_lean(others),
            params=[[_words.clip(name, MAX_LABEL), choice] for name, choice in self._params.items()],
            columns=roles,
            start_s=start_s,
            **facts,
        )
        return packer.base64()

    def _config(self, row: _Row) -> int:
        return self._configs.setdefault(row.config, row.trial) if row.status else row.trial

    def _know(self, name: str, choice: bool) -> None:
        if len(self._params) < MAX_PARAMS:
            self._params.setdefault(name, choice)


def _lean(events: Iterable[ev.Event]) -> list[dict[str, Any]]:
    """Events as data, as many of each kind and as much of each as is read."""
    made, notes, spaces = [], 0, 0
    for event in events:
        if isinstance(event, ev.Noted):
            notes += 1
            if notes > MAX_NOTES:
                continue
            event = dataclasses.replace(event, text=_words.clip(event.text, 500))
        elif isinstance(event, ev.SpaceFound):
            spaces += 1
            if spaces > MAX_PARAMS:
                continue
            labels = tuple(_words.clip(label, MAX_LABEL) for label in event.labels[:MAX_LABELS])
            name, default = _words.clip(event.name, MAX_LABEL), _words.clip(event.default, MAX_LABEL)
            event = dataclasses.replace(event, name=name, labels=labels, default=default)
        elif isinstance(event, ev.SearchJudged):
            known = sorted(event.importances.items(), key=lambda one: -one[1])[:MAX_PARAMS]
            names = {_words.clip(name, MAX_LABEL): value for name, value in known}
            event = dataclasses.replace(event, importances=names)
        made.append(_run._light(event))
    return made


@functools.lru_cache(4096)
def _label(text: str) -> str:
    return _words.clip(text, MAX_LABEL)


def _numbers(packer: Packer, name: str, values: list[float], roles: dict[str, Any]) -> None:
    if role := _columns.add(packer, Column(name, array.array("d", values))):
        roles[name] = role


def _at(values: Sequence[float], at: int) -> float:
    return values[at] if at < len(values) else math.nan


def _real(value: Value | None) -> float:
    return math.nan if value is None or isinstance(value, str) else float(value)


def _errors(errors: Sequence[str]) -> list[str]:
    """Errors as they are shown: many different ones by their kind alone."""
    made: list[str] = []
    known: set[str] = set()
    for error in errors:
        text = _words.clip(error, MAX_ERROR) if error else ""
        if text not in known and len(known) >= MAX_ERRORS:
            text = _words.clip(text.partition(":")[0], 60)
            if text not in known and len(known) >= 2 * MAX_ERRORS:
                text = "another error"
        known.add(text)
        made.append(text)
    return made


def _thin(curve: Sequence[tuple[int, float]], most: int = MAX_POINTS) -> Sequence[tuple[int, float]]:
    if len(curve) <= most:
        return curve
    return [curve[at * (len(curve) - 1) // (most - 1)] for at in range(most)]


def packed_search(
    log: ev.EventLog, limit: int | None = None, report: SearchReport | None = None, **facts: Any
) -> str:
    """A whole search as one packed table; with ``limit`` as many of its trials as fit into so many characters.

    Kept first are the defaults, what runs, the best, those that were the best for a time, the Pareto front and some of
    each kind of end; of the others as many as there is room for, evenly.

    Args:
        log: What happened.
        limit: Characters at most; None for all trials.
        report: The fold of the log, where it is at hand.
        facts: What a page is told beside it, e.g. ``live`` or ``state``.
    """
    events = log.since()
    if limit is None:
        return SearchPacking().packed(events, **facts)
    report = SearchReport.fold(events) if report is None else report
    ranked = kept_first(report)
    others = [event for event in events if not isinstance(event, (*_TRIALS, ev.SearchJudged))]
    others += [event for event in events if isinstance(event, ev.SearchJudged)][-1:]
    totals = _totals(report)

    def pack(count: int) -> str:
        chosen = ranked[:count]
        curves = set(chosen[:KEPT_CURVES])
        rows = [
            _as_row(row, with_curve=trial in curves)
            for trial in sorted(chosen)
            if (row := report.rows.get(trial)) is not None
        ]
        packing = SearchPacking()
        for row in report.rows.values():
            packing._configs.setdefault(row.config, row.trial)
        cut = _chart.cut(len(rows), len(ranked), "")
        return packing.table(rows, others, {**facts, **cut, "totals": totals})

    return _chart.fitted(min(len(ranked), limit // _LEAST + _FEW), limit, pack)


def _as_row(row: TrialRow, *, with_curve: bool) -> _Row:
    return _Row(
        row.trial,
        row.config,
        row.purpose,
        row.cost,
        row.status,
        row.at_s,
        row.seconds,
        _words.clip(row.error, KEPT_ERROR) if row.error else "",
        row.allowed,
        row.values,
        row.params,
        list(_thin(row.curve, KEPT_POINTS)) if with_curve else row.curve[-1:] if not row.values else [],
    )


def _totals(report: SearchReport) -> dict[str, Any]:
    """What is known of all trials, also of those that are left out."""
    rows = report.rows.values()
    return {
        "trials": sum(row.status != "running" and row.purpose != "repeat" for row in rows),
        "configs": report.num_configs,
        "cost": _run._clean(report.cost),
        "failed": report.num("failed"),
        "stopped": report.num("stopped"),
    }


def kept_first(report: SearchReport) -> list[int]:
    """Numbers of all trials, those first that are to be kept where not all can be."""
    found: dict[int, None] = {}
    rows = list(report.rows.values())

    def keep(some: Iterable[TrialRow]) -> None:
        for row in some:
            found.setdefault(row.trial)

    keep(row for row in rows if row.status == "running")
    keep(row for row in rows if row.purpose == "defaults")
    whole = sorted(
        (row for row in report.whole() if row.values and math.isfinite(row.values[0])),
        key=better_first(report),
    )
    keep(whole[:50])
    keep(records(report))
    if len(report.metrics) > 1:
        keep(report.front()[:200])
    keep(row for row in rows if row.purpose == "repeat")
    for status in ("failed", "stopped"):
        keep([row for row in rows if row.status == status][:30])
    left = [row for row in rows if row.trial not in found]
    # In the order of the bits of their place, backwards: any beginning of it is spread evenly.
    width = max(1, len(left).bit_length())
    keep(left[at] for at in sorted(range(len(left)), key=lambda at: f"{at:0{width}b}"[::-1]))
    return list(found)


def better_first(report: SearchReport) -> Callable[[TrialRow], float]:
    """A key by which the best values of the first metric come first."""
    sign = -1.0 if report.directions[:1] == ("max",) else 1.0
    return lambda row: sign * row.values[0]


def records(report: SearchReport) -> list[TrialRow]:
    """Whole trials that were the best of the first metric when they ended, in the order of their numbers."""
    found: list[TrialRow] = []
    for row in sorted(report.whole(), key=lambda row: row.trial):
        if math.isfinite(row.values[0]) and (not found or report.better(row.values[0], found[-1].values[0])):
            found.append(row)
    return found
