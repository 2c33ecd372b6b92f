"""What stands between the user's loop and PyTorch while gradients are accumulated; each is taken away again."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler


class Told(Protocol):
    """Who is asked and told."""

    def backward_begins(self, losses: Any) -> None:
        """A backward pass is about to begin."""

    def backward_ended(self) -> None:
        """It has ended, without an error."""

    def is_deferred(self, optimizer: Any) -> bool:
        """Whether the optimiser's last step was none."""

    def updates_of(self, optimizer: Any) -> int:
        """How often an optimiser has really stepped."""

    def divided(self, optimizer: Any, scale: float) -> None:
        """A scaler has divided an optimiser's gradients."""

    def skipped(self, optimizer: Any) -> None:
        """A scaler has found infinite gradients, and the optimiser did not step."""

    def is_partial(self, parameters: list[Tensor]) -> bool:
        """Whether the gradients of these parameters are a part of a batch's only."""


class Gates:
    """Backward passes, clipping, schedulers and gradient scalers, while open."""

    def __init__(self, told: Told) -> None:
        self._told = told
        self._places: list[tuple[Any, str, Any, Any]] = []
        self._seen: weakref.WeakKeyDictionary[LRScheduler, int] = weakref.WeakKeyDictionary()

    def open(self) -> Gates:
        """Stand there from now on."""
        clip = torch.nn.utils.clip_grad
        self._replace(torch.autograd, "backward", self._backward)
        self._replace(clip, "_clip_grads_with_norm_", self._clip_norm)
        self._replace(clip, "clip_grad_value_", self._clip_value)
        self._replace(torch.nn.utils, "clip_grad_value_", self._clip_value)
        for scheduler in _subclasses(LRScheduler):
            if "step" in scheduler.__dict__:
                self._replace(scheduler, "step", self._schedule)
        scaler = torch.amp.GradScaler
        self._replace(scaler, "update", self._update_scale)
        self._replace(scaler, "unscale_", self._unscale)
        self._replace(scaler, "_maybe_opt_step", self._step_or_not)
        return self

    def close(self) -> None:
        """Leave everything as it was; what somebody put on top since stays there, and passes these by."""
        for owner, name, before, own in reversed(self._places):
            if owner.__dict__.get(name) is own:
                setattr(owner, name, before)
        self._places = []

    def _replace(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        before = owner.__dict__[name]
        own = functools.wraps(before)(make(before))
        self._places.append((owner, name, before, own))
        setattr(owner, name, own)

    def _backward(self, before: Any) -> Any:
        def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            if not self._places:
                return before(tensors, *args, **kwargs)
            self._told.backward_begins(tensors)
            result = before(tensors, *args, **kwargs)
            self._told.backward_ended()
            return result

        return backward

    def _clip_norm(self, before: Any) -> Any:
        def clip(parameters: Any, max_norm: float, total_norm: Tensor, *args: Any, **kwargs: Any) -> Any:
            # The whole batch's gradient is what is clipped; a part of it keeps its length.
            parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
            if self._places and self._told.is_partial(parameters):
                return None
            return before(parameters, max_norm, total_norm, *args, **kwargs)

        return clip

    def _clip_value(self, before: Any) -> Any:
        def clip(parameters: Any, *args: Any, **kwargs: Any) -> Any:
            parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
            if self._places and self._told.is_partial(parameters):
                return None
            return before(parameters, *args, **kwargs)

        return clip

    def _schedule(self, before: Any) -> Any:
        def step(scheduler: Any, *args: Any, **kwargs: Any) -> Any:
            optimizer = getattr(scheduler, "optimizer", None)
            if self._places and optimizer is not None:
                done = self._told.updates_of(optimizer)
                # A scheduler that is stepped in each pass of the loop counts updates; one that is stepped in each
                # epoch has seen some since.
                waits = self._told.is_deferred(optimizer) and self._seen.get(scheduler, 0) == done
                if waits and not scheduler._is_initial:
                    return None
                self._seen[scheduler] = done
            return before(scheduler, *args, **kwargs)

        return step

    def _update_scale(self, before: Any) -> Any:
        def update(scaler: Any, *args: Any, **kwargs: Any) -> Any:
            if self._places and self._told.is_deferred(None):
                # One scale for a batch; what the scaler knows of its optimisers begins anew, as after an update.
                scaler._per_optimizer_states.clear()
                return None
            return before(scaler, *args, **kwargs)

        return update

    def _unscale(self, before: Any) -> Any:
        def unscale(scaler: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            result = before(scaler, optimizer, *args, **kwargs)
            if self._places and scaler.is_enabled():
                self._told.divided(optimizer, scaler.get_scale())
            return result

        return unscale

    def _step_or_not(self, before: Any) -> Any:
        def step(scaler: Any, optimizer: Any, state: Any, *args: Any, **kwargs: Any) -> Any:
            if self._places and sum(found.item() for found in state["found_inf_per_device"].values()):
                self._told.skipped(optimizer)
            return before(scaler, optimizer, state, *args, **kwargs)

        return step


def _subclasses(of: type[Any]) -> Iterator[type[Any]]:
    yield of
    one: type[Any]
    for one in of.__subclasses__():
        yield from _subclasses(one)
