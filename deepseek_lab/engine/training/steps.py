"""When a step of a training loop ends: optimisers say so by PyTorch's own hooks, while somebody listens."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)


class Listener(Protocol):
    """What is told of steps."""

    def trains(self, parameters: frozenset[int]) -> bool:
        """Whether one of these parameters, by identity, is of interest."""

    def step_begins(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimiser is about to step."""

    def step_ended(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimiser has stepped."""


class Steps:
    """Tells listeners of the steps of optimisers that train what they are about."""

    def __init__(self) -> None:
        self._listeners: weakref.WeakSet[Any] = weakref.WeakSet()
        self._known: weakref.WeakKeyDictionary[Any, tuple[int, frozenset[int]]] = weakref.WeakKeyDictionary()
        self._hooks: list[Any] = []
        self._lock = threading.Lock()

    def listen(self, listener: Listener) -> None:
        """Tell a listener from now on; it is held weakly."""
        with self._lock:
            self._listeners.add(listener)
            if not self._hooks:
                self._hooks = [
                    register_optimizer_step_pre_hook(self._begins),
                    register_optimizer_step_post_hook(self._ended),
                ]

    def leave(self, listener: Listener) -> None:
        """Tell a listener no more. Without any the hooks are taken away."""
        with self._lock:
            self._listeners.discard(listener)
            if not self._listeners:
                for hook in self._hooks:
                    hook.remove()
                self._hooks = []

    def only(self, listener: Listener, optimizer: torch.optim.Optimizer) -> bool:
        """Whether nobody but this listener is told of an optimiser's steps."""
        return all(one is listener for one in self._of(optimizer))

    def _of(self, optimizer: torch.optim.Optimizer) -> Iterable[Listener]:
        count = sum(len(group["params"]) for group in optimizer.param_groups)
        known = self._known.get(optimizer)
        if known is None or known[0] != count:
            parameters = frozenset(id(one) for group in optimizer.param_groups for one in group["params"])
            known = self._known[optimizer] = (count, parameters)
        return [one for one in list(self._listeners) if one.trains(known[1])]

    def _begins(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        # An error of ours must not become one of the user's step.
        with contextlib.suppress(Exception):
            for one in self._of(optimizer):
                one.step_begins(optimizer)

    def _ended(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        with contextlib.suppress(Exception):
            for one in self._of(optimizer):
                one.step_ended(optimizer)


class FusedForm:
    """Optimisers' fused form for one step, with what their groups said before put back afterwards."""

    def __init__(self) -> None:
        self._before: list[tuple[dict[str, Any], Any, Any]] = []

    def take(self, optimizer: torch.optim.Optimizer) -> None:
        """Have the groups that know a fused form step in it."""
        for group in (one for one in optimizer.param_groups if "fused" in one):
            self._before.append((group, group.get("fused"), group.get("foreach")))
            group["fused"], group["foreach"] = True, False

    def put_back(self) -> None:
        """The groups as they were."""
        for group, fused, foreach in self._before:
            group["fused"], group["foreach"] = fused, foreach
        self._before = []


steps = Steps()
"""The steps of this process."""
