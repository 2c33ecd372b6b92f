"""Amounts of memory: as people type them, and as they read them."""

from __future__ import annotations

import math
import re

from deepseek_lab.base.errors import UsageError

_DECIMAL = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
_BINARY = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([kmgt]?)(i?)(b?)\s*", re.IGNORECASE)


def parse_limit(text: str) -> int | None:
    """Bytes for ``6GiB``, ``512 MB`` and the like; None for ``auto``.

    Raises:
        UsageError: It is neither.
    """
    if text.strip().lower() == "auto":
        return None
    match = _SIZE.fullmatch(text)
    size = 0
    if match is not None:
        number, unit, binary, _ = match.groups()
        size = int(float(number) * (_BINARY if binary and unit else _DECIMAL)[unit.lower()])
    if size <= 0:
        raise UsageError(f"{text!r} is no amount of memory", hint="--memory-limit 6GiB, 512MB or auto")
    return size


def words(size: float) -> str:
    """An amount of memory for people."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if abs(size) >= factor:
            value = size / factor
            return f"{value:,.0f} {unit}" if abs(value) >= 100 else f"{value:.3g} {unit}"
    return f"{size:.0f} B"


def above(size: float) -> str:
    """A little more than an amount, as a user would type it."""
    if size >= 1 << 30:
        return f"{math.ceil(size / (1 << 30) * 1.05 * 10) / 10:g}GiB"
    return f"{math.ceil(size / (1 << 20) * 1.05)}MiB"
