"""From what the profiler recorded to sums by line, module and operator."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch._C._profiler import RecordScope, _EventType
from torch.utils import flop_counter

from deepseek_lab.measure.profiler.calibration import FREE, RecordingCost
from deepseek_lab.measure.profiler.recorder import Module
from deepseek_lab.measure.profiler.sampler import Place

T = TypeVar("T")
BACKWARD = "autograd::engine::evaluate_function: "
OPTIMIZER = "Optimizer.step#"
_DATA = "enumerate(DataLoader)#"


class Tally(dict[str, Any]):
    """Sums by name; the names are fields of the record in ``base/costs.py`` that is made of them."""

    def __missing__(self, name: str) -> int:
        return 0


@dataclasses.dataclass(frozen=True)
class _Context:
    """Where in the program an event is."""

    lines: tuple[Place, ...] = ()
    modules: tuple[str, ...] = ()
    phase: str = ""

    @property
    def backward(self) -> bool:
        """Whether it is in a backward pass."""
        return self.phase == "backward"


class Digest:
    """Sums over windows.

    Args:
        places: Lines by the name of their range.
        modules: Modules by the name of theirs.
        cost: What recording takes, to be left out.
    """

    def __init__(
        self,
        places: Mapping[str, Place],
        modules: Mapping[str, Module],
        cost: RecordingCost = FREE,
    ) -> None:
        self.lines: defaultdict[Place, Tally] = defaultdict(Tally)
        self.modules: defaultdict[str, Tally] = defaultdict(Tally)
        self.operators: defaultdict[str, Tally] = defaultdict(Tally)
        self.recording_s = 0.0
        """What recording the operators took, which is in no operator's time."""
        self.phases: defaultdict[str, float] = defaultdict(float)
        """Seconds by phase; what is in none is Python."""
        self._places, self._known = places, modules
        self._cost, self._shapes = cost, True
        self._lists: dict[int, list[Any]] = {}
        """Operands that are no tensors, by the number of the event."""
        self._made_by: dict[int, tuple[str, ...]] = {}
        """Modules on the stack when a node of the backward graph was made, by its number."""

    def add(self, window: Any, *, shapes: bool = True) -> None:
        """Take in one window; without shapes nothing is known of arithmetic and of operands."""
        self._shapes = shapes
        self._lists = {
            event.correlation_id(): event.concrete_inputs()
            for event in (window.events() if shapes else ())
            if event.name() in _LISTS
        }
        walk(window.experimental_event_tree(), _Context(), self._read)

    def module(self, name: str) -> dict[str, Any]:
        """Fields of a module's cost."""
        return _of_all_calls(self.modules[name], "flops")

    def operator(self, name: str) -> dict[str, Any]:
        """Fields of an operator's cost."""
        return _of_all_calls(self.operators[name], "flops", "moved_bytes")

    def _read(self, event: Any, context: _Context) -> _Context:
        kind, fields = event.typed
        if kind == _EventType.Allocation:
            self._allocated(fields.alloc_size, context, event)
            return context
        if kind != _EventType.TorchOp:
            return context
        name, seconds = fields.name, event.duration_time_ns * 1e-9
        if name in self._places:
            place = self._places[name]
            tally = self.lines[place]
            tally["self_s"] += seconds
            if context.lines:
                self.lines[context.lines[-1]]["self_s"] -= seconds
            if place not in context.lines:
                tally["total_s"] += seconds
            return dataclasses.replace(context, lines=(*context.lines, place))
        if name in self._known:
            module = self.modules[name]
            module["num_calls"] += 1
            module[_SHAPED] += self._shapes
            if name not in context.modules:
                module["forward_s"] += seconds
            return self._phase("forward", seconds, context, modules=(*context.modules, name))
        number = fields.sequence_number
        if name.startswith(BACKWARD):
            modules = self._made_by.get(number, ())
            for one in dict.fromkeys(modules):
                self.modules[one]["backward_s"] += seconds
            inner = self._phase("backward", seconds, context, modules=modules)
        elif name.startswith(OPTIMIZER):
            inner = self._phase("optimizer", seconds, context)
        elif name.startswith(_DATA):
            inner = self._phase("data loading", seconds, context)
        else:
            inner = context
            if number >= 0 and not context.backward:
                self._made_by[number] = context.modules
        if fields.scope != RecordScope.USER_SCOPE and not name.startswith((BACKWARD, OPTIMIZER, _DATA)):
            self._operator(name, event, fields, seconds, inner)
        return inner

    def _phase(self, phase: str, seconds: float, context: _Context, **changes: Any) -> _Context:
        """Count time for a phase, unless it is inside of one already."""
        if not context.phase:
            self.phases[phase] += seconds
        return dataclasses.replace(context, phase=context.phase or phase, **changes)

    def _operator(self, name: str, event: Any, fields: Any, seconds: float, context: _Context) -> None:
        inner = [child for child in event.children if child.tag == _EventType.TorchOp]
        tally = self.operators[name.removeprefix("aten::")]
        # An overload that calls another, and a dispatch layer of the same operator, are one call.
        first = event.parent is None or event.parent.name not in (name, f"aten::{name}")
        tally["num_calls"] += first
        rest_s = max(0.0, seconds - math.fsum(one.duration_time_ns for one in inner) * 1e-9)
        num_blocks = sum(child.tag == _EventType.Allocation for child in event.children)
        ours_s = min(rest_s, len(inner) * self._cost.operator_s + num_blocks * self._cost.allocation_s)
        self.recording_s += ours_s
        own_s = rest_s - ours_s
        tally["self_s"] += own_s
        if not self._shapes:
            return
        tally[_SHAPED] += first
        if name in _FORMULAS:
            flops = _flops(name, _with(fields.inputs, self._lists.get(event.correlation_id)))
            tally["flops"] += flops
            for module in dict.fromkeys(context.modules):
                self.modules[module]["flops"] += flops
        # What works itself, and does not leave the work to an operator that it calls.
        if own_s >= 0.5 * seconds and not is_small(name):
            tally["moved_bytes"] += _bytes_of(fields.inputs)

    def _allocated(self, size: int, context: _Context, event: Any) -> None:
        if context.lines:
            self.lines[context.lines[-1]]["kept_bytes"] += size
        if size <= 0:
            return
        if context.lines:
            self.lines[context.lines[-1]]["allocated_bytes"] += size
        for one in dict.fromkeys(context.modules):
            self.modules[one]["allocated_bytes"] += size
        parent = event.parent
        while parent is not None and (parent.tag != _EventType.TorchOp or is_small(parent.name)):
            parent = parent.parent
        if parent is not None and parent.name not in self._places and parent.name not in self._known:
            tally = self.operators[parent.name.removeprefix("aten::")]
            tally["allocated_bytes"] += size
            if self._shapes:
                tally["moved_bytes"] += size


_SHAPED = "num_shaped"
"""Calls in windows in which shapes were recorded."""


def _of_all_calls(tally: Tally, *names: str) -> dict[str, Any]:
    """A tally whose named sums, known of calls with shapes only, stand for all calls."""
    made = dict(tally)
    shaped = made.pop(_SHAPED, 0)
    for name in names:
        made[name] = round(made.get(name, 0) * tally["num_calls"] / shaped) if shaped else 0
    return made


def walk(roots: Sequence[Any], where: T, read: Callable[[Any, T], T]) -> None:
    """Read a tree of events depth first and in the order of time, so forward operators before their gradients.

    ``read`` is given an event and where it is, and says where its children are.
    """
    stack = [(event, where) for event in _latest_first(roots)]
    while stack:
        event, around = stack.pop()
        inner = read(event, around)
        stack += [(child, inner) for child in _latest_first(event.children)]


def _latest_first(events: Sequence[Any]) -> list[Any]:
    return sorted(events, key=lambda event: event.start_time_ns, reverse=True)


def is_small(name: str) -> bool:
    """Whether an operator only makes room, or another view of what is there."""
    return name in _SMALL


_SMALL = frozenset(
    f"aten::{name}"
    for name in (
        *(
            "empty",
            "empty_like",
            "empty_strided",
            "new_empty",
            "resize_",
            "resize_as_",
            "as_strided",
            "as_strided_",
        ),
        *(
            "view",
            "reshape",
            "transpose",
            "t",
            "permute",
            "expand",
            "expand_as",
            "unsqueeze",
            "squeeze",
            "detach",
        ),
        *("detach_", "alias", "slice", "select", "narrow", "split", "chunk", "unbind", "_reshape_alias"),
        *("_unsafe_view", "view_as", "result_type", "can_cast", "is_nonzero", "resolve_conj", "resolve_neg"),
    )
)


def _sizes(value: Any) -> list[int] | None:
    return list(value.sizes) if hasattr(value, "sizes") else None


def _flops(name: str, inputs: Sequence[Any]) -> int:
    """Floating-point operations of a product, convolution or attention, a multiplication and an addition as two."""
    formula = _FORMULAS.get(name)
    if formula is None:
        return 0
    try:
        return int(formula(inputs))
    except (ValueError, IndexError, TypeError, AssertionError):  # an overload of another shape
        return 0


def _with(inputs: Sequence[Any], lists: Sequence[Any] | None) -> Sequence[Any]:
    """Operands with the lists of numbers that are known apart."""
    if lists is None:
        return inputs
    return [other if one is None else one for one, other in zip(inputs, lists, strict=False)]


def _product(first: int, second: int) -> Any:
    def count(inputs: Sequence[Any]) -> int:
        a, b = _sizes(inputs[first]), _sizes(inputs[second])
        if a is None or b is None:
            return 0
        return 2 * math.prod(a) * (b[-1] if len(b) > 1 else 1)

    return count


def _convolution(inputs: Sequence[Any]) -> int:
    x, w = _sizes(inputs[0]), _sizes(inputs[1])
    stride, padding, dilation, transposed = inputs[3:7]
    if x is None or w is None:
        return 0
    out = [
        (size + 2 * pad - dilate * (kernel - 1) - 1) // step + 1
        for size, pad, dilate, kernel, step in zip(x[2:], padding, dilation, w[2:], stride, strict=True)
    ]
    return int(flop_counter.conv_flop_count(x, w, [x[0], w[0], *out], transposed=bool(transposed)))


def _convolution_backward(inputs: Sequence[Any]) -> int:
    grad, x, w = (_sizes(one) for one in inputs[:3])
    transposed, wanted = inputs[7], inputs[10]
    if grad is None or x is None or w is None:
        return 0
    forward = flop_counter.conv_flop_count(x, w, grad, transposed=bool(transposed))
    return int(forward) * sum(map(bool, wanted[:2]))


def _attention(inputs: Sequence[Any]) -> int:
    query, key, value = (_sizes(one) for one in inputs[:3])
    if query is None or key is None or value is None:
        return 0
    return int(flop_counter.sdpa_flop_count(query, key, value))


def _attention_backward(inputs: Sequence[Any]) -> int:
    grad, query, key, value = (_sizes(one) for one in inputs[:4])
    if grad is None or query is None or key is None or value is None:
        return 0
    return int(flop_counter.sdpa_backward_flop_count(grad, query, key, value))


_LISTS = frozenset({"aten::convolution", "aten::convolution_backward"})
"""Operators whose formulas need lists of numbers, which the tree of events leaves out."""
_FORMULAS: Mapping[str, Any] = {
    "aten::mm": _product(0, 1),
    "aten::addmm": _product(1, 2),
    "aten::addmv": _product(1, 2),
    "aten::mv": _product(0, 1),
    "aten::dot": _product(0, 1),
    "aten::bmm": _product(0, 1),
    "aten::baddbmm": _product(1, 2),
    "aten::convolution": _convolution,
    "aten::convolution_backward": _convolution_backward,
    "aten::_scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
}


def _bytes_of(inputs: Sequence[Any]) -> int:
    total = 0
    for one in inputs:
        if isinstance(one, list):
            total += _bytes_of(one)
        elif hasattr(one, "sizes"):
            try:
                width = torch.empty(0, dtype=one.dtype).element_size()
            except (TypeError, RuntimeError):
                continue
            strides = one.strides
            total += width * math.prod(
                size for size, stride in zip(one.sizes, strides, strict=False) if stride or not size
            )
    return total
