"""A search in one line, and how its numbers are written."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from deepseek_lab.base.events import Compared
from deepseek_lab.base.search import SearchReport, TrialRow, Value
from deepseek_lab.views import _words

MAX_NAMES = 6
"""Ranges whose values stand in the line."""
_FAR = (1e-3, 1e6)
"""Sizes beyond which numbers are written with a power of ten."""


def search_line(report: SearchReport) -> str:
    """Defaults and best, what the comparison says, what it took, and the best values.

    >>> search_line(SearchReport())
    'hpo  nothing was tried yet'
    """
    if report.started is None:
        return "hpo  nothing was tried yet"
    found = chosen(report)
    parts = [
        "hpo",
        *_state(report),
        *(_several(report) if len(report.metrics) > 1 else _single(report)),
        trials(report),
        _took(report),
        _words.plural(report.started.num_workers, "worker") if report.started.num_workers else "",
        "" if found is None else params(found.params, order(report)),
    ]
    return "  ".join(filter(None, parts))


def chosen(report: SearchReport) -> TrialRow | None:
    """The trial whose values are worth taking over: None where the defaults were not beaten, or metrics are several."""
    if len(report.metrics) > 1:
        return None
    compared = report.compared
    if compared is not None:
        if not report.better(compared.difference, 0.0):
            return None
        rows = [row for row in report.whole() if row.config == compared.config]
        return rows[0] if rows else None
    if kept_defaults(report):
        return None
    best = report.best
    return None if best is None or best.purpose == "defaults" else best


def kept_defaults(report: SearchReport) -> bool:
    """Whether the best few were run beside the defaults and none of them was better."""
    repeated = {row.config for row in report.rows.values() if row.purpose == "repeat"}
    return report.ended and not report.reason and report.compared is None and len(repeated) > 1


def order(report: SearchReport) -> list[str]:
    """Ranges by how much they matter, as far as that is known."""
    return sorted(report.spaces, key=lambda name: -_finite(report.importances.get(name, 0.0)))


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _state(report: SearchReport) -> list[str]:
    if not report.ended:
        return ["running"]
    match report.reason:
        case "":
            return []
        case "stopped" | "interrupted":
            return [report.reason]
        case reason:
            return [f"ended by {_words.clip(reason, 60)}"]


def _single(report: SearchReport) -> list[str]:
    name = _words.clip(report.metrics[0] if report.metrics else "metric", 40)
    compared, defaults, best = report.compared, report.defaults, report.best
    if compared is not None:
        return _compared(name, compared, report)
    if best is None:
        return [f"no whole trial gave {name}"] if report.ended else [f"no {name} yet"]
    if best.purpose == "defaults" or kept_defaults(report):
        said = "so far the defaults are the best" if not report.ended else "the defaults were not beaten"
        shown = best if defaults is None else defaults
        return [f"{name} {number(shown.values[0])}: {said}"]
    if defaults is None:
        return [f"{name} {number(best.values[0])} (one run)"]
    before, after = pair(defaults.values[0], best.values[0])
    return [f"{name} {before} -> {after} ({'so far, ' if not report.ended else ''}one run each)"]


def _compared(name: str, compared: Compared, report: SearchReport) -> list[str]:
    before, after = pair(_mean(compared.defaults), _mean(compared.found), compared.difference)
    parts = [f"{name} {before} -> {after}", difference(compared, report)]
    if not report.better(compared.difference, 0.0):
        return [*parts, "the defaults were not beaten"]
    ci95 = compared.ci95
    if ci95 is not None and ci95[0] <= 0.0 <= ci95[1]:
        parts.append("not told apart from the defaults")
    return parts


def difference(compared: Compared, report: SearchReport) -> str:
    """The difference with its interval, the number of seeds, and on what it was measured.

    Metrics that are shares of one, of which more is better, differ in points of a hundredth.
    """
    points = is_share(compared, report)
    scale = 100.0 if points else 1.0
    ends = [] if compared.ci95 is None else [scale * end for end in compared.ci95]
    value = scale * compared.difference
    digits = _decimals(value, (ends[1] - ends[0]) / 2 if ends else None)
    unit = " points" if points else ""
    seeds = len(compared.defaults)
    facts = [
        f"95% {_signed(ends[0], digits)}..{_signed(ends[1], digits)}" if ends else "",
        _words.plural(seeds, "seed"),
        "data the search never saw" if compared.unseen else "",
    ]
    return f"{_signed(value, digits)}{unit} ({', '.join(filter(None, facts))})"


def is_share(compared: Compared, report: SearchReport) -> bool:
    """Whether the metric is a share of one, of which more is better."""
    values = (*compared.defaults, *compared.found)
    return report.directions[:1] == ("max",) and all(0.0 <= one <= 1.0 for one in values)


def _several(report: SearchReport) -> list[str]:
    defaults, whole = report.defaults, report.whole()
    if not whole:
        return ["no whole trial has ended" if report.ended else "no whole trial yet"]
    parts = []
    for at, (name, direction) in enumerate(zip(report.metrics, report.directions, strict=True)):
        values = [row.values[at] for row in whole if math.isfinite(row.values[at])]
        if not values:
            continue
        best = max(values) if direction == "max" else min(values)
        if defaults is None:
            parts.append(f"{_words.clip(name, 40)} {number(best)}")
        else:
            before, after = pair(defaults.values[at], best)
            parts.append(f"{_words.clip(name, 40)} {before} -> {after}")
    front = report.front()
    return [", ".join(parts), f"{_words.plural(len(front), 'trial')} on the Pareto front (one run each)"]


def trials(report: SearchReport) -> str:
    """How many trials ended, and to how many whole ones they come."""
    ended = sum(row.status != "running" and row.purpose != "repeat" for row in report.rows.values())
    return f"{_words.plural(ended, 'trial')} ({report.cost:,.1f} whole)"


def _took(report: SearchReport) -> str:
    """The time of the search; of one that is read from disk, of its trials together."""
    if report.started is not None and report.started.num_workers:
        return duration(max(0.0, report.last_s - report.began_s))
    seconds = math.fsum(row.seconds for row in report.rows.values() if math.isfinite(row.seconds))
    return f"{duration(seconds)} of trials" if seconds else ""


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> [duration(one) for one in (0.04, 9.81, 250, 7500)]
    ['0.0s', '9.8s', '4m10s', '2h05m']
    """
    if seconds < 59.95:
        return f"{seconds:.1f}s" if seconds < 9.95 else f"{seconds:.0f}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def params(values: Mapping[str, Value], names: Sequence[str], most: int = MAX_NAMES) -> str:
    """Values by name, the first ones of ``names`` first."""
    known = [name for name in names if name in values]
    known += [name for name in values if name not in known]
    parts = [f"{_words.clip(name, 40)}={said(values[name])}" for name in known[:most]]
    return " ".join([*parts, f"+{len(known) - most} more"] if len(known) > most else parts)


def said(value: Value) -> str:
    """A value of a range, short: three digits of a number.

    >>> [said(one) for one in (0.0032, 128.0, 0.25, 1234567.0, "relu", 0.0)]
    ['3.2e-3', '128', '0.25', '1234567', 'relu', '0']
    """
    if isinstance(value, str):
        return _words.clip(value, 40)
    if math.isfinite(value) and value == int(value) and abs(value) < 1e9:
        return str(int(value))
    return _power(f"{value:.2e}") if 0 < abs(value) < 0.01 or abs(value) >= 1e6 else f"{value:.3g}"


def _power(text: str) -> str:
    """``3.20e-03`` as ``3.2e-3``."""
    digits, sign, power = text.partition("e")
    if not sign:
        return text
    digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
    return f"{digits}e{int(power)}"


def number(value: float, decimals: int = 3) -> str:
    """A value of a metric."""
    if not math.isfinite(value):
        return str(value)
    if value and not _FAR[0] <= abs(value) < _FAR[1]:
        return _power(f"{value:.3e}")
    return f"{value:.{decimals}f}" if abs(value) < 100 else f"{value:.{max(0, decimals - 2)}f}"


def pair(before: float, after: float, apart: float | None = None) -> tuple[str, str]:
    """Two values with as many digits as tell them apart."""
    apart = after - before if apart is None else apart
    if not math.isfinite(apart) or apart == 0.0:
        return number(before), number(after)
    decimals = min(9, max(0, 2 - math.floor(math.log10(abs(apart))) - 1))
    largest = max(abs(before), abs(after))
    least = 3 if largest < 10 else 2 if largest < 100 else 1 if largest < 1000 else 0
    decimals = max(least, decimals)
    if largest < _FAR[0] or largest >= _FAR[1]:
        return number(before), number(after)
    return f"{before:.{decimals}f}", f"{after:.{decimals}f}"


def _decimals(value: float, half: float | None) -> int:
    """Decimals that show one digit of half the interval, or two of the value where there is none; at least one."""
    size, digits = (abs(value), 2) if half is None else (half, 1)
    if not size or not math.isfinite(size):
        size, digits = abs(value), 2
    if not size or not math.isfinite(size):
        return 1
    return min(9, max(1, digits - 1 - math.floor(math.log10(size))))


def _signed(value: float, decimals: int) -> str:
    if math.isfinite(value) and abs(value) >= _FAR[1]:
        return f"{'+' if value > 0 else ''}{_power(f'{value:.2e}')}"
    return f"{value:+.{decimals}f}"


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else math.nan
