"""The builder's side of training: repeats recorded steps on copies, compares ways to run them, and times them."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepseek_lab.engine.results import memory_order
from deepseek_lab.engine.training.problem import Batch, TrainingProblem
from deepseek_lab.engine.training.ways import Orders, Program, Way, program
from deepseek_lab.engine.verify import Agreement, _default_float64, widened
from deepseek_lab.measure.race import Ratio, race

SAME_LOSS = 1e-3
"""A recorded loss that is repeated on copies may differ by so much, relatively, and is the same."""
GRADIENT_ERROR = {"float32": 1e-4, "bf16": 5e-2, "fp16": 2e-2}
"""How far all gradients together may be from float64's, as a share of their length, whatever eager's are."""
LOSS_ERROR = {"float32": 2e-3, "bf16": 5e-2, "fp16": 5e-2}
"""The same for losses over the recorded steps."""
MORE_THAN_REFERENCE = {"float32": 4.0, "bf16": 1.5, "fp16": 1.5}
"""A way may be so many times as far away as eager in float32, or as PyTorch's own autocast in a lower precision."""
MAX_ERROR = 0.5
"""No gradient may be further away than that."""
WIDE_S = 60.0
"""float64 is the reference where a step in it is expected to take no longer; else float32's eager mode is."""
WIDE_TIMES = 12.0
"""How many times as long a step is taken to be in float64."""


@dataclasses.dataclass(frozen=True)
class Opened:
    """What repeating the steps in eager mode showed; ``refusal`` says why nothing can be compared."""

    refusal: str | None
    orders: Orders = ()
    dtypes: tuple[str, ...] = ()
    exact_loss: bool = False
    """Whether the loop's own losses came out again."""
    step_ms: float = 0.0


@dataclasses.dataclass
class _Seen:
    """What some steps gave: the first one's gradients, all losses, and buffers in the end."""

    gradients: list[Tensor | None]
    losses: list[float]
    buffers: list[Tensor]


class TrainingBench:
    """One training problem and what was found of it."""

    def __init__(self) -> None:
        self._problem: Any = None
        self._eager: _Seen | None = None
        self._wide: list[Tensor | None] | None = None
        self._yardstick: dict[str, tuple[float, float]] = {}
        self._opened: Opened | None = None

    def open(self, directory: str) -> Opened:
        """Load a problem and repeat its steps as they were."""
        problem = TrainingProblem.load(Path(directory))
        torch.set_num_threads(problem.problem.spec.num_threads)
        self._problem, self._yardstick = problem, {}
        self._opened = self._look()
        return self._opened

    def _look(self) -> Opened:
        problem: TrainingProblem = self._problem
        weights = self._copies()
        torch.set_rng_state(problem.batches[0].random_state)
        arguments = self._arguments(weights, problem.batches[0])
        outputs = problem.problem.graph(*arguments)
        outputs = outputs if isinstance(outputs, tuple | list) else (outputs,)
        orders = tuple(memory_order(one) for one in outputs)
        dtypes = tuple(one.dtype for one in outputs)
        opened = Opened(None, orders, tuple(str(one).removeprefix("torch.") for one in dtypes))
        self._opened = opened
        exact = self._repeats()
        if problem.loss is not None and not exact:
            self._problem = problem = dataclasses.replace(problem, loss=None)
        if problem.loss is None and not any(g is not None for g in problem.batches[0].gradients):
            return Opened("neither its loss nor gradients of its results were recorded")
        start = time.perf_counter()
        eager = self._steps(self._program(Way()))
        step_s = (time.perf_counter() - start) / len(problem.batches)
        if not all(map(math.isfinite, eager.losses)):
            return Opened(f"its loss is {eager.losses[-1]} in eager mode already")
        again = self._steps(self._program(Way()), one=True)
        if not _distance(again.gradients, eager.gradients) <= GRADIENT_ERROR["float32"]:
            return Opened("repeating a step on copies gives other gradients")
        self._eager = eager
        self._wide = self._in_float64() if step_s * WIDE_TIMES < WIDE_S else None
        return dataclasses.replace(opened, exact_loss=exact, step_ms=step_s * 1e3)

    def _repeats(self) -> bool:
        """Whether the recorded loss comes out again."""
        problem: TrainingProblem = self._problem
        batch = problem.batches[0]
        if problem.loss is None or batch.loss is None:
            return False
        try:
            found = self._steps(self._program(Way()), one=True).losses[0]
        except (RuntimeError, TypeError, ValueError, IndexError):
            return False
        return abs(found - batch.loss) <= SAME_LOSS * max(abs(batch.loss), 1e-6) or (
            math.isnan(found) and math.isnan(batch.loss)
        )

    # -- what the way back is compared by -----------------------------------------------------------

    def check(self, way: Way) -> Agreement:
        """Repeat the recorded steps in a way, and compare gradients, losses and buffers."""
        assert self._eager is not None
        problem: TrainingProblem = self._problem
        graph_way = way.graph
        found = self._steps(self._program(graph_way))
        reference = self._wide or self._eager.gradients
        eager_error = _distance(self._eager.gradients, reference)
        error = _distance(found.gradients, reference)
        off = _loss_distance(found.losses, self._eager.losses)
        yard, yard_loss = eager_error, 0.0
        if way.lowers:
            yard, yard_loss = self._autocast(way.precision)
        tolerance = problem.problem.spec.tolerance
        times = MORE_THAN_REFERENCE[way.precision]
        allowed = tolerance or min(MAX_ERROR, max(GRADIENT_ERROR[way.precision], times * yard))
        allowed_loss = tolerance or max(LOSS_ERROR[way.precision], times * yard_loss)
        if not error <= allowed:
            return Agreement(
                False, error, eager_error, f"gradients differ (rel {error:.1g}, allowed {allowed:.1g})"
            )
        if not off <= allowed_loss:
            detail = f"losses of {len(found.losses)} steps differ (rel {off:.1g}, allowed {allowed_loss:.1g})"
            return Agreement(False, error, eager_error, detail)
        apart = _distance(found.buffers, self._eager.buffers)
        if not apart <= max(LOSS_ERROR[way.precision] * 2, allowed):
            return Agreement(False, error, eager_error, f"buffers differ (rel {apart:.1g})")
        return Agreement(True, error, eager_error)

    def _autocast(self, precision: str) -> tuple[float, float]:
        """How far PyTorch's own autocast is away, in gradients and in losses."""
        assert self._eager is not None
        if precision not in self._yardstick:
            found = self._steps(self._program(Way(precision=precision)))
            self._yardstick[precision] = (
                _distance(found.gradients, self._wide or self._eager.gradients),
                _loss_distance(found.losses, self._eager.losses),
            )
        return self._yardstick[precision]

    def _in_float64(self) -> list[Tensor | None] | None:
        """The first step's gradients with everything in float64; None where that cannot be run."""
        problem: TrainingProblem = self._problem
        batch = problem.batches[0]
        wide = dataclasses.replace(
            batch,
            live=widened(batch.live),
            extras=widened(batch.extras),
            gradients=tuple(None if one is None else one.double() for one in batch.gradients),
        )
        try:
            with _default_float64():
                weights = [
                    one.requires_grad_(trains)
                    for one, trains in zip(widened(problem.problem.weights), problem.trained, strict=True)
                ]
                arguments = self._arguments(weights, wide)
                torch.set_rng_state(batch.random_state)
                outputs = problem.problem.graph(*arguments)
                outputs = outputs if isinstance(outputs, tuple | list) else (outputs,)
                problem.loss_of(wide, problem.results_of(outputs, arguments)).backward()
        except (RuntimeError, TypeError, ValueError, NotImplementedError):
            return None
        found = self._gradients(weights, arguments)
        # Where float64 draws other random numbers it says nothing of this step.
        assert self._eager is not None
        return found if _distance(self._eager.gradients, found) < 0.05 else None

    # -- steps on copies ----------------------------------------------------------------------------

    def _copies(self) -> list[Tensor]:
        problem: TrainingProblem = self._problem
        return [
            one.detach().clone().requires_grad_(trains)
            for one, trains in zip(problem.problem.weights, problem.trained, strict=True)
        ]

    def _arguments(self, weights: Sequence[Tensor], batch: Batch) -> list[Tensor]:
        problem: TrainingProblem = self._problem
        live = [
            one.detach().requires_grad_(wants)
            for one, wants in zip(batch.live, problem.differentiable, strict=True)
        ]
        own, rest = iter(weights), iter(live)
        return [next(own) if weight else next(rest) for weight in problem.problem.spec.is_weight]

    def _gradients(self, weights: Sequence[Tensor], arguments: Sequence[Tensor]) -> list[Tensor | None]:
        """Gradients of weights, then of live inputs that take one."""
        taken = {id(weight) for weight in weights}
        live = [one for one in arguments if id(one) not in taken and one.requires_grad]
        return [
            None if one.grad is None else one.grad.detach().clone()
            for one in (*weights, *live)
            if one.requires_grad
        ]

    def _program(self, way: Way) -> Program:
        assert self._opened is not None
        problem: TrainingProblem = self._problem
        dtypes = [getattr(torch, name) for name in self._opened.dtypes]
        return program(problem.problem.graph, problem.problem.spec, way, self._opened.orders, dtypes)

    def _loss(self, run: Program, weights: Sequence[Tensor], batch: Batch) -> tuple[Tensor, list[Tensor]]:
        problem: TrainingProblem = self._problem
        arguments = self._arguments(weights, batch)
        return problem.loss_of(batch, problem.results_of(run(arguments), arguments)), arguments

    def _steps(self, run: Program, *, one: bool = False) -> _Seen:
        """Repeat the recorded steps on fresh copies, with the loop's optimiser; ``one``: the first alone."""
        problem: TrainingProblem = self._problem
        weights = self._copies()
        optimizer = problem.optimizer.make(weights) if problem.optimizer is not None else None
        losses: list[float] = []
        gradients: list[Tensor | None] = []
        for number, batch in enumerate(problem.batches[:1] if one else problem.batches):
            torch.set_rng_state(batch.random_state)
            for weight in weights:
                weight.grad = None
            loss, arguments = self._loss(run, weights, batch)
            loss.backward()
            losses.append(float(loss.detach()))
            if number == 0:
                gradients = self._gradients(weights, arguments)
            if optimizer is not None:
                optimizer.step()
        buffers = [
            one
            for one, trains in zip(weights, problem.trained, strict=True)
            if not trains and one.is_floating_point()
        ]
        return _Seen(gradients, losses, buffers)

    # -- times --------------------------------------------------------------------------------------

    def race(self, ways: list[Way], budget_s: float) -> dict[str, Ratio]:
        """Race whole steps in these ways against eager."""
        weights = self._copies()
        calls = {"eager": self._step(Way(), weights), **{way.name: self._step(way, weights) for way in ways}}
        return race(calls, "eager", budget_s=budget_s, min_rounds=4)

    def race_optimizer(self, budget_s: float) -> Ratio:
        """Race the optimiser's fused form against the one in use, on the gradients of one step."""
        problem: TrainingProblem = self._problem
        assert problem.optimizer is not None
        weights = self._copies()
        self._loss(self._program(Way()), weights, problem.batches[0])[0].backward()
        calls = {"eager": problem.optimizer.make(weights).step, "fused": self._fused(weights).step}
        return race(calls, "eager", budget_s=budget_s)["fused"]

    def check_optimizer(self) -> Agreement:
        """Take steps with the fused form and with the one in use, on the same gradients."""
        problem: TrainingProblem = self._problem
        assert problem.optimizer is not None
        ours, theirs = self._copies(), self._copies()
        for weights, optimizer in ((theirs, problem.optimizer.make(theirs)), (ours, self._fused(ours))):
            for weight, gradient in zip(self._trained(weights), self._first_gradients(), strict=True):
                weight.grad = None if gradient is None else gradient.clone()
            for _ in problem.batches:
                optimizer.step()
        before = self._copies()
        error = _distance(
            [new - old for new, old in zip(self._trained(ours), self._trained(before), strict=True)],
            [new - old for new, old in zip(self._trained(theirs), self._trained(before), strict=True)],
        )
        ok = error <= GRADIENT_ERROR["float32"]
        return Agreement(ok, error, 0.0, "" if ok else f"its updates differ (rel {error:.1g})")

    def _trained(self, weights: Sequence[Tensor]) -> list[Tensor]:
        return [one for one in weights if one.requires_grad]

    def _first_gradients(self) -> list[Tensor | None]:
        assert self._eager is not None
        problem: TrainingProblem = self._problem
        return self._eager.gradients[: sum(problem.trained)]

    def _fused(self, weights: Sequence[Tensor]) -> torch.optim.Optimizer:
        problem: TrainingProblem = self._problem
        assert problem.optimizer is not None
        return problem.optimizer.make(weights, fused=True, foreach=None)

    def _step(self, way: Way, weights: Sequence[Tensor]) -> Callable[[], None]:
        problem: TrainingProblem = self._problem
        run, batch = self._program(way.graph), problem.batches[0]
        optimizer = None
        if problem.optimizer is not None:
            optimizer = self._fused(weights) if way.fused else problem.optimizer.make(weights)

        def step() -> None:
            for weight in weights:
                weight.grad = None
            self._loss(run, weights, batch)[0].backward()
            if optimizer is not None:
                optimizer.step()

        return step


def _distance(found: Sequence[Tensor | None], reference: Sequence[Tensor | None]) -> float:
    """Length of all differences together as a share of the reference's; inf where one is not finite or missing."""
    difference = length = 0.0
    for one, other in zip(found, reference, strict=True):
        if (one is None) != (other is None):
            return math.inf
        if one is None or other is None:
            continue
        wide = other.detach().double()
        difference += float((one.detach().double() - wide).square().sum())
        length += float(wide.square().sum())
    if not math.isfinite(difference):
        return math.inf
    return math.sqrt(difference / length) if length else math.sqrt(difference)


def _loss_distance(found: Sequence[float], reference: Sequence[float]) -> float:
    scale = max(map(abs, reference))
    worst = max(abs(a - b) for a, b in zip(found, reference, strict=True))
    return worst / scale if scale and math.isfinite(worst) else (0.0 if worst == 0.0 else math.inf)
