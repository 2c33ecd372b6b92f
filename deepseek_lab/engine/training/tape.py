"""What a loop computes from a model's results up to its loss: recorded while it does, as a graph to run again."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode, _get_current_function_mode
from torch.utils._pytree import tree_flatten, tree_map

MAX_OPERATIONS = 2000
"""A loss that takes more than so many operations is not recorded."""
_BACKWARD: Any = Tensor.backward
_PLAIN = (
    int,
    float,
    bool,
    complex,
    str,
    type(None),
    torch.dtype,
    torch.device,
    torch.memory_format,
    torch.layout,
)


@dataclasses.dataclass
class Loss:
    """A loss as a function of a call's results."""

    graph: fx.GraphModule
    """Takes the results that :attr:`used` names, then the extras; returns the loss."""
    used: tuple[int, ...]
    """Positions among the results."""
    extras: tuple[Tensor, ...]
    """Copies of the other tensors that the loss was computed from, labels among them."""
    value: float

    def of(self, results: Sequence[Tensor], extras: Sequence[Tensor]) -> Tensor:
        """The loss of other results."""
        made = self.graph(*(results[index] for index in self.used), *extras)
        assert isinstance(made, Tensor)
        return made


@dataclasses.dataclass
class _Call:
    function: Callable[..., Any]
    args: Any
    kwargs: Any
    result: Any


class LossTape(TorchFunctionMode):
    """Records PyTorch's functions that take what was computed from ``results``, until the first backward pass.

    Between :meth:`start` and :meth:`stop` it is on the stack of function modes; it is not started where another one is
    on it, whose end would take this one down. From the backward pass on it does nothing.

    Args:
        results: What the call returned.
        ended: Told the loss when a backward pass begins, or None where the loss cannot be run again.
        ends: Nodes of the autograd graph that belong to the results, where these have none of their own.
        known: Autograd functions that a loss may be made of: whoever runs it again has them.
    """

    def __init__(
        self,
        results: Sequence[Tensor],
        ended: Callable[[Loss | None], None],
        *,
        ends: Collection[Any] = (),
        known: Sequence[type[torch.autograd.Function]] = (),
    ) -> None:
        super().__init__()
        self._ends = {*(one.grad_fn for one in results), *ends}
        self._backwards = tuple(one._backward_cls for one in known)
        self._results, self._ended = tuple(results), ended
        self._calls: list[_Call] = []
        self._derived = {id(result) for result in results}
        self._recording = False
        self._broken = False
        self._started = False

    def start(self) -> bool:
        """Begin to record; False where that is not possible now."""
        if _get_current_function_mode() is not None:
            return False
        self.__enter__()  # type: ignore[no-untyped-call]
        self._recording = self._started = True
        return True

    def stop(self) -> None:
        """Record no more, and leave the stack. Where a mode of the user's stands above it stays, and does nothing."""
        self._recording = False
        self._forget()
        if self._started and _get_current_function_mode() is self:
            self.__exit__(None, None, None)
            self._started = False

    @property
    def recording(self) -> bool:
        """Whether no backward pass was seen yet."""
        return self._recording

    def _forget(self) -> None:
        self._calls, self._derived, self._results, self._ends = [], set(), (), set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        __tracebackhide__ = True
        kwargs = kwargs or {}
        if not self._recording:
            return func(*args, **kwargs)
        if func is _BACKWARD:
            self._recording = False
            plain = len(args) == 1 and kwargs.get("gradient") is None
            loss = self._loss(args[0]) if plain and not self._broken else None
            self._forget()
            self._ended(loss)
            return func(*args, **kwargs)
        result = func(*args, **kwargs)
        if not self._broken and self._takes_derived(args, kwargs):
            self._calls.append(_Call(func, args, kwargs, result))
            self._derived |= {id(value) for value in tree_flatten(result)[0] if isinstance(value, Tensor)}
            if len(self._calls) > MAX_OPERATIONS:
                self._broken = True
                self._forget()
        return result

    def _takes_derived(self, args: Any, kwargs: Any) -> bool:
        return any(id(value) in self._derived for value in tree_flatten((args, kwargs))[0])

    # -- from calls to a graph ----------------------------------------------------------------------

    def _loss(self, loss: Tensor) -> Loss | None:
        try:
            if _has_own_backward(loss, self._ends, self._backwards):
                return None
            return _Builder(self._results, self._needed(loss)).build(loss)
        except Exception:  # what a loss may be made of has no end; then its gradients stand for it
            return None

    def _needed(self, loss: Tensor) -> list[_Call]:
        """The calls that the loss was computed by; all of them where one changes what it is given."""
        calls = [
            call for call in self._calls if any(isinstance(v, Tensor) for v in tree_flatten(call.result)[0])
        ]
        if any(_in_place(call) for call in self._calls):
            return self._calls
        needed, wanted = [], {id(loss)}
        for call in reversed(calls):
            if any(id(value) in wanted for value in tree_flatten(call.result)[0]):
                needed.append(call)
                wanted |= {id(value) for value in tree_flatten((call.args, call.kwargs))[0]}
        return needed[::-1]


def _in_place(call: _Call) -> bool:
    name = str(getattr(call.function, "__name__", ""))
    return (
        name in ("__setitem__", "__set__")
        or (name.endswith("_") and not name.endswith("__"))
        or "out" in call.kwargs
    )


def _has_own_backward(loss: Tensor, ends: Collection[Any], known: tuple[type, ...]) -> bool:
    """Whether a gradient comes back through a function of the user's own, whose backward pass no recording holds."""
    left, seen = [loss.grad_fn], set(ends)
    while left and len(seen) < MAX_OPERATIONS * 4:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch.autograd.function.BackwardCFunction) and not isinstance(node, known):
            return True
        left.extend(following for following, _ in node.next_functions)
    return bool(left)


def _is_pytorchs(function: Any) -> bool:
    """Whether another process knows a function: one of the notebook's it does not."""
    owner = getattr(function, "__self__", None)
    if isinstance(owner, type) and issubclass(owner, torch.autograd.Function):
        return False
    return str(getattr(function, "__module__", None) or "torch").partition(".")[0] in (
        "torch",
        "builtins",
        "_operator",
    )


class _NotPlain(Exception):
    """A call takes something that a graph does not hold."""


class _Builder:
    def __init__(self, results: Sequence[Tensor], calls: Sequence[_Call]) -> None:
        self._results, self._calls = results, calls
        self._graph = fx.Graph()
        self._nodes: dict[int, fx.Node] = {}
        self._extras: list[Tensor] = []

    def build(self, loss: Tensor) -> Loss | None:
        """The graph from results and extras to the loss."""
        taken = {id(value) for call in self._calls for value in tree_flatten((call.args, call.kwargs))[0]}
        used = tuple(index for index, one in enumerate(self._results) if id(one) in taken or one is loss)
        for index in used:
            self._nodes[id(self._results[index])] = self._graph.placeholder(f"result_{index}")
        self._find_extras()
        for call in self._calls:
            self._add(call)
        if id(loss) not in self._nodes or loss.numel() != 1:
            return None
        self._graph.output(self._nodes[id(loss)])
        module = fx.GraphModule(torch.nn.Module(), self._graph)
        with torch.no_grad():
            extras = tuple(extra.detach().clone() for extra in self._extras)
        return Loss(module, used, extras, float(loss.detach()))

    def _find_extras(self) -> None:
        """Placeholders for tensors that no recorded call made; they stand before all calls."""
        made = set(self._nodes)
        for call in self._calls:
            for value in tree_flatten((call.args, call.kwargs))[0]:
                if isinstance(value, Tensor) and id(value) not in made:
                    made.add(id(value))
                    self._nodes[id(value)] = self._graph.placeholder(f"extra_{len(self._extras)}")
                    self._extras.append(value)
            made |= {id(value) for value in tree_flatten(call.result)[0]}

    def _add(self, call: _Call) -> None:
        function: Any = call.function
        if not _is_pytorchs(function):
            raise _NotPlain(str(function))
        args, kwargs = tree_map(self._word, call.args), tree_map(self._word, call.kwargs)
        if getattr(function, "__name__", "") == "__get__":  # a property, as ``tensor.T``
            args, kwargs = (args[0], function.__self__.__name__), {}
            function = getattr
        node = self._graph.call_function(function, tuple(args), kwargs)
        if isinstance(call.result, Tensor):
            self._nodes[id(call.result)] = node
        elif isinstance(call.result, tuple | list):
            for index, part in enumerate(call.result):
                if isinstance(part, Tensor):
                    self._nodes[id(part)] = self._graph.call_function(operator.getitem, (node, index))

    def _word(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._nodes[id(value)]
        if isinstance(value, slice):
            return slice(*(self._word(one) for one in (value.start, value.stop, value.step)))
        if isinstance(value, _PLAIN) or value is Ellipsis:
            return value
        raise _NotPlain(type(value).__name__)
