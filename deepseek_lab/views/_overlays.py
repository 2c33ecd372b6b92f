"""What was measured of a graph's operations, to be seen on the graph."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from deepseek_lab.views import _words
from deepseek_lab.views._packed import Packer

_BITS = 12
"""Bits of a number that are kept: a third digit that is right, in two bytes less."""
_LABEL = 60
_KEPT = frozenset(["mark", "becomes"])
"""Columns that a graph has where there is a plan."""


@dataclasses.dataclass(frozen=True)
class Overlay:
    """One more fact of each operation of a graph.

    Attributes:
        name: What it goes by; no other column of the graph may have this name.
        label: What the reader is told.
        unit: Of a number: ``us``, ``FLOP``, ``bytes``, or whatever else is written behind it.
        values: One for each operation of the graph, in its order. Numbers, where None and NaN were not measured, or
            words, where None and "" are not known.
        sum: Whether a module has the sum of its operations' numbers (time, bytes), else the largest of them.

    >>> Overlay("time", "time", "us", [1.5, None], sum=True).kind
    'number'
    >>> Overlay("backend", "runs in", "", ["oneDNN", ""]).kind
    'text'
    """

    name: str
    label: str
    unit: str
    values: Sequence[float | None] | Sequence[str | None]
    sum: bool = False

    @property
    def kind(self) -> str:
        """``text`` where a value is text, else ``number``."""
        return "text" if any(isinstance(value, str) for value in self.values) else "number"

    def pack(self, packer: Packer) -> dict[str, Any]:
        """Add the column; returns what the page must know of it."""
        told = {"name": self.name, "label": _words.clip(self.label, _LABEL), "kind": self.kind}
        if self.kind == "text":
            packer.text(
                self.name, ["" if value is None else _words.clean(str(value)) for value in self.values]
            )
            return told
        packer.floats(self.name, [_short(value) for value in self.values])
        return {**told, "unit": _words.clip(self.unit, _LABEL), "sum": self.sum}


def pack(packer: Packer, overlays: Sequence[Overlay]) -> None:
    """Add all of them to a graph's table.

    Raises:
        ValueError: a name is taken, or there is not one value for each operation.
    """
    told = []
    for overlay in overlays:
        if overlay.name in packer.columns or overlay.name in _KEPT:
            raise ValueError(f"the graph has a column {overlay.name!r} already")
        told.append(overlay.pack(packer))
    if told:
        packer.meta["overlays"] = told


def _short(value: float | str | None) -> float:
    """The number with the bits that count; NaN for what single precision does not hold."""
    if value is None or not math.isfinite(number := float(value)):
        return math.nan
    mantissa, exponent = math.frexp(number)
    return math.ldexp(round(mantissa * 2**_BITS), exponent - _BITS) if exponent <= 128 else math.nan
