"""Callbacks for those who live longer than what they call."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any


def weakly(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that does not keep its object alive.

    Dynamo holds backends, and the graphs they returned, for as long as the code that was captured lives; that code is
    the dispatcher's own.
    """
    held = weakref.WeakMethod(method)

    def call(*args: Any) -> Any:
        found = held()
        return found(*args) if found is not None else None

    return call
