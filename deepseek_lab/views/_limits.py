"""What batch sizes and learning rates a training bears: as text and as static HTML with two pictures."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from html import escape

from deepseek_lab.base.limits import MARGIN, BatchRow, LimitsReport, RateRange, number
from deepseek_lab.views import _columns, _html, _plane, _ramps, _tables, _words

_STATUS = {
    "safe": "safe",
    "tight": "too tight",
    "memory": "out of memory",
    "failed": "fails",
    "killed": "ended",
}
_WIDE = 400
"""Characters of a sentence."""


def limits_line(report: LimitsReport) -> str:
    """One line: the largest safe batch and the fastest one, then learning rates."""
    parts = ["limits", _batches(report)]
    if report.rates is not None:
        low, high, value = map(number, (report.rates.low, report.rates.high, report.rates.value))
        parts.append(f"lr {low} .. {high}, try {value}")
    elif report.rates_reason and not report.doing:
        parts.append(f"no lr: {_words.clip(report.rates_reason, 120)}")
    if report.doing:
        parts.append(f"({_words.clip(report.doing, 60)} …)")
    return "  ".join(part for part in parts if part)


def _batches(report: LimitsReport) -> str:
    largest, fastest = report.largest, report.fastest
    if largest is None:
        if report.doing:
            return ""
        return "no batch size is safe" if report.rows else "no batch size was measured"
    least = "" if report.bound in {"memory", "predicted", "data", "error", "fixed", ""} else "at least "
    words = [f"batch {least}{largest.size:,} safe{_held(report, largest)}"]
    if fastest is not None and report.bound != "fixed":
        if fastest.size == report.own:
            words.append("yours is the fastest" if fastest.size != largest.size else "yours, and the fastest")
        elif report.gain is not None:
            words.append(f"fastest {fastest.size:,} ({report.gain:.1f}x of your {report.own:,})")
        else:
            words.append(f"fastest {fastest.size:,}")
    return ", ".join(words)


def _held(report: LimitsReport, row: BatchRow) -> str:
    if row.peak_bytes is None:
        return ""
    of = f" of {_words.memory(report.limit_bytes)}" if report.limit_bytes is not None else ""
    return f" (peak {_words.memory(row.peak_bytes)}{of})"


def limits_text(report: LimitsReport) -> str:
    """The line, batch sizes, learning rates, and what to type next."""
    parts = [limits_line(report)]
    if report.next:
        parts.append(f"  next: {report.next}")
    for title, table in _sections(report):
        parts.append(f"\n{title}")
        if table.rows:
            parts.append("\n".join(f"  {line}" for line in _tables.as_text(table).splitlines()))
    parts += ["", *_remarks(report)] if _remarks(report) else []
    return "\n".join(parts)


def limits_html(report: LimitsReport) -> str:
    """The same as static HTML, with pictures of throughput, memory and losses."""
    parts = [
        f'<div class="dsl"><style>{_html.STYLE}</style>',
        f'<p class="s">{escape(limits_line(report))}</p>',
    ]
    if report.next:
        parts.append(f"<pre><code>{escape(report.next)}</code></pre>")
    pictures = [batches_svg(report), rates_svg(report)]
    for at, (title, table) in enumerate(_sections(report)):
        shown = _html.table(table) if table.rows else ""
        image = _image(pictures[at], title) if pictures[at] else ""
        parts.append(f"<details open><summary>{escape(title)}</summary>{shown}{image}</details>")
    parts += [f'<p class="m">{escape(one)}</p>' for one in _remarks(report)]
    return "\n".join(parts) + "</div>"


def _image(svg: str, title: str) -> str:
    data = base64.b64encode(svg.encode()).decode()
    return f'<img alt="{escape(title)}" style="max-width:100%" src="data:image/svg+xml;base64,{data}">'


def _sections(report: LimitsReport) -> list[tuple[str, _tables.Table]]:
    limit = f" within {_words.memory(report.limit_bytes)}" if report.limit_bytes is not None else ""
    why = f"; {_words.clip(report.bound_words, _WIDE)}" if report.bound_words else ""
    columns = ("batch", "samples/s", "95 %", "step", "steps", "peak", "", "")
    batches = _tables.Table(columns, tuple(_row(report, one) for one in report.rows), frozenset(range(6)))
    at = f" at batch {report.rates_size:,}" if report.rates_size else ""
    head = f"learning rates of {report.optimizer or 'the optimizer'}{at}"
    if report.num_groups > 1:
        head += f" (the largest of {report.num_groups} parameter groups; the others in proportion)"
    if not report.curves:
        head += f": {_words.clip(report.rates_reason, _WIDE)}" if report.rates_reason else ": not yet"
    return [(f"batch sizes{limit}{why}", batches), (head, _rates(report))]


def _row(report: LimitsReport, row: BatchRow) -> tuple[str, ...]:
    speed = _speed(row.samples_per_s) if row.samples_per_s else ""
    span = "-".join(map(_speed, row.interval)) if row.interval else ""
    words = [
        "yours" if row.size == report.own else "",
        "largest safe" if row is report.largest and report.bound != "fixed" else "",
        "fastest" if row is report.fastest and report.bound != "fixed" else "",
        "" if row.ran else _words.clip(row.reason, 160),
    ]
    return (
        f"{row.size:,}",
        speed,
        span,
        _words.seconds(row.step_s) if row.step_s else "",
        f"{row.num_steps:,}" if row.num_steps else "",
        _words.memory(row.peak_bytes) if row.peak_bytes and row.ran else "",
        _STATUS.get(row.status, row.status),
        ", ".join(filter(None, words)),
    )


def _speed(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _rates(report: LimitsReport) -> _tables.Table:
    rows = [
        (
            f"{one.seed}",
            f"{len(one.rates):,}",
            *_range(one.found),
            _words.clip(one.reason, 160),
        )
        for one in report.curves
    ]
    if report.rates is not None and len(rows) > 1:
        rows.append(("together", "", *_range(report.rates), ""))
    columns = ("seed", "steps", "from", "to", "middle", "steepest", "")
    return _tables.Table(columns, tuple(rows), frozenset(range(6)))


def _range(found: RateRange | None) -> tuple[str, ...]:
    if found is None:
        return ("",) * 4
    return tuple(map(number, (found.low, found.high, found.value, found.steepest)))


def _remarks(report: LimitsReport) -> list[str]:
    found = [*report.notes]
    if report.rows:
        held = f", {_words.memory(report.start_bytes)} before the first step" if report.start_bytes else ""
        where = "the whole process" if report.device == "cpu" else f"reserved on {report.device}"
        limit = "90 % of what was free" if report.is_auto else "as given"
        found.append(f"peak: {where}{held}; limit: {limit}; safe leaves {MARGIN:.0%} of it free")
    if report.curves and report.rates is not None:
        found.append(
            "lr: grew from 1e-7 to 10 on copies (arXiv 1506.01186); from where the loss begins to fall to where it is "
            "least"
        )
    if report.reason and not report.doing:
        why = "interrupted" if report.reason == "interrupted" else "the time was up"
        found.append(f"{why} after {report.seconds:.0f} s; what stands above was measured until then")
    return [_words.clip(one, _WIDE) for one in found]


# Pictures.


def batches_svg(report: LimitsReport) -> str:
    """Throughput and memory by batch size, each as a share of its greatest value; empty with fewer than two sizes."""
    rows = [one for one in report.rows if one.ran]
    if len(rows) < 2:
        return ""
    speeds = [(math.log2(one.size), one.samples_per_s) for one in rows if one.samples_per_s]
    peaks = [(math.log2(one.size), float(one.peak_bytes)) for one in rows if one.peak_bytes]
    sizes = [math.log2(one.size) for one in report.rows]
    plane = _plane.Plane(_plane.roomy((min(sizes), max(sizes))), (0.0, 1.08))
    ticks = [(math.log2(one.size), f"{one.size:,}") for one in report.rows]
    parts = [_axes(plane, ticks, [(share / 4, f"{share / 4:.0%}") for share in range(5)], "batch", "")]
    names = []
    fastest = max((speed for _, speed in speeds), default=0.0)
    limit = float(report.limit_bytes or 0) or max((peak for _, peak in peaks), default=0.0)
    for points, most, hue, name in (
        (speeds, fastest, _ramps.HUES[0], f"of {_speed(fastest)} samples/s"),
        (peaks, limit, _ramps.HUES[1], f"memory of {_words.memory(limit)}"),
    ):
        if points and most > 0:
            parts.append(_line(plane, [(x, y / most) for x, y in points], hue, dots=True))
            names.append((hue, name))
    safe = 1 - MARGIN
    if report.limit_bytes:
        parts.append(_across(plane, safe, "safe below"))
    for row in report.rows:
        if not row.ran:
            x, _ = plane.at(math.log2(row.size), 0.0)
            parts.append(_plane.text(x, _plane.HEIGHT - 46, "×", "c t"))
    parts.append(_plane.key(names, _plane.HEIGHT - 8))
    return _plane.svg("throughput and memory by batch size", "".join(parts))


def rates_svg(report: LimitsReport) -> str:
    """Losses by learning rate, a line for each run; empty where there is none."""
    curves = [one for one in report.curves if len(one.rates) > 1]
    if not curves:
        return ""
    first = [one.smooth[0] for one in curves]
    least = min(min(one.smooth) for one in curves)
    top = max(first) + 0.6 * (max(first) - least or abs(max(first)) or 1.0)
    xs = [math.log10(rate) for one in curves for rate in one.rates]
    plane = _plane.Plane((min(xs), max(xs)), _plane.roomy((least, top)))
    powers = range(math.ceil(min(xs) - 1e-9), math.floor(max(xs) + 1e-9) + 1)
    ys = [(value, _columns.number(value)) for value in _plane.ticks(*plane.y, 5)]
    parts = []
    if report.rates is not None:
        (left, up), (right, down) = (
            plane.at(math.log10(report.rates.low), plane.y[1]),
            plane.at(math.log10(report.rates.high), plane.y[0]),
        )
        parts.append(
            f'<rect x="{left:g}" y="{up:g}" width="{right - left:g}" height="{down - up:g}" '
            f'style="fill:{_ramps.HUES[2]};fill-opacity:.14"/>'
        )
        x, _ = plane.at(math.log10(report.rates.value), plane.y[0])
        parts.append(f'<path d="M{x:g} {up:g}V{down:g}" style="stroke:{_ramps.HUES[2]};stroke-width:1.5"/>')
    parts.append(_axes(plane, [(float(one), f"1e{one}") for one in powers], ys, "learning rate", "loss"))
    names = []
    for one, hue in zip(curves, (*_ramps.HUES[:2], _ramps.HUES[3]), strict=False):
        points = [
            (math.log10(rate), min(loss, plane.y[1]))
            for rate, loss in zip(one.rates, one.smooth, strict=True)
        ]
        raw = [(math.log10(rate), loss) for rate, loss in zip(one.rates, one.losses, strict=True)]
        parts += [_dots(plane, raw, hue), _line(plane, points, hue)]
        names.append((hue, f"seed {one.seed}"))
    parts.append(_plane.key(names, _plane.HEIGHT - 8))
    return _plane.svg("loss by learning rate", "".join(parts))


def _axes(
    plane: _plane.Plane,
    xs: Sequence[tuple[float, str]],
    ys: Sequence[tuple[float, str]],
    x_label: str,
    y_label: str,
) -> str:
    """Lines and marks where they are wanted; marks that would overlap have no words."""
    left, bottom = plane.at(plane.x[0], plane.y[0])
    right, top = plane.at(plane.x[1], plane.y[1])
    parts, last = [], -math.inf
    for value, word in xs:
        x, _ = plane.at(value, plane.y[0])
        parts.append(f'<path class="a" d="M{x:g} {top:g}V{bottom:g}"/>')
        if x - last > 8 * len(word):
            parts.append(_plane.text(x, bottom + 14, word, "c"))
            last = x
    for value, word in ys:
        _, y = plane.at(plane.x[0], value)
        parts.append(f'<path class="a" d="M{left:g} {y:g}H{right:g}"/>')
        parts.append(_plane.text(left - 5, y + 4, word, "e"))
    parts.append(f'<path class="b" d="M{left:g} {top:g}V{bottom:g}H{right:g}"/>')
    parts.append(_plane.text(right, _plane.HEIGHT - 8, x_label, "e t"))
    parts.append(_plane.text(4, 15, y_label, "t"))
    return "".join(parts)


def _line(plane: _plane.Plane, points: Sequence[tuple[float, float]], hue: str, *, dots: bool = False) -> str:
    at = [plane.at(x, y) for x, y in points]
    path = "".join(f"{'L' if number else 'M'}{x:g} {y:g}" for number, (x, y) in enumerate(at))
    marks = "".join(f'<circle cx="{x:g}" cy="{y:g}" r="3" fill="{hue}"/>' for x, y in at) if dots else ""
    return f'<path class="l" stroke="{hue}" d="{path}"/>{marks}'


def _dots(plane: _plane.Plane, points: Sequence[tuple[float, float]], hue: str) -> str:
    shown = [plane.at(x, y) for x, y in points if plane.y[0] <= y <= plane.y[1]]
    return "".join(
        f'<circle cx="{x:g}" cy="{y:g}" r="1.5" fill="{hue}" fill-opacity=".4"/>' for x, y in shown
    )


def _across(plane: _plane.Plane, y: float, words: str) -> str:
    left, at = plane.at(plane.x[0], y)
    right, _ = plane.at(plane.x[1], y)
    line = f'<path d="M{left:g} {at:g}H{right:g}" style="stroke:{_ramps.HUES[1]};stroke-dasharray:4 3"/>'
    return line + _plane.text(left + 6, at - 4, words)
