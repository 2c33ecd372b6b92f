"""Measured values as a static picture: one small curve a series, each with its own scale."""

from __future__ import annotations

import math
from html import escape

from deepseek_lab.base.series import Rows
from deepseek_lab.views import _columns, _svg, _words

MAX_CURVES = 8
_WIDTH, _HEIGHT, _LEFT, _COLUMNS = 340, 120, 8, 2
_POINTS = 300
_STYLE = f"""
.dsc{_svg.THEME % _svg.LIGHT}
@media(prefers-color-scheme:dark){{.dsc{_svg.THEME % _svg.DARK}}}
.dsc{{background:var(--b);font:11px system-ui,-apple-system,'Segoe UI',sans-serif}}
.dsc text{{fill:var(--f)}}.dsc .m{{opacity:.75}}.dsc .e{{text-anchor:end}}
.dsc polyline{{fill:none;stroke:#2b7bd1;stroke-width:1.5}}.dsc line{{stroke:var(--f);stroke-opacity:.3}}
"""


def picture(rows: Rows) -> str:
    """Curves over steps of at most eight series as an SVG file; what is not finite is a gap.

    A curve is drawn through the mean of as many stretches as fit; its smallest and largest value are written beside it.
    """
    points: dict[int, list[tuple[int, float]]] = {}
    for row, code in enumerate(rows.code):
        points.setdefault(code, []).append((rows.step[row], rows.value[row]))
    shown = list(points.items())[:MAX_CURVES]
    lines = -(-len(shown) // _COLUMNS)
    parts = []
    for number, (code, found) in enumerate(shown):
        x, y = number % _COLUMNS * _WIDTH, number // _COLUMNS * _HEIGHT
        parts.append(f'<g transform="translate({x} {y})">{_curve(rows.names[code], found)}</g>')
    left = len(points) - len(shown)
    height = lines * _HEIGHT + (20 if left else 0)
    if left:
        parts.append(f'<text class="m" x="{_LEFT}" y="{height - 6}">and {left:,} more series</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="dsc" width="{_COLUMNS * _WIDTH}" height="{height}" '
        f'viewBox="0 0 {_COLUMNS * _WIDTH} {height}"><style>{_STYLE}</style>{"".join(parts)}</svg>'
    )


def _curve(name: str, points: list[tuple[int, float]]) -> str:
    finite = [value for _, value in points if math.isfinite(value)]
    last = points[-1][1]
    title = escape(_words.clip(name, 30))
    head = (
        f'<text x="{_LEFT}" y="16">{title}</text><text class="e" x="{_WIDTH - 12}" y="16">{last:.4g}</text>'
    )
    if not finite:
        return head + f'<text class="m" x="{_LEFT}" y="60">no finite value</text>'
    low, high = min(finite), max(finite)
    first, final = points[0][0], points[-1][0]
    top, bottom, right = 26.0, _HEIGHT - 20.0, _WIDTH - 12.0

    def at(step: float, value: float) -> str:
        across = (step - first) / (final - first) if final > first else 0.0
        up = _columns.share(value, low, high)
        return f"{_LEFT + across * (right - _LEFT):.1f},{bottom - up * (bottom - top):.1f}"

    drawn, run = [], []
    for step, value in _thin(points):
        if math.isfinite(value):
            run.append(at(step, value))
        elif run:
            drawn.append(run)
            run = []
    drawn = [*drawn, run] if run else drawn
    body = "".join(f'<polyline points="{" ".join(one if len(one) > 1 else one * 2)}"/>' for one in drawn)
    axis = f'<line x1="{_LEFT}" y1="{bottom + 3}" x2="{right}" y2="{bottom + 3}"/>'
    feet = (
        f'<text class="m" x="{_LEFT}" y="{_HEIGHT - 4}">step {first:,} … {final:,}</text>'
        f'<text class="m e" x="{right}" y="{_HEIGHT - 4}">{low:.4g} … {high:.4g}</text>'
    )
    return head + body + axis + feet


def _thin(points: list[tuple[int, float]]) -> list[tuple[float, float]]:
    if len(points) <= _POINTS:
        return [(float(step), value) for step, value in points]
    made = []
    for number in range(_POINTS):
        part = points[len(points) * number // _POINTS : len(points) * (number + 1) // _POINTS]
        finite = [value for _, value in part if math.isfinite(value)]
        made.append((part[0][0], _columns.mean(finite)))
    return [(float(step), value) for step, value in made]
