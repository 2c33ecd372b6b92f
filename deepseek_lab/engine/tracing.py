"""Dynamo, asked for exactly one thing at a time: capture this call now, or use what was captured before."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch._dynamo
from torch import fx
from torch._dynamo.guards import GuardBuilder
from torch._dynamo.symbolic_convert import InstructionTranslator
from torch._dynamo.utils import get_traced_code
from torch._dynamo.variables.base import AttributeMutationExisting, ValueMutationExisting
from torch._dynamo.variables.constant import ConstantVariable
from torch._dynamo.variables.misc import LoggingLoggerVariable
from torch._dynamo.variables.user_defined import UserDefinedObjectVariable
from torch._guards import Guard

from deepseek_lab.capture.nodes import source_line
from deepseek_lab.capture.observe import ModuleObserver
from deepseek_lab.engine.weak import weakly
from deepseek_lab.measure.breaks import in_words

Call = Callable[..., Any]
_numbers = itertools.count(1)


def _entry(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    __tracebackhide__ = True
    return call(*args, **kwargs)


_capturing = threading.local()
_hook_guard = GuardBuilder.EMPTY_NN_MODULE_HOOKS_DICT


def _guard_on_hooks(builder: GuardBuilder, guard: Guard) -> None:
    """Dynamo's guard on a table of hooks that is empty, where the table can matter and no other tells the same."""
    table = guard.name.rpartition(".")[2]
    if getattr(_capturing, "now", False) and (
        table.endswith("_hooks_with_kwargs")  # has nothing about a hook that is not in another table
        or (table.startswith("_backward") and not torch.is_grad_enabled())  # nor is there a way back
    ):
        return
    _hook_guard(builder, guard)


GuardBuilder.EMPTY_NN_MODULE_HOOKS_DICT = functools.wraps(_hook_guard)(_guard_on_hooks)  # type: ignore[method-assign]


_logger_call = LoggingLoggerVariable.call_method


def _log_once(
    variable: LoggingLoggerVariable, tx: Any, name: str, args: list[Any], kwargs: dict[str, Any]
) -> Any:
    """A message that is logged once in a process is logged while it is captured, by its own function.

    That keeps a cache of what it has said (transformers' ``logger.warning_once``), so that no later call says it again:
    the captured graph need not. Other messages still end a graph, as each call is to log them.
    """
    function = getattr(getattr(variable.value, name, None), "__func__", None)
    constant = all(one.is_python_constant() for one in (*args, *kwargs.values()))
    if getattr(_capturing, "now", False) and constant and isinstance(function, functools._lru_cache_wrapper):
        values = {key: one.as_python_constant() for key, one in kwargs.items()}
        function(variable.value, *(one.as_python_constant() for one in args), **values)
        return ConstantVariable.create(None)
    return _logger_call(variable, tx, name, args, kwargs)


LoggingLoggerVariable.call_method = functools.wraps(_logger_call)(_log_once)  # type: ignore[method-assign, assignment]


@contextmanager
def _fewer_hook_guards() -> Iterator[None]:
    """Guard on two tables of hooks for each module, not on six.

    After a model of hundreds of megabytes has gone through the caches every guard has to be fetched again: for
    BERT-base they are 6,600, and hundreds of them took a quarter of a millisecond of each call to say nothing.
    """
    _capturing.now = True
    try:
        yield
    finally:
        _capturing.now = False


@contextmanager
def _capture_settings() -> Iterator[None]:
    """Dynamo's settings while we capture; the user's own come back afterwards.

    Hooks are guarded because a hook that is added later must be seen; floats are constants because
    a norm's epsilon is one; NumPy's random numbers stay NumPy's, from a stream that the user may have seeded.
    """
    with (
        _fewer_hook_guards(),
        torch._dynamo.config.patch(
            skip_nnmodule_hook_guards=False,
            specialize_float=True,
            use_numpy_random_stream=True,
            suppress_errors=True,
            recompile_limit=64,
            accumulated_recompile_limit=1024,
        ),
    ):
        yield


@dataclasses.dataclass(frozen=True)
class Break:
    """A place at which capture stopped and Python went on; ``file`` is empty where Dynamo does not say where."""

    reason: str
    file: str = ""
    line: int = 0


class Tracer:
    """Captures calls of one callable.

    Every tracer enters through a code object of its own, so that graphs of different targets never
    share Dynamo's cache.
    """

    def __init__(self, call: Call, backend: Callable[[fx.GraphModule, Sequence[Any]], Call]) -> None:
        self._call = call
        name = f"deepseek_entry_{next(_numbers)}"
        entry = types.FunctionType(_entry.__code__.replace(co_name=name), _entry.__globals__, name)

        note = weakly(self._note)  # Dynamo keeps the backend for good

        def noting(module: fx.GraphModule, inputs: Sequence[Any]) -> Call:
            note(getattr(module, "compile_subgraph_reason", None), get_traced_code() or [])
            return backend(module, inputs)

        self._static = torch.compile(entry, backend=noting, dynamic=False)
        self._dynamic = torch.compile(entry, backend=noting, dynamic=True)
        self._run = torch._dynamo.run(entry)
        self.num_breaks = 0
        self.breaks: list[Break] = []
        """Where the last capture stopped, in order, each once."""
        self.traced: set[types.CodeType] = set()
        """All code that captures have gone through."""

    def capture(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, dynamic: bool) -> tuple[Any, float]:
        """Make the call, capturing what has not been captured. Returns its value and the seconds it took."""
        __tracebackhide__ = True
        counted = dict(torch._dynamo.utils.counters["graph_break"])
        self.breaks = []
        start = time.perf_counter()
        with _capture_settings(), ModuleObserver.suspended():
            value = (self._dynamic if dynamic else self._static)(self._call, args, kwargs)
        elapsed = time.perf_counter() - start
        now = torch._dynamo.utils.counters["graph_break"]
        self.num_breaks = now.total() - sum(counted.values())
        # A break before the first operation leaves no graph that could tell where it was.
        known = {item.reason for item in self.breaks}
        new = (in_words(reason) for reason, count in now.items() if count > counted.get(reason, 0))
        self.breaks += [Break(reason) for reason in new if reason not in known]
        return value, elapsed

    def _note(self, ended: Any, traced: Iterable[types.CodeType]) -> None:
        """Keep what a graph was captured from, and why it ended unless it ended with its call."""
        self.traced.update(traced)
        if ended is None or not ended.graph_break:
            return
        stack = ended.user_stack or []
        place = source_line("".join(traceback.format_list(stack)))
        if place is None and stack:
            place = stack[-1].filename, stack[-1].lineno or 0
        file, line = place or ("", 0)
        found = Break(in_words(ended.reason), file, line)
        if found not in self.breaks:
            self.breaks.append(found)

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make the call with captured graphs where their guards hold, in eager mode elsewhere."""
        __tracebackhide__ = True
        return self._run(self._call, args, kwargs)


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
