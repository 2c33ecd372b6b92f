"""Changes that could spare a compilation or a break, each tried on what the cell compiled.

Trying means that Dynamo captures the function once more, for tensors of the same shapes that were made up, under the
changed setting. Capturing reads the function's code and runs nothing of it; its globals are a copy, and what Dynamo
counts and random numbers are put back.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import random
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from types import CodeType
from typing import Any, Final

import torch
import torch._dynamo
from torch._dynamo import convert_frame

from deepseek_lab.base.costs import TriedFix
from deepseek_lab.measure.profiler.sampler import Place

BUDGET_S = 3.0
"""Seconds after which no further change is tried."""
MIN_S = 0.05
"""What took less to compile again is not worth a try."""
_PLAIN: Final = (type(None), bool, int, float, complex, str, torch.dtype, torch.device)


class _Untried(Exception):
    """A call cannot be made up again."""


Make = Callable[[], Any]


def _remembered(value: Any) -> Make:
    """How to make a value like this one, without keeping any tensor."""
    if type(value) in (torch.Tensor, torch.nn.Parameter) and value.layout == torch.strided:
        shape, stride, dtype, device = value.shape, value.stride(), value.dtype, value.device
        grad = value.requires_grad
        return lambda: torch.empty_strided(shape, stride, dtype=dtype, device=device, requires_grad=grad)
    if isinstance(value, _PLAIN):
        return lambda: value
    if type(value) in (list, tuple):
        kind, parts = type(value), [_remembered(one) for one in value]
        return lambda: kind(part() for part in parts)
    if type(value) is dict:
        items = {key: _remembered(one) for key, one in value.items()}
        return lambda: {key: part() for key, part in items.items()}
    try:
        kept = weakref.ref(value)
    except TypeError:
        name = type(value).__name__

        def unknown() -> Any:
            raise _Untried(f"one of its arguments is a {name}")

        return unknown

    def still_there() -> Any:
        found = kept()
        if found is None:
            raise _Untried("one of its arguments is gone")
        return found

    return still_there


@dataclasses.dataclass(frozen=True)
class Signature:
    """What was compiled, and what it was called with."""

    code: CodeType
    globals: dict[str, Any]
    builtins: dict[str, Any]
    closure: Any
    locals: Mapping[str, Make]

    @classmethod
    def of(cls, frame: Mapping[str, Any]) -> Signature:
        """From the variables of Dynamo's frame that compiles."""
        values = {name: _remembered(value) for name, value in frame["locals"].items()}
        return cls(frame["code"], frame["globals"], frame["builtins"], frame["closure"] or (), values)

    def made(self) -> dict[str, Any]:
        """Local variables like those of the call."""
        return {name: make() for name, make in self.locals.items()}


class Fixes:
    """Tries changes as long as the budget lasts."""

    def __init__(self, budget_s: float = BUDGET_S) -> None:
        self._until = time.perf_counter() + budget_s

    def dynamic(self, signatures: list[Signature], cause: str, seconds: float) -> TriedFix | None:
        """Whether one capture with sizes and numbers left open serves all calls."""
        words = ("size mismatch", "stride mismatch", "is a number that was taken as a constant")
        if seconds < MIN_S or len(signatures) < 2 or not any(word in cause for word in words):
            return None
        return self._tried("torch.compile(..., dynamic=True)", lambda: _serves_all(signatures, seconds))

    def unbroken(self, signatures: list[Signature], place: Place, reason: str) -> TriedFix | None:
        """Whether a setting of Dynamo's takes a break away."""
        found = next((one for one in _SETTINGS if any(word in reason for word in one.words)), None)
        if found is None or not signatures:
            return None
        return self._tried(found.change, lambda: _goes_on(signatures[0], place, found))

    def _tried(self, change: str, attempt: Callable[[], tuple[bool, str]]) -> TriedFix | None:
        if time.perf_counter() > self._until:
            return None
        try:
            with convert_frame.compile_lock, _as_it_was():
                works, effect = attempt()
        except _Untried as missing:
            return TriedFix(change, False, f"could not be tried: {missing}")
        except Exception as error:  # Dynamo refuses in many ways
            words = str(error).strip().partition("\n")[0]
            return TriedFix(change, False, f"capture failed: {type(error).__name__}: {words}")
        return TriedFix(change, works, effect)


def _serves_all(signatures: list[Signature], seconds: float) -> tuple[bool, str]:
    start = time.perf_counter()
    with torch._dynamo.config.patch(assume_static_by_default=False):
        guards = _captured(signatures[0], guarded=True)
    took = time.perf_counter() - start
    served = sum(bool(guards.check(one.made())) for one in signatures)
    effect = (
        f"captured once in {took:.2g} s, it serves {served} of the {len(signatures)} calls that were compiled apart; "
        f"those after the first took {seconds:.2g} s"
    )
    return served > 1, effect


@dataclasses.dataclass(frozen=True)
class _Setting:
    words: tuple[str, ...]
    """What reasons say that it may help with."""
    change: str
    patch: Mapping[str, Any]


_SETTINGS: Final = (
    _Setting(
        ("Tensor.item", "capture_scalar_outputs"),
        "torch._dynamo.config.capture_scalar_outputs = True",
        {"capture_scalar_outputs": True},
    ),
    _Setting(
        ("capture_dynamic_output_shape_ops", "Dynamic shape operator"),
        "torch._dynamo.config.capture_dynamic_output_shape_ops = True",
        {"capture_dynamic_output_shape_ops": True},
    ),
    _Setting(
        ("builtin `print`",),
        "torch._dynamo.config.reorderable_logging_functions.add(print)",
        {"reorderable_logging_functions": {print}},
    ),
)


def _goes_on(signature: Signature, place: Place, setting: _Setting) -> tuple[bool, str]:
    utils = torch._dynamo.utils
    ends = []
    nothing: Mapping[str, Any] = {}
    for patch in (nothing, setting.patch):
        before = len(utils.graph_break_reasons)
        added = {
            name: getattr(torch._dynamo.config, name) | value if isinstance(value, set) else value
            for name, value in patch.items()
        }
        with torch._dynamo.config.patch(added):
            _captured(signature)
        ends.append(
            [
                (one.user_stack[-1].filename, one.user_stack[-1].lineno)
                for one in utils.graph_break_reasons[before:]
                if one.graph_break and one.user_stack
            ]
        )
    without, with_it = ends
    if place not in without:
        raise _Untried("the break does not show when it is captured alone")
    if place in with_it:
        return False, "the graph breaks at this line all the same"
    later = f"; the next break is at line {with_it[0][1]}" if with_it else ", to the end"
    return True, f"captured again, the graph goes on beyond this line{later}"


def _captured(signature: Signature, *, guarded: bool = False) -> Any:
    """Dynamo's capture of a call; its guards, if they are asked for.

    The function gets a name of its own: by its name Dynamo remembers which sizes change.
    """
    from torch._dynamo.utils import dynamo_timed, get_metrics_context
    from torch._guards import CompileContext, CompileId, compile_context

    code = signature.code.replace(co_name=f"{signature.code.co_name}_tried")
    with (
        torch._dynamo.config.patch(automatic_dynamic_shapes=False),
        compile_context(CompileContext(CompileId(frame_id=0, frame_compile_id=0))),
        get_metrics_context(),
        dynamo_timed("tried"),
    ):
        output = convert_frame.compile_frame(
            code,
            dict(signature.globals),
            signature.made(),
            signature.builtins,
            signature.closure,
            compiler_fn=lambda graph, inputs: graph.forward,
            one_graph=False,
            restart_reasons=set(),
        )
        return output.build_guards(code).guard_manager if guarded else None


@contextlib.contextmanager
def _as_it_was() -> Iterator[None]:
    """Put back random numbers and what Dynamo counts, and have it say nothing."""
    log = logging.getLogger("torch._dynamo")
    utils = torch._dynamo.utils
    numbers, tensors = random.getstate(), torch.get_rng_state()
    counters = copy.deepcopy(dict(utils.counters))
    breaks, metrics = list(utils.graph_break_reasons), utils.get_compilation_metrics()
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)
        random.setstate(numbers)
        torch.set_rng_state(tensors)
        utils.counters.clear()
        utils.counters.update(counters)
        utils.graph_break_reasons[:] = breaks
        utils.clear_compilation_metrics()
        utils._compilation_metrics.extend(metrics)
