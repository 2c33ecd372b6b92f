"""What an IPython shell holds besides the user's names: outputs, and errors with the frames that they came through."""

from __future__ import annotations

import contextlib
import re
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any

_OWN = {"In", "Out", "exit", "quit", "open", "get_ipython"}
_OUTPUT = re.compile(r"_{1,3}|_\d+")
_LAST = ("last_exc", "last_value", "last_traceback")
_MEMORY = re.compile(r"out of memory|not enough memory|can't allocate memory|bad_alloc", re.IGNORECASE)

Held = tuple[str, str, tuple[Any, ...]]
"""Kind, name and objects of one holder."""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error says that there was no memory left."""
    if error is None:
        return False
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and _MEMORY.search(str(error)) is not None
    )


def names(shell: Any) -> list[Held]:
    """The user's own names, largest scope first: as they were bound."""
    own = shell.user_ns
    return [
        ("name", name, (value,))
        for name, value in list(own.items())
        if not name.startswith("_") and name not in _OWN and not isinstance(value, types.ModuleType)
    ]


def outputs(shell: Any) -> list[Held]:
    """Values that cells have left in ``Out``, and the short names for them."""
    own = shell.user_ns
    made: list[Held] = [("output", f"Out[{number}]", (value,)) for number, value in list(own["Out"].items())]
    short = [name for name in own if _OUTPUT.fullmatch(name)]
    return [*made, *(("output", name, (own[name],)) for name in short)]


def errors(shell: Any) -> list[Held]:
    """Where the last error is kept."""
    made: list[Held] = [
        ("error", f"sys.{name}", (getattr(sys, name),))
        for name in _LAST
        if getattr(sys, name, None) is not None
    ]
    tb = getattr(shell.InteractiveTB, "tb", None)
    if tb is not None:
        made.append(("error", "InteractiveTB.tb", (tb,)))
    result = getattr(shell, "last_execution_result", None)
    if result is not None and (error := result.error_in_exec or result.error_before_exec) is not None:
        made.append(("error", "the last cell's result", (error,)))
    return made


def hidden_names(shell: Any) -> list[Held]:
    """Names that begin with an underscore and are no outputs."""
    return [
        ("name", name, (value,))
        for name, value in list(shell.user_ns.items())
        if name.startswith("_") and not _OUTPUT.fullmatch(name) and name not in ("_oh", "_ih", "_dh")
    ]


def forget_errors(shell: Any) -> None:
    """Let go of the last error: the frames that it came through keep their local variables no longer."""
    for _, _, (held,) in errors(shell):
        one = held.__traceback__ if isinstance(held, BaseException) else held
        if isinstance(one, types.TracebackType):
            _clear(one)
        if isinstance(held, BaseException):
            _clear_chain(held)
    for name in (*_LAST, "last_type"):
        with contextlib.suppress(AttributeError):
            delattr(sys, name)
    shell.InteractiveTB.tb = None
    result = getattr(shell, "last_execution_result", None)
    if result is not None:
        result.error_in_exec = result.error_before_exec = None


def _clear(one: types.TracebackType) -> None:
    traceback.clear_frames(one)


def _clear_chain(error: BaseException) -> None:
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        found = left.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        if found.__traceback__ is not None:
            _clear(found.__traceback__)
        left += [found.__cause__, found.__context__]
        found.__traceback__ = None


def forget_outputs(shell: Any) -> None:
    """Empty ``Out`` and its short names."""
    own = shell.user_ns
    own["Out"].clear()
    hook = shell.displayhook
    for name in [name for name in own if _OUTPUT.fullmatch(name)]:
        shell.user_ns_hidden.pop(name, None)  # it keeps the values too
        if name.strip("_"):
            del own[name]
        else:
            own[name] = ""
            if hasattr(hook, name):
                setattr(hook, name, "")


def forget_names(shell: Any, wanted: tuple[str, ...]) -> None:
    """Delete names of the user's, who has asked for it."""
    for name in wanted:
        del shell.user_ns[name]
        shell.user_ns_hidden.pop(name, None)


def on_memory_error(error: BaseException | None, say: Callable[[str], None]) -> None:
    """After a cell that ran out of memory: what to type next."""
    if is_out_of_memory(error):
        say(
            "out of memory: what the cell had allocated is still held by its error; %ds_free gives it back, no restart"
        )
