"""A table of results."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, ClassVar

from deepseek_lab.base.errors import UsageError
from deepseek_lab.views import _chart, _columns, _html, _tables, _words
from deepseek_lab.views._chart import Chart
from deepseek_lab.views._columns import Better, Column

_ROWS, _COLUMNS, _WIDTH = 20, 12, 60
"""What is printed and shown without a page, and how wide a cell of it is."""


@dataclasses.dataclass(frozen=True, eq=False)
class TableView(Chart):
    """Columns of numbers and text, to sort, filter, copy and save.

    Args:
        columns: Values by the column's name; None and NaN are missing. A column with any text in it is text.
        units: What numbers are in, by column.
        better: Which way is better, ``"lower"`` or ``"higher"``, by column; the best value is marked then.
        bars: Columns whose cells show a bar.

    >>> print(TableView({"trial": ["a", "b"], "loss": [0.5, 0.25]}, better={"loss": "lower"}).text())
    trial    loss
    a         0.5
    b      * 0.25
    """

    columns: Mapping[str, Sequence[Any]]
    units: Mapping[str, str] = dataclasses.field(default_factory=dict)
    better: Mapping[str, Better] = dataclasses.field(default_factory=dict)
    bars: Sequence[str] = ()

    kind: ClassVar[str] = "table"

    def __post_init__(self) -> None:
        if isinstance(self.bars, str):
            raise UsageError("bars is one text, not several names", hint=f"[{_words.clip(self.bars, 60)!r}]")
        object.__setattr__(self, "_read", _columns.columns(self.columns))
        _columns.roles(self._columns, self.units, self.better, self.bars)

    @property
    def _columns(self) -> tuple[Column, ...]:
        return self._read  # type: ignore[attr-defined, no-any-return]

    @property
    def rows(self) -> int:
        return len(self._columns[0])

    def packed(self, limit: int | None = None) -> str:
        roles = _columns.roles(self._columns, self.units, self.better, self.bars)

        def pack(count: int) -> str:
            kept = self._columns if count == self.rows else [one.of(range(count)) for one in self._columns]
            return _columns.pack(kept, _chart.cut(count, self.rows, "first"), roles)

        return _chart.fitted(self.rows, limit, pack)

    def text(self) -> str:
        return "\n".join([_tables.as_text(self._table("* ")), *self._rest()])

    def html(self, title: str = "") -> str:
        table = self._table("★ ")
        flush = [' class="n"' if at in table.numeric else "" for at in range(len(table.columns))]
        head = "".join(
            f"<th{style}>{escape(name)}</th>" for style, name in zip(flush, table.columns, strict=True)
        )
        body = "".join(
            f"<tr>{''.join(f'<td{style}>{escape(cell)}</td>' for style, cell in zip(flush, row, strict=True))}</tr>"
            for row in table.rows
        )
        heading = f'<p class="s">{escape(_words.clip(title, 120))}</p>' if title else ""
        rest = "".join(f'<p class="m">{escape(line)}</p>' for line in self._rest())
        return (
            f'<div class="dsl"><style>{_html.STYLE}</style>{heading}<div class="x"><table><thead><tr>{head}</tr>'
            f"</thead><tbody>{body}</tbody></table></div>{rest}</div>"
        )

    def _table(self, mark: str) -> _tables.Table:
        shown = self._columns[:_COLUMNS]
        cells = [self._cells(one, mark) for one in shown]
        numeric = frozenset(at for at, one in enumerate(shown) if one.numbers is not None)
        names = tuple(_words.clip(self._label(one.name), _WIDTH) for one in shown)
        return _tables.Table(names, tuple(zip(*cells, strict=True)), numeric)

    def _cells(self, one: Column, mark: str) -> list[str]:
        best = self._best.get(one.name)
        rows = range(min(self.rows, _ROWS))
        if one.numbers is None or best is None:
            return [_words.clip(one.said(row), _WIDTH) for row in rows]
        return [(mark if one.numbers[row] == best else "") + one.said(row) for row in rows]

    @functools.cached_property
    def _best(self) -> dict[str, float]:
        return {
            one.name: _columns.best(one, self.better[one.name])
            for one in self._columns
            if one.name in self.better
        }

    def _label(self, name: str) -> str:
        return f"{name} ({self.units[name]})" if name in self.units else name

    def _rest(self) -> list[str]:
        lines = []
        if self.rows == 0:
            lines.append("The table has no rows.")
        if self.rows > _ROWS:
            lines.append(f"The first {_ROWS} of {self.rows:,} rows are shown.")
        if len(self._columns) > _COLUMNS:
            lines.append(f"The first {_COLUMNS} of {len(self._columns)} columns are shown.")
        return lines
