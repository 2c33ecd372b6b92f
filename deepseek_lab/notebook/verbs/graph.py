"""``graph``: the captured graph to explore, as a static picture, and as text grouped by module with cell lines.

With ``--profile`` it is measured, and what was measured can be laid over it.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from deepseek_lab.base.errors import TargetError, UsageError
from deepseek_lab.base.events import GraphBreak
from deepseek_lab.base.profile import GraphProfile
from deepseek_lab.base.report import GraphRecord, OptimizeReport
from deepseek_lab.notebook.host import Host, view_of
from deepseek_lab.notebook.parse import Command
from deepseek_lab.notebook.plan import Plan
from deepseek_lab.notebook.ports import Run, engine
from deepseek_lab.notebook.show import Shown
from deepseek_lab.notebook.verbs import chosen_run
from deepseek_lab.notebook.verbs.why import place

if TYPE_CHECKING:
    from deepseek_lab.views import Overlay

_ENDS = {"input", "parameter", "output"}
_MAX_PICTURES = 4
"""Pictures of the largest graphs; more would outgrow what may stay in a notebook."""
_FEWER = (10, 6, 3, 0)
"""How many overlays are kept where there is no room for all."""
_FRAMES_BYTES = 100_000
"""Bytes of graphs to explore that may stay in a notebook."""


def run(plan: Plan, host: Host) -> Shown:
    """Show every graph of a report."""
    command = plan.command
    for name in ("gradients", "seconds"):
        if command.has(name) and not command.has("profile"):
            raise UsageError(
                f"--{name} says how to measure, which --profile asks for",
                hint=str(dataclasses.replace(command, flags=(("profile", True), *command.flags))),
            )
    target = chosen_run(plan)
    report = target.report
    if not report.graphs:
        raise TargetError("the run has captured no graph yet", hint="%deepseek why")
    records = list(report.graphs.values())
    profiles = _profiles(target, command) if command.has("profile") else {}
    text = "\n\n".join(described(record, report.breaks_of(record.target)) for record in records)
    costs = "\n\n".join(_costs(record, profiles) for record in records if record.graph in profiles)
    html_text = ""
    if view_of(command) != "text":
        largest = sorted(records, key=lambda record: len(record.nodes), reverse=True)[:_MAX_PICTURES]
        html_text = "\n".join(
            [
                f"<pre>{html.escape(costs)}</pre>" if costs else "",
                *_pictures(report, largest, view_of(command), profiles),
                _folded("as text", f"<pre>{html.escape(text)}</pre>"),
            ]
        )
    data = {"graphs": [dataclasses.asdict(record) for record in records]}
    if profiles:
        data["profiles"] = [profile.to_dict() for profile in profiles.values()]
    return Shown(costs or text, html_text=html_text, data=data)


def _profiles(target: Run, command: Command) -> dict[str, GraphProfile]:
    """What was measured, by the graph's name."""
    seconds, seed = command.number("seconds"), command.get("seed")
    if seconds == 0:
        raise UsageError(
            "--seconds 0 leaves no time to measure in", hint="%deepseek graph --profile --seconds 5"
        )
    made = engine().profile(
        target,
        gradients=command.has("gradients"),
        budget_s=5.0 if seconds is None else seconds,
        seed=seed if isinstance(seed, int) else None,
    )
    return {profile.graph: profile for profile in made}


def _costs(record: GraphRecord, profiles: Mapping[str, GraphProfile]) -> str:
    """What a graph's operations cost."""
    from deepseek_lab import views

    return "\n".join(
        [heading(record), textwrap.indent(views.profile_text(profiles[record.graph], record.nodes), "  ")]
    )


def described(record: GraphRecord, breaks: Sequence[GraphBreak] = ()) -> str:
    """A graph's operations under the modules that they belong to, as captured and as they run."""
    from deepseek_lab import views

    parts = [heading(record), textwrap.indent(views.graph_text(record.nodes), "  ")]
    for item in breaks:
        where = f" at {place(item.file, item.line)}" if item.file else ""
        parts.append(f"  capture stopped{where}: {item.reason}")
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


def _pictures(
    report: OptimizeReport, records: Sequence[GraphRecord], view: str, profiles: Mapping[str, GraphProfile]
) -> Iterator[str]:
    """Each graph to explore with its picture folded, or the picture alone."""
    from deepseek_lab import views

    room = _FRAMES_BYTES if view != "static" else 0
    for record in records:
        profile = profiles.get(record.graph)
        overlays = (
            *(views.profile_overlays(profile) if profile is not None else ()),
            *_seen_overlays(record),
        )
        frame = _frame(record, overlays, report.breaks_of(record.target), room) if room else ""
        if frame:
            room -= len(frame)
            yield frame + _folded(
                "as a picture, which a notebook that is not trusted shows too", _picture(record)
            )
        else:
            yield _picture(record)


def _seen_overlays(record: GraphRecord) -> tuple[Overlay, ...]:
    """What the last ``inspect`` saw of this graph's modules while they were trained, if it saw any."""
    from deepseek_lab import views
    from deepseek_lab.notebook.verbs.inspect import last_inspection

    seen = last_inspection()
    return views.inspection_overlays(record.nodes, seen, record.target) if seen is not None else ()


def _frame(record: GraphRecord, overlays: Sequence[Overlay], breaks: Sequence[GraphBreak], room: int) -> str:
    """A graph to explore with as many of the overlays, which come in the order of their use, as there is room for."""
    from deepseek_lab import views

    for count in sorted({len(overlays), *(n for n in _FEWER if n < len(overlays))}, reverse=True):
        frame = views.graph_frame(
            record.nodes,
            heading(record),
            record.plan_nodes,
            overlays=overlays[:count],
            breaks=breaks,
            max_bytes=room,
        )
        if frame:
            return frame
    return ""


def _folded(title: str, inner: str) -> str:
    return f"<details><summary>{title}</summary>{inner}</details>"


def _picture(record: GraphRecord) -> str:
    from deepseek_lab import views

    svg = views.graph_svg(record.nodes, title=heading(record), plan_nodes=record.plan_nodes or None)
    # As an image: front ends drop inline SVG from notebooks that they do not trust yet.
    data = base64.b64encode(svg.encode()).decode()
    return f'<div><img alt="{html.escape(heading(record))}" src="data:image/svg+xml;base64,{data}"></div>'
