"""The mime bundle of a report, small enough to stay in a notebook."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from deepseek_lab.base.events import EventLog
from deepseek_lab.base.report import OptimizeReport
from deepseek_lab.views import _html, _page, _run, _text, _words
from deepseek_lab.views._html import Detail

LIMIT_BYTES = 200_000
"""A bundle's largest size, as a notebook stores it: JSON in UTF-8."""
MAX_SECTIONS = 24
"""Graphs with a section of their own."""
MAX_PLAN = 20_000
"""Characters of a plan that our own front end shows."""
MAX_FRAMES = 4
"""Graphs that can be explored."""

_BASE = (Detail(), Detail(max_rows=20, max_remarks=12, reason_width=120), Detail(8, 4, 60))
"""From full to lean, for what stands around the graphs."""


def bundle(
    report: OptimizeReport, log: EventLog | None = None, *, live: bool = False, run: str = ""
) -> dict[str, Any]:
    """The report as ``text/plain``, static ``text/html`` and, with its events, data for our own front end; at most
    200 kB in all.

    Large graphs are folded, and graphs, rows and lines beyond the size are counted instead of shown;
    :func:`deepseek_lab.views.save` writes a page that holds more.

    Args:
        report: What is shown.
        log: The events that the report was folded from.
        live: Whether more will come.
        run: Under what name a page asks for what comes.

    >>> from deepseek_lab.base.report import OptimizeReport
    >>> bundle(OptimizeReport())["text/plain"]
    'optimize  nothing captured yet'
    """
    made: dict[str, Any] = {"text/plain": _text.report_text(report)}
    contents = []
    if log is not None:
        contents.append(_page.content("run", report.verb or "optimize", _run.packed_log(log)))
        if report.main_graph is not None and report.main_graph.plan:
            contents.append(_page.text_content("plan as Python", report.main_graph.plan[:MAX_PLAN]))
        made[_page.MIME] = _page.payload(run or report.run, contents, live=live)
    for detail in _BASE:
        room = LIMIT_BYTES - size({**made, "text/html": _html.body(report, [], detail)}) - 500
        if room > LIMIT_BYTES // 2:
            break
    sections, graphs = _sections(report, detail, room)
    if log is not None:
        made[_page.MIME] = _page.payload(run or report.run, contents + graphs, live=live)
    made["text/html"] = _html.body(report, sections, detail)
    return made


def size(data: object) -> int:
    """Bytes that ``data`` takes in a notebook."""
    return len(json.dumps(data, ensure_ascii=False).encode())


def _sections(report: OptimizeReport, detail: Detail, room: int) -> tuple[list[str], list[dict[str, str]]]:
    """Sections in the order of capture, and graphs to explore as data; the largest graphs choose first how much of
    the room they take.
    """
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
    graphs = []
    for record in records[:MAX_FRAMES]:
        if record.graph not in found:
            continue
        for content in _html.graph_contents(report, record):
            frame = _html.graph_frame(content)
            cost = size(frame) + size(content)
            if frame and cost <= room:
                found[record.graph] = found[record.graph].removesuffix("</details>") + frame + "</details>"
                graphs.append(content)
                room -= cost
                break
    shown = [found[name] for name in report.graphs if name in found]
    left = len(records) - len(shown)
    if left:
        shown.append(
            f'<p class="m">… {_words.plural(left, "more graph")} left out; save the report for all</p>'
        )
    return shown, graphs
