"""Functions as targets: the wrapper, and the stub that borrows a reference's meaning."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any

from deepseek_lab.base.errors import TargetError


def _empty() -> None:
    pass


def is_stub(function: Callable[..., Any]) -> bool:
    """Whether a function's body does nothing: ``pass``, ``...`` or a docstring alone."""
    code = getattr(function, "__code__", None)
    return code is not None and code.co_code == _empty.__code__.co_code and not code.co_names


def _parameters(function: Callable[..., Any]) -> list[str] | None:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return None


def reference_for(
    stub: types.FunctionType,
    like: Callable[..., Any] | str | None,
    namespace: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    """The function whose meaning a stub is to have.

    Args:
        stub: A function with an empty body.
        like: The reference or its name; None looks for one of the same signature beside the stub.
        namespace: Where to look; the stub's own globals by default.

    Raises:
        TargetError: there is none, or several fit equally.
    """
    names = stub.__globals__ if namespace is None else namespace
    if callable(like):
        return like
    if isinstance(like, str):
        found = names.get(like)
        if not callable(found):
            raise TargetError(
                f"there is no function {like!r} beside {stub.__name__}",
                hint=f"define {like} first, or pass the function itself: like={like}",
            )
        return found  # type: ignore[no-any-return]
    wanted = _parameters(stub)
    fitting = {
        name: value
        for name, value in names.items()
        if isinstance(value, types.FunctionType)
        and value is not stub
        and not is_stub(value)
        and not hasattr(value, "__wrapped__")
        and _parameters(value) == wanted
    }
    named = {name: value for name, value in fitting.items() if name in stub.__name__}
    best = named or fitting
    if not best:
        raise TargetError(
            f"{stub.__name__} has an empty body, and no function with the parameters "
            f"({', '.join(wanted or [])}) stands beside it",
            hint=f"@deepseek.optimize(like=REFERENCE) above def {stub.__name__}",
        )
    longest = max(best, key=len)
    if len(best) > 1 and not named:
        raise TargetError(
            f"{stub.__name__} has an empty body, and several functions fit it: {', '.join(sorted(best))}",
            hint=f"@deepseek.optimize(like={longest}) above def {stub.__name__}",
        )
    return best[longest]


def wrapping(function: Callable[..., Any], call: Callable[..., Any]) -> Callable[..., Any]:
    """A function that looks like ``function`` and calls ``call``."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        return call(*args, **kwargs)

    return wrapper
