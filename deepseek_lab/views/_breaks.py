"""Where in a captured graph capture stopped and Python went on by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deepseek_lab.base.events import GraphBreak, GraphNode
from deepseek_lab.views import _words

MAX_BREAKS = 32
"""Breaks that a graph shows, see ``js/src/core/graph/breaks.ts``."""
_REASON = 300


def placed(nodes: Sequence[GraphNode], breaks: Sequence[GraphBreak]) -> list[dict[str, Any]]:
    """The breaks that a graph ends or begins with, each with the row of the last operation before it, or -1.

    No graph goes on beyond a break. One on a line behind all operations of its file ended the graph, and only the
    nearest did; one before all of them is where the graph begins. Where lines do not tell, it is an end.
    """
    steps = [row for row, node in enumerate(nodes) if node.op not in ("parameter", "input", "output")]
    ends: dict[str, GraphBreak] = {}
    starts: dict[str, GraphBreak] = {}
    found: list[tuple[GraphBreak, int]] = []
    for item in {(one.reason, one.file, one.line): one for one in breaks}.values():
        lines = [nodes[row].line for row in steps if nodes[row].file == item.file] if item.line > 0 else []
        if lines and item.line < min(lines):
            starts[item.file] = max(starts.get(item.file, item), item, key=_line)
        elif lines and item.line >= max(lines):
            ends[item.file] = min(ends.get(item.file, item), item, key=_line)
        else:
            found.append((item, max(steps, default=-1)))
    found = [(item, max(steps)) for item in ends.values()] + found + [(item, -1) for item in starts.values()]
    return [
        {
            "reason": _words.clip(item.reason, _REASON),
            "file": _words.clip(item.file, _REASON),
            "line": item.line,
            "after": after,
        }
        for item, after in found[:MAX_BREAKS]
    ]


def _line(item: GraphBreak) -> int:
    return item.line
