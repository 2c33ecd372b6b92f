"""Another ``forward`` for a module of the user's: it copies and pickles as the module's own, and is taken back."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

from torch import nn


def _own_forward(module: nn.Module) -> Any:
    return types.MethodType(type(module).forward, module)


class Patch:
    """While installed, ``module.forward`` is this.

    Args:
        module: Whose.
        forward: What runs: it is given the forward that was there before, and the call's arguments.
    """

    runs_alone = True
    """Says to the engine that the module is not to be captured as a graph."""

    def __init__(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        self.module, self._own, self._forward = module, forward, forward
        self._before: Any = None
        self._had = False

    def install(self) -> Patch:
        """Stand in for the module's forward, if it does not yet."""
        attributes: dict[str, Any] = self.module.__dict__
        if attributes.get("forward") is not self:
            self._take(attributes)
        return self

    def _take(self, attributes: dict[str, Any]) -> None:
        self._forward = self._own
        self._had = "forward" in attributes
        self._before = self.module.forward
        attributes["forward"] = self

    def remove(self) -> None:
        """Leave the module as it was. A patch that somebody put on top stays, and passes this one by."""
        if self.module.__dict__.get("forward") is self:
            if self._had:
                self.module.__dict__["forward"] = self._before
            else:
                del self.module.__dict__["forward"]
        else:
            self._forward = _through

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        return self._forward(self._before, *args, **kwargs)

    @property
    def __wrapped__(self) -> Any:
        """For ``inspect.signature``."""
        return self._before

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return _own_forward(memo.get(id(self.module), self.module))

    def __reduce__(self) -> Any:
        return _own_forward, (self.module,)


def _through(before: Any, *args: Any, **kwargs: Any) -> Any:
    return before(*args, **kwargs)
