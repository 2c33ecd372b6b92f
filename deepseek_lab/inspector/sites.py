"""Lines of the user's own in the stack."""

from __future__ import annotations

import ast
import linecache
import sys
from types import FrameType

from deepseek_lab.measure.profiler.frames import is_own

Site = tuple[str, int]
NOWHERE: Site = ("", 0)


def own_frame(depth: int = 1) -> FrameType | None:
    """The innermost frame of the user's own, from ``depth`` callers up."""
    frame: FrameType | None = sys._getframe(depth + 1)
    while frame is not None and not is_own(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def own_site(depth: int = 1) -> Site:
    """File and line of that frame."""
    frame = own_frame(depth + 1)
    return (frame.f_code.co_filename, frame.f_lineno) if frame is not None else NOWHERE


_OPERATORS = {"div": ast.Div, "pow": ast.Pow, "mul": ast.Mult, "sub": ast.Sub}


def line_that_calls(name: str, site: Site) -> int:
    """The line of the same function or cell that calls something of this name, if only one does; else ``site``'s."""
    try:
        tree = ast.parse("".join(linecache.getlines(site[0])))
    except (SyntaxError, ValueError):
        return site[1]
    around = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.lineno <= site[1] <= (node.end_lineno or node.lineno)
    ]
    found = set()
    for node in ast.walk(max(around, key=lambda one: one.lineno) if around else tree):
        if not isinstance(node, ast.expr):
            continue
        called = node.func if isinstance(node, ast.Call) else None
        word = getattr(called, "attr", getattr(called, "id", ""))
        if word in (name, f"{name}_") or (
            isinstance(node, ast.BinOp) and name in _OPERATORS and isinstance(node.op, _OPERATORS[name])
        ):
            found.add(node.lineno)
    return found.pop() if len(found) == 1 else site[1]


def as_python(path: str) -> str:
    """A module's path as it can be typed: ``model.layers[0]`` for ``model.layers.0``."""
    return "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in path.split(".")).removeprefix(
        "."
    )
