"""Dynamo, asked for exactly one thing at a time: capture this call now, or use what was captured before."""

from __future__ import annotations

import itertools
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch._dynamo
from torch import fx
from torch._dynamo.symbolic_convert import InstructionTranslator
from torch._dynamo.variables.base import AttributeMutationExisting, ValueMutationExisting
from torch._dynamo.variables.user_defined import UserDefinedObjectVariable

from deepseek_lab.capture.observe import ModuleObserver

Call = Callable[..., Any]
_numbers = itertools.count(1)


def _entry(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    __tracebackhide__ = True
    return call(*args, **kwargs)


@contextmanager
def _capture_settings() -> Iterator[None]:
    """Dynamo's settings while we capture; the user's own come back afterwards.

    Hooks are guarded because a hook that is added later must be seen; floats are constants because
    a norm's epsilon is one.
    """
    with torch._dynamo.config.patch(
        skip_nnmodule_hook_guards=False,
        specialize_float=True,
        suppress_errors=True,
        recompile_limit=64,
        accumulated_recompile_limit=1024,
    ):
        yield


class Tracer:
    """Captures calls of one callable.

    Every tracer enters through a code object of its own, so that graphs of different targets never
    share Dynamo's cache.
    """

    def __init__(self, call: Call, backend: Callable[[fx.GraphModule, Sequence[Any]], Call]) -> None:
        self._call = call
        name = f"deepseek_entry_{next(_numbers)}"
        entry = types.FunctionType(_entry.__code__.replace(co_name=name), _entry.__globals__, name)
        self._static = torch.compile(entry, backend=backend, dynamic=False)
        self._dynamic = torch.compile(entry, backend=backend, dynamic=True)
        self._run = torch._dynamo.run(entry)
        self.num_breaks = 0

    def capture(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, dynamic: bool) -> tuple[Any, float]:
        """Make the call, capturing what has not been captured. Returns its value and the seconds it took."""
        __tracebackhide__ = True
        before = torch._dynamo.utils.counters["graph_break"].total()
        start = time.perf_counter()
        with _capture_settings(), ModuleObserver.suspended():
            value = (self._dynamic if dynamic else self._static)(self._call, args, kwargs)
        elapsed = time.perf_counter() - start
        self.num_breaks = torch._dynamo.utils.counters["graph_break"].total() - before
        return value, elapsed

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make the call with captured graphs where their guards hold, in eager mode elsewhere."""
        __tracebackhide__ = True
        return self._run(self._call, args, kwargs)


def break_reasons(since: dict[str, int]) -> list[str]:
    """Dynamo's words for graph breaks counted since a snapshot by :func:`break_counts`."""
    now = break_counts()
    return [reason for reason, count in now.items() if count > since.get(reason, 0)]


def break_counts() -> dict[str, int]:
    """Dynamo's graph-break counter by reason."""
    return dict(torch._dynamo.utils.counters["graph_break"])


def lasting_effects() -> bool:
    """Whether the call that is being captured changes Python objects other than its own arguments.

    Asked by a backend while Dynamo waits for it: an attribute of the module, a list outside of the function. What
    is set and then set back, as a context variable is, does not count.
    """
    effects = InstructionTranslator.current_tx().output.side_effects
    return any(
        isinstance(one.mutation_type, ValueMutationExisting | AttributeMutationExisting)
        and effects.is_modified(one)
        and not (one.source is not None and one.source.name.startswith(("L['args']", "L['kwargs']")))
        and not _set_back(one, effects.store_attr_mutations.get(one))
        for one in effects.id_to_variable.values()
    )


def _set_back(variable: Any, attributes: Mapping[str, Any] | None) -> bool:
    """Whether all that was stored into an object is what the real object, untouched so far, still holds."""
    if not attributes or not isinstance(variable, UserDefinedObjectVariable):
        return False
    missing = object()
    for name, stored in attributes.items():
        if not stored.is_python_constant():
            return False
        now, then = getattr(variable.value, name, missing), stored.as_python_constant()
        if now is not then and (type(now) is not type(then) or now != then):
            return False
    return True
