"""``graph``: the captured graph to explore, as a static picture, and as text grouped by module with cell lines."""

from __future__ import annotations

import base64
import dataclasses
import html
import textwrap
from collections.abc import Iterator, Sequence

from deepseek_lab.base.errors import TargetError
from deepseek_lab.base.report import GraphRecord
from deepseek_lab.notebook.host import Host, view_of
from deepseek_lab.notebook.plan import Plan
from deepseek_lab.notebook.show import Shown
from deepseek_lab.notebook.verbs import chosen_run

_ENDS = {"input", "parameter", "output"}
_MAX_PICTURES = 4
"""Pictures of the largest graphs; more would outgrow what may stay in a notebook."""
_FRAMES_BYTES = 100_000
"""Bytes of graphs to explore that may stay in a notebook."""


def run(plan: Plan, host: Host) -> Shown:
    """Show every graph of a report."""
    report = chosen_run(plan).report
    if not report.graphs:
        raise TargetError("the run has captured no graph yet", hint="%deepseek why")
    records = list(report.graphs.values())
    text = "\n\n".join(described(record) for record in records)
    html_text = ""
    if view_of(plan.command) != "text":
        largest = sorted(records, key=lambda record: len(record.nodes), reverse=True)[:_MAX_PICTURES]
        html_text = "\n".join(
            [
                *_pictures(largest, view_of(plan.command)),
                _folded("as text", f"<pre>{html.escape(text)}</pre>"),
            ]
        )
    data = {"graphs": [dataclasses.asdict(record) for record in records]}
    return Shown(text, html_text=html_text, data=data)


def described(record: GraphRecord) -> str:
    """A graph's operations under the modules that they belong to, as captured and as they run."""
    from deepseek_lab import views

    parts = [heading(record), textwrap.indent(views.graph_text(record.nodes), "  ")]
    if record.plan_nodes:
        parts += [
            f"as it runs in {record.chosen}",
            textwrap.indent(views.graph_text(record.plan_nodes), "  "),
        ]
    return "\n".join(parts)


def heading(record: GraphRecord) -> str:
    """One line: what was called with what, how large the graph is, and what runs it."""
    num_operations = sum(node.op not in _ENDS for node in record.nodes)
    num_parameters = sum(node.op == "parameter" for node in record.nodes)
    size = f"{num_operations} operations, {num_parameters} parameters"
    return f"{record.target}({record.signature})  {size}, runs in {record.chosen}"


def _pictures(records: Sequence[GraphRecord], view: str) -> Iterator[str]:
    """Each graph to explore with its picture folded, or the picture alone."""
    from deepseek_lab import views

    room = _FRAMES_BYTES if view != "static" else 0
    for record in records:
        frame = views.graph_frame(record.nodes, heading(record), record.plan_nodes) if room else ""
        if frame and len(frame) <= room:
            room -= len(frame)
            yield frame + _folded(
                "as a picture, which a notebook that is not trusted shows too", _picture(record)
            )
        else:
            yield _picture(record)


def _folded(title: str, inner: str) -> str:
    return f"<details><summary>{title}</summary>{inner}</details>"


def _picture(record: GraphRecord) -> str:
    from deepseek_lab import views

    svg = views.graph_svg(record.nodes, title=heading(record), plan_nodes=record.plan_nodes or None)
    # As an image: front ends drop inline SVG from notebooks that they do not trust yet.
    data = base64.b64encode(svg.encode()).decode()
    return f'<div><img alt="{html.escape(heading(record))}" src="data:image/svg+xml;base64,{data}"></div>'
