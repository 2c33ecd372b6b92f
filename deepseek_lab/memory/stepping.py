"""How the optimisers of a real loop step: in their own form, or in one that holds less."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from deepseek_lab.engine.training.steps import FusedForm
from deepseek_lab.memory.choice import Choice
from deepseek_lab.memory.eight_bit import EightBit, QuantisedState
from deepseek_lab.memory.in_backward import Observed, StepInBackward
from deepseek_lab.memory.optimizers import (
    Update,
    can_fuse,
    not_eight_bit,
    optimizers_of,
    update_of,
    without_rivals,
)


class Stepping:
    """The optimisers of one model.

    Args:
        model: The model.
        note: Told what the user should know.
        left: Told that the step has left the backward pass, which takes another plan.
        before: Called before weights are written to.
    """

    def __init__(
        self,
        model: nn.Module,
        note: Callable[[str], None],
        left: Callable[[], None],
        before: Callable[[], None],
        *,
        observes: bool,
    ) -> None:
        self._model, self._note, self._left, self._before = model, note, left, before
        self.paused = False
        self.parameters = frozenset(map(id, model.parameters()))
        self.observed = Observed(list(model.parameters())) if observes else None
        self.steppers: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        """Those that have stepped."""
        self._all: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        """Those that have stepped, or that may."""
        self._fused = FusedForm()
        self._takes_fused = False
        self._eights: dict[int, EightBit] = {}
        self._leaving: list[EightBit] = []
        """Whose step has failed; gradients that it used up are there again after the optimiser's own."""
        self._in_backward: StepInBackward | None = None

    def find(self) -> None:
        """Look for optimisers that train the model."""
        self._all = weakref.WeakSet(optimizers_of(self.parameters))

    @property
    def likely(self) -> list[torch.optim.Optimizer]:
        """Those that step, or are going to."""
        return list(self.steppers) or without_rivals(optimizers_of(self.parameters))

    def state(self, optimizers: Sequence[torch.optim.Optimizer] | None = None) -> Iterator[Tensor]:
        """Tensors that optimisers hold; those of all of them, unless told of which."""
        for optimizer in self._all if optimizers is None else optimizers:
            for state in optimizer.state.values():
                if not isinstance(state, QuantisedState):
                    yield from (one for one in tree_leaves(state) if isinstance(one, Tensor))
            if (eight := self._eights.get(id(optimizer))) is not None:
                yield from eight.held()

    def unused_state(self) -> Iterator[Tensor]:
        """State of optimisers that are there and are not the ones that step."""
        used = set(map(id, self.likely))
        yield from self.state([one for one in self._all if id(one) not in used])

    # -- what is possible -------------------------------------------------------------------------------

    @property
    def base(self) -> Choice:
        """What holds already, and is not taken back while the limit lasts."""
        return Choice(in_backward=self._in_backward is not None, eight_bit=bool(self._eights))

    def can_fuse(self) -> bool:
        """Whether optimisers have a fused form that they don't use."""
        return any(can_fuse(one) for one in self.steppers)

    def not_eight_bit(self) -> str:
        """Why no optimiser's moments can take a byte a value; nothing where one's can."""
        reasons = [not_eight_bit(one) for one in self.likely]
        return "" if "" in reasons else next(iter(reasons), "no optimiser was found")

    def not_in_backward(self, listener: Any, *, gradients_stay: bool) -> str:
        """What forbids to step in the backward pass."""
        if self.observed is None:
            return "it is not allowed"
        return self.observed.against(listener, list(self.steppers), gradients_stay=gradients_stay)

    # -- what is done -----------------------------------------------------------------------------------

    def choose(self, choice: Choice) -> None:
        """Step by a choice from now on."""
        self._takes_fused = choice.fused
        if choice.eight_bit:
            for one in self.likely:
                if id(one) not in self._eights and not not_eight_bit(one):
                    self._eights[id(one)] = EightBit(one).install()
        if choice.in_backward and self._in_backward is None:
            (optimizer,) = self.steppers
            if self.observed is not None:
                self.observed.close()
            self._in_backward = StepInBackward(
                optimizer,
                lambda: self._update_of(optimizer),
                before=self._before,
                left=self._has_left,
                ended_early=self._ended_early,
            )

    def _update_of(self, optimizer: torch.optim.Optimizer) -> Update:
        eight = self._eights.get(id(optimizer))
        return eight.update if eight is not None else update_of(optimizer, fused=self._takes_fused)

    def _has_left(self, reason: str) -> None:
        self._in_backward = None
        if self.observed is not None:
            self.observed.reason = self.observed.reason or reason
        self._note(f"the optimiser no longer steps in the backward pass: {reason}")
        self._left()

    def _ended_early(self, done: int, count: int) -> None:
        self._note(
            f"a backward pass ended early: {done} of {count} parameters have taken their step, the others have not; "
            "load a checkpoint, or go on from there"
        )

    def forward(self, *, begins: bool) -> None:
        """The model is called; ``begins`` says whether a step begins with it."""
        self.put_back()
        if self._in_backward is not None:
            self._in_backward.forward()
        elif self.observed is not None:
            self.observed.forward(list(self._all), begins=begins)

    def step_begins(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimiser is about to step."""
        self.put_back()
        if self.paused:  # moments stay as they are held
            self._step_in_eight_bits(optimizer)
            return
        in_backward = self._in_backward
        if in_backward is not None and in_backward.optimizer is optimizer:
            in_backward.step_begins()
        elif self.observed is not None:
            self.observed.step_begins(optimizer)
        if not self._step_in_eight_bits(optimizer) and self._takes_fused:
            self._fused.take(optimizer)

    def _step_in_eight_bits(self, optimizer: torch.optim.Optimizer) -> bool:
        eight = self._eights.get(id(optimizer))
        if eight is None:
            return False
        try:
            eight.step_begins()
        except Exception as error:
            self._leaving.append(self._eights.pop(id(optimizer)))
            self._note(
                f"AdamW's moments are ordinary tensors again ({type(error).__name__}: {error}); steps hold more than "
                "was planned"
            )
        return True

    def step_ended(self, optimizer: torch.optim.Optimizer) -> None:
        """It has."""
        self.put_back()
        self._all.add(optimizer)
        self.steppers.add(optimizer)
        if self._in_backward is None and self.observed is not None:
            self.observed.step_ended()

    def settle(self) -> None:
        """A step has ended, and all that was to be seen of it."""
        if self._in_backward is not None:
            self._in_backward.step_ended()
        elif self.observed is not None:
            self.observed.watch_on()

    def put_back(self) -> None:
        """Groups and gradients as the loop has them."""
        self._fused.put_back()
        for eight in (*self._eights.values(), *self._leaving):
            eight.step_ended()
        self._leaving = []

    def ended(self) -> None:
        """The cell has ended."""
        self.put_back()
        if self._in_backward is not None:
            self._in_backward.check()
            self._in_backward.quiet()
        if self.observed is not None:
            self.observed.quiet()

    def pause(self, paused: bool) -> None:
        """Gradients stay until the loop steps, meanwhile; moments stay in a byte a value."""
        self.paused = paused
        if self._in_backward is not None:
            self._in_backward.quiet()
            self._in_backward.paused = paused
        if self.observed is not None:
            self.observed.quiet()

    def close(self) -> None:
        """Optimisers as they were, with ordinary state."""
        self.put_back()
        if self._in_backward is not None:
            self._in_backward.check()
            self._in_backward.close()
            self._in_backward = None
        if self.observed is not None:
            self.observed.close()
        for eight in self._eights.values():
            eight.restore()
        self._eights = {}
