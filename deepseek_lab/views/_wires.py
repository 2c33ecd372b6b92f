"""Ways of the wires between boxes that already have their places."""

from __future__ import annotations

from collections.abc import Sequence

from deepseek_lab.base.events import GraphNode
from deepseek_lab.views._places import BOX, COLUMN, GAP, HEAD, LEFT, PAD, SPINE, Box, Wire
from deepseek_lab.views._tree import producers

TRACKS = 4
"""Tracks that fit to the left of the boxes."""
STEP = 6.0


def route(
    boxes: Sequence[Box], nodes: Sequence[GraphNode], *, first: int = 0, numbered: int = 0
) -> list[Wire]:
    """Wires between ``boxes``, the places of the graph ``nodes``, in reading order.

    Wires that lead back come from blocks folded into one and are left out. Box indices start at
    ``first``, numbers after ``numbered``.
    """
    holder = {node: at for at, box in enumerate(boxes) for node in box.row.nodes}
    pairs: dict[tuple[int, int], None] = {}
    for target, reads in enumerate(producers(nodes)):
        for source in reads:
            if source in holder and target in holder and holder[source] < holder[target]:
                pairs[holder[source], holder[target]] = None
    tracks = _tracks(boxes, list(pairs))
    numbers: dict[int, int] = {}
    wires: list[Wire] = []
    for source, target in sorted(pairs):
        here, there = boxes[source], boxes[target]
        kind, number = "number", 0
        points: tuple[tuple[float, float], ...] = ()
        if target == source + 1:
            kind = "next" if here.column == there.column else "wrap"
            points = _down(here, there) if kind == "next" else _wrap(here, there)
        elif here.column == there.column and source in tracks:
            kind, points = "track", _beside(here, there, tracks[source])
        else:
            number = numbers.setdefault(source, numbered + len(numbers) + 1)
        wires.append(Wire(first + source, first + target, kind, points, number))
    return wires


def _tracks(boxes: Sequence[Box], pairs: list[tuple[int, int]]) -> dict[int, int]:
    """Track of each box whose value skips boxes of its column: the shortest way gets the nearest track."""
    reach: dict[int, int] = {}
    for source, target in pairs:
        if target > source + 1 and boxes[source].column == boxes[target].column:
            reach[source] = max(reach.get(source, 0), target)
    taken: list[list[tuple[int, int]]] = [[] for _ in range(TRACKS)]
    found: dict[int, int] = {}
    for source, target in sorted(reach.items(), key=lambda pair: (pair[1] - pair[0], pair[0])):
        for track, spans in enumerate(taken):
            if all(target < low or source > high for low, high in spans):
                spans.append((source, target))
                found[source] = track
                break
    return found


def _down(here: Box, there: Box) -> tuple[tuple[float, float], ...]:
    x = _spine(here)
    return ((x, here.y + BOX), (x, there.y))


def _beside(here: Box, there: Box, track: int) -> tuple[tuple[float, float], ...]:
    x = _left(here) + LEFT - 5.0 - STEP * track
    out, into = here.y + BOX - 9.0, there.y + 11.0
    return ((here.x, out), (x, out), (x, into), (there.x, into))


def _wrap(here: Box, there: Box) -> tuple[tuple[float, float], ...]:
    """Below all frames to the other column, and in from above its frames; the spine passes their titles."""
    start, end = (_spine(here), here.y + BOX), (_spine(there), there.y)
    top = end[1] - HEAD * there.row.depth
    if _left(there) <= _left(here):
        return (start, (start[0], top - 1.5 * GAP), (end[0], top - 1.5 * GAP), end)
    low = start[1] + PAD * here.row.depth + GAP / 2
    beside = _left(there) + 3.0
    high = top - 0.75 * GAP
    return (start, (start[0], low), (beside, low), (beside, high), (end[0], high), end)


def _left(box: Box) -> float:
    """Left edge of the box's column."""
    return COLUMN * (box.x // COLUMN)


def _spine(box: Box) -> float:
    return _left(box) + SPINE
