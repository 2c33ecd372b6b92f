"""How a value is called in the code that asks for it."""

from __future__ import annotations

import ast
import dis
import functools
import linecache
import sys
from types import CodeType

_STORES = ("STORE_NAME", "STORE_FAST", "STORE_GLOBAL", "STORE_DEREF", "STORE_ATTR")


def name_of_call(depth: int) -> str:
    """The name that the result of a call is assigned or passed to: ``lr`` in ``lr = f()`` and in ``g(lr=f())``.

    Args:
        depth: Frames between the caller of this function and the call, 1 for its own caller.

    Returns:
        Without a name in the code, ``line 7``.
    """
    frame = sys._getframe(depth + 1)
    return _name(frame.f_code, frame.f_lasti, frame.f_lineno)


@functools.lru_cache(maxsize=4096)
def _name(code: CodeType, at: int, line: int) -> str:
    return _by_bytecode(code, at) or _by_source(code, at) or f"line {line}"


def _by_bytecode(code: CodeType, at: int) -> str | None:
    """Where the value goes right after the call; a function that was sent here has no source."""
    after = [each for each in dis.get_instructions(code) if each.offset > at and each.opname != "CACHE"]
    if not after or not after[0].opname.startswith(_STORES):
        return None
    name = after[0].argval
    return name[0] if isinstance(name, tuple) else str(name)


def _by_source(code: CodeType, at: int) -> str | None:
    positions = list(code.co_positions())[at // 2]
    tree = _tree(code.co_filename)
    if tree is None or None in positions:
        return None
    for node in ast.walk(tree):
        for name, value in _named_values(node):
            if _place(value) == positions:
                return name
    return None


def _named_values(node: ast.AST) -> list[tuple[str, ast.expr]]:
    match node:
        case ast.keyword(arg=str() as name, value=value):
            return [(name, value)]
        case ast.Dict(keys=keys, values=values):
            return [
                (str(key.value), value)
                for key, value in zip(keys, values, strict=True)
                if isinstance(key, ast.Constant)
            ]
        case ast.Assign(targets=[ast.Subscript(slice=ast.Constant(value=str() as name))], value=value):
            return [(name, value)]
        case ast.Assign(targets=[ast.Attribute(attr=name)], value=value):
            return [(name, value)]
        case _:
            return []


def _place(node: ast.expr) -> tuple[int | None, ...]:
    return node.lineno, node.end_lineno, node.col_offset, node.end_col_offset


@functools.lru_cache(maxsize=64)
def _tree(file: str) -> ast.Module | None:
    try:
        return ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return None
