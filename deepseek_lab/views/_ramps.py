"""Colours for values, and pictures made of them: what charts need where nothing executes."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Sequence

HUES = (
    "#2f7fd6", "#c4651a", "#2f9e5b", "#8a63d2", "#d1477f", "#168f99", "#9a7b1f", "#d1453b", "#7a828c", "#5b6fd8",
)  # fmt: skip
"""Colours of series and kinds, three to one against both light and dark ground."""
_SEQUENTIAL = "4401544828783e498931688e26828e1f9e8935b7796ece58b5de2bfde725"
"""Viridis at ten places (van der Walt and Smith 2015)."""
_DIVERGING = "0530612166ac67a9cfd1e5f0f7f7f7fddbc7ef8a62b2182b67001f"
"""ColorBrewer's RdBu."""
_LEVELS = 255
"""Colours of a picture; one more is for what is missing, which is transparent."""


def rgb(share: float, *, diverging: bool) -> tuple[int, int, int]:
    """The colour at a share from 0 to 1."""
    stops = bytes.fromhex(_DIVERGING if diverging else _SEQUENTIAL)
    place = min(max(share, 0.0), 1.0) * (len(stops) // 3 - 1)
    low = min(int(place), len(stops) // 3 - 2)
    red, green, blue = (
        round(stops[3 * low + at] + (stops[3 * low + 3 + at] - stops[3 * low + at]) * (place - low))
        for at in range(3)
    )
    return red, green, blue


def colour(share: float, *, diverging: bool) -> str:
    """The same for HTML and SVG."""
    return "#{:02x}{:02x}{:02x}".format(*rgb(share, diverging=diverging))


def bounds(span: tuple[float, float] | None) -> tuple[float, float, bool]:
    """What the ends of the colours stand for: around zero where there are values on both sides of it."""
    low, high = span or (0.0, 1.0)
    if low < 0 < high:
        most = max(-low, high)
        return -most, most, True
    return low, high, False


def png(rows: Sequence[Sequence[float]], low: float, high: float, *, diverging: bool) -> str:
    """Numbers as a picture, one pixel each, as a data URI; what is missing is transparent."""
    width = len(rows[0]) if rows else 0
    half = high / 2 - low / 2  # the whole may be beyond what a float holds

    def level(value: float) -> int:
        if math.isnan(value):
            return _LEVELS
        if not half > 0:
            return _LEVELS // 2
        return round(min(max((value / 2 - low / 2) / half, 0.0), 1.0) * (_LEVELS - 1))

    lines = b"".join(b"\0" + bytes(map(level, row)) for row in rows)
    colours = b"".join(bytes(rgb(step / (_LEVELS - 1), diverging=diverging)) for step in range(_LEVELS))
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, len(rows), 8, 3, 0, 0, 0)),
        (b"PLTE", colours + b"\0\0\0"),
        (b"tRNS", b"\xff" * _LEVELS + b"\0"),
        (b"IDAT", zlib.compress(lines, 9)),
        (b"IEND", b""),
    ]
    file = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )
    return "data:image/png;base64," + base64.b64encode(file).decode()
