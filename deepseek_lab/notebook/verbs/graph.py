"""``graph``: the captured graph as text, grouped by module with cell lines, and as a static picture."""

from __future__ import annotations

import dataclasses
import html
import itertools

from deepseek_lab.base.errors import TargetError
from deepseek_lab.base.events import GraphNode
from deepseek_lab.base.report import GraphRecord
from deepseek_lab.notebook.host import Host, view_of
from deepseek_lab.notebook.plan import Plan
from deepseek_lab.notebook.show import Shown
from deepseek_lab.notebook.verbs import chosen_run

_ENDS = {"input", "parameter", "output"}


def run(plan: Plan, host: Host) -> Shown:
    """Show every graph of a report."""
    report = chosen_run(plan).report
    if not report.graphs:
        raise TargetError("the run has captured no graph yet", hint="%deepseek why")
    records = list(report.graphs.values())
    text = "\n\n".join(graph_text(record) for record in records)
    html_text = "" if view_of(plan.command) == "text" else "\n".join(_picture(record) for record in records)
    data = {"graphs": [dataclasses.asdict(record) for record in records]}
    return Shown(text, html_text=html_text, data=data)


def graph_text(record: GraphRecord) -> str:
    """A graph's operations under the modules that they belong to."""
    shown = [node for node in record.nodes if node.op not in _ENDS]
    num_parameters = sum(node.op == "parameter" for node in record.nodes)
    head = f"{record.target}({record.signature})  {len(shown)} operations, {num_parameters} parameters"
    lines = [f"{head}, runs in {record.chosen}"]
    width = max((len(node.op) for node in shown), default=0)
    for module, nodes in itertools.groupby(shown, key=lambda node: node.module):
        lines.append(f"  {module or '(no module)'}")
        lines += [f"    {_node(node, width)}" for node in nodes]
    if record.plan_nodes:
        rewritten = [node for node in record.plan_nodes if node.op not in _ENDS]
        lines.append(f"  as it runs in {record.chosen}: {len(rewritten)} operations")
        lines += [f"    {_node(node, width)}" for node in rewritten]
    return "\n".join(lines)


def _node(node: GraphNode, width: int) -> str:
    shape = f"{node.dtype}[{', '.join(map(str, node.shape))}]" if node.dtype else ""
    where = f"line {node.line}" if node.line else ""
    return f"{node.op:<{width}}  {node.name} <- {', '.join(node.inputs)}  {shape}  {where}".rstrip()


def _picture(record: GraphRecord) -> str:
    from deepseek_lab import views

    svg = views.graph_svg(record.nodes, title=record.target, plan_nodes=record.plan_nodes or None)
    text = html.escape(graph_text(record))
    return f"<div>{svg}</div><details><summary>as text</summary><pre>{text}</pre></details>"
