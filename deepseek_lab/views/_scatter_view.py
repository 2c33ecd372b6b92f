"""Rows of results as points in a plane."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from deepseek_lab.base.errors import UsageError
from deepseek_lab.views import _chart, _columns, _plane, _ramps, _words
from deepseek_lab.views._chart import Drawn
from deepseek_lab.views._columns import Better, Column

_POINTS = 1200
"""Points that a static picture draws."""


@dataclasses.dataclass(frozen=True, eq=False)
class ScatterView(Drawn):
    """Any two columns of numbers against each other; the first two where ``x`` and ``y`` do not say which.

    Args:
        columns: Values by the column's name, as of a :class:`TableView`; all of them are told of each point.
        x: The column along x.
        y: The column along y.
        colour: The column that colours points, of numbers or of text.
        units: What numbers are in, by column.
        better: Which way is better, by column; where both axes have one, the Pareto front is marked.

    >>> view = ScatterView({"ms": [1, 2, 3], "error": [3, 1, 2]}, better={"ms": "lower", "error": "lower"})
    >>> view.front()
    [0, 1]
    """

    columns: Mapping[str, Sequence[Any]]
    x: str = ""
    y: str = ""
    colour: str = ""
    units: Mapping[str, str] = dataclasses.field(default_factory=dict)
    better: Mapping[str, Better] = dataclasses.field(default_factory=dict)

    kind: ClassVar[str] = "scatter"

    def __post_init__(self) -> None:
        read = _columns.columns(self.columns)
        object.__setattr__(self, "_read", read)
        _columns.roles(read, self.units, self.better)
        numeric = [one.name for one in read if one.numbers is not None]
        if not numeric:
            raise UsageError(
                "no column holds numbers, so there is nothing to place points by", hint="TableView(columns)"
            )
        for axis, default in (("x", numeric[0]), ("y", numeric[min(1, len(numeric) - 1)])):
            chosen = getattr(self, axis)
            if chosen:
                _columns.numeric(chosen, read, axis)
            object.__setattr__(self, axis, chosen or default)
        if self.colour:
            _columns.known(self.colour, read, "colour")

    @property
    def _columns(self) -> tuple[Column, ...]:
        return self._read  # type: ignore[attr-defined, no-any-return]

    def _numbers(self, name: str) -> Sequence[float]:
        found = next(one for one in self._columns if one.name == name).numbers
        assert found is not None
        return found

    def _placed(self) -> list[int]:
        """Rows with a number for both axes."""
        xs, ys = self._numbers(self.x), self._numbers(self.y)
        return [row for row in range(len(xs)) if math.isfinite(xs[row]) and math.isfinite(ys[row])]

    def front(self) -> list[int]:
        """Rows that no other row beats in one of the axes without being worse in the other, in the order of x."""
        if self.x == self.y or not {self.x, self.y} <= self.better.keys():
            return []
        sign = {name: 1 if self.better[name] == "lower" else -1 for name in (self.x, self.y)}
        xs, ys = self._numbers(self.x), self._numbers(self.y)
        costs = {row: (sign[self.x] * xs[row], sign[self.y] * ys[row]) for row in self._placed()}
        found: list[int] = []
        best = (math.nan, math.inf)
        for row in sorted(costs, key=costs.__getitem__):
            if costs[row][1] < best[1]:
                best = costs[row]
            if costs[row] == best:
                found.append(row)
        return found

    def packed(self, limit: int | None = None) -> str:
        total = len(self._columns[0])
        roles = _columns.roles(self._columns, self.units, self.better)
        axes = {"x": self.x, "y": self.y, "colour": self.colour}

        def pack(count: int) -> str:
            rows = self._chosen(range(total), count)
            kept = self._columns if len(rows) == total else [one.of(rows) for one in self._columns]
            return _columns.pack(kept, {"axes": axes, **_chart.cut(len(rows), total, "even")}, roles)

        return _chart.fitted(total, limit, pack)

    def _chosen(self, rows: Sequence[int], count: int) -> list[int]:
        """About ``count`` rows, evenly, and with them what is outermost or best, as far as that are few."""
        if len(rows) <= count:
            return list(rows)
        kept = {rows[at * len(rows) // count] for at in range(count)}
        outer = set(self.front())
        placed = self._placed()
        if placed:
            for name in (self.x, self.y):
                outer |= {
                    min(placed, key=self._numbers(name).__getitem__),
                    max(placed, key=self._numbers(name).__getitem__),
                }
        return sorted(kept | outer if len(outer) <= count else kept)

    def _label(self, name: str) -> str:
        return f"{name} ({self.units[name]})" if name in self.units else name

    def text(self) -> str:
        placed, front = self._placed(), self.front()
        lines = [f"{_words.plural(len(placed), 'point')} of {_words.plural(len(self._columns[0]), 'row')}"]
        for axis, name in (("x", self.x), ("y", self.y)):
            span = _columns.extent(self._numbers(name))
            said = f"{_columns.number(span[0])} to {_columns.number(span[1])}" if span else "no numbers"
            lines.append(f"{axis}: {_words.clip(self._label(name), 60)}, {said}")
        if front:
            lines.append(
                f"Pareto front: {_words.plural(len(front), 'point')}, rows {', '.join(map(str, front[:20]))}"
            )
            if len(front) > 20:
                lines[-1] += " …"
        return "\n".join(lines)

    def svg(self, title: str = "") -> str:
        xs, ys, placed = self._numbers(self.x), self._numbers(self.y), self._placed()
        rows = self._chosen(placed, _POINTS)
        plane = _plane.Plane(
            _plane.roomy(_columns.extent(xs[row] for row in placed)),
            _plane.roomy(_columns.extent(ys[row] for row in placed)),
        )
        hue, key = self._hues()
        front = set(self.front())
        parts = [plane.axes(self._label(self.x), self._label(self.y))]
        for row in rows:
            x, y = plane.at(xs[row], ys[row])
            parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="2.5" fill="{hue(row)}" fill-opacity=".75"/>')
        for row in [row for row in rows if row in front]:
            x, y = plane.at(xs[row], ys[row])
            parts.append(f'<circle class="f" cx="{x:g}" cy="{y:g}" r="4.5"/>')
        notes = [f"{len(rows):,} of {_words.plural(len(placed), 'point')}"] if len(rows) < len(placed) else []
        notes += ["ringed: Pareto front"] if front else []
        if not placed:
            notes.append("no row has a number for both axes")
        parts.append(_plane.text(_plane.WIDTH - 12, 15, "; ".join(notes), "e"))
        parts.append(_plane.key(key, _plane.HEIGHT - 8))
        return _plane.svg(title or self.text(), "".join(parts))

    def _hues(self) -> tuple[Any, list[tuple[str, str]]]:
        """The colour of a row, and what the colours mean."""
        found = next((one for one in self._columns if one.name == self.colour), None)
        if found is None:
            return lambda _: _ramps.HUES[0], []
        if found.words is not None:
            words, kinds = found.words, self._kinds(found.words)
            last = len(_ramps.HUES) - 1
            names = [(_ramps.HUES[min(at, last)], kind or "missing") for kind, at in kinds.items()]
            return lambda row: _ramps.HUES[min(kinds[words[row]], last)], names
        values: Sequence[float] = found.numbers or ()
        low, high, diverging = _ramps.bounds(_columns.extent(values))

        def hue(row: int) -> str:
            if not math.isfinite(values[row]):
                return _ramps.HUES[8]
            return _ramps.colour(_columns.share(values[row], low, high), diverging=diverging)

        ends = [
            (_ramps.colour(share, diverging=diverging), _columns.number(low * (1 - share) + share * high))
            for share in (0, 0.5, 1)
        ]
        return hue, ends

    @staticmethod
    def _kinds(words: Sequence[str]) -> dict[str, int]:
        """Words by how often they occur."""
        counts: dict[str, int] = {}
        for word in words:
            counts[word] = counts.get(word, 0) + 1
        return {word: at for at, word in enumerate(sorted(counts, key=lambda word: -counts[word]))}

    def figure(self) -> Any:
        from plotly import graph_objects

        xs, ys, placed = self._numbers(self.x), self._numbers(self.y), self._placed()
        found = next((one for one in self._columns if one.name == self.colour), None)
        figure = graph_objects.Figure()

        def add(rows: Sequence[int], name: str, marker: dict[str, Any]) -> None:
            figure.add_trace(
                graph_objects.Scatter(
                    x=[xs[row] for row in rows],
                    y=[ys[row] for row in rows],
                    customdata=list(rows),
                    mode="markers",
                    name=_words.clip(name, 80),
                    marker=marker,
                )
            )

        if found is not None and found.words is not None:
            for kind in self._kinds(found.words):
                add([row for row in placed if found.words[row] == kind], kind or "missing", {})
        elif found is not None and found.numbers is not None:
            values = [found.numbers[row] for row in placed]
            add(placed, found.name, {"color": values, "colorscale": "Viridis", "showscale": True})
        else:
            add(placed, "rows", {})
        if front := self.front():
            add(front, "Pareto front", {"symbol": "circle-open", "size": 12})
        return figure.update_layout(
            xaxis_title=_words.clean(self._label(self.x)), yaxis_title=_words.clean(self._label(self.y))
        )
