"""A training problem: a captured graph with a few real steps of the loop that trains it, to be repeated on copies."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepseek_lab.engine import wire
from deepseek_lab.engine.problem import Problem
from deepseek_lab.engine.results import Result
from deepseek_lab.engine.tensors import load_tensors, save_tensors
from deepseek_lab.engine.training.tape import Loss

_PLAIN = (int, float, bool, str, type(None))


@dataclasses.dataclass(frozen=True)
class Batch:
    """One recorded step: what the graph was called with and what came back.

    Attributes:
        live: Copies of the graph's live inputs.
        extras: Copies of what else the loss was computed from.
        gradients: What the loss's gradient by each result was; None where none flowed.
        random_state: State of PyTorch's generator before the call.
        loss: The loss that the loop computed; None where it was not recorded.
    """

    live: tuple[Tensor, ...]
    extras: tuple[Tensor, ...]
    gradients: tuple[Tensor | None, ...]
    random_state: Tensor
    loss: float | None


@dataclasses.dataclass(frozen=True)
class OptimizerSpec:
    """An optimiser of PyTorch's own, to be made again over copies of the weights.

    Attributes:
        module, name: Where its class is imported from.
        groups: For each parameter group its options, and which of the problem's weights it has.
    """

    module: str
    name: str
    groups: tuple[tuple[dict[str, Any], tuple[int, ...]], ...]

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer, weights: Sequence[Tensor]) -> OptimizerSpec | None:
        """The spec of an optimiser; None for a class that is not PyTorch's or that needs a closure."""
        kind = type(optimizer)
        if not kind.__module__.startswith("torch.optim.") or kind.__name__ == "LBFGS":
            return None
        index = {id(weight): number for number, weight in enumerate(weights)}
        names = set(inspect.signature(kind).parameters) - {"params"}
        groups = []
        for group in optimizer.param_groups:
            options = {name: _plain(value) for name, value in group.items() if name in names}
            groups.append((options, tuple(index[id(one)] for one in group["params"] if id(one) in index)))
        return cls(kind.__module__, kind.__name__, tuple(groups))

    def make(self, weights: Sequence[Tensor], **changed: Any) -> torch.optim.Optimizer:
        """The same optimiser, without state, over other weights."""
        kind = getattr(importlib.import_module(self.module), self.name)
        groups = [
            {**options, **changed, "params": [weights[number] for number in numbers]}
            for options, numbers in self.groups
            if numbers
        ]
        made = kind(groups)
        assert isinstance(made, torch.optim.Optimizer)
        return made

    @property
    def can_fuse(self) -> bool:
        """Whether PyTorch has a fused form of it that is not in use."""
        kind = getattr(importlib.import_module(self.module), self.name)
        known = "fused" in inspect.signature(kind).parameters
        return known and not any(
            options.get("fused") or options.get("differentiable") for options, _ in self.groups
        )


@dataclasses.dataclass(frozen=True)
class OptimizerProblem:
    """An optimiser and the weights that it trains."""

    spec: OptimizerSpec
    weights: tuple[Tensor, ...]

    def save(self, directory: Path) -> None:
        """Write for the builder process."""
        (directory / "optimizer.pickle").write_bytes(pickle.dumps(self.spec))
        save_tensors(directory / "optimizer.bin", self.weights)

    @classmethod
    def load(cls, directory: Path) -> OptimizerProblem:
        """Read what :meth:`save` wrote."""
        spec = pickle.loads((directory / "optimizer.pickle").read_bytes())
        return cls(spec, tuple(load_tensors(directory / "optimizer.bin")))

    def gradients(self) -> list[Tensor]:
        """Random ones, about as large as gradients are."""
        generator = torch.Generator().manual_seed(0)
        return [torch.randn(one.shape, generator=generator).to(one.dtype).mul_(1e-2) for one in self.weights]


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return float(value)
    if isinstance(value, tuple):
        return tuple(_plain(one) for one in value)
    return value if isinstance(value, _PLAIN) else None


@dataclasses.dataclass
class TrainingProblem:
    """A graph, the weights that it trains, and recorded steps.

    Attributes:
        problem: The graph with its weights and the first step's inputs.
        trained: For each weight whether it takes a gradient.
        differentiable: For each live input whether it takes a gradient.
        results: How the call's results are had from the graph's outputs; None where they are the outputs.
        batches: Recorded steps, in order.
        loss: The loss as a function of the results; None where the recorded gradients stand for it.
        optimizer: The loop's optimiser; None where it has none of PyTorch's.
    """

    problem: Problem
    trained: tuple[bool, ...]
    differentiable: tuple[bool, ...]
    results: tuple[Result, ...] | None
    batches: tuple[Batch, ...]
    loss: Loss | None
    optimizer: OptimizerSpec | None

    def results_of(self, outputs: Sequence[Tensor], arguments: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What the call returned, where a program's outputs and the graph's arguments are these."""
        if self.results is None:
            return tuple(outputs)
        return tuple(result.of(outputs, arguments) for result in self.results)

    def loss_of(self, batch: Batch, results: Sequence[Tensor]) -> Tensor:
        """The loop's loss of these results; where it is not known, one that has the recorded gradients."""
        if self.loss is not None:
            return self.loss.of(results, batch.extras)
        parts = [
            (result * gradient.to(result.dtype)).sum()
            for result, gradient in zip(results, batch.gradients, strict=True)
            if gradient is not None
        ]
        return torch.stack(parts).sum()

    def save(self, directory: Path) -> None:
        """Write for the builder process."""
        directory.mkdir(parents=True, exist_ok=True)
        self.problem.save(directory)
        tensors: list[Tensor] = []

        def kept(values: Sequence[Tensor | None]) -> list[int | None]:
            numbers: list[int | None] = []
            for value in values:
                numbers.append(None if value is None else len(tensors))
                if value is not None:
                    tensors.append(value)
            return numbers

        batches = [
            (kept(one.live), kept(one.extras), kept(one.gradients), kept([one.random_state]), one.loss)
            for one in self.batches
        ]
        loss = (
            None if self.loss is None else (wire.to_bytes(self.loss.graph), self.loss.used, self.loss.value)
        )
        rest: Mapping[str, Any] = {
            "trained": self.trained,
            "differentiable": self.differentiable,
            "results": self.results,
            "optimizer": self.optimizer,
        }
        (directory / "training.pickle").write_bytes(pickle.dumps((batches, loss, rest)))
        save_tensors(directory / "batches.bin", tensors)

    @classmethod
    def load(cls, directory: Path) -> TrainingProblem:
        """Read what :meth:`save` wrote."""
        problem = Problem.load(directory)
        batches, loss, rest = pickle.loads((directory / "training.pickle").read_bytes())
        tensors = load_tensors(directory / "batches.bin")

        def values(numbers: Sequence[int | None]) -> tuple[Any, ...]:
            return tuple(None if number is None else tensors[number] for number in numbers)

        made = tuple(
            Batch(values(live), values(extras), values(gradients), values(state)[0], value)
            for live, extras, gradients, state, value in batches
        )
        graph = None if loss is None else Loss(wire.from_bytes(loss[0]), loss[1], made[0].extras, loss[2])
        return cls(problem=problem, batches=made, loss=graph, **rest)
