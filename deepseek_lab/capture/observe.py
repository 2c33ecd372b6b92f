"""Which modules does a cell call itself? A patch of ``Module.__call__`` that undoes itself."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

_ORIGINAL = "_deepseek_original"
_local = threading.local()


class ModuleObserver:
    """While open, reports each module that is called from outside of any other module, once.

    Args:
        found: Told the module before its call is made.
        called: Told each such call before it is made, with its arguments; what it raises ends the call.
    """

    def __init__(
        self,
        found: Callable[[torch.nn.Module], None],
        called: Callable[[torch.nn.Module, tuple[Any, ...], dict[str, Any]], None] | None = None,
    ) -> None:
        self._found, self._called = found, called
        self._seen: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()
        self._original: Any = None
        self.num_calls = 0

    def open(self) -> None:
        """Start observing."""
        original = self._original = torch.nn.Module.__call__
        local, seen = threading.local(), self._seen

        def observed(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            if (
                getattr(local, "inside", False)
                or getattr(_local, "unseen", False)
                or torch.compiler.is_compiling()
            ):
                return original(module, *args, **kwargs)
            local.inside = True
            try:
                self.num_calls += 1
                if module not in seen:
                    seen.add(module)
                    self._found(module)
                if self._called is not None:
                    self._called(module, args, kwargs)
                return original(module, *args, **kwargs)
            finally:
                local.inside = False

        self._patch: Any = observed
        setattr(observed, _ORIGINAL, getattr(original, _ORIGINAL, original))
        setattr(torch.nn.Module, "__call__", observed)  # noqa: B010 - a method, put back by close()

    @staticmethod
    @contextmanager
    def unseen() -> Iterator[None]:
        """What this thread calls meanwhile is no call of the cell's."""
        before = getattr(_local, "unseen", False)
        _local.unseen = True
        try:
            yield
        finally:
            _local.unseen = before

    @staticmethod
    @contextmanager
    def suspended() -> Iterator[None]:
        """``Module.__call__`` as PyTorch has it, for a tracer that would take the patch into what it guards."""
        patched = torch.nn.Module.__call__
        original = getattr(patched, _ORIGINAL, None)
        if original is None:
            yield
            return
        setattr(torch.nn.Module, "__call__", original)  # noqa: B010
        try:
            yield
        finally:
            if torch.nn.Module.__call__ is original:
                setattr(torch.nn.Module, "__call__", patched)  # noqa: B010

    def close(self) -> None:
        """Stop observing; another patch that was put on top since is left in place."""
        if self._original is not None and torch.nn.Module.__call__ is self._patch:
            setattr(torch.nn.Module, "__call__", self._original)  # noqa: B010
        self._original = None


def called_names(source: str) -> set[str]:
    """Names that a cell's source calls directly, e.g. ``f`` in ``f(x)``; empty when it does not parse."""
    import ast

    try:
        tree = ast.parse(source)
    except SyntaxError:
        return set()
    return {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
