"""The optimiser's step inside the backward pass: each parameter's as soon as its gradient is complete.

No two gradients need be held together then (LOMO, Lv et al. 2023, arXiv:2306.09782; the same in PyTorch's tutorial on
``optimizer_step_in_backward``). The update is the optimiser's own, so results are the same bit by bit. It is right only
for a loop that does nothing with gradients but step, which :class:`Observed` finds out.

Half of the parameters have taken their step when an error ends a backward pass early, and no copy could take it back:
that is why a user has to allow it. An interrupt waits until the pass has ended.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import optimizer as torch_optimizer

from deepseek_lab.engine.training.steps import steps
from deepseek_lab.memory.gradients import GradientWatch, drop_gradient, gradient_of
from deepseek_lab.memory.interrupts import Held, in_backward
from deepseek_lab.memory.optimizers import Update, not_per_parameter, weights_of

STEPS_SEEN = 2
"""So many steps must have been watched."""


def _at_end_of_backward(tell: Callable[[], None]) -> None:
    torch.autograd.Variable._execution_engine.queue_callback(tell)


def _values(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """What an optimiser's groups say: rates and the like."""
    return [
        {
            name: value.item() if isinstance(value, Tensor) else value
            for name, value in group.items()
            if name not in ("params", "fused", "foreach")
        }
        for group in optimizer.param_groups
    ]


class Observed:
    """What a loop does with its gradients, step by step; ``reason`` says what forbids to step in the backward pass."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.reason, self._seen = "", 0
        self._parameters = [one for one in parameters if one.requires_grad]
        self._counts: dict[int, int] = {}
        self._backwards = 0
        self._inside = self._stepping = False
        self._values: dict[int, list[dict[str, Any]]] = {}
        self._optimizers: list[torch.optim.Optimizer] = []
        self._watch = GradientWatch(self._parameters, lambda: self._no("the loop reads or sets .grad"))
        self._handles = [
            one.register_post_accumulate_grad_hook(self._came) for one in self._parameters if one.is_leaf
        ]

    def close(self) -> None:
        """Nothing of it stays behind."""
        self._watch.close()
        for one in self._handles:
            one.remove()
        self._handles = []

    def quiet(self) -> None:
        """Parameters are ordinary ones until the next call."""
        self._watch.close()

    def _no(self, reason: str) -> None:
        self.reason = self.reason or reason

    def forward(self, optimizers: Sequence[torch.optim.Optimizer], *, begins: bool) -> None:
        """The model is called; ``begins`` says whether a step begins with it."""
        self._watch.close()
        self._inside = False
        self._optimizers = list(optimizers)
        if self._stepping:
            self._no("the optimiser is given a closure")
        if begins:
            self._counts, self._backwards, self._values = {}, 0, {}

    def _came(self, weight: Tensor) -> None:
        if not self._inside:
            self._inside = True
            self._backwards += 1
            _at_end_of_backward(self._backward_ended)
        count = self._counts[id(weight)] = self._counts.get(id(weight), 0) + 1
        gradient = gradient_of(weight)
        if count > 1 or self._backwards > 1:
            self._no("a step has several backward passes")
        if gradient is not None and gradient.requires_grad:
            self._no("gradients are differentiated themselves")

    def _backward_ended(self) -> None:
        self._inside = False
        self._values = {id(one): _values(one) for one in self._optimizers}
        self._watch.open()

    def step_begins(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimiser is about to step."""
        self._watch.close()
        self._stepping = True
        before = self._values.get(id(optimizer))
        if before is not None and before != _values(optimizer):
            self._no("the loop changes the optimiser's values after the backward pass")

    def step_ended(self) -> None:
        """It has stepped."""
        self._stepping = False
        self._seen += self._backwards > 0

    def watch_on(self) -> None:
        """See who reads gradients until the model is called again."""
        if self._backwards:
            self._watch.open()

    def against(
        self, listener: Any, optimizers: Sequence[torch.optim.Optimizer], *, gradients_stay: bool
    ) -> str:
        """What forbids it; nothing where this loop was seen to permit it."""
        if self.reason:
            return self.reason
        if gradients_stay:
            return "gradients of an earlier pass are still there in a backward pass"
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return "gradients are those of several processes together"
        if len(optimizers) != 1:
            return "several optimisers train the model"
        if self._seen < STEPS_SEEN:
            return "too few whole steps were seen"
        weights, mine = weights_of(optimizers[0]), set(map(id, self._parameters))
        if not all(id(one) in mine for one in weights if one.requires_grad):
            return "the optimiser trains other modules too"
        if not steps.only(listener, optimizers[0]) or (
            len(torch_optimizer._global_optimizer_pre_hooks) != 1
            or len(torch_optimizer._global_optimizer_post_hooks) != 1
        ):
            return "somebody else watches the optimiser's steps"
        if any(len(getattr(one, "_post_accumulate_grad_hooks", None) or ()) > 1 for one in weights):
            return "a parameter has hooks on its gradient"
        return not_per_parameter(optimizers[0])


@dataclasses.dataclass
class _Step:
    """What is under way."""

    groups: dict[int, dict[str, Any]]
    values: list[dict[str, Any]]
    update: Update
    done: set[int] = dataclasses.field(default_factory=set)
    open: bool = True
    """Whether its backward pass has not come to its end."""


class StepInBackward:
    """While installed, parameters are updated in the backward pass, and the loop's own ``step()`` finds nothing to do.

    Args:
        optimizer: Whose step it is.
        update: Makes the update for one backward pass.
        before: Called once before the first update of a step.
        left: Told why the mode is left, when the loop does what was not seen before.
        ended_early: Told how many parameters of how many took their step when a backward pass ended early.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        update: Callable[[], Update],
        *,
        before: Callable[[], None] = lambda: None,
        left: Callable[[str], None] = lambda reason: None,
        ended_early: Callable[[int, int], None] = lambda done, count: None,
    ) -> None:
        self.optimizer, self.paused = optimizer, False
        self._make, self._before, self._left, self._ended_early = update, before, left, ended_early
        self._weights = [one for one in weights_of(optimizer) if one.requires_grad]
        self._handles = [one.register_post_accumulate_grad_hook(self._complete) for one in self._weights]
        self._watch = GradientWatch(self._weights, self._asked)
        self._step: _Step | None = None
        self._held = Held(in_backward)

    def close(self) -> None:
        """Gradients stay where they are from now on."""
        self._watch.close()
        self._held.drop()
        for one in self._handles:
            one.remove()
        self._handles = []

    def quiet(self) -> None:
        """Parameters are ordinary ones until the next call."""
        self._watch.close()

    def forward(self) -> None:
        """The model is called."""
        self._watch.close()
        if self._step is not None and not self._step.open:
            self._leave(
                "another call came before optimizer.step(): the gradients of the last one are used up already"
            )
        self.check()

    def check(self) -> None:
        """Whether a backward pass ended early."""
        self._held.drop()
        step = self._step
        if step is not None and step.open:
            self._step = None
            self._ended_early(len(step.done), len(self._weights))

    def _complete(self, weight: Tensor) -> None:
        if self.paused or not self._handles:
            return
        gradient = gradient_of(weight)
        if gradient is None:
            return
        step = self._step
        if step is None:
            step = self._begin()
        elif not step.open:
            self._leave("a second backward pass came before optimizer.step(); the first has been used up")
            return
        if gradient.requires_grad:
            self._leave("gradients are differentiated themselves")
            return
        if id(weight) in step.done:
            self._leave("a gradient came in two parts; the first has been used up")
            return
        del gradient
        step.update(weight, step.groups[id(weight)])
        step.done.add(id(weight))
        drop_gradient(weight)

    def _begin(self) -> _Step:
        self._held.hold()
        groups = {id(one): group for group in self.optimizer.param_groups for one in group["params"]}
        step = self._step = _Step(groups, _values(self.optimizer), self._make())
        self._before()
        _at_end_of_backward(self._ended)
        return step

    def _ended(self) -> None:
        if self._step is not None:
            self._step.open = False
            self._watch.open()
        self._held.release()

    def _asked(self) -> None:
        self._leave(".grad was asked for: it is used up as soon as it is complete, and is None")

    def _leave(self, reason: str) -> None:
        if self._handles:
            self.close()
            self._left(reason)

    def step_begins(self) -> None:
        """The loop asks for its step, which has been done."""
        self._watch.close()
        self.check()
        step, self._step = self._step, None
        if step is not None and step.values != _values(self.optimizer):
            self._leave(
                "the optimiser's values changed after the backward pass, when they had been used already"
            )

    def step_ended(self) -> None:
        """And it has."""
        if self._handles and not self.paused:
            self._watch.open()
