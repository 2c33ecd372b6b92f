"""Every module that is called, while somebody looks: a patch of ``Module.__call__`` that undoes itself.

A hook on each module would be there for everybody to see, copied with the model, and in the way of every call. This is
one function in the way of all of them, and nothing of ours is on a model at any time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

import torch

from deepseek_lab.capture.observe import _ORIGINAL

Returned = Callable[[torch.nn.Module, Any, Any, Any], None]


class Watcher(Protocol):
    """What is told of calls."""

    def begins(self, module: torch.nn.Module, args: Any, kwargs: Any) -> Returned | None:
        """A module is called from outside of any other; gives what wants to know of each call inside of it."""

    def ended(self, module: torch.nn.Module, result: Any) -> None:
        """That call has returned. Told where :meth:`begins` gave something, or ``wants_results`` is set."""

    @property
    def wants_results(self) -> bool:
        """Whether every result is wanted."""


def _outside(module: torch.nn.Module, args: Any, kwargs: Any, result: Any) -> None:
    """Stands for no call being under way."""


class _Thread(threading.local):
    returned: Returned | None = staticmethod(_outside)
    """What the call that is under way tells of those inside of it; None where nobody looks at it."""


class ModuleCalls:
    """Tells a watcher of calls between :meth:`open` and :meth:`close`."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._original: Any = None

    def open(self) -> None:
        """Start telling."""
        original = self._original = torch.nn.Module.__call__
        watcher, thread = self._watcher, _Thread()
        wants_results = watcher.wants_results
        is_traced, is_compiling = torch.compiler.is_dynamo_compiling, torch.compiler.is_compiling
        is_usual = original is torch.nn.Module._wrapped_call_impl

        def observed(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            if is_traced():
                return original(module, *args, **kwargs)
            returned = thread.returned
            if returned is None:
                # Nearly every call: in the original's place, and not in front of it.
                if is_usual and module._compiled_call_impl is None:
                    return module._call_impl(*args, **kwargs)
                return original(module, *args, **kwargs)
            if returned is not _outside:
                result = original(module, *args, **kwargs)
                returned(module, args, kwargs, result)
                return result
            if is_compiling():
                return original(module, *args, **kwargs)
            thread.returned = None  # what is called on our behalf is not looked at
            try:
                thread.returned = returned = watcher.begins(module, args, kwargs)
                result = original(module, *args, **kwargs)
                if returned is not None:
                    returned(module, args, kwargs, result)
                    watcher.ended(module, result)
                elif wants_results:
                    watcher.ended(module, result)
                return result
            finally:
                thread.returned = _outside

        self._patch: Any = observed
        setattr(observed, _ORIGINAL, getattr(original, _ORIGINAL, original))
        setattr(torch.nn.Module, "__call__", observed)  # noqa: B010 - a method, put back by close()

    def close(self) -> None:
        """Stop telling; another patch that was put on top since is left in place."""
        if self._original is not None and torch.nn.Module.__call__ is self._patch:
            setattr(torch.nn.Module, "__call__", self._original)  # noqa: B010
        self._original = None
