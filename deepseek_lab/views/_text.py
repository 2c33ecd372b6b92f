"""The printed forms: a graph as lines grouped by module, and a report as aligned text."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from deepseek_lab.base.events import GraphNode
from deepseek_lab.base.report import OptimizeReport
from deepseek_lab.views import _rows, _tables, _tree, _words
from deepseek_lab.views._accumulation import batch_text
from deepseek_lab.views._rows import Row

_CODE, _SHAPE = 60, 30
"""Columns of the operation with its inputs, and of its shape and module."""


def graph_text(nodes: Sequence[GraphNode], *, max_rows: int = 400) -> str:
    """Print a captured graph grouped by module, with shapes and the lines that led to each operation.

    Repeated blocks are printed once with their count; what exceeds ``max_rows`` operations is folded.

    >>> print(graph_text([GraphNode("x", "input", shape=(2, 3)), GraphNode("y", "relu", inputs=("x",))]))
    2 nodes
      x = input     2x3
      y = relu(x)
    """
    rows = _rows.rows(_tree.build(nodes), nodes, max_boxes=max_rows)
    parameters = {node.name for node in nodes if node.op == "parameter"}
    lines = [(_code(row, parameters), *_columns(row)) for row in rows if row.kind != "close"]
    widths = [max((_words.cells(line[at]) for line in lines), default=0) for at in range(4)]
    shown = sum(row.size // row.copies for row in rows if row.node is not None)
    hidden = len(nodes) - shown
    head = _words.plural(len(nodes), "node") + (f", {shown:,} printed, {hidden:,} folded" if hidden else "")
    used = [at for at, width in enumerate(widths) if width]
    body = ["   ".join(_words.pad(line[at], widths[at]) for at in used).rstrip() for line in lines]
    return "\n".join([head, *body])


def _code(row: Row, parameters: set[str]) -> str:
    indent = "  " * (row.depth + 1)
    if row.kind == "open":
        return f"{indent}{_words.clip(row.text, _CODE)}  ({_words.plural(row.size, 'node')})"
    if row.node is None:
        return f"{indent}[{_words.clip(row.text, _CODE)}: {row.label}]"
    times = f" × {row.repeat:,}" if row.repeat > 1 else ""
    reads = [name for name in row.node.inputs if name not in parameters]
    values = f"({', '.join(reads)})" if row.node.inputs else ""
    return indent + _words.clip(f"{row.node.name} = {row.text}{values}{times}", _CODE)


def _columns(row: Row) -> tuple[str, str, str]:
    """Shape, module and line."""
    if row.node is None:
        return _words.clip(row.detail, _CODE), "", ""
    module = row.label if row.label != row.node.name else ""
    return _words.clip(_words.shape(row.node, times="x"), _SHAPE), _words.clip(module, _SHAPE), row.where


def report_text(report: OptimizeReport, *, max_rows: int = 30, max_remarks: int = 12) -> str:
    """Summary line, the main graph's candidates, the other graphs, breaks, fallbacks and notes."""
    parts = [_words.clip(report.summary(), 400)]
    if report.batch is not None:
        parts.append(batch_text(report.batch))
    main = report.main_graph
    rows = report.candidates
    if rows:
        table = _tables.candidate_table(rows[:max_rows], reason_width=100)
        parts += ["", textwrap.indent(_tables.as_text(table), "  ")]
        if len(rows) > max_rows:
            parts.append(f"  … {_words.plural(len(rows) - max_rows, 'more candidate')}")
    others = [record for record in report.graphs.values() if record is not main]
    if others:
        parts.append("")
        parts += [f"  {_words.clip(_tables.graph_line(record), 160)}" for record in others[:max_remarks]]
        if len(others) > max_remarks:
            parts.append(f"  … {_words.plural(len(others) - max_remarks, 'more graph')}")
    remarks = _tables.remarks(report)
    if remarks:
        parts.append("")
        parts += [f"  {kind}: {_words.clip(text, 240)}" for kind, text in remarks[:max_remarks]]
        if len(remarks) > max_remarks:
            parts.append(f"  … {len(remarks) - max_remarks:,} more breaks, fallbacks and notes")
    return "\n".join(parts)
