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

from deepseek_lab.engine import allocator
from deepseek_lab.engine.results import memory_order
from deepseek_lab.engine.training import compiled
from deepseek_lab.engine.training.problem import Batch, OptimizerProblem, TrainingProblem
from deepseek_lab.engine.training.programs import Program
from deepseek_lab.engine.training.ways import Orders, Way, program
from deepseek_lab.engine.verify import Agreement, _default_float64, widened
from deepseek_lab.measure.race import Ratio, race

SAME_LOSS = 1e-3
"""A recorded loss that is repeated on copies may differ by so much, relatively, and is the same."""
ROUNDING = {"float32": 2.0**-23, "bf16": 2.0**-8, "fp16": 2.0**-11}
"""Distance from one to the next number."""
ENOUGH = {"float32": 1e-4, "bf16": 5e-2, "fp16": 2e-2}
"""Relative differences of gradients, and of losses, that are near enough in any case."""
TIMES_ROUNDING = {"float32": 8.0, "bf16": 2.0, "fp16": 2.0}
"""What is further away than that may be so many times as far as eager is when its weights and inputs alone are
rounded, or as PyTorch's own autocast is: three bits of float32, one of the others. Where a network amplifies rounding,
as normalised ones do before they are trained, nothing that computes in another order is nearer."""
_LIBRARY = frozenset(
    [
        "mm",
        "addmm",
        "bmm",
        "baddbmm",
        "mv",
        "addmv",
        "dot",
        "matmul",
        "linear",
        "mkldnn_convolution",
        "convolution_backward",
        "slow_conv2d_forward",
        "_slow_conv2d_forward",
        "_slow_conv2d_backward",
        "mkldnn_linear",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention_for_cpu_backward",
        "_convolution",
        "convolution",
    ]
)
"""Operators whose time is that of a library's kernel, compiled or not."""
FUSED: dict[str, Any] = {"fused": True, "foreach": None}
WIDE_S = 60.0
"""float64 is the reference where a step in it is expected to take no longer; else float32's eager mode is."""
MAX_POINT_BYTES = 1 << 31
"""Of larger weights one copy is kept, and one step compared."""
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
    """What one step gave: gradients, the loss, and buffers after it."""

    gradients: list[Tensor | None]
    loss: float
    buffers: list[Tensor]
    random_state: Tensor


class TrainingBench:
    """One training problem and what was found of it."""

    def __init__(self) -> None:
        self._problem: Any = None
        self._points: list[list[Tensor]] = []
        """Weights before each step, as eager's steps lead from one to the next."""
        self._eager: list[_Seen] = []
        """Eager's steps from there."""
        self._wide: list[Tensor | None] | None = None
        self._yardstick: dict[str, tuple[float, float, float]] = {}
        self._opened: Opened | None = None
        self._optimizer: OptimizerProblem | None = None
        self._compiled: dict[Way, Program] = {}

    def open(self, directory: str) -> Opened:
        """Load a problem and repeat its steps as they were."""
        problem = TrainingProblem.load(Path(directory))
        torch.set_num_threads(problem.problem.spec.num_threads)
        self._problem, self._yardstick = problem, {}
        self._opened = self._look()
        return self._opened

    def _look(self) -> Opened:
        problem: TrainingProblem = self._problem
        torch.set_rng_state(problem.batches[0].random_state)
        outputs = problem.problem.graph(*self._arguments(self._copies(), problem.batches[0]))
        outputs = outputs if isinstance(outputs, tuple | list) else (outputs,)
        orders = tuple(memory_order(one) for one in outputs)
        dtypes = tuple(str(one.dtype).removeprefix("torch.") for one in outputs)
        opened = self._opened = Opened(None, orders, dtypes)
        exact = self._repeats()
        if problem.loss is not None and not exact:
            self._problem = problem = dataclasses.replace(problem, loss=None)
        if problem.loss is None and not any(g is not None for g in problem.batches[0].gradients):
            return Opened("neither its loss nor gradients of its results were recorded")
        start = time.perf_counter()
        self._follow()
        step_s = (time.perf_counter() - start) / len(self._eager)
        losses = [seen.loss for seen in self._eager]
        if not all(map(math.isfinite, losses)):
            return Opened(f"its loss is {losses[-1]} in eager mode already")
        again = _distance(self._at(0, self._program(Way())).gradients, self._eager[0].gradients)
        if not again <= ENOUGH["float32"] and not self._is_rounding(again):
            return Opened(f"repeating a step on copies gives other gradients (rel {again:.1g})")
        self._wide = self._in_float64() if step_s * WIDE_TIMES < WIDE_S else None
        return dataclasses.replace(opened, exact_loss=exact, step_ms=step_s * 1e3)

    def _is_rounding(self, distance: float) -> bool:
        """Whether gradients differ by no more than rounding moves them: threads add up in another order each time."""
        moved = self._at(0, self._program(Way()), ROUNDING["float32"]).gradients
        return distance <= TIMES_ROUNDING["float32"] * _distance(moved, self._eager[0].gradients)

    def _repeats(self) -> bool:
        """Whether the recorded loss comes out again."""
        problem: TrainingProblem = self._problem
        batch = problem.batches[0]
        if problem.loss is None or batch.loss is None:
            return False
        try:
            torch.set_rng_state(batch.random_state)
            found = float(self._loss(self._program(Way()), self._copies(), batch)[0].detach())
        except (RuntimeError, TypeError, ValueError, IndexError):
            return False
        near = abs(found - batch.loss) <= SAME_LOSS * max(abs(batch.loss), 1e-6)
        return near or (math.isnan(found) and math.isnan(batch.loss))

    def _follow(self) -> None:
        """Take the recorded steps in eager mode; every way is compared from where each of them began.

        Left to themselves two runs of one network drift apart step by step, however they were rounded.
        """
        problem: TrainingProblem = self._problem
        weights, run = self._copies(), self._program(Way())
        optimizer = problem.optimizer.make(weights) if problem.optimizer is not None else None
        self._points, self._eager = [], []
        large = sum(one.nbytes for one in weights) > MAX_POINT_BYTES
        for number in range(1 if large else len(problem.batches)):
            self._points.append([one.detach().clone() for one in weights])
            self._eager.append(self._take(weights, problem.batches[number], run))
            if optimizer is not None:
                optimizer.step()

    # -- what the way back is compared by -----------------------------------------------------------

    def check(self, way: Way) -> Agreement:
        """Repeat the recorded steps in a way, and compare gradients, losses and buffers.

        The error is that of the losses; what is told of gradients stands in the detail.
        """
        steps = self._steps(self._program(way.graph))
        pairs = zip(steps, self._eager, strict=True)
        if not all(torch.equal(step.random_state, eager.random_state) for step, eager in pairs):
            return Agreement(False, math.inf, 0.0, "draws other random numbers")
        found = self._far(steps)
        usual = self._rounded(way.precision)
        tolerance, enough = self._problem.problem.spec.tolerance, ENOUGH[way.precision]
        times = TIMES_ROUNDING[way.precision]
        words = []
        ok = True
        for what, value, rounded in zip(("gradients", "losses", "buffers"), found, usual, strict=True):
            allowed = tolerance or max(enough, times * rounded)
            words.append(f"{what} within {value:.1g}")
            if not value <= allowed:
                ok = False
                words = [f"{what} differ (rel {value:.1g}, allowed {allowed:.1g})"]
                break
        gradient = usual[0]
        if ok and gradient > enough:
            words.append(f"rounding to {way.precision} alone moves gradients by {gradient:.1g}")
        return Agreement(ok, found[1], usual[1], ", ".join(words))

    def _steps(self, run: Program, noise: float = 0.0, seed: int = 0) -> list[_Seen]:
        return [self._at(number, run, noise, seed) for number in range(len(self._points))]

    def _far(self, found: Sequence[_Seen]) -> tuple[float, float, float]:
        """How far steps are from eager's: gradients, the first from float64's; losses; buffers. The farthest of all."""
        references = [self._wide or self._eager[0].gradients, *(seen.gradients for seen in self._eager[1:])]
        pairs = list(zip(found, self._eager, strict=True))
        return (
            max(
                _distance(seen.gradients, reference)
                for seen, reference in zip(found, references, strict=True)
            ),
            max(_apart(seen.loss, eager.loss) for seen, eager in pairs),
            max(_distance(seen.buffers, eager.buffers) for seen, eager in pairs),
        )

    def _rounded(self, precision: str) -> tuple[float, float, float]:
        """How far eager is from itself when weights and inputs are rounded, or autocast is on; the larger one."""
        if precision not in self._yardstick:
            by, eager = ROUNDING[precision], self._program(Way())
            runs = [self._far(self._steps(eager, noise=by, seed=seed)) for seed in range(3)]
            runs.append(self._far(self._steps(self._program(Way(precision=precision)))))
            first, second, third = (max(run[at] for run in runs) for at in range(3))
            self._yardstick[precision] = (first, second, third)
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
        return found if _distance(self._eager[0].gradients, found) < 0.5 else None

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

    def fusible(self, way: Way) -> float:
        """Share of a step's time outside of what libraries compute anyway: what a compiler can make fewer loops of."""
        step = self._step(dataclasses.replace(way, compiled=False, keeps=False), self._copies())
        step()
        with torch.autograd.profiler.profile() as profile:
            step()
        times = {event.key: event.self_cpu_time_total for event in profile.key_averages()}
        library = sum(time for name, time in times.items() if name.removeprefix("aten::") in _LIBRARY)
        return float(1.0 - library / max(sum(times.values()), 1e-9))

    def build(self, way: Way, directory: str) -> None:
        """Compile the graph as it is run in a way into a folder."""
        plain = self._program(dataclasses.replace(way, compiled=False))
        compiled.build(plain, self._arguments(self._copies(), self._problem.batches[0]), Path(directory))
        self._compiled[way] = compiled.load(Path(directory), plain)

    def _program(self, way: Way) -> Program:
        if way.compiled:
            return self._compiled[way]
        assert self._opened is not None
        problem: TrainingProblem = self._problem
        dtypes = [getattr(torch, name) for name in self._opened.dtypes]
        return program(problem.problem.graph, problem.problem.spec, way, self._opened.orders, dtypes)

    def _loss(self, run: Program, weights: Sequence[Tensor], batch: Batch) -> tuple[Tensor, list[Tensor]]:
        problem: TrainingProblem = self._problem
        arguments = self._arguments(weights, batch)
        return problem.loss_of(batch, problem.results_of(run(arguments), arguments)), arguments

    def _at(self, number: int, run: Program, noise: float = 0.0, seed: int = 0) -> _Seen:
        """One of the steps, from where eager's began.

        Args:
            number: Which.
            run: How the graph is run.
            noise: Weights and inputs are multiplied by numbers up to so far from one.
            seed: Of those.
        """
        problem: TrainingProblem = self._problem
        batch, generator = problem.batches[number], torch.Generator().manual_seed(seed)
        weights = [
            _moved(one, noise, generator).requires_grad_(trains)
            for one, trains in zip(self._points[number], problem.trained, strict=True)
        ]
        if noise:
            live = tuple(_moved(one, noise, generator) for one in batch.live)
            batch = dataclasses.replace(batch, live=live)
        return self._take(weights, batch, run)

    def _take(self, weights: Sequence[Tensor], batch: Batch, run: Program) -> _Seen:
        """Forward and backward pass; gradients stay in the weights."""
        torch.set_rng_state(batch.random_state)
        for weight in weights:
            weight.grad = None
        loss, arguments = self._loss(run, weights, batch)
        loss.backward()
        return _Seen(
            self._gradients(weights, arguments),
            float(loss.detach()),
            [
                one.detach().clone()
                for one, trains in zip(weights, self._problem.trained, strict=True)
                if not trains and one.is_floating_point()
            ],
            torch.get_rng_state(),
        )

    # -- times --------------------------------------------------------------------------------------

    def race(self, ways: list[Way], budget_s: float) -> dict[str, Ratio]:
        """Race whole steps in these ways against eager."""
        weights = self._copies()
        calls = {"eager": self._step(Way(), weights), **{way.name: self._step(way, weights) for way in ways}}
        try:
            return race(calls, "eager", budget_s=budget_s, min_rounds=4)
        finally:
            allocator.give_back()

    def open_optimizer(self, directory: str) -> Agreement:
        """Take steps with an optimiser as it is used and in its fused form, on the same gradients."""
        self._optimizer = problem = OptimizerProblem.load(Path(directory))
        moved = []
        for changed in ({}, FUSED):
            weights = [one.detach().clone().requires_grad_() for one in problem.weights]
            optimizer = problem.spec.make(weights, **changed)
            for weight, gradient in zip(weights, problem.gradients(), strict=True):
                weight.grad = gradient
            for _ in range(3):
                optimizer.step()
            moved.append([new.detach() - old for new, old in zip(weights, problem.weights, strict=True)])
        error = _distance(moved[1], moved[0])
        ok = error <= ENOUGH["float32"]
        return Agreement(ok, error, 0.0, "" if ok else f"its updates differ (rel {error:.1g})")

    def race_optimizer(self, budget_s: float) -> Ratio:
        """Race the optimiser's fused form against the one in use."""
        problem = self._optimizer
        assert problem is not None
        weights = [one.detach().clone().requires_grad_() for one in problem.weights]
        for weight, gradient in zip(weights, problem.gradients(), strict=True):
            weight.grad = gradient
        calls = {"eager": problem.spec.make(weights).step, "fused": problem.spec.make(weights, **FUSED).step}
        return race(calls, "eager", budget_s=budget_s)["fused"]

    def _fused(self, weights: Sequence[Tensor]) -> torch.optim.Optimizer:
        problem: TrainingProblem = self._problem
        assert problem.optimizer is not None
        return problem.optimizer.make(weights, **FUSED)

    def _step(self, way: Way, weights: Sequence[Tensor]) -> Callable[[], None]:
        problem: TrainingProblem = self._problem
        run, batch = self._program(way.graph), problem.batches[0]
        optimizer = None
        if problem.optimizer is not None:
            optimizer = self._fused(weights) if way.fused else problem.optimizer.make(weights)

        def step() -> None:
            allocator.keep(way.keeps)
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


def _moved(tensor: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """A copy, each value of it somewhere within a relative distance."""
    if not noise or not tensor.is_floating_point():
        return tensor.detach().clone()
    factor = torch.rand(tensor.shape, generator=generator, dtype=torch.float32).mul_(2).sub_(1)
    return (tensor.detach() * factor.mul_(noise).add_(1)).to(tensor.dtype)


def _apart(found: float, reference: float) -> float:
    if not math.isfinite(found):
        return math.inf
    return abs(found - reference) / max(abs(reference), 1e-12)
