"""What every view of a table of results is: a record that can be explored, printed, drawn and taken away."""

from __future__ import annotations

import abc
import base64
from collections.abc import Callable
from html import escape
from typing import Any, ClassVar

from deepseek_lab.views import _bundle, _html, _page, _words

MAX_KEPT = 50_000
"""Rows that are tried first where not all can be kept."""


class Chart(abc.ABC):
    """A view of results: its record holds plain data, and every form of output follows from it.

    A new kind of view is a frozen record that inherits from this, with a ``kind`` that ``js/src/core/kinds.ts``
    registers.
    """

    kind: ClassVar[str]

    @abc.abstractmethod
    def packed(self, limit: int | None = None) -> str:
        """The packed table for the page; with ``limit`` as much of it as fits into so many characters."""

    @abc.abstractmethod
    def text(self) -> str:
        """What it shows, for a terminal and for screen readers."""

    @abc.abstractmethod
    def html(self, title: str = "") -> str:
        """A static picture or table, for places where nothing executes."""

    def page(self, title: str) -> str | None:
        """A whole page with all of the data; None where the front end was not built."""
        return _page.page(self.kind, title, self.packed())

    def frame(self, title: str, limit: int = _bundle.LIMIT_BYTES) -> str:
        """The view to explore as HTML of at most ``limit`` bytes; empty where there is no room for it.

        What does not fit is left out, and the view says how much of how much it shows.
        """
        title = _words.clip(title, 120)
        shell = _page.frame(self.kind, title, "")
        if shell is None:
            return ""
        packed = self.packed(max(limit - _bundle.size(shell), 0))
        made = _page.frame(self.kind, title, packed) or ""
        return made if _bundle.size(made) <= limit else ""

    def bundle(self, title: str) -> dict[str, str]:
        """``text/plain`` and ``text/html``, at most 200 kB in all: the static form, then the view to explore."""
        text, static = self.text(), self.html(title)
        room = _bundle.LIMIT_BYTES - _bundle.size({"text/plain": text, "text/html": static}) - 300
        frame = self.frame(title, room)
        note = _html.UNTRUSTED if frame else ""
        return {"text/plain": text, "text/html": f'<div class="dsl">{static}{frame}{note}</div>'}


class Drawn(Chart):
    """A view whose static form is a picture."""

    @abc.abstractmethod
    def svg(self, title: str = "") -> str:
        """A static picture that reads at 640 px width."""

    @abc.abstractmethod
    def figure(self) -> Any:
        """A plotly figure of all of the data, to be changed and taken away."""

    def html(self, title: str = "") -> str:
        data = base64.b64encode(self.svg(title).encode()).decode()
        name = escape(_words.clip(title, 120) or self.kind)
        return f'<img alt="{name}" style="max-width:100%" src="data:image/svg+xml;base64,{data}">'


def fitted(total: int, limit: int | None, pack: Callable[[int], str]) -> str:
    """What ``pack`` makes of as many of ``total`` rows as fit into ``limit`` characters."""
    if limit is None:
        return pack(total)
    count = min(total, MAX_KEPT)
    while True:
        made = pack(count)
        if len(made) <= limit or count <= 1:
            return made
        count = max(1, min(count - 1, int(count * limit / len(made) * 0.95)))


def cut(shown: int, total: int, how: str) -> dict[str, Any]:
    """What tells the page that not all is there."""
    return {"cut": {"shown": shown, "total": total, "how": how}} if shown < total else {}
