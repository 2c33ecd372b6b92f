"""Places for the rows of a graph: a plain record of boxes, frames and wires, in pixels.

Boxes stand in program order, one below the other, in columns that wrap like those of a newspaper. A wire
to the next box runs straight down, one that skips boxes runs in a track to their left, and one to another
column is a number at both ends.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence

from deepseek_lab.base.events import GraphNode
from deepseek_lab.views import _diff, _rows, _tree
from deepseek_lab.views._places import BOX, COLUMN, GAP, HEAD, INDENT, LEFT, PAD, RIGHT, Box, Frame, Layout
from deepseek_lab.views._rows import Row
from deepseek_lab.views._wires import route

ONE_COLUMN, BAND = 400.0, 760.0
"""Rows this high stay in one column; no column is higher than a band."""


class _Column:
    """Fills up from the top; frames that are still open at its end go on in the next column."""

    def __init__(self, number: int, x: float, y: float, open_rows: Sequence[Row] = ()) -> None:
        self.number, self.x, self.y, self.bottom = number, x, y, y
        self.boxes: list[Box] = []
        self.frames: list[Frame] = []
        self.open: list[tuple[Row, float, bool]] = []
        for row in open_rows:
            self.place(row, continued=True)

    def place(self, row: Row, *, continued: bool = False) -> None:
        inset = min(row.depth, 8) * INDENT
        x, width = self.x + LEFT + inset, COLUMN - LEFT - RIGHT - 2 * inset
        if row.kind == "open":
            self.open.append((row, self.y, continued))
            self.y += HEAD
        elif row.kind == "close":
            opened, top, was_continued = self.open.pop()
            bottom = self.y - GAP + PAD
            self.frames.append(Frame(opened, was_continued, x, top, width, bottom - top))
            self.y = bottom + GAP
        else:
            self.boxes.append(Box(row, self.number, x, self.y, width))
            self.y += BOX + GAP
        self.bottom = max(self.bottom, self.y)

    def end(self) -> list[Row]:
        """Close what is open; returns those frames, outermost first."""
        rows = [row for row, _, _ in self.open]
        for row in reversed(rows):
            self.place(dataclasses.replace(row, kind="close"))
        return rows


_ADVANCE = {"open": HEAD, "close": PAD}


def _flow(rows: Sequence[Row], top: float) -> list[_Column]:
    """Columns in reading order: two beside each other, then two below them."""
    left = sum(_ADVANCE.get(row.kind, BOX + GAP) for row in rows)
    limit = left if left <= ONE_COLUMN else min(BAND, left / 2 + BOX + GAP)
    columns = [_Column(0, 0.0, top)]
    for at, row in enumerate(rows):
        column = columns[-1]
        opened = [r for r in rows[at : at + 1] if r.kind == "open"]
        needs = BOX + PAD * len(column.open) + HEAD * len(opened)
        if row.kind != "close" and column.boxes and column.y + needs > top + limit:
            still_open = column.end()
            number = len(columns)
            if number % 2 == 0:
                top = max(c.bottom for c in columns[-2:]) + 2 * GAP
                limit = min(BAND, max(left / 2 + BOX + GAP, ONE_COLUMN))
            columns.append(_Column(number, COLUMN * (number % 2), top, still_open))
        columns[-1].place(row)
        left -= _ADVANCE.get(row.kind, BOX + GAP)
    return columns


def _aligned(before: Sequence[Row], after: Sequence[Row], top: float) -> list[_Column]:
    """Two columns in which what stayed the same stands at the same height."""

    def keys(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
        return [(row.kind, row.text, row.node.name if row.node else row.label) for row in rows]

    left, right = _Column(0, 0.0, top), _Column(1, COLUMN, top)
    matcher = difflib.SequenceMatcher(None, keys(before), keys(after), autojunk=False)
    for tag, low, high, other_low, other_high in matcher.get_opcodes():
        if tag != "equal":
            for row in before[low:high]:
                left.place(row)
            for row in after[other_low:other_high]:
                right.place(row)
            continue
        for ours, theirs in zip(before[low:high], after[other_low:other_high], strict=True):
            if ours.kind != "close":
                left.y = right.y = max(left.y, right.y)
            left.place(ours)
            right.place(theirs)
    return [left, right]


def layout(
    nodes: Sequence[GraphNode],
    *,
    plan_nodes: Sequence[GraphNode] | None = None,
    max_boxes: int = 80,
    top: float = 0.0,
) -> Layout:
    """Lay out a captured graph, or it and the plan side by side, with ``max_boxes`` boxes in a pane."""
    if not plan_nodes:
        columns = _flow(_rows.rows(_tree.build(nodes), nodes, max_boxes=max_boxes), top)
        wires = route([box for column in columns for box in column.boxes], nodes)
    else:
        diff = _diff.compare(nodes, plan_nodes)
        sides = [
            _rows.rows(_tree.build(graph, marks), graph, max_boxes=max_boxes, marks=marks, focus=diff.focus)
            for graph, marks in ((nodes, diff.before), (plan_nodes, diff.after))
        ]
        columns = _aligned(sides[0], sides[1], top)
        wires = route(columns[0].boxes, nodes)
        numbered = max((wire.number for wire in wires), default=0)
        wires += route(columns[1].boxes, plan_nodes, first=len(columns[0].boxes), numbered=numbered)
    width = COLUMN * (2 if len(columns) > 1 else 1)
    height = max(column.bottom for column in columns) + PAD
    frames = tuple(frame for column in columns for frame in column.frames)
    boxes = tuple(box for column in columns for box in column.boxes)
    return Layout(width, height, 2 if plan_nodes else 1, boxes, frames, tuple(wires))
