"""``memory``: what memory held while a cell ran, over time."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import Any

from deepseek_lab.base.errors import TargetError
from deepseek_lab.base.timeline import MemoryTimeline
from deepseek_lab.measure.profiler import Session
from deepseek_lab.notebook.host import Cell, Host, view_of
from deepseek_lab.notebook.measured import Make, MeasuredRegion, measure
from deepseek_lab.notebook.parse import Command
from deepseek_lab.notebook.plan import Plan
from deepseek_lab.notebook.show import Shown

_NOTHING = MemoryTimeline.of([])
_last: list[ShownMemory] = []


class ShownMemory(Shown):
    """A recording: ``timeline`` holds every event."""

    def __init__(self, timeline: MemoryTimeline, notes: list[str], *, view: str = "auto") -> None:
        from deepseek_lab import views

        lines = [views.timeline_text(timeline), *(f"note: {note}" for note in notes)]
        super().__init__("\n".join(lines))
        self.timeline, self.notes = timeline, notes
        self._view = view

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data: one list a column."""
        one = self.timeline
        return {
            "at_s": list(one.at_s),
            "bytes": list(one.bytes),
            "block": list(one.block),
            "category": list(one.category),
            "module": list(one.module),
            "operator": list(one.operator),
            "file": list(one.file),
            "line": list(one.line),
            "notes": self.notes,
        }

    def bundle(self) -> dict[str, Any]:
        """Text alone for ``--view text``; else a picture and, unless ``static``, the timeline to explore."""
        made = super().bundle()
        if self._view == "text" or not len(self.timeline):
            return made
        from deepseek_lab import views

        title = "memory while the cell ran"
        svg = views.timeline_svg(self.timeline, title)
        data = base64.b64encode(svg.encode()).decode()
        picture = f'<div><img alt="{title}" src="data:image/svg+xml;base64,{data}"></div>'
        text = f"<pre>{html.escape(made['text/plain'])}</pre>"
        frame = views.timeline_frame(self.timeline, title) if self._view != "static" else ""
        if frame:
            summary = "as a picture, which a notebook that is not trusted shows too"
            picture = f"<details><summary>{summary}</summary>{picture}</details>"
        return made | {"text/html": f"{frame}{picture}{text}"}

    def save(self, path: Path) -> None:
        """Write .json data, an .html page with every event, or .md text."""
        from deepseek_lab import views

        page = (
            views.timeline_page(self.timeline, "memory while the cell ran") if path.suffix == ".html" else ""
        )
        if page:
            path.write_text(page, encoding="utf-8")
        else:
            super().save(path)


def region(plan: Plan, cell: Cell, host: Host) -> MeasuredRegion:
    """Surround a cell."""
    return MeasuredRegion(plan, cell, host, _maker(plan.command), memory=True)


def run(plan: Plan, host: Host) -> Shown:
    """Run a statement and show what memory held meanwhile; without one, the last recording again."""
    __tracebackhide__ = True
    command = plan.command
    if command.operands:
        return measure(" ".join(command.operands), host, _maker(command), memory=True)
    if not _last:
        raise TargetError(
            "no memory has been recorded in this session yet", hint="%%deepseek memory above a cell"
        )
    return ShownMemory(_last[-1].timeline, _last[-1].notes, view=view_of(command))


def _maker(command: Command) -> Make:
    def make(session: Session, error: str) -> ShownMemory:
        notes = session.notes()
        if not notes and session.recorded < 0.95:
            notes = [f"the first {session.recorded:.0%} of the time were recorded; there is no room for more"]
        if error:
            notes.append(f"the cell was ended by {error}")
        shown = ShownMemory(session.timeline() or _NOTHING, notes, view=view_of(command))
        _last[:] = [shown]
        return shown

    return make
