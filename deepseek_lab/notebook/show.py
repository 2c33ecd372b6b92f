"""Objects that show themselves: what a line magic returns and what ``--to`` binds.

Each is a plain record first (``to_dict``) and text or HTML second. All that comes from a notebook is escaped.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from deepseek_lab.base.events import Noted, RunStarted
from deepseek_lab.base.report import OptimizeReport
from deepseek_lab.notebook.ports import Run

_PAGE = '<!doctype html><meta charset="utf-8"><title>deepseek_lab</title>\n{body}\n'


def _sendable(text: str) -> str:
    """The text as a kernel can send it: half of a character, which a name may hold, has no UTF-8."""
    return text.encode("utf-8", "replace").decode()


class Shown:
    """Text, perhaps with HTML, and the data that both were made from."""

    def __init__(self, text: str, *, html_text: str = "", data: Any = None) -> None:
        self._text = text
        self._html = html_text
        self._data = {"text": text} if data is None else data

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return dict(self._data)

    def bundle(self) -> dict[str, Any]:
        """The mime bundle."""
        made: dict[str, Any] = {"text/plain": _sendable(self._text)}
        if self._html:
            made["text/html"] = self._html
        return made

    def metadata(self) -> dict[str, Any]:
        """The bundle's metadata."""
        return {}

    def save(self, path: Path) -> None:
        """Write .json data, an .html page or .md text."""
        if path.suffix == ".json":
            path.write_text(json.dumps(self.to_dict(), indent=1), encoding="utf-8")
        elif path.suffix == ".html":
            body = self._html or f"<pre>{html.escape(self._text)}</pre>"
            path.write_text(_PAGE.format(body=body), encoding="utf-8")
        else:
            path.write_text(f"```\n{self._text}\n```\n", encoding="utf-8")

    def __repr__(self) -> str:
        return self._text

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return self.bundle()


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, name: str = "rows") -> Shown:
    """A titled table as aligned text, as HTML, and as data: a list of dicts under ``name``."""
    words = [[_word(value) for value in row] for row in rows]
    widths = [max([len(column), *(len(row[i]) for row in words)]) for i, column in enumerate(columns)]
    lines = [title]
    if rows:
        for row in [list(columns), *words]:
            lines.append(
                "  " + "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip()
            )
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f'<td style="text-align:left">{html.escape(word)}</td>' for word in row) + "</tr>"
        for row in words
    )
    html_text = f"<div>{html.escape(title)}</div>"
    if rows:
        html_text += f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    data = [dict(zip(columns, map(_plain, row), strict=True)) for row in rows]
    return Shown("\n".join(lines), html_text=html_text, data={"title": title, name: data})


def _word(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.3g}"
        case list() | tuple():
            return ", ".join(map(str, value))
        case _:
            return str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


class Widget(Protocol):
    """What follows a live run in a front end without our extension."""

    @property
    def data(self) -> dict[str, Any]: ...
    @property
    def metadata(self) -> dict[str, Any]: ...
    def close(self) -> None: ...


class ShownRun(Shown):
    """A live look at a run: attributes are its report's, ``to_dict()`` is the report as plain data.

    ``run`` is None where there was nothing to optimise; ``reason`` then says why.
    """

    def __init__(self, run: Run | None, *, view: str = "auto", reason: str = "") -> None:
        super().__init__("")
        self.run = run
        self._view = view
        self.widget: Widget | None = None
        """What follows the run where the front end has no extension of ours; only while it is under way."""
        self._empty = OptimizeReport.fold([RunStarted(run="", verb="optimize"), Noted(run="", text=reason)])

    @property
    def report(self) -> OptimizeReport:
        """The report as it stands now."""
        return self.run.report if self.run is not None else self._empty

    def restore(self) -> None:
        """Take the engine away from everything that the run touched."""
        if self.run is not None:
            self.run.restore()

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON data."""
        return self.report.to_dict()

    def bundle(self) -> dict[str, Any]:
        """Text alone for ``--view text`` and where nothing was captured, else the report's static views."""
        if self._view == "text" or not self.report.graphs:
            return {"text/plain": _sendable(repr(self))}
        from deepseek_lab import views

        run = self.run
        if run is None:
            return views.bundle(self.report)
        live = run.working and self._view != "static"
        made = views.bundle(self.report, run.log, live=live, run=run.id)
        return made | self.widget.data if self.widget is not None and live else made

    def metadata(self) -> dict[str, Any]:
        """What the widget needs beside its place in the bundle."""
        return self.widget.metadata if self.widget is not None else {}

    def save(self, path: Path) -> None:
        """Write the report as it stands now."""
        from deepseek_lab import views

        views.save(self.report, path)

    def __repr__(self) -> str:
        report = self.report
        if report.batch is None:
            return report.summary()
        from deepseek_lab import views

        return f"{report.summary()}\n{views.batch_text(report.batch)}"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.report, name)
