"""Cells in another process: run with the names of its ``__main__``, errors told without a frame of ours."""

from __future__ import annotations

import ast
import linecache
import traceback
from collections.abc import Callable
from typing import Any

_MOST_TEXT = 10_000


LEFT_OUT: set[str] = set()
"""Files whose frames no traceback shows: what stands around calls of the user's."""


class CellFailed(Exception):
    """A cell raised; ``name`` and ``text`` tell it as Python would."""

    def __init__(self, error: BaseException, file: str) -> None:
        super().__init__(str(error))
        self.name = type(error).__name__
        self.text = describe(error, file)
        self.line = _line_of(error, file)


def run_cell(source: str, file: str, names: dict[str, Any], *changes: Callable[[ast.Module], None]) -> Any:
    """Run a cell's text and give the value of its last expression, if it ends in one that is shown.

    ``changes`` may change what is run.

    Raises:
        CellFailed: it raised.
        KeyboardInterrupt: it was interrupted.
    """
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    try:
        tree = ast.parse(source, file)
        for change in changes:
            change(tree)
        last = tree.body[-1] if tree.body else None
        if not isinstance(last, ast.Expr) or source.rstrip().endswith(";"):
            exec(compile(tree, file, "exec"), names)
            return None
        del tree.body[-1]
        exec(compile(tree, file, "exec"), names)
        return eval(compile(ast.Expression(last.value), file, "eval"), names)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise CellFailed(error, file) from error


def value_text(value: Any) -> str:
    """How a value is shown; empty for None."""
    if value is None:
        return ""
    try:
        text = repr(value)
    except Exception as error:
        return f"<{type(value).__name__}, whose repr raised {type(error).__name__}: {error}>"
    return text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}... ({len(text):,} characters)"


def describe(error: BaseException, file: str) -> str:
    """A traceback that begins in the cell."""
    told = traceback.TracebackException.from_exception(error)
    seen: set[int] = set()
    one: traceback.TracebackException | None = told
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        one.stack[:] = [frame for frame in one.stack if frame.filename not in LEFT_OUT]
        first = next((index for index, frame in enumerate(one.stack) if frame.filename == file), None)
        if first is not None:
            del one.stack[:first]
        elif isinstance(error, SyntaxError):
            one.stack.clear()
        one = one.__cause__ or one.__context__
    return "".join(told.format()).rstrip()


def _line_of(error: BaseException, file: str) -> int | None:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return lines[-1] if lines else None
