"""An interactive view as a page that stands by itself: in a frame inside of an output, or as a file.

A frame's page is part of the notebook, needs no network, no kernel and no extension, and runs apart from the notebook
(``sandbox``): it can neither read nor change what is around it. A notebook that is not trusted shows no frames, so a
picture goes before it.
"""

from __future__ import annotations

import base64
import functools
import html
import json
import zlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, TypedDict, Unpack

from deepseek_lab.base.events import GraphBreak, GraphNode
from deepseek_lab.base.version import __version__
from deepseek_lab.views import _after, _breaks, _diff, _overlays, _tree, _words
from deepseek_lab.views._overlays import Overlay
from deepseek_lab.views._packed import Packer

MIME = "application/vnd.deepseek-lab.v1+json"
"""What a front end with our extension draws: the views of one output, and whether its run is live."""
HEIGHT = 480
"""Pixels that a frame is high."""
MAX_TITLE = 300
_THEME = (
    f".dsl-frame iframe{{width:100%;height:{HEIGHT}px;border:0}}"
    f'[data-jp-theme-light="false"] .dsl-frame iframe,.vscode-dark .dsl-frame iframe{{height:{HEIGHT + 1}px}}'
    f'[data-jp-theme-light="true"] .dsl-frame iframe,.vscode-light .dsl-frame iframe{{height:{HEIGHT + 2}px}}'
)
"""A frame cannot see the theme around it, only how high it is: one pixel more is dark, two are light, and otherwise
the system's choice holds. ``js/src/page/index.ts`` reads it."""
_START = """(async()=>{
const text=id=>document.getElementById(id).textContent;
const bytes=Uint8Array.from(atob(text('code')),c=>c.charCodeAt(0));
const code=document.createElement('script');
code.textContent=await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate'))).text();
document.head.append(code);
deepseekLab.show(document.getElementById('view'),text('data'));
})()"""


@functools.cache
def script(kind: str = "") -> str | None:
    """What shows one kind of view, or all kinds, as a script: deflated, in base64; None where it was not built."""
    found = resources.files("deepseek_lab.views") / "_static" / (f"page-{kind}.js" if kind else "page.js")
    if not found.is_file():
        return None
    return base64.b64encode(zlib.compress(found.read_bytes(), 9)).decode("ascii")


def explorable() -> bool:
    """Whether the front end is here, so that graphs can be explored."""
    return script() is not None


def packed_graph(
    nodes: Sequence[GraphNode],
    marks: Mapping[str, str] | None = None,
    overlays: Sequence[Overlay] = (),
    *,
    breaks: Sequence[GraphBreak] = (),
) -> str:
    """The operations of a graph as a packed table.

    Args:
        nodes: The operations.
        marks: By name what became of them.
        overlays: What was measured of them.
        breaks: Where capture stopped.
    """
    return _graph(nodes, marks, overlays, breaks).base64()


def _graph(
    nodes: Sequence[GraphNode],
    marks: Mapping[str, str] | None,
    overlays: Sequence[Overlay],
    breaks: Sequence[GraphBreak],
) -> Packer:
    packer = Packer(len(nodes))
    packer.names("name", [node.name for node in nodes])
    packer.text("op", [node.op for node in nodes])
    packer.text("module", [node.module for node in nodes])
    packer.text("shape", [",".join(map(str, node.shape)) for node in nodes])
    packer.text("dtype", [node.dtype.removeprefix("torch.") for node in nodes])
    packer.text("file", [node.file for node in nodes])
    packer.integers("line", [node.line for node in nodes])
    packer.references("inputs", _tree.producers(nodes))
    if marks:
        packer.text("mark", [marks.get(node.name, "") for node in nodes])
    _overlays.pack(packer, overlays)
    if breaks:
        packer.meta["breaks"] = _breaks.placed(nodes, breaks)
    return packer


class About(TypedDict, total=False):
    """What is shown on a graph."""

    overlays: Sequence[Overlay]
    """What was measured of the captured operations."""
    plan_overlays: Sequence[Overlay]
    """What was measured of those that run."""
    breaks: Sequence[GraphBreak]
    """Where capture stopped and Python went on by itself."""


def graph_content(
    nodes: Sequence[GraphNode],
    title: str,
    plan_nodes: Sequence[GraphNode] = (),
    *,
    beside: bool = True,
    **about: Unpack[About],
) -> dict[str, str]:
    """A graph to explore, as data.

    Args:
        nodes: The captured graph.
        title: What it is called.
        plan_nodes: The graph as it runs; what became of each node is marked then.
        beside: Whether the graph as it runs can be seen too, beside the captured one.
        about: See :class:`About`.
    """
    overlays, breaks = about.get("overlays", ()), about.get("breaks", ())
    if not plan_nodes:
        return content("graph", title, packed_graph(nodes, {}, overlays, breaks=breaks))
    diff = _diff.compare(nodes, plan_nodes)
    packer = _graph(nodes, diff.before, overlays, breaks)
    if beside:
        packer.integers("becomes", _after.becomes(nodes, plan_nodes, diff))
        packer.meta["after"] = _after.packed(nodes, plan_nodes, diff, about.get("plan_overlays", ()))
    return content("graph", title, packer.base64())


def graph_frame(
    nodes: Sequence[GraphNode],
    title: str,
    plan_nodes: Sequence[GraphNode] = (),
    *,
    max_bytes: int | None = None,
    **about: Unpack[About],
) -> str:
    """A graph to explore, as HTML; empty where the front end was not built, or it would take more than ``max_bytes``.

    Where both graphs do not fit, the captured one is shown alone, with its marks.
    """
    for beside in (True, False):
        made = graph_content(nodes, title, plan_nodes, beside=beside, **about)
        shown = frame(**made) or ""
        if max_bytes is None or len(shown) <= max_bytes:
            return shown
    return ""


def payload(
    run: str, contents: Sequence[Mapping[str, str]], *, live: bool = False, in_cell: bool = False
) -> dict[str, Any]:
    """The data of :data:`MIME`.

    Args:
        run: Under what name pages ask for the run.
        contents: Views, each with its kind, title and packed table.
        live: Whether more will come.
        in_cell: Whether the run is the loop of the cell that is running: interrupting that cell ends it.
    """
    made = {"schema": 1, "version": __version__, "run": run, "views": list(contents)}
    return {**made, "live": True, "in_cell": in_cell} if live else made


def content(kind: str, title: str, packed: str) -> dict[str, str]:
    """One view as data."""
    return {"kind": kind, "title": _words.clip(title, MAX_TITLE), "packed": packed}


def text_content(title: str, text: str) -> dict[str, str]:
    """Text that keeps its lines, such as code, as a view."""
    return content("text", title, Packer(0, {"text": _words.clean(text, lines=True)}).base64())


def page(kind: str, title: str, packed: str) -> str | None:
    """A page with one view of a packed table; None where the front end was not built.

    Args:
        kind: Which view: a name that ``js/src/core/kinds.ts`` registers.
        title: What is shown.
        packed: What :meth:`Packer.base64` returned.
    """
    code = script(kind)
    if code is None:
        return None
    made = content(kind, title, packed)
    title = made["title"]
    data = json.dumps(made)
    data = data.replace("<", "\\u003c")  # nothing in it can end the element that it stands in
    return (
        "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width'><meta name='color-scheme' content='light dark'>"
        f"<title>{html.escape(title)}</title></head><body style='margin:0'><main id='view'></main>"
        f"<script type='application/json' id='data'>{data}</script>"
        f"<script type='text/plain' id='code'>{code}</script><script>{_START}</script></body></html>"
    )


def frame(kind: str, title: str, packed: str) -> str | None:
    """The page in a frame, as a part of other HTML."""
    made = page(kind, title, packed)
    if made is None:
        return None
    name = html.escape(_words.clip(title, MAX_TITLE))
    return (
        f'<div class="dsl-frame"><style>{_THEME}</style>'
        f'<iframe sandbox="allow-scripts allow-downloads" title="{name}" loading="lazy" '
        f'srcdoc="{html.escape(made)}"></iframe></div>'
    )
