"""What a loop differentiates, and what its losses are computed from: patches that undo themselves."""

from __future__ import annotations

import dataclasses
import functools
import sys
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from deepseek_lab.inspector.sites import NOWHERE, Site, own_site
from deepseek_lab.measure.profiler.frames import is_own

_CLASSES = ("cross_entropy", "nll_loss")
_FUNCTIONS = (
    *_CLASSES,
    "mse_loss",
    "l1_loss",
    "smooth_l1_loss",
    "huber_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
)


@dataclasses.dataclass(slots=True)
class LossCall:
    """One call of a loss function of PyTorch's; its tensors are held weakly."""

    name: str
    prediction: weakref.ref[Tensor]
    target: weakref.ref[Tensor]
    ignore_index: int
    site: Site

    @property
    def is_classes(self) -> bool:
        """Whether the target holds numbers of classes."""
        target = self.target()
        return self.name in _CLASSES and target is not None and not target.is_floating_point()


class Listener(Protocol):
    """What is told."""

    def differentiates(self, loss: Any, site: Site) -> None:
        """``backward`` is about to run, from this line of the user's."""

    def differentiated(self) -> None:
        """It has run."""

    def loss_called(self, call: LossCall) -> None:
        """A loss function has returned, while ``wants_calls`` is set."""

    @property
    def wants_calls(self) -> bool:
        """Whether calls of loss functions are of interest: two weak references in each step are 1 % of a short one."""


class _Thread(threading.local):
    inside = False


class LossCalls:
    """Tells a listener of backward passes and loss functions between :meth:`open` and :meth:`close`."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._undo: list[Callable[[], None]] = []
        self._thread = _Thread()

    def open(self) -> None:
        """Start telling."""
        self._patch(torch.autograd, "backward", self._backward)
        for name in _FUNCTIONS:
            self._patch(F, name, functools.partial(self._loss, name))

    def close(self) -> None:
        """Undo every patch; where another one was put on top since, that one is left in place."""
        while self._undo:
            self._undo.pop()()

    def _patch(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        original = getattr(owner, name)
        patch = functools.wraps(original)(make(original))
        setattr(owner, name, patch)

        def undo() -> None:
            if getattr(owner, name) is patch:
                setattr(owner, name, original)

        self._undo.append(undo)

    def _backward(self, original: Any) -> Any:
        listener = self._listener

        def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            frame = sys._getframe(1)
            if frame.f_code.co_name == "backward" and frame.f_back is not None:
                frame = frame.f_back  # Tensor.backward
            site = (frame.f_code.co_filename, frame.f_lineno)
            listener.differentiates(tensors, site if is_own(site[0]) else own_site(1))
            try:
                return original(tensors, *args, **kwargs)
            finally:
                listener.differentiated()

        return backward

    def _loss(self, name: str, original: Any) -> Any:
        listener, thread = self._listener, self._thread
        is_traced, is_compiling = torch.compiler.is_dynamo_compiling, torch.compiler.is_compiling

        def loss(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            if is_traced() or thread.inside or is_compiling():
                return original(*args, **kwargs)
            thread.inside = True  # a mode of the user's comes back here
            try:
                result = original(*args, **kwargs)
            finally:
                thread.inside = False
            if listener.wants_calls:
                call = _call(name, args, kwargs)
                if call is not None:
                    listener.loss_called(call)
            return result

        return loss


def _call(name: str, args: Any, kwargs: Any) -> LossCall | None:
    prediction = args[0] if args else kwargs.get("input")
    target = args[1] if len(args) > 1 else kwargs.get("target")
    ignored = kwargs.get("ignore_index", args[4] if len(args) > 4 and name in _CLASSES else -100)
    return _made(name, prediction, target, ignored, NOWHERE)


def _made(name: str, prediction: Any, target: Any, ignored: Any, site: Site) -> LossCall | None:
    if type(prediction) is not Tensor or type(target) not in (Tensor, torch.nn.Parameter):
        return None
    ignored = ignored if isinstance(ignored, int) else -100
    return LossCall(name, weakref.ref(prediction), weakref.ref(target), ignored, site)


_NODES = {
    "NllLossBackward0": "cross_entropy",
    "NllLoss2DBackward0": "cross_entropy",
    "MseLossBackward0": "mse_loss",
    "SmoothL1LossBackward0": "smooth_l1_loss",
    "HuberLossBackward0": "huber_loss",
    "BinaryCrossEntropyBackward0": "binary_cross_entropy",
    "BinaryCrossEntropyWithLogitsBackward0": "binary_cross_entropy_with_logits",
}
_MAX_NODES = 64


def call_in_graph(loss: Tensor) -> tuple[LossCall, tuple[Tensor, Tensor]] | None:
    """The one loss function that a loss was computed by, from what autograd keeps for its backward pass, and what keeps
    its tensors alive; None where there are several, or hooks of the user's would be asked for what is kept.
    """
    if torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:
        return None
    left: list[Any] = [loss.grad_fn]
    found: list[Any] = []
    seen: set[Any] = set()
    while left and len(seen) < _MAX_NODES:
        node = left.pop(0)
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() in _NODES:
            found.append(node)
        else:
            left.extend(following for following, _ in node.next_functions)
    if len(found) != 1:
        return None
    (node,) = found
    prediction, target = node._saved_self, node._saved_target
    call = _made(_NODES[node.name()], prediction, target, getattr(node, "_saved_ignore_index", -100), NOWHERE)
    return (call, (prediction, target)) if call is not None else None


def failed_call(trace: TracebackType | None) -> LossCall | None:
    """The loss function that an error came out of, under whatever name it was imported, with the user's line."""
    site = NOWHERE
    while trace is not None:
        frame = trace.tb_frame
        if is_own(frame.f_code.co_filename):
            site = (frame.f_code.co_filename, trace.tb_lineno)
        if frame.f_code.co_name in _FUNCTIONS and frame.f_globals is vars(F):
            local = frame.f_locals
            return _made(
                frame.f_code.co_name, local.get("input"), local.get("target"), local.get("ignore_index"), site
            )
        trace = trace.tb_next
    return None
