"""A laid-out graph as SVG: no script, no font and no picture from elsewhere, light and dark by the page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from deepseek_lab.base.events import GraphNode
from deepseek_lab.views import _words
from deepseek_lab.views._diff import MARKS
from deepseek_lab.views._layout import layout
from deepseek_lab.views._places import BOX, COLUMN, RIGHT, SPINE, Box, Frame, Layout, Wire

THEME = """{--f:var(--jp-content-font-color1,var(--vscode-editor-foreground,%s));\
--b:var(--jp-layout-color0,var(--vscode-editor-background,%s))}"""
"""Text and ground colour: the notebook's where the page is one, else a pair of our own."""
LIGHT, DARK = ("#1f2328", "#ffffff"), ("#e6e6e6", "#111111")
MONO = "ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,'Liberation Mono',monospace"

_STYLE = f"""
.dsg{THEME % LIGHT}
@media(prefers-color-scheme:dark){{.dsg{THEME % DARK}}}
.dsg{{background:var(--b);font:10.5px {MONO}}}
.dsg text{{fill:var(--f)}}.dsg .m{{opacity:.72}}.dsg .t{{font-weight:bold;font-size:11.5px}}
.dsg .e{{text-anchor:end}}.dsg .c{{text-anchor:middle;font-size:9px}}
.dsg rect{{fill:var(--b);stroke:var(--f);stroke-opacity:.45}}
.dsg .g{{fill:var(--f);fill-opacity:.035;stroke-opacity:.25}}
.dsg .end{{fill:var(--f);fill-opacity:.08}}
.dsg .w{{fill:none;stroke:var(--f);stroke-opacity:.55}}.dsg .h{{fill:var(--f);fill-opacity:.7}}
.dsg .o{{fill:var(--f);stroke:none;fill-opacity:.8}}.dsg text.n{{fill:var(--b)}}
.dsg .removed{{--k:#d1453b}}.dsg .fused{{--k:#8a63d2}}.dsg .changed{{--k:#b7791f}}.dsg .added{{--k:#2f8f4e}}
.dsg rect.k{{fill:var(--k);fill-opacity:.13;stroke:var(--k);stroke-opacity:1;stroke-width:1.6}}
.dsg .removed rect.k{{stroke-dasharray:4 3}}
.dsg .b{{fill:var(--k)}}.dsg .b+text{{fill:#fff;font-weight:bold}}
"""

_BADGE = {
    "removed": "M{x0} {y0}H{x1}V{y1}H{x0}Z",
    "fused": "M{x} {yt}L{xr} {y}L{x} {yb}L{xl} {y}Z",
    "changed": "M{x0} {y}a8 8 0 1 0 16 0a8 8 0 1 0 -16 0Z",
    "added": "M{x} {yt}L{xr} {y1}H{xl}Z",
}
"""Square, diamond, circle, triangle: a mark is told by its shape and letter as well as by its colour."""

_CHAR, _CHAR_BOLD = 6.33, 6.93
"""Width of a character in the small and in the bold size."""


def graph_svg(
    nodes: Sequence[GraphNode],
    *,
    title: str = "",
    plan_nodes: Sequence[GraphNode] | None = None,
    max_boxes: int = 80,
) -> str:
    """Draw a captured graph as a static SVG that reads at 700 px width.

    Modules are frames, repeated blocks are folded into one, and what exceeds ``max_boxes`` boxes is
    folded with its count. With ``plan_nodes``, the graph as the plan runs it, both stand side by side
    and what was removed, fused, changed or added is marked by a colour, a shape and a letter.

    >>> from deepseek_lab.base.events import GraphNode
    >>> graph_svg([GraphNode("x", "input"), GraphNode("y", "relu", inputs=("x",))])[:26]
    '<svg xmlns="http://www.w3.'
    """
    return draw(nodes, title=title, plan_nodes=plan_nodes, max_boxes=max_boxes, standalone=True)


def draw(
    nodes: Sequence[GraphNode],
    *,
    title: str = "",
    plan_nodes: Sequence[GraphNode] | None = None,
    max_boxes: int = 80,
    standalone: bool = False,
) -> str:
    """:func:`graph_svg`, by default without the namespace that only a file of its own needs."""
    heading = 20.0 if title else 0.0
    top = heading + (66.0 if plan_nodes else 34.0)
    record = layout(nodes, plan_nodes=plan_nodes, max_boxes=max_boxes, top=top)
    width, height = record.width, record.height
    parts = [
        "<svg" + (' xmlns="http://www.w3.org/2000/svg"' if standalone else ""),
        f' class="dsg" role="img" aria-label="{escape(_words.clip(title or "graph", 80))}"',
        f' viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"',
        f' style="max-width:100%;height:auto"><style>{_STYLE}</style>',
        f'<rect width="{width:g}" height="{height:g}" style="stroke:none"/>',
    ]
    if title:
        parts.append(_text(10, 18, _words.clip(title, int((width - 20) / _CHAR_BOLD)), "t"))
    parts.append(_headings(record, len(nodes), len(plan_nodes or ()), heading))
    parts += [_frame(frame) for frame in record.frames]
    parts += [_wire(wire) for wire in record.wires if wire.points]
    parts += [_box(box) for box in record.boxes]
    parts.append(_numbers(record))
    return "".join(parts) + "</svg>"


def _text(x: float, y: float, words: str, style: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}"' + (f' class="{style}"' if style else "") + f">{escape(words)}</text>"


def _headings(record: Layout, num_nodes: int, num_plan_nodes: int, y: float) -> str:
    def counted(pane: int, total: int) -> str:
        boxes = sum(1 for box in record.boxes if record.panes == 1 or box.column == pane)
        return f"{_words.plural(total, 'node')} in {boxes} box" + ("" if boxes == 1 else "es")

    numbered = any(wire.number for wire in record.wires)
    if record.panes == 1:
        hint = "; a filled number leads to the same number" if numbered and record.width > COLUMN else ""
        return _text(10, y + 16, counted(0, num_nodes) + hint, "m")
    parts = [
        _text(10, y + 16, f"captured: {counted(0, num_nodes)}", "t"),
        _text(COLUMN + 10, y + 16, f"plan: {counted(1, num_plan_nodes)}", "t"),
    ]
    x = 18.0
    for mark, (_, meaning) in MARKS.items():
        badge = f'<g class="{mark}"><title>{meaning}</title>{_badge(mark, x, y + 33)}</g>'
        parts.append(badge + _text(x + 14, y + 36.5, mark, "m"))
        x += 100
    if numbered:
        parts.append(_text(x, y + 36.5, "a filled number leads to the same number", "m"))
    return "".join(parts)


def _frame(frame: Frame) -> str:
    x, room = frame.x - frame.x % COLUMN + SPINE + 10, COLUMN - SPINE - RIGHT - 20
    note = "continued" if frame.continued else _words.plural(frame.row.size, "node")
    words = _words.clip(frame.row.text, int(room / _CHAR) - len(note) - 2)
    place = f'x="{frame.x:g}" y="{frame.y:g}" width="{frame.width:g}" height="{frame.height:g}"'
    return (
        f'<rect class="g" {place} rx="6"/>'
        + _text(x, frame.y + 15, words)
        + _text(frame.x + frame.width - 8, frame.y + 15, note, "m e")
    )


def _box(box: Box) -> str:
    row, x, y, width = box.row, box.x, box.y, box.width
    style = " ".join(("k",) * bool(row.mark) + ("end",) * (row.kind == "end"))
    parts = [f'<g class="{row.mark}">' if row.mark else "<g>"]
    if row.node is not None:
        place = f"{row.node.file}:{row.node.line}" if row.node.line else ""
        hover = _words.clip(f"{row.node.name} {row.node.module} {place}", 160)
        parts.append(f"<title>{escape(hover)}</title>")
    if row.kind == "fold" or row.repeat > 1:
        parts.append(_rect(x + 3, y + 3, width, "", 5))
    radius = BOX / 2 if row.kind == "end" else 5
    if row.mark:
        parts.append(_rect(x, y, width, "", radius))
    parts.append(_rect(x, y, width, style, radius))
    left = x + 9
    if row.mark:
        parts.append(_badge(row.mark, x + 14, y + BOX / 2))
        left += 19
    right = x + width - (14 if row.kind == "end" else 8)
    left += 6 if row.kind == "end" else 0
    upper = row.label if row.kind == "fold" else row.where
    lower = "" if row.kind == "fold" else row.label
    tight = _CHAR_BOLD * len(row.text) + _CHAR * len(upper) + 8 > right - left
    if row.node is not None and row.where and tight:
        upper = f"line {row.node.line}"
    head = row.text + (f" × {row.repeat:,}" if row.repeat > 1 and row.kind != "fold" else "")
    parts.append(_pair(left, right, y + 14, head, upper, bold=True))
    parts.append(_pair(left, right, y + 28, row.detail, lower))
    return "".join(parts) + "</g>"


def _pair(left: float, right: float, y: float, main: str, side: str, *, bold: bool = False) -> str:
    """``main`` at the left and ``side`` at the right of a line; where both are long, each is cut."""
    room, char = right - left, _CHAR_BOLD if bold else _CHAR
    wish = _words.cells(_words.clip(main, 60)) * char
    if side:
        side = _words.clip(side, int(max(room * (0.67 if bold else 0.5), room - wish - 8) / _CHAR))
    space = room - (_words.cells(side) * _CHAR + 8 if side else 0)
    words = _words.clip(main, int(space / char))
    parts = [_text(left, y, words, "t" if bold else "m")] if words else []
    return "".join(parts + ([_text(right, y, side, "m e")] if side else []))


def _rect(x: float, y: float, width: float, style: str, radius: float) -> str:
    given = f' class="{style}"' if style else ""
    return f'<rect{given} x="{x:g}" y="{y:g}" width="{width:g}" height="{BOX:g}" rx="{radius:g}"/>'


def _badge(mark: str, x: float, y: float) -> str:
    places = {"x": x, "y": y, "x0": x - 8, "x1": x + 8, "y0": y - 8, "y1": y + 8}
    places |= {"yt": y - 10, "yb": y + 10, "xl": x - 10, "xr": x + 10}
    path = _BADGE[mark].format(**{name: f"{value:g}" for name, value in places.items()})
    letter = y + (6 if mark == "added" else 3.5)
    return f'<path class="b" d="{path}"/>{_text(x, letter, MARKS[mark][0], "c")}'


def _wire(wire: Wire) -> str:
    """A way with rounded corners that ends in an arrow head."""
    points = wire.points
    path = f"M{points[0][0]:g} {points[0][1]:g}"
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        path += f"L{_toward(corner, before)}Q{corner[0]:g} {corner[1]:g} {_toward(corner, after)}"
    (x0, _), (x, y) = points[-2], points[-1]
    if x0 == x:
        head, end = f"M{x:g} {y:g}l-3.5 -6h7z", (x, y - 5)
    else:
        head, end = f"M{x:g} {y:g}l-6 -3.5v7z", (x - 5, y)
    return f'<path class="w" d="{path}L{end[0]:g} {end[1]:g}"/><path class="h" d="{head}"/>'


def _toward(corner: tuple[float, float], point: tuple[float, float], radius: float = 4.0) -> str:
    dx, dy = point[0] - corner[0], point[1] - corner[1]
    share = min(radius / max(abs(dx) + abs(dy), 1e-9), 0.5)
    return f"{corner[0] + dx * share:.4g} {corner[1] + dy * share:.4g}"


def _numbers(record: Layout) -> str:
    leaves: dict[int, int] = {}
    arrives: dict[int, list[int]] = {}
    for wire in record.wires:
        if wire.number:
            leaves[wire.source] = wire.number
            arrives.setdefault(wire.target, []).append(wire.number)
    parts = []
    for at, box in enumerate(record.boxes):
        x = box.x - box.x % COLUMN + COLUMN - RIGHT + 2
        shape = f'x="{x:g}" width="{RIGHT - 4:g}" height="13" rx="6.5"'
        if at in leaves:
            parts.append(f'<rect class="o" y="{box.y + 19:g}" {shape}/>')
            parts.append(_text(x + 14, box.y + 29, str(leaves[at]), "c n"))
        if at in arrives:
            parts.append(f'<rect y="{box.y + 2:g}" {shape}/>')
            parts.append(_text(x + 14, box.y + 12, _words.clip(",".join(map(str, arrives[at])), 5), "c"))
    return "".join(parts)
