"""How a loop calls its model in a step: how often, what it keeps, and how it makes a loss of the results."""

from __future__ import annotations

import dataclasses
import inspect
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from deepseek_lab.engine.training.tape import Loss, LossTape
from deepseek_lab.memory.gradients import gradient_of
from deepseek_lab.memory.logits import Deferred, LinearCrossEntropy
from deepseek_lab.memory.rehearsal import Habits, loss_among


class Calls:
    """The calls of one model that can be differentiated."""

    def __init__(self, model: nn.Module, autocast: torch.dtype | None) -> None:
        self._model, self._autocast = model, autocast
        self.habits = Habits(autocast=autocast)
        self.count = 0
        """Calls of the step under way."""
        self.differentiated = False
        self.draws = False
        """Whether a forward pass draws random numbers that are not PyTorch's."""
        self.old: list[weakref.ref[Any]] = []
        """Results of the last call."""
        self.loss: Loss | None = None
        self.call: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        """Arguments to rehearse with."""
        self._many = False
        self._tape: LossTape | None = None

    @property
    def autocast(self) -> torch.dtype | None:
        """The precision of a forward pass; None for the code's own."""
        return self._autocast

    @autocast.setter
    def autocast(self, value: torch.dtype | None) -> None:
        self._autocast = value
        self.habits = dataclasses.replace(self.habits, autocast=value)

    @property
    def reason(self) -> str:
        """Why no rehearsal of one call says what a step holds; nothing where one does."""
        if self.draws:
            return "the model draws numbers from Python's or NumPy's random generator"
        return "a step holds more than one call of the model at once" if self._many else ""

    def lasting(self) -> Iterator[Tensor]:
        """What a model holds between two steps: parameters, gradients, buffers."""
        for one in self._model.parameters():
            yield one
            gradient = gradient_of(one)
            if gradient is not None:
                yield gradient
        yield from self._model.buffers()

    def begin_step(self) -> None:
        """A step begins."""
        self.habits = Habits(autocast=self._autocast)
        self._many = False

    def begin(self) -> None:
        """The model is called. Gradients that are accumulated are there from the second call on."""
        self.count += 1
        self.stop_tape()
        habits = self.habits
        self.habits = dataclasses.replace(
            habits,
            gradients_in_forward=habits.gradients_in_forward or self._has_gradients(),
            keeps_results=habits.keeps_results or any(one() is not None for one in self.old),
        )

    def returned(self, args: Any, kwargs: Any, results: Any, *, look: bool) -> None:
        """It has returned; ``look`` at what becomes of the results."""
        tensors = [one for one in tree_leaves(results) if isinstance(one, Tensor)]
        self.old = [weakref.ref(one) for one in tensors if one.dim()]
        watched = next((one for one in tensors if one.requires_grad and type(one) is not Deferred), None)
        deferred = next((one for one in tensors if type(one) is Deferred), None)
        if watched is None and deferred is not None:
            watched = deferred._rows
        if watched is not None and watched.requires_grad:
            watched.register_hook(_telling(weakref.ref(self), self.count))
        if not look:
            return
        self.call = args, kwargs
        if loss_among(tensors) is not None:
            return
        ends = {one._rows.grad_fn for one in tensors if type(one) is Deferred}
        self._tape = LossTape(tensors, self._loss_known, ends=ends, known=(LinearCrossEntropy,))
        if not self._tape.start():
            self._tape = None

    def take(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments to rehearse with, which are held no longer here."""
        assert self.call is not None
        found, self.call = self.call, None
        return found

    def _loss_known(self, loss: Loss | None) -> None:
        self.loss = loss

    def stop_tape(self) -> None:
        """The loss has been made."""
        if self._tape is not None:
            self._tape.stop()
            self._tape = None

    def end_step(self) -> None:
        """The step has ended."""
        self.count, self.differentiated = 0, False

    def end(self) -> None:
        """No step is under way any more."""
        self.stop_tape()
        self.end_step()

    def backward_begins(self, call: int) -> None:
        """A gradient has come back to a call's results; ``call`` is its number in the step.

        Where another call was made since, both were held together. One that nobody differentiates, as of an evaluation
        that computes gradients for nothing, is none of the step's.
        """
        if call < self.count:
            self._many = True
        self.differentiated = True
        habits = self.habits
        self.habits = dataclasses.replace(
            habits,
            gradients_in_backward=habits.gradients_in_backward or self._has_gradients(),
            holds_results=habits.holds_results or any(one() is not None for one in self.old),
        )

    def _has_gradients(self) -> bool:
        return any(gradient_of(one) is not None for one in self._model.parameters())


def _telling(calls: weakref.ref[Calls], call: int) -> Callable[[Tensor], None]:
    def tell(gradient: Tensor) -> None:
        one = calls()
        if one is not None:
            one.backward_begins(call)

    return tell


def without_cache(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Keywords without transformers' key-value cache, which a training step fills and nobody reads.

    transformers itself turns it off where it recomputes (``gradient_checkpointing_enable``).
    """
    config = getattr(model, "config", None)
    if not getattr(config, "use_cache", False) or "use_cache" in kwargs:
        return kwargs
    names = inspect.signature(type(model).forward).parameters
    if "use_cache" not in names or list(names).index("use_cache") <= len(args):
        return kwargs
    return {**kwargs, "use_cache": False}
