"""Series over an x, such as losses over steps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from deepseek_lab.base.errors import UsageError
from deepseek_lab.views import _chart, _columns, _plane, _ramps, _tables, _words
from deepseek_lab.views._chart import Drawn
from deepseek_lab.views._columns import Column

_STRETCHES = 250
"""Stretches of a line in a static picture, each with its least and greatest value."""
_FEW = 16
"""Stretches below which a line is better shown by evenly chosen rows than by the extremes of each."""
_SERIES = 10
_TOLD = 40


@dataclasses.dataclass(frozen=True, eq=False)
class LinesView(Drawn):
    """Lines over one x that never goes backwards.

    Args:
        x: Where the rows stand; None counts them.
        series: Values by the line's name; None and NaN are gaps.
        x_label: What x is.
        y_label: What the values are.
        units: What values are in, by series.

    >>> print(LinesView([0, 1, 2], {"loss": [3.0, 2.0, 2.5]}, x_label="step").text())
    3 rows, step 0 to 2
    series  first  last  least  greatest  missing
    loss        3   2.5      2         3        0
    """

    x: Sequence[float] | None
    series: Mapping[str, Sequence[Any]]
    x_label: str = ""
    y_label: str = ""
    units: Mapping[str, str] = dataclasses.field(default_factory=dict)

    kind: ClassVar[str] = "lines"

    def __post_init__(self) -> None:
        read = _columns.columns(self.series)
        for one in read:
            _columns.numeric(one.name, read, "series")
        count = len(read[0])
        x = _columns.column("x", range(count) if self.x is None else self.x)
        if x.numbers is None:
            raise UsageError("x holds text", hint="pass numbers, or None to count the rows")
        if len(x) != count:
            raise UsageError(
                f"x has {_words.plural(len(x), 'value')}, series {_words.clip(read[0].name, 60)!r} {count:,}",
                hint="pass one x for each row, or None to count them",
            )
        for row, value in enumerate(x.numbers):
            if not math.isfinite(value):
                raise UsageError(f"x is {value} in row {row}", hint="leave out rows without an x")
            if row and value < x.numbers[row - 1]:
                raise UsageError(f"x goes backwards at row {row}", hint="sort the rows by x")
        if len(read) >= _columns.MAX_COLUMNS:
            raise UsageError(
                f"{len(read)} series are more than {_columns.MAX_COLUMNS - 1}", hint="pass fewer series"
            )
        _columns.roles(read, self.units, {})
        object.__setattr__(self, "_read", (x, read))

    @property
    def _x(self) -> Column:
        return self._read[0]  # type: ignore[attr-defined, no-any-return]

    @property
    def _series(self) -> tuple[Column, ...]:
        return self._read[1]  # type: ignore[attr-defined, no-any-return]

    def packed(self, limit: int | None = None) -> str:
        total = len(self._x)
        roles = _columns.roles(self._series, self.units, {})
        name = "x"
        while name in self.series:
            name += "'"
        x = dataclasses.replace(self._x, name=name)
        labels = {"xLabel": self.x_label, "yLabel": self.y_label}

        def pack(count: int) -> str:
            few = count < _FEW * 2 * len(self._series)  # too many lines for each to have its extremes
            even = [at * (total - 1) // max(count - 1, 1) for at in range(count)]
            rows = range(total) if count >= total else even if few else self._extremes(count)
            kept = [x, *self._series] if len(rows) == total else [one.of(rows) for one in (x, *self._series)]
            return _columns.pack(
                kept, {**labels, **_chart.cut(len(rows), total, "even" if few else "extremes")}, roles
            )

        return _chart.fitted(total, limit, pack)

    def _extremes(self, count: int) -> list[int]:
        """About ``count`` rows: of each stretch those with the least and the greatest value of each series."""
        total = len(self._x)
        stretches = max(1, count // (2 * len(self._series)))
        kept = {0, total - 1}
        for at in range(stretches):
            rows = range(at * total // stretches, (at + 1) * total // stretches)
            for one in self._series:
                values = one.numbers or ()
                present = [row for row in rows if not math.isnan(values[row])]
                if present:
                    kept |= {min(present, key=values.__getitem__), max(present, key=values.__getitem__)}
                if len(present) < len(rows):
                    kept.add(next(row for row in rows if math.isnan(values[row])))
        return sorted(kept)

    def text(self) -> str:
        count = len(self._x)
        span = _columns.extent(self._x.numbers or ())
        where = (
            f", {_words.clip(self.x_label or 'x', 60)} {_columns.number(span[0])} to {_columns.number(span[1])}"
            if span
            else ""
        )
        rows = []
        for one in self._series[:_TOLD]:
            present = [value for value in one.numbers or () if not math.isnan(value)]
            numbers = (present[0], present[-1], min(present), max(present)) if present else (math.nan,) * 4
            missing = f"{count - len(present):,}"
            rows.append((_words.clip(self._label(one.name), 40), *map(_columns.number, numbers), missing))
        names = ("series", "first", "last", "least", "greatest", "missing")
        table = _tables.as_text(_tables.Table(names, tuple(rows), frozenset(range(1, 6))))
        more = len(self._series) - _TOLD
        rest = [f"{more} more series are not told here."] if more > 0 else []
        return "\n".join([_words.plural(count, "row") + where, table, *rest])

    def _label(self, name: str) -> str:
        return f"{name} ({self.units[name]})" if name in self.units else name

    def svg(self, title: str = "") -> str:
        shown = self._series[:_SERIES]
        xs = self._x.numbers or ()
        spans = [span for one in shown if (span := _columns.extent(one.numbers or ()))]
        y = (min(low for low, _ in spans), max(high for _, high in spans)) if spans else None
        plane = _plane.Plane(_plane.roomy(_columns.extent(xs)), _plane.roomy(y))
        parts = [plane.axes(self.x_label or "x", self.y_label)]
        for one, hue in zip(shown, _ramps.HUES, strict=False):
            parts.append(f'<path class="l" stroke="{hue}" d="{self._path(one, plane)}"/>')
        notes = [f"{_SERIES} of {len(self._series)} series"] if len(self._series) > _SERIES else []
        notes += [] if spans else ["no row has a value"]
        parts.append(_plane.text(_plane.WIDTH - 12, 15, "; ".join(notes), "e"))
        key = [(hue, self._label(one.name)) for one, hue in zip(shown, _ramps.HUES, strict=False)]
        return _plane.svg(title or "lines", "".join([*parts, _plane.key(key, _plane.HEIGHT - 8)]))

    def _path(self, one: Column, plane: _plane.Plane) -> str:
        """The line, thinned to what the picture can show; a gap begins a new stroke."""
        xs, values = self._x.numbers or (), one.numbers or ()
        rows: Sequence[int] = range(len(xs))
        if len(xs) > 2 * _STRETCHES:
            rows = dataclasses.replace(self, series={one.name: values}, units={})._extremes(2 * _STRETCHES)
        parts, drawing = [], False
        for row in rows:
            if not math.isfinite(values[row]):
                drawing = False
                continue
            x, y = plane.at(xs[row], values[row])
            parts.append(f"{'L' if drawing else 'M'}{x:g} {y:g}")
            drawing = True
        return "".join(parts)

    def figure(self) -> Any:
        from plotly import graph_objects

        figure = graph_objects.Figure()
        for one in self._series:
            values = [value if math.isfinite(value) else None for value in one.numbers or ()]
            name = _words.clip(self._label(one.name), 80)
            figure.add_trace(
                graph_objects.Scatter(x=list(self._x.numbers or ()), y=values, mode="lines", name=name)
            )
        return figure.update_layout(
            xaxis_title=_words.clean(self.x_label), yaxis_title=_words.clean(self.y_label)
        )
