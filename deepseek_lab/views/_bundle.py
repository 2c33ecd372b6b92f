"""The mime bundle of a report, small enough to stay in a notebook."""

from __future__ import annotations

import dataclasses
import json

from deepseek_lab.base.report import OptimizeReport
from deepseek_lab.views import _html, _text, _words
from deepseek_lab.views._html import Detail

LIMIT_BYTES = 200_000
"""A bundle's largest size, as a notebook stores it: JSON in UTF-8."""
MAX_SECTIONS = 24
"""Graphs with a section of their own."""
MAX_FRAMES = 4
"""Graphs that can be explored."""

_BASE = (Detail(), Detail(max_rows=20, max_remarks=12, reason_width=120), Detail(8, 4, 60))
"""From full to lean, for what stands around the graphs."""


def bundle(report: OptimizeReport) -> dict[str, str]:
    """The report as ``text/plain`` and static ``text/html``, at most 200 kB in all.

    Large graphs are folded, and graphs, rows and lines beyond the size are counted instead of shown;
    :func:`deepseek_lab.views.save` writes a page that holds more.

    >>> from deepseek_lab.base.report import OptimizeReport
    >>> bundle(OptimizeReport())["text/plain"]
    'optimize  nothing captured yet'
    """
    text = _text.report_text(report)
    for detail in _BASE:
        room = LIMIT_BYTES - size({"text/plain": text, "text/html": _html.body(report, [], detail)}) - 500
        if room > LIMIT_BYTES // 2:
            break
    sections = _sections(report, detail, room)
    return {"text/plain": text, "text/html": _html.body(report, sections, detail)}


def size(data: object) -> int:
    """Bytes that ``data`` takes in a notebook."""
    return len(json.dumps(data, ensure_ascii=False).encode())


def _sections(report: OptimizeReport, detail: Detail, room: int) -> list[str]:
    """Sections in the order of capture; the largest graphs choose first how much of the room they take."""
    records = sorted(report.graphs.values(), key=lambda record: -len(record.nodes))
    found: dict[str, str] = {}
    for record in records[:MAX_SECTIONS]:
        others = min(len(records), MAX_SECTIONS) - len(found) - 1
        share = room if others == 0 else room * 0.6
        for boxes, printed, lines in ((80, 60, 200), (40, 40, 100), (20, 20, 40), (0, 12, 20), (0, 4, 0)):
            lean = dataclasses.replace(detail, max_boxes=boxes, max_printed=printed, plan_lines=lines)
            section = _html.graph_section(report, record, lean)
            if size(section) <= share:
                found[record.graph] = section
                room -= size(section)
                break
    for record in records[:MAX_FRAMES]:
        frame = _html.graph_frame(record) if record.graph in found else ""
        if frame and size(frame) <= room:
            found[record.graph] = found[record.graph].removesuffix("</details>") + frame + "</details>"
            room -= size(frame)
    shown = [found[name] for name in report.graphs if name in found]
    left = len(records) - len(shown)
    if left:
        shown.append(
            f'<p class="m">… {_words.plural(left, "more graph")} left out; save the report for all</p>'
        )
    return shown
