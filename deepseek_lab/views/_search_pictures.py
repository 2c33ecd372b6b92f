"""Pictures of a search as SVG: history, importances, parallel coordinates, slices, Pareto front and curves.

Points are strokes of no length with round ends, which take a tenth of the bytes of circles.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from deepseek_lab.base.search import SearchReport, TrialRow, Value
from deepseek_lab.views import _columns, _plane, _ramps, _search_line, _search_packed, _words
from deepseek_lab.views._plane import text

WIDTH = 640
MAX_POINTS, MAX_SLICE_POINTS, MAX_LINES, MAX_CURVES = 900, 180, 130, 50
MAX_SLICES, MAX_AXES, MAX_BARS = 9, 8, 12
_CURVE_POINTS = 50
_WHOLE, _SMALL, _STOPPED, _FAILED, _BEST = (_ramps.HUES[at] for at in (0, 8, 5, 7, 1))
_WORSE = 0.9
"""What lies beyond this share of the values, and far beyond, is drawn at the edge."""
_Item = TypeVar("_Item")


@dataclasses.dataclass(frozen=True)
class Scale:
    """Numbers from one end of an axis to the other."""

    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """0 to 1; what lies beyond stands at the end."""
        if self.log and value > 0:
            found = _columns.share(math.log(value), math.log(self.low), math.log(self.high))
        else:
            found = 0.0 if self.log else _columns.share(value, self.low, self.high)
        return min(1.0, max(0.0, found))

    def ends(self) -> tuple[str, str]:
        """What stands at both ends."""
        return _search_line.said(self.low), _search_line.said(self.high)


@dataclasses.dataclass(frozen=True)
class Box:
    """Where a plot stands in its picture."""

    left: float
    top: float
    width: float
    height: float

    def at(self, across: float, up: float) -> tuple[float, float]:
        return (round(self.left + across * self.width, 1), round(self.top + (1 - up) * self.height, 1))

    def frame(self) -> str:
        bottom = self.top + self.height
        return f'<path class="b" d="M{self.left:g} {self.top:g}V{bottom:g}H{self.left + self.width:g}"/>'


def sampled(items: Sequence[_Item], most: int) -> list[_Item]:
    """At most so many, evenly."""
    if len(items) <= most:
        return list(items)
    return [items[at * (len(items) - 1) // (most - 1)] for at in range(most)]


def tried(report: SearchReport) -> list[TrialRow]:
    """Trials of the search that have a value, in the order of their numbers."""
    return [
        row
        for row in sorted(report.rows.values(), key=lambda row: row.trial)
        if row.purpose != "repeat" and row.status != "failed" and _value(row) is not None
    ]


def _value(row: TrialRow) -> float | None:
    value = row.value
    return value if value is not None and math.isfinite(value) else None


def _span(values: Iterable[float], direction: str) -> Scale:
    """From the best value to the worst one, or to where nearly all of them are if the worst is far away."""
    ordered = sorted(values, reverse=direction == "max")
    if not ordered:
        return Scale(0.0, 1.0)
    best, most, worst = ordered[0], ordered[int(_WORSE * (len(ordered) - 1))], ordered[-1]
    end = worst if abs(worst / 2 - best / 2) <= 4 * abs(most / 2 - best / 2) else most
    return Scale(*_plane.roomy((min(best, end), max(best, end))))


def _span_of(report: SearchReport, rows: Sequence[TrialRow]) -> Scale:
    """Of the values that trials ended with; what was reached where one was stopped may lie beyond."""
    ended = [row for row in rows if row.status == "complete"]
    shown = ended if len(ended) > 2 else rows
    return _span((value for row in shown if (value := _value(row)) is not None), _direction(report))


def _dots(points: Iterable[tuple[float, float]], hue: str, size: float, opacity: float = 1.0) -> str:
    path = "".join(f"M{x:g} {y:g}h0" for x, y in points)
    if not path:
        return ""
    return (
        f'<path d="{path}" stroke="{hue}" stroke-width="{size:g}" stroke-linecap="round" '
        f'stroke-opacity="{opacity:g}" fill="none"/>'
    )


def _line(points: Sequence[tuple[float, float]], hue: str, width: float, opacity: float = 1.0) -> str:
    return _lines([points], hue, width, opacity)


def _lines(
    lines: Iterable[Sequence[tuple[float, float]]], hue: str, width: float, opacity: float = 1.0
) -> str:
    """Lines of one look as one path; a line of one point is a dot."""
    path = "".join(
        "M" + "L".join(f"{x:g} {y:g}" for x, y in points) + ("h1" if len(points) == 1 else "")
        for points in lines
        if points
    )
    if not path:
        return ""
    return (
        f'<path d="{path}" stroke="{hue}" stroke-width="{width:g}" stroke-opacity="{opacity:g}" fill="none" '
        f'stroke-linejoin="round"/>'
    )


def _crosses(points: Iterable[tuple[float, float]], hue: str) -> str:
    path = "".join(f"M{x - 3:g} {y - 3:g}l6 6m0 -6l-6 6" for x, y in points)
    return f'<path d="{path}" stroke="{hue}" stroke-width="1.5" fill="none"/>' if path else ""


def _up(box: Box, scale: Scale) -> str:
    """Lines and numbers of the axis that goes up."""
    parts = []
    for value in _plane.ticks(scale.low, scale.high, 4):
        _, y = box.at(0, scale.share(value))
        parts.append(f'<path class="a" d="M{box.left:g} {y:g}H{box.left + box.width:g}"/>')
        parts.append(text(box.left - 5, y + 4, _columns.number(value), "e"))
    return "".join(parts)


def _metric(report: SearchReport, at: int = 0) -> str:
    name = report.metrics[at] if at < len(report.metrics) else "metric"
    way = report.directions[at] if at < len(report.directions) else "max"
    return f"{_words.clip(name, 40)}, {'more' if way == 'max' else 'less'} is better"


def _direction(report: SearchReport) -> str:
    return report.directions[0] if report.directions else "max"


def history(report: SearchReport) -> str:
    """Values by trial with the best so far; small trials are pale, those that failed are crosses at the foot."""
    rows = tried(report)
    box = Box(62, 26, WIDTH - 74, 190)
    scale = _span_of(report, rows)
    numbers = [row.trial for row in report.rows.values() if row.purpose != "repeat"] or [0]
    across = Scale(min(numbers) - 0.5, max(numbers) + 0.5)

    def at(row: TrialRow) -> tuple[float, float]:
        return box.at(across.share(row.trial), scale.share(_value(row) or 0.0))

    kinds: dict[str, list[TrialRow]] = {"whole": [], "small": [], "stopped": []}
    for row in rows:
        kinds["stopped" if row.status == "stopped" else "whole" if row.whole else "small"].append(row)
    failed = [row for row in report.rows.values() if row.status == "failed" and row.purpose != "repeat"]
    best = _search_packed.records(report)
    shown = {kind: sampled(found, MAX_POINTS // 3) for kind, found in kinds.items()}
    parts = [_up(box, scale), box.frame()]
    if (defaults := report.defaults) is not None and (value := _value(defaults)) is not None:
        _, y = box.at(0, scale.share(value))
        parts.append(
            f'<path d="M{box.left:g} {y:g}H{box.left + box.width:g}" class="b" stroke-dasharray="5 4"/>'
        )
        below = _direction(report) == "max"  # where few results are
        parts.append(text(box.left + box.width, y + (12 if below else -4), "defaults", "e"))
    parts.append(_dots(map(at, shown["small"]), _SMALL, 4, 0.7))
    parts.append(_dots(map(at, shown["stopped"]), _STOPPED, 4, 0.8))
    parts.append(_dots(map(at, shown["whole"]), _WHOLE, 6))
    parts.append(
        _crosses((box.at(across.share(row.trial), 0.0) for row in sampled(failed, MAX_POINTS // 9)), _FAILED)
    )
    if best:
        steps = [at(best[0])]
        for row in best[1:]:
            x, y = at(row)
            steps += [(x, steps[-1][1]), (x, y)]
        steps.append((box.left + box.width, steps[-1][1]))
        parts.append(_line(steps, _BEST, 2))
    foot = box.top + box.height
    parts.append(text(box.left, foot + 16, f"trial {min(numbers):,}"))
    parts.append(text(box.left + box.width, foot + 16, f"{max(numbers):,}", "e"))
    parts.append(text(4, 15, _metric(report), "t"))
    left_out = len(rows) - sum(map(len, shown.values()))
    if left_out:
        parts.append(text(WIDTH - 12, 15, f"{len(rows) - left_out:,} of {len(rows):,} drawn", "e"))
    key = [(_BEST, "best so far"), (_WHOLE, "whole trial")] if rows else []
    key += [(_SMALL, "small trial")] if kinds["small"] else []
    key += [(_STOPPED, "stopped")] if kinds["stopped"] else []
    key += [(_FAILED, f"failed ({len(failed):,})")] if failed else []
    parts.append(_plane.key(key, foot + 36))
    return _plane.svg("history", "".join(parts), foot + 46, WIDTH)


def importances(report: SearchReport) -> str:
    """Bars by range, the longest first."""
    known = [
        (name, value) for name, value in report.importances.items() if math.isfinite(value) and value >= 0
    ]
    known = sorted(known, key=lambda one: -one[1])[:MAX_BARS]
    largest = max((value for _, value in known), default=1.0) or 1.0
    parts = [text(4, 15, "share of the variance that each range explains (PED-ANOVA)", "t")]
    for at, (name, value) in enumerate(known):
        y = 26 + 22 * at
        width = 380 * value / largest
        parts.append(text(176, y + 13, _words.clip(name, 26), "e"))
        parts.append(
            f'<rect x="184" y="{y + 2}" width="{max(width, 1):.1f}" height="14" rx="2" fill="{_WHOLE}"/>'
        )
        parts.append(text(190 + width, y + 13, f"{value:.0%}"))
    return _plane.svg("importances", "".join(parts), 34 + 22 * len(known), WIDTH)


def standings(report: SearchReport) -> list[TrialRow]:
    """Of each configuration the largest trial that gave a value, the best first: larger ones were promoted for being
    good, so they stand before smaller ones.
    """
    largest: dict[str, TrialRow] = {}
    for row in tried(report):
        other = largest.get(row.config)
        if row.status == "complete" and (other is None or row.cost >= other.cost):
            largest[row.config] = row
    sign = -1.0 if _direction(report) == "max" else 1.0
    return sorted(
        largest.values(), key=lambda row: (not row.allowed, -row.cost, sign * (_value(row) or 0.0), row.trial)
    )


def placed(report: SearchReport, name: str) -> tuple[Callable[[Value | None], float | None], tuple[str, str]]:
    """Where values of a range stand on its axis, 0 to 1, and what stands at its ends."""
    space = report.spaces.get(name)
    values = [row.params[name] for row in report.rows.values() if name in row.params]
    if (space is not None and space.space == "choice") or any(isinstance(one, str) for one in values):
        labels = list(space.labels) if space is not None and space.labels else []
        labels += sorted({str(one) for one in values} - set(labels))
        places = {label: (at + 0.5) / len(labels) for at, label in enumerate(labels)}
        return lambda value: places.get(str(value)), (labels[0], labels[-1]) if labels else ("", "")
    numbers = [float(one) for one in values if not isinstance(one, str) and math.isfinite(one)]
    low, high = (space.low, space.high) if space is not None else (math.nan, math.nan)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        low, high = min(numbers, default=0.0), max(numbers, default=1.0)
    scale = Scale(low, high, log=space is not None and space.space in ("log", "log-integer") and low > 0)

    def share(value: Value | None) -> float | None:
        return None if value is None or isinstance(value, str) else scale.share(float(value))

    return share, scale.ends()


def parallel(report: SearchReport) -> str:
    """A line a configuration through the values of its ranges, and for whole trials to its metric."""
    rows = standings(report)
    names = _search_line.order(report)[:MAX_AXES]
    whole = [row for row in rows if row.whole]
    scale = _span((value for row in whole if (value := _value(row)) is not None), _direction(report))
    axes = [(name, *placed(report, name)) for name in names]
    num = len(axes) + bool(whole)
    box = Box(56, 40, WIDTH - 112, 190)
    first = max(1, min(10, round(0.05 * len(rows))))
    quarter = max(first, round(0.25 * len(rows)))
    numbered = list(enumerate(rows))
    shown = (
        numbered[: MAX_LINES // 3] + sampled(numbered[MAX_LINES // 3 :], 2 * MAX_LINES // 3)
        if len(rows) > MAX_LINES
        else numbered
    )
    top = f"best {first}" if first > 1 else "best"
    lines: dict[str, list[list[tuple[float, float]]]] = {"others": [], "best quarter": [], top: []}
    looks = {"others": (_SMALL, 1.0, 0.35), "best quarter": (_WHOLE, 1.2, 0.6), top: (_BEST, 2.0, 1.0)}
    for place, row in shown:
        kind = top if place < first else "best quarter" if place < quarter else "others"
        for run in _runs(row, axes, scale, num):
            points = [box.at(across, up) for across, up in run]
            lines[kind].append([(round(x), round(y)) for x, y in points])
    parts = [_lines(lines[kind], *looks[kind]) for kind in lines]
    room = max(4, min(26, int(box.width / max(1, num - 1) / 6.7)))
    for at in range(num):
        x, _ = box.at(at / max(1, num - 1), 0)
        parts.append(f'<path class="b" d="M{x:g} {box.top:g}v{box.height:g}"/>')
        is_metric = at == len(axes)
        name = (report.metrics[0] if report.metrics else "metric") if is_metric else axes[at][0]
        low, high = scale.ends() if is_metric else axes[at][2]
        parts.append(text(x, 16, _words.clip(name, room), "c t"))
        parts.append(text(x, box.top - 5, _words.clip(high, room), "c"))
        parts.append(text(x, box.top + box.height + 13, _words.clip(low, room), "c"))
    key = [(looks[kind][0], kind) for kind in reversed(lines)]
    foot = box.top + box.height
    parts.append(_plane.key(key, foot + 34))
    if len(shown) < len(rows):
        parts.append(text(WIDTH - 12, foot + 34, f"{len(shown):,} of {len(rows):,} drawn", "e"))
    return _plane.svg("parallel coordinates", "".join(parts), foot + 44, WIDTH)


def _runs(
    row: TrialRow,
    axes: Sequence[tuple[str, Callable[[Value | None], float | None], tuple[str, str]]],
    scale: Scale,
    num: int,
) -> list[list[tuple[float, float]]]:
    """Stretches of a line between values that are missing."""
    places = [share(row.params.get(name)) for name, share, _ in axes]
    if num > len(axes):
        value = _value(row)
        places.append(scale.share(value) if row.whole and value is not None else None)
    found: list[list[tuple[float, float]]] = [[]]
    for at, place in enumerate(places):
        if place is None:
            found.append([])
        else:
            found[-1].append((at / max(1, num - 1), place))
    return [run for run in found if run]


def slices(report: SearchReport) -> str:
    """For each range a small plot of values by what it was."""
    rows = tried(report)
    names = _search_line.order(report)
    scale = _span_of(report, rows)
    columns, width, height = 3, 206, 150
    shown = names[:MAX_SLICES]
    whole = [row for row in rows if row.whole and row.status == "complete"]
    others = [row for row in rows if not (row.whole and row.status == "complete")]
    kinds = {True: sampled(whole, MAX_SLICE_POINTS // 2), False: sampled(others, MAX_SLICE_POINTS // 2)}
    parts = []
    for at, name in enumerate(shown):
        box = Box(12 + at % columns * (width + 4) + 4, 24 + at // columns * height, width - 14, height - 56)
        share, ends = placed(report, name)
        points: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
        for is_whole, found in kinds.items():
            for row in found:
                across, value = share(row.params.get(name)), _value(row)
                if across is not None and value is not None:
                    points[is_whole].append(box.at(across, scale.share(value)))
        parts.append(box.frame())
        parts.append(_dots(points[False], _SMALL, 3.5, 0.6))
        parts.append(_dots(points[True], _WHOLE, 5))
        foot = box.top + box.height + 13
        parts.append(text(box.left, foot, _words.clip(ends[0], 11)))
        parts.append(text(box.left + box.width, foot, _words.clip(ends[1], 11), "e"))
        parts.append(text(box.left + box.width / 2, foot + 13, _words.clip(name, 26), "c t"))
    low, high = scale.ends()
    parts.append(text(4, 14, f"{_metric(report)}: {low} at the foot to {high} at the top"))
    foot = 24 + -(-len(shown) // columns) * height
    if len(names) > len(shown):
        parts.append(text(12, foot, f"and {len(names) - len(shown):,} more ranges"))
    return _plane.svg("slices", "".join(parts), foot + 8, WIDTH)


def front(report: SearchReport) -> str:
    """Whole trials by the first two metrics, the Pareto front ringed."""
    rows = [
        row
        for row in report.whole()
        if len(row.values) > 1 and math.isfinite(row.values[0]) and math.isfinite(row.values[1])
    ]
    best = {row.trial for row in report.front()}
    scales = [
        _span(
            (row.values[at] for row in rows), report.directions[at] if at < len(report.directions) else "max"
        )
        for at in (0, 1)
    ]
    plane = _plane.Plane((scales[0].low, scales[0].high), (scales[1].low, scales[1].high))

    def at(row: TrialRow) -> tuple[float, float]:
        inside = [min(max(row.values[one], scales[one].low), scales[one].high) for one in (0, 1)]
        return plane.at(inside[0], inside[1])

    others = [row for row in rows if row.trial not in best]
    ringed = [row for row in rows if row.trial in best]
    parts = [
        plane.axes(_metric(report, 0), _metric(report, 1)),
        _dots(map(at, sampled(others, MAX_POINTS // 2)), _WHOLE, 5, 0.6),
        _dots(map(at, sampled(ringed, 200)), _BEST, 7),
    ]
    if len(report.metrics) == 2 and len(ringed) > 1:
        ordered = sorted(ringed, key=lambda row: row.values[0])
        steps: list[tuple[float, float]] = []
        for x, y in (at(row) for row in sampled(ordered, 200)):
            steps += [_corner(steps[-1], (x, y), report), (x, y)] if steps else [(x, y)]
        parts.append(_line(steps, _BEST, 1.2))
    parts.append(_plane.key([(_BEST, "Pareto front"), (_WHOLE, "whole trial")], _plane.HEIGHT - 8))
    return _plane.svg("Pareto front", "".join(parts))


def _corner(
    one: tuple[float, float], other: tuple[float, float], report: SearchReport
) -> tuple[float, float]:
    """Where the stairs between two points of the front turn: what lies beyond is reached by no trial."""
    return (one[0], other[1]) if report.directions[0] == "max" else (other[0], one[1])


def curves(report: SearchReport) -> str:
    """What trials reported on their way; those that were stopped are fainter."""
    rows = [
        row
        for row in report.rows.values()
        if row.purpose != "repeat" and len(row.curve) > 1 and row.status in ("complete", "stopped", "running")
    ]
    good = {row.trial for row in standings(report)[: MAX_CURVES // 3]}
    shown = [row for row in rows if row.trial in good]
    shown += sampled([row for row in rows if row.trial not in good], MAX_CURVES - len(shown))
    points = {
        row.trial: [
            one
            for one in sampled(row.curve, _CURVE_POINTS)
            if math.isfinite(one[1]) and math.isfinite(one[0])
        ]
        for row in shown
    }
    scale = _span((value for one in points.values() for _, value in one), _direction(report))
    steps = [step for one in points.values() for step, _ in one] or [0, 1]
    across = Scale(min(steps), max(steps))
    box = Box(62, 26, WIDTH - 74, 190)
    parts = [_up(box, scale), box.frame()]
    best = report.best.trial if report.best is not None else -1
    kinds: dict[str, list[list[tuple[float, float]]]] = {"small": [], "stopped": [], "whole": [], "best": []}
    for row in shown:
        path = [box.at(across.share(step), scale.share(value)) for step, value in points[row.trial]]
        kind = (
            "best"
            if row.trial == best
            else "stopped"
            if row.status == "stopped"
            else "whole"
            if row.whole
            else "small"
        )
        kinds[kind].append(path)
    parts.append(_lines(kinds["small"], _SMALL, 1.0, 0.7))
    parts.append(_lines(kinds["stopped"], _STOPPED, 1.0, 0.45))
    parts.append(_crosses((path[-1] for path in kinds["stopped"] if path), _STOPPED))
    parts.append(_lines(kinds["whole"], _WHOLE, 1.2, 0.85))
    parts.append(_lines(kinds["best"], _BEST, 2.0))
    foot = box.top + box.height
    parts.append(text(box.left, foot + 16, f"step {min(steps):,}"))
    parts.append(text(box.left + box.width, foot + 16, f"{max(steps):,}", "e"))
    parts.append(text(4, 15, _metric(report), "t"))
    if len(shown) < len(rows):
        parts.append(text(WIDTH - 12, 15, f"{len(shown):,} of {len(rows):,} drawn", "e"))
    named = {"best": (_BEST, "best"), "whole": (_WHOLE, "whole trial"), "small": (_SMALL, "small trial")}
    named["stopped"] = (_STOPPED, "stopped at its ×")
    key = [one for kind, one in named.items() if kinds[kind]]
    parts.append(_plane.key(key, foot + 36))
    return _plane.svg("curves", "".join(parts), foot + 46, WIDTH)


def has_curves(report: SearchReport) -> bool:
    """Whether a trial reported more than once."""
    return any(len(row.curve) > 1 and row.purpose != "repeat" for row in report.rows.values())
