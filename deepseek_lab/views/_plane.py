"""A plane with two axes as SVG: no script, no font and no picture from elsewhere, light and dark by the page."""

from __future__ import annotations

import dataclasses
import math
import sys
from html import escape

from deepseek_lab.views import _columns, _svg, _words

WIDTH, HEIGHT = 640, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 12, 26, 40
_CHAR = 6.4
_FURTHEST = sys.float_info.max
STYLE = f"""
.dsc{_svg.THEME % _svg.LIGHT}
@media(prefers-color-scheme:dark){{.dsc{_svg.THEME % _svg.DARK}}}
.dsc{{background:var(--b);font:11px {_svg.MONO}}}
.dsc text{{fill:var(--f)}}.dsc .e{{text-anchor:end}}.dsc .c{{text-anchor:middle}}.dsc .t{{font-weight:bold}}
.dsc .a{{stroke:var(--f);stroke-opacity:.18}}.dsc .b{{fill:none;stroke:var(--f);stroke-opacity:.45}}
.dsc .l{{fill:none;stroke-width:1.5}}.dsc .f{{fill:none;stroke:var(--f)}}
"""


@dataclasses.dataclass(frozen=True)
class Plane:
    """Where values stand in the picture."""

    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        across, down = _columns.share(x, *self.x), 1 - _columns.share(y, *self.y)
        return (
            round(_LEFT + across * (WIDTH - _LEFT - _RIGHT), 1),
            round(_TOP + down * (HEIGHT - _TOP - _BOTTOM), 1),
        )

    def axes(self, x_label: str, y_label: str) -> str:
        """Lines and marks of both axes with their names."""
        right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
        parts = []
        for value in ticks(*self.x, 6):
            x, _ = self.at(value, self.y[0])
            parts.append(f'<path class="a" d="M{x:g} {_TOP}V{bottom}"/>')
            parts.append(text(x, bottom + 14, _columns.number(value), "c"))
        for value in ticks(*self.y, 5):
            _, y = self.at(self.x[0], value)
            parts.append(f'<path class="a" d="M{_LEFT} {y:g}H{right}"/>')
            parts.append(text(_LEFT - 5, y + 4, _columns.number(value), "e"))
        parts.append(f'<path class="b" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>')
        parts.append(text(right, HEIGHT - 8, _words.clip(x_label, 60), "e t"))
        parts.append(text(4, 15, _words.clip(y_label, 60), "t"))
        return "".join(parts)


def roomy(span: tuple[float, float] | None) -> tuple[float, float]:
    """Some room around what is shown."""
    low, high = span or (0.0, 1.0)
    room = (high / 2 - low / 2) * 0.08 or abs(low) * 0.04 or 1.0
    return max(low - room, -_FURTHEST), min(high + room, _FURTHEST)


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers from ``low`` to ``high``, about ``count`` of them.

    >>> ticks(0, 10, 5)
    [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    least = high / count - low / count
    if not least > 0 or not math.isfinite(least):
        return []
    power = 10.0 ** math.floor(math.log10(least))
    step = next(factor * power for factor in (1, 2, 5, 10, 20) if factor * power >= least * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    found = [float(f"{(first + at) * step:.12g}") for at in range(count + 2)]
    return [value for value in found if math.isfinite(value) and value <= high + step * 1e-9]


def text(x: float, y: float, words: str, style: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}"' + (f' class="{style}"' if style else "") + f">{escape(words)}</text>"


def svg(title: str, inner: str, height: float = HEIGHT, width: float = WIDTH) -> str:
    """A whole picture."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="dsc" role="img" aria-label="{escape(_words.clip(title, 80))}" '
        f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" '
        f'style="max-width:100%;height:auto"><style>{STYLE}</style>'
        f'<rect width="{width:g}" height="{height:g}" style="fill:var(--b)"/>{inner}</svg>'
    )


def key(entries: list[tuple[str, str]], y: float) -> str:
    """Names with their colours in a row, as many as fit."""
    parts, x = [], float(_LEFT)
    for at, (hue, name) in enumerate(entries):
        words = _words.clip(name, 24)
        width = 20 + _words.cells(words) * _CHAR
        if x + width > WIDTH - 60 and at < len(entries) - 1:
            parts.append(text(x, y, f"+ {len(entries) - at}"))
            break
        parts.append(f'<rect x="{x:g}" y="{y - 9:g}" width="10" height="10" rx="2" fill="{hue}"/>')
        parts.append(text(x + 14, y, words))
        x += width + 8
    return "".join(parts)
