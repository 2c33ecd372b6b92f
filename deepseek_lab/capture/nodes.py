"""A captured graph as plain records: every operation with its module path and the line that led to it."""

from __future__ import annotations

import re
import sys
from typing import Any

import torch
from torch import fx

from deepseek_lab.base.events import GraphNode

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in')
_LIBRARY = re.compile(
    r"site-packages|dist-packages|/torch/|/lib/python3|/deepseek_lab/(engine|capture|notebook)/"
)
_CALLER = re.compile(r"^L?\[?'?call'?\]?\.?(__self__)?\.?")


def graph_nodes(module: fx.GraphModule, site: tuple[str, int] = ("", 0)) -> tuple[GraphNode, ...]:
    """Records of a Dynamo graph's nodes in order.

    Operations inside of libraries are given to ``site``, the line of the user's that made the call.
    """
    return tuple(_record(node, site) for node in module.graph.nodes)


def call_site() -> tuple[str, int]:
    """File and line of the nearest calling frame that is the user's own."""
    frame = sys._getframe(1)
    while frame is not None:
        if not _LIBRARY.search(frame.f_code.co_filename):
            return frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back  # type: ignore[assignment]
    return "", 0


def _record(node: fx.Node, site: tuple[str, int]) -> GraphNode:
    value = node.meta.get("example_value")
    shape: tuple[int, ...] = ()
    dtype = ""
    if isinstance(value, torch.Tensor):
        shape = tuple(int(size) if not isinstance(size, torch.SymInt) else -1 for size in value.shape)
        dtype = str(value.dtype).removeprefix("torch.")
    file, line = source_line(node.meta.get("stack_trace") or "") or site
    return GraphNode(
        name=node.name,
        op=operation(node),
        module=module_path(node),
        inputs=tuple(source.name for source in node.all_input_nodes),
        shape=shape,
        dtype=dtype,
        file=file,
        line=line,
    )


def operation(node: fx.Node) -> str:
    """The field's name of what a node does."""
    if node.op == "placeholder":
        target = str(node.target)
        return "parameter" if "_parameters_" in target or "_buffers_" in target else "input"
    if node.op in ("output", "get_attr"):
        return "output" if node.op == "output" else "constant"
    if node.op == "call_method":
        return str(node.target)
    called: Any = node.target
    name = getattr(called, "__name__", str(called))
    return str(name).rpartition(".")[0] if isinstance(called, torch._ops.OpOverload) else str(name)


def module_path(node: fx.Node) -> str:
    """Dotted path of the innermost module a node belongs to."""
    stack: dict[str, Any] = node.meta.get("nn_module_stack") or {}
    if not stack:
        return ""
    path = str(list(stack.values())[-1][0])
    path = re.sub(r"\['?([^\]']+)'?\]", r".\1", path)
    path = re.sub(r"^L?\.?(call|self|args|kwargs)(\.__self__)?", "", path)
    return path.replace("._modules", "").strip(".")


def source_line(stack_trace: str) -> tuple[str, int] | None:
    """File and line of the innermost frame that is not a library's; None where all are."""
    frames = [(match["file"], int(match["line"])) for match in _FRAME.finditer(stack_trace)]
    own = [frame for frame in frames if not _LIBRARY.search(frame[0])]
    return own[-1] if own else None
