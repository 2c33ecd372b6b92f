"""Numbers, shapes and names in words: the one place that decides how a value is written."""

from __future__ import annotations

import math
import re
import unicodedata
from pathlib import PurePath

from deepseek_lab.base.events import GraphNode

_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufffe\uffff]"
)


def clean(text: object, *, lines: bool = False) -> str:
    """Printable text: control, bidirectional and surrogate characters become U+FFFD.

    Line breaks and tabs become spaces unless ``lines`` keeps them.
    """
    printable = _UNPRINTABLE.sub("\ufffd", str(text).replace("\r\n", "\n"))
    return printable if lines else re.sub(r"[\n\t]+", " ", printable).strip()


def cells(text: str) -> int:
    """Columns that ``text`` takes in a fixed-width font; East Asian wide characters take two."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


def clip(text: object, width: int) -> str:
    """One clean line of at most ``width`` columns; an ellipsis stands for what was cut."""
    whole = str(text)
    line = clean(whole[: 2 * max(width, 0) + 1])
    if len(whole) <= 2 * max(width, 0) and cells(line) <= width:
        return line
    taken = 0
    for at, char in enumerate(line):
        taken += cells(char)
        if taken > width - 1:
            line = line[:at]
            break
    return line.rstrip() + "…" if width > 0 else ""


def pad(text: str, width: int, *, right: bool = False) -> str:
    """``text`` filled with spaces to ``width`` columns."""
    space = " " * max(width - cells(text), 0)
    return space + text if right else text + space


def _number(value: float) -> str:
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 2
    return f"{value:.{min(digits, 3)}f}"


def milliseconds(value: float | None) -> str:
    """A duration given in ms: ``1.32 ms``, ``45 us``, ``2.1 s``."""
    if value is None or not math.isfinite(value):
        return ""
    if abs(value) >= 1e3:
        return f"{_number(value / 1e3)} s"
    return f"{_number(value)} ms" if abs(value) >= 0.1 else f"{_number(value * 1e3)} us"


def seconds(value: float) -> str:
    """A duration given in s; nothing for zero."""
    return milliseconds(value * 1e3) if value else ""


def ratio(value: float | None) -> str:
    """A speed-up: ``1.62x``."""
    return "" if value is None or not math.isfinite(value) else f"{value:.2f}x"


def interval(value: tuple[float, float] | None) -> str:
    """A 95 % interval: ``1.58-1.66``."""
    return "" if value is None or not all(map(math.isfinite, value)) else f"{value[0]:.2f}-{value[1]:.2f}"


def error(value: float | None) -> str:
    """A relative error: ``3e-06``; nan and inf are said as such."""
    return "" if value is None else "0" if value == 0 else f"{value:.0e}"


def dtype(node: GraphNode) -> str:
    """The data type without the package's name."""
    return node.dtype.removeprefix("torch.")


def shape(node: GraphNode, times: str = "×") -> str:
    """Shape and data type of a node's value: ``1×128×768 float32``; a scalar has only the latter."""
    return " ".join(part for part in (times.join(map(str, node.shape)), dtype(node)) if part)


def plural(count: int, noun: str) -> str:
    """``1 node``, ``1,200 nodes``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def memory(value: float) -> str:
    """A number of bytes: ``512 B``, ``1.21 GiB``."""
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    unit = 0
    while abs(value) >= 1000 and unit < len(units) - 1:
        value /= 1024
        unit += 1
    return (
        f"{value:.0f} B"
        if unit == 0
        else f"{value:.{max(0, 2 - len(str(int(abs(value)))) + 1)}f} {units[unit]}"
    )


def file_name(file: str) -> str:
    """A file without its folders; ``cell`` for a cell, whose file has a number for a name."""
    name = PurePath(file).name
    return "cell" if name.removesuffix(".py").isdigit() or name.startswith("<") else clip(name, 32)
