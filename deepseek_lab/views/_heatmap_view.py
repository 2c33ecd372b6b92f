"""A matrix of numbers as colours: attention, confusion, correlation."""

from __future__ import annotations

import array
import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from deepseek_lab.base.errors import UsageError
from deepseek_lab.views import _chart, _columns, _plane, _ramps, _words
from deepseek_lab.views._chart import Drawn
from deepseek_lab.views._packed import Packer

_SIDE = 96
"""Cells of a side of a static picture."""
_MAX_SIDE = 16_384
_ROW_LABELS, _COLUMN_LABELS = 20, 8


@dataclasses.dataclass(frozen=True, eq=False)
class HeatmapView(Drawn):
    """Numbers by row and column; around zero where they have both signs.

    Args:
        values: The rows of the matrix; None and NaN are missing.
        rows: A label for each row.
        columns: A label for each column.
        label: What the numbers are.
        pool: What stands for several cells where not all can be kept: their ``"mean"``, or the one ``"max"`` that is
            furthest from zero.

    >>> print(HeatmapView([[0.5, -1.0], [None, 2.0]], rows=["a", "b"], label="weight").text())
    2 × 2 weight, -1 to 2, 1 missing
    """

    values: Sequence[Sequence[Any]]
    rows: Sequence[str] = ()
    columns: Sequence[str] = ()
    label: str = ""
    pool: Literal["mean", "max"] = "mean"

    kind: ClassVar[str] = "heatmap"

    def __post_init__(self) -> None:
        values = _columns.listed(self.values)
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise UsageError("values is no sequence of rows", hint="[[0.1, 0.9], [0.8, 0.2]]")
        cells = tuple(self._row(row, line) for row, line in enumerate(values))
        widths = {len(row) for row in cells}
        if len(widths) > 1:
            row = next(at for at, line in enumerate(cells) if len(line) != len(cells[0]))
            raise UsageError(
                f"row {row} of values has {_words.plural(len(cells[row]), 'cell')}, row 0 {len(cells[0])}",
                hint="fill shorter rows with None",
            )
        if max(len(cells), *widths, 0) > _MAX_SIDE:
            raise UsageError(
                f"a side of values is longer than {_MAX_SIDE:,}", hint="pass a part, as values[:1000]"
            )
        for name, count in (("rows", len(cells)), ("columns", max(widths, default=0))):
            labels = _columns.listed(getattr(self, name))
            if len(labels) not in (0, count):
                raise UsageError(
                    f"{name} has {_words.plural(len(labels), 'label')}, values {_words.plural(count, name[:-1])}",
                    hint=f"{name}=[str(at) for at in range({count})]",
                )
            object.__setattr__(self, name, tuple(map(str, labels)))
        if self.pool not in ("mean", "max"):
            raise UsageError(f"pool is {self.pool!r}, not 'mean' or 'max'", hint="'mean'")
        object.__setattr__(self, "_cells_read", cells)

    @staticmethod
    def _row(row: int, line: Any) -> array.array[float]:
        found = _columns.column(f"row {row} of values", line)
        if found.numbers is None:
            raise UsageError(f"row {row} of values holds text", hint="pass numbers")
        return found.numbers

    @property
    def _cells(self) -> tuple[array.array[float], ...]:
        return self._cells_read  # type: ignore[attr-defined, no-any-return]

    @property
    def shape(self) -> tuple[int, int]:
        return len(self._cells), len(self._cells[0]) if self._cells else 0

    def _span(self) -> tuple[float, float] | None:
        return _columns.extent(value for row in self._cells for value in row)

    def pooled(self, rows: int, columns: int) -> HeatmapView:
        """The matrix with at most so many rows and columns, blocks of cells by what ``pool`` says."""
        height, width = self.shape
        rows, columns = min(rows, height), min(columns, width)
        if (rows, columns) == (height, width):
            return self
        down = [(at * height // rows, (at + 1) * height // rows) for at in range(rows)]
        across = [(at * width // columns, (at + 1) * width // columns) for at in range(columns)]
        values = [[self._pool(top, end, left, right) for left, right in across] for top, end in down]
        return HeatmapView(
            values,
            _joined(self.rows, down, height),
            _joined(self.columns, across, width),
            self.label,
            self.pool,
        )

    def _pool(self, top: int, bottom: int, left: int, right: int) -> float:
        present = [v for row in self._cells[top:bottom] for v in row[left:right] if not math.isnan(v)]
        if not present:
            return math.nan
        return _columns.mean(present) if self.pool == "mean" else max(present, key=abs)

    def packed(self, limit: int | None = None) -> str:
        height, width = self.shape
        made = self._pack(self.shape)
        if limit is None:
            return made
        share = 1.0
        while len(made) > limit and (height, width) != (1, 1):
            share = min(share * math.sqrt(limit / len(made)) * 0.97, share * 0.97)
            height, width = max(1, int(self.shape[0] * share)), max(1, int(self.shape[1] * share))
            made = self.pooled(height, width)._pack(self.shape)
        return made

    def _pack(self, whole: tuple[int, int]) -> str:
        height, width = self.shape
        pieces = max(1, math.ceil(height * width / _columns.MAX_ROWS))
        length = math.ceil(height * width / pieces)
        labels = {name: given for name in ("rows", "columns") if (given := list(getattr(self, name)))}
        meta = {"shape": [height, width], "label": self.label, "labels": labels}
        packer = Packer(length, meta | _chart.cut(height * width, whole[0] * whole[1], self.pool))
        flat = array.array("d")
        for row in self._cells:
            flat.extend(row)
        flat.extend([math.nan] * (length * pieces - len(flat)))
        for piece in range(pieces):
            packer.floats(f"values {piece}", flat[piece * length : (piece + 1) * length])
        return packer.base64()

    def text(self) -> str:
        height, width = self.shape
        span = self._span()
        said = f"{_columns.number(span[0])} to {_columns.number(span[1])}" if span else "no numbers"
        missing = sum(math.isnan(value) for row in self._cells for value in row)
        label = _words.clip(self.label, 60) or "numbers"
        return f"{height:,} × {width:,} {label}, {said}" + (f", {missing:,} missing" if missing else "")

    def svg(self, title: str = "") -> str:
        low, high, diverging = _ramps.bounds(self._span())
        small = self.pooled(_SIDE, _SIDE)
        rows, columns = small.shape
        labels = [_words.clip(_first(self.rows, at, rows, self.shape[0]), 16) for at in range(rows)]
        left = 12 + max(map(_words.cells, labels), default=0) * 6.4
        cell = min(40.0, (_plane.WIDTH - left - 12) / max(columns, 1), 420 / max(rows, 1))
        wide, tall = cell * columns, cell * rows
        parts = []
        if rows and columns:
            picture = _ramps.png(small._cells, low, high, diverging=diverging)
            parts.append(
                f'<image x="{left:g}" y="26" width="{wide:g}" height="{tall:g}" preserveAspectRatio="none" '
                f'style="image-rendering:pixelated" href="{picture}"/>'
                f'<rect class="b" x="{left:g}" y="26" width="{wide:g}" height="{tall:g}"/>'
            )
        for at in range(
            0, rows, max(1, math.ceil(rows / min(_ROW_LABELS, max(1, tall // 13))) if rows else 1)
        ):
            parts.append(_plane.text(left - 5, 30 + cell * (at + 0.5), labels[at], "e"))
        every = max(1, math.ceil(columns / _COLUMN_LABELS), math.ceil(46 / cell))
        for at in range(0, columns, every):
            words = _words.clip(
                _first(self.columns, at, columns, self.shape[1]), max(3, int(every * cell / 6.6))
            )
            parts.append(_plane.text(left + cell * (at + 0.5), 40 + tall, words, "c"))
        ends = [
            (_ramps.colour(share, diverging=diverging), _columns.number(low * (1 - share) + share * high))
            for share in (0, 0.25, 0.5, 0.75, 1)
        ]
        pooled = f"{rows} × {columns} of {self.text()}" if small is not self else self.text()
        parts.append(
            _plane.text(
                4,
                15,
                _words.clip(pooled + (f", {self.pool} of each block" if small is not self else ""), 96),
                "t",
            )
        )
        parts.append(_plane.key(ends, 62 + tall))
        return _plane.svg(title or self.text(), "".join(parts), height=74 + tall)

    def figure(self) -> Any:
        from plotly import graph_objects

        _, _, diverging = _ramps.bounds(self._span())
        z = [[None if math.isnan(value) else value for value in row] for row in self._cells]
        heatmap = graph_objects.Heatmap(
            z=z,
            x=list(self.columns) or None,
            y=list(self.rows) or None,
            colorscale="RdBu_r" if diverging else "Viridis",
            zmid=0 if diverging else None,
            colorbar={"title": _words.clip(self.label, 60)},
        )
        return graph_objects.Figure(heatmap).update_yaxes(autorange="reversed")


def _first(labels: Sequence[str], block: int, blocks: int, count: int) -> str:
    """The label of the first row or column of a block."""
    at = block * count // blocks
    return labels[at] if labels else str(at)


def _joined(labels: Sequence[str], blocks: Sequence[tuple[int, int]], count: int) -> list[str]:
    """A label for each block: of its first and its last row or column."""
    names = labels or [str(at) for at in range(count)]
    return [
        names[start] if end - start == 1 else f"{names[start]} … {names[end - 1]}" for start, end in blocks
    ]
