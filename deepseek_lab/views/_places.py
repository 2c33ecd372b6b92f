"""Records of a laid-out graph, in pixels, and the sizes that everything is drawn in."""

from __future__ import annotations

import dataclasses

from deepseek_lab.views._rows import Row

COLUMN, LEFT, RIGHT = 350.0, 32.0, 32.0
"""Width of a column, and of the room in it for tracks and for numbers."""
BOX, GAP, HEAD, PAD, INDENT = 34.0, 12.0, 22.0, 6.0, 4.0
"""Height of a box, space below it, height of a frame's title, space in a frame's end, step of a frame."""
SPINE = LEFT + 34.0
"""Where in a column the straight wires run; titles start to the right of it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Box:
    """One box; ``row`` says what is in it."""

    row: Row
    column: int
    x: float
    y: float
    width: float


@dataclasses.dataclass(frozen=True, slots=True)
class Frame:
    """A module around its boxes, or the part of it that one column holds."""

    row: Row
    continued: bool
    x: float
    y: float
    width: float
    height: float


@dataclasses.dataclass(frozen=True, slots=True)
class Wire:
    """Data that flows from one box to another; ``points`` is empty where ``number`` stands for the way."""

    source: int
    target: int
    kind: str
    """``next``, ``track``, ``wrap`` or ``number``."""
    points: tuple[tuple[float, float], ...] = ()
    number: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """Everything that is drawn; ``panes`` is 2 where a plan stands beside the captured graph."""

    width: float
    height: float
    panes: int
    boxes: tuple[Box, ...]
    frames: tuple[Frame, ...]
    wires: tuple[Wire, ...]
