"""Steps of a loop as they were: inputs, what the loss was computed from, and the gradients that came back."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import unserializable_hook

from deepseek_lab.engine.runtime import GraphRunner
from deepseek_lab.engine.training.problem import (
    Batch,
    OptimizerProblem,
    OptimizerSpec,
    TrainingProblem,
)
from deepseek_lab.engine.training.tape import Loss, LossTape

NUM_BATCHES = 3
"""Steps that are recorded."""
MAX_TRIES = 12
MAX_BYTES = 1 << 30
"""Steps whose inputs, labels and gradients are larger together than this are not kept."""


@dataclasses.dataclass
class _Call:
    """One call of the graph on the way to becoming a batch."""

    live: tuple[Tensor, ...]
    random_state: Tensor
    results: tuple[Any, ...] = ()
    gradients: dict[int, Tensor] = dataclasses.field(default_factory=dict)
    loss: Loss | None = None


class Recorder:
    """Records calls of one graph that are differentiated."""

    def __init__(self, runner: GraphRunner) -> None:
        self._runner = runner
        self._call: _Call | None = None
        self._tape: LossTape | None = None
        self._loss: Loss | None = None
        self._has_loss = True
        self._batches: list[Batch] = []
        self._tries = 0

    @property
    def complete(self) -> bool:
        """Whether there are as many steps as are wanted."""
        return len(self._batches) >= NUM_BATCHES

    @property
    def hopeless(self) -> bool:
        """Whether calls were seen, and hardly any of them was differentiated."""
        return self._tries >= MAX_TRIES and not self.complete

    @property
    def num_batches(self) -> int:
        """Steps that are recorded."""
        return len(self._batches)

    # -- in the order of a step ---------------------------------------------------------------------

    def begins(self, arguments: Sequence[Any]) -> None:
        """The graph is about to be called."""
        self._tries += 1
        self._call = None
        live = self._runner.live_of(arguments)
        with (
            contextlib.suppress(RuntimeError),
            torch.no_grad(),
        ):  # no memory for copies: this step is not recorded
            self._call = _Call(tuple(one.detach().clone() for one in live), torch.get_rng_state())

    def returned(self, results: Sequence[Any]) -> None:
        """The graph has returned; it is about to hand this to the user."""
        call = self._call
        if call is None:
            return
        call.results = tuple(results)
        for number, one in enumerate(results):
            if isinstance(one, Tensor) and one.requires_grad:
                one.register_hook(unserializable_hook(functools.partial(self._flowed, call, number)))

    def watch(self) -> None:
        """The call has ended: record what the loop makes of the results."""
        call = self._call
        if call is not None and call.results and self._has_loss:
            tape = LossTape(call.results, lambda loss: self._found(call, loss))
            self._tape = tape if tape.start() else None

    def stop(self) -> None:
        """Be off the stack of function modes: other code is about to look at it."""
        if self._tape is not None:
            self._tape.stop()
            self._tape = None

    def _found(self, call: _Call, loss: Loss | None) -> None:
        call.loss = loss

    @staticmethod
    def _flowed(call: _Call, number: int, gradient: Tensor) -> None:
        with contextlib.suppress(RuntimeError):  # as above
            call.gradients.setdefault(number, gradient.detach().clone())

    def step_ends(self) -> None:
        """Make a batch of the call, if its results were differentiated."""
        self.stop()
        call, self._call = self._call, None
        if call is None or not call.gradients:
            return
        extras: tuple[Tensor, ...] = ()
        if self._has_loss:
            self._has_loss = call.loss is not None and (
                self._loss is None or _shapes(call.loss.extras) == _shapes(self._loss.extras)
            )
            self._loss = self._loss or call.loss
            extras = call.loss.extras if self._has_loss and call.loss is not None else ()
        batch = Batch(
            call.live,
            extras,
            tuple(call.gradients.get(number) for number in range(len(call.results))),
            call.random_state,
            call.loss.value if call.loss is not None else None,
        )
        held = [*batch.live, *batch.extras, *(one for one in batch.gradients if one is not None)]
        if sum(one.nbytes for one in held) * NUM_BATCHES <= MAX_BYTES:
            self._batches.append(batch)

    def problem(self, optimizer: torch.optim.Optimizer | None) -> TrainingProblem:
        """The steps that were recorded, with the graph and its weights as they are now."""
        runner = self._runner
        weights = runner.weights_now()
        problem = dataclasses.replace(runner.problem_on(self._batches[0].live), weights=weights)
        return TrainingProblem(
            problem=problem,
            trained=tuple(one.requires_grad for one in weights),
            differentiable=runner.live_takes_gradient,
            results=runner.results,
            batches=tuple(self._batches),
            loss=self._loss if self._has_loss else None,
            optimizer=None if optimizer is None else OptimizerSpec.of(optimizer, weights),
        )

    def optimizer_problem(self, optimizer: torch.optim.Optimizer | None) -> OptimizerProblem | None:
        """The optimiser with the weights that it trains; None where it is none of PyTorch's."""
        if optimizer is None:
            return None
        weights = [one for group in optimizer.param_groups for one in group["params"]]
        spec = OptimizerSpec.of(optimizer, weights)
        return None if spec is None else OptimizerProblem(spec, tuple(one.detach() for one in weights))

    def release(self) -> None:
        """Hold nothing any more."""
        self.stop()
        self._batches, self._call, self._loss = [], None, None


def _shapes(tensors: Sequence[Tensor]) -> list[tuple[int, ...]]:
    return [tuple(one.shape) for one in tensors]
