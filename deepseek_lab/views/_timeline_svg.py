"""A memory timeline as a static SVG: stacked areas by category, the peak, and where memory ran out."""

from __future__ import annotations

import dataclasses
from html import escape

from deepseek_lab.base.timeline import CATEGORIES, MemoryTimeline
from deepseek_lab.views import _svg, _words
from deepseek_lab.views._timeline import summary
from deepseek_lab.views._timeline_rows import OTHERS, Rows, coarser, fold, rows_of

COLOURS = ("#3b6fb6", "#8a5bb5", "#c76a12", "#1f8a84", "#c2476b", "#5b8c1e", "#8c6239", "#2f8fc4", "#b0459a")
"""Those of ``js/src/core/timeline/``, which read on light and on dark."""
_REST = "#858b94"
WIDTH, HEIGHT = 700.0, 250.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 66.0, 12.0, 44.0, 44.0
_STRETCHES = 160
_CHAR = 6.33

_STYLE = f"""
.dst{_svg.THEME % _svg.LIGHT}
@media(prefers-color-scheme:dark){{.dst{_svg.THEME % _svg.DARK}}}
.dst{{background:var(--b);font:10.5px {_svg.MONO}}}
.dst text{{fill:var(--f)}}.dst .m{{opacity:.72}}.dst .t{{font-weight:bold;font-size:11.5px}}
.dst .e{{text-anchor:end}}.dst .c{{text-anchor:middle}}
.dst .g{{stroke:var(--f);stroke-opacity:.2}}.dst .p{{stroke:var(--f);stroke-dasharray:3 3}}
.dst .a{{stroke:var(--b);stroke-width:.7}}.dst .x{{stroke:#d1453b;stroke-width:2;stroke-dasharray:6 3}}
"""


@dataclasses.dataclass(frozen=True)
class Stack:
    """Bytes of each category at the instants of a timeline, the start first."""

    at: list[int]
    names: list[str]
    values: list[list[int]]
    """One list a category, as long as ``at``."""


def stack(rows: Rows, most: int = len(COLOURS)) -> Stack:
    """Categories from what stays longest to what is gone first, then others by size; the smallest are one."""
    code = [context[0] for context in rows.contexts]
    totals = dict.fromkeys(code, 0)
    for size, freed, context in zip(rows.bytes, rows.frees, rows.context, strict=True):
        if freed < 0 and size < 0:
            totals[code[context]] -= size
    at, values = [0], {name: [size] for name, size in totals.items()}
    for row, (size, freed) in enumerate(zip(rows.bytes, rows.frees, strict=True)):
        name = code[rows.context[row if freed < 0 else freed]]
        totals[name] += size if freed < 0 else -rows.bytes[freed]
        if not rows.passing(row):
            at.append(rows.at[row])
            for each, column in values.items():
                column.append(totals[each])
    used = [name for name, column in values.items() if any(column)]
    used.sort(
        key=lambda name: (CATEGORIES.index(name) if name in CATEGORIES else 99, -max(values[name]), name)
    )
    if len(used) > most:
        rest = used[most - 1 :]
        used = [*used[: most - 1], OTHERS]
        values[OTHERS] = [sum(column) for column in zip(*(values[name] for name in rest), strict=True)]
    return Stack(at, used, [values[name] for name in used])


def timeline_svg(record: MemoryTimeline, title: str = "") -> str:
    """Draw a timeline as a static SVG that reads at 700 px width, on light and on dark.

    >>> timeline_svg(MemoryTimeline.of([]))[:26]
    '<svg xmlns="http://www.w3.'
    """
    rows = rows_of(record)
    peak, most = rows.peak()
    by_category = dataclasses.replace(rows, contexts=[(c[0], "", "", "", 0) for c in rows.contexts])
    made = stack(fold(coarser(by_category, 64), _STRETCHES))
    last = max(made.at[-1], rows.out_of_memory_at or 0, 1)
    right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    x_scale, y_scale = (right - _LEFT) / last, (bottom - _TOP) / max(most, 1)
    line = summary(rows, peak, most)
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" class="dst" role="img"',
        f' aria-label="{escape(_words.clip(f"{title}: {line}" if title else line, 300))}"',
        f' viewBox="0 0 {WIDTH:g} {HEIGHT:g}" width="{WIDTH:g}" height="{HEIGHT:g}"',
        f' style="max-width:100%;height:auto"><style>{_STYLE}</style>',
        f'<rect width="{WIDTH:g}" height="{HEIGHT:g}" style="fill:var(--b)"/>',
    ]
    if title:
        parts.append(_text(10, 18, _words.clip(title, 96), "t"))
    parts.append(_text(10, 34, _words.clip(line, 106), "m"))
    step = 1
    while most / step > 4:
        step *= 2
    for size in range(0, most + 1, step):
        y = bottom - size * y_scale
        parts.append(f'<path class="g" d="M{_LEFT:g} {y:.1f}H{right:g}"/>')
        parts.append(_text(_LEFT - 6, y + 3.5, _words.memory(size), "m e"))
    upper = [0] * len(made.at)
    areas = []
    for index, column in enumerate(made.values):
        upper = [below + value for below, value in zip(upper, column, strict=True)]
        areas.append(_area(made, upper, index, bottom, x_scale, y_scale))
    parts += reversed(areas)  # each reaches to the ground, the lower ones over it
    if rows.at:
        x = _LEFT + (rows.at[peak] * x_scale if peak >= 0 else 0)
        style = "e" if x > WIDTH / 2 else ""
        parts.append(f'<path class="p" d="M{x:.1f} {_TOP - 4:g}V{bottom:g}"/>')
        parts.append(_text(x + (-4 if style else 4), _TOP + 4, f"peak {_words.memory(most)}", style))
    if rows.out_of_memory_at is not None:
        x = _LEFT + rows.out_of_memory_at * x_scale
        style = "e" if x > WIDTH / 2 else ""
        parts.append(f'<path class="x" d="M{x:.1f} {_TOP - 4:g}V{bottom:g}"/>')
        parts.append(_text(x + (-4 if style else 4), _TOP + 18, "out of memory", style))
    parts.append(_text(_LEFT, bottom + 14, "0 us", "m"))
    parts.append(_text(right, bottom + 14, _words.milliseconds(last * rows.tick_s * 1e3), "m e"))
    parts.append(_legend(made.names, bottom + 32))
    return "".join(parts) + "</svg>"


def _area(made: Stack, upper: list[int], index: int, bottom: float, x_scale: float, y_scale: float) -> str:
    path = [f"M{_LEFT:g} {bottom:g}"]
    level = bottom
    for at, size in zip(made.at, upper, strict=True):
        y = round(bottom - size * y_scale, 1)
        if y != level:
            path.append(f"H{round(_LEFT + at * x_scale, 1):g}V{y:g}")
            level = y
    path.append(f"H{round(_LEFT + made.at[-1] * x_scale, 1):g}V{bottom:g}Z")
    return f'<path class="a" fill="{colour(made.names[index], index)}" d="{"".join(path)}"/>'


def colour(name: str, index: int) -> str:
    """A category's colour: its own where it has one, whatever else there is."""
    if name == OTHERS:
        return _REST
    if name in CATEGORIES:
        return COLOURS[CATEGORIES.index(name)]
    return COLOURS[len(CATEGORIES) + index % (len(COLOURS) - len(CATEGORIES))]


def _legend(names: list[str], y: float) -> str:
    x, parts = _LEFT, []
    for index, name in enumerate(names):
        words = _words.clip(name, 18) or "no category"
        if x + 26 + _CHAR * len(words) > WIDTH:
            break
        parts.append(f'<rect x="{x:.0f}" y="{y - 8:g}" width="9" height="9" fill="{colour(name, index)}"/>')
        parts.append(_text(round(x + 13), y, words))
        x += 26 + _CHAR * len(words)
    return "".join(parts)


def _text(x: float, y: float, words: str, style: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}"' + (f' class="{style}"' if style else "") + f">{escape(words)}</text>"
