"""Is a candidate's result right? Compared with a float64 reference, never with a rounded one alone."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from deepseek_lab.engine.problem import ALLOWED_ERROR, Problem

CHEAP_S = 5e-3
"""Calls shorter than this in eager mode are verified on :data:`NUM_FRESH_CHEAP` sets of random inputs."""
NUM_FRESH_CHEAP = 7

LARGE_BYTES = 1 << 26
_PIECE = 1 << 17
_NARROW = (torch.float32, torch.bfloat16, torch.float16)


class Float64Mode(TorchDispatchMode):
    """Runs whatever is executed under it in float64, constants and casts included."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def widen(value: Any) -> Any:
            if isinstance(value, Tensor) and value.dtype in _NARROW:
                return value.double()
            if isinstance(value, torch.dtype) and value in _NARROW:
                return torch.float64
            return value

        if func is torch.ops.aten.embedding.default and args[0].dtype in _NARROW:
            return func(*args, **(kwargs or {})).double()  # a few rows of what may be the largest weight
        return func(*tree_map(widen, args), **tree_map(widen, kwargs or {}))


@contextmanager
def _default_float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with Float64Mode():  # type: ignore[no-untyped-call]
            yield
    finally:
        torch.set_default_dtype(before)


def widened(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Copies, those of floating-point tensors in float64."""
    return tuple(tensor.double() if tensor.dtype in _NARROW else tensor.clone() for tensor in tensors)


def float64_reference(
    problem: Problem, live: Sequence[Tensor], weights: Sequence[Tensor] | None = None
) -> tuple[Tensor, ...] | None:
    """The graph's outputs with every floating-point value in float64; None where that cannot be run.

    ``weights`` are the problem's, widened where that was done before; narrow ones are widened where they are read.
    """
    wide = dataclasses.replace(
        problem, weights=widened(problem.weights) if weights is None else tuple(weights)
    )
    arguments = wide.arguments(widened(live))
    try:
        with torch.no_grad(), _default_float64():
            result = problem.graph(*arguments)
    except (RuntimeError, TypeError, ValueError, NotImplementedError):
        return None
    return tuple(result) if isinstance(result, tuple | list) else (result,)


def relative_error(value: Tensor, reference: Tensor) -> float:
    """Largest absolute difference over the largest absolute reference value; inf for another pattern of non-finite."""
    if value.shape != reference.shape:
        return math.inf
    if not value.numel():
        return 0.0
    if not (value.dtype.is_floating_point or value.dtype.is_complex):
        return 0.0 if bool((value == reference.to(value.dtype)).all()) else math.inf
    if value.is_floating_point() and reference.is_floating_point():
        difference, scale = _largest_difference(value.detach(), reference.detach())
        if math.isfinite(difference) and math.isfinite(scale):  # nothing on either side is infinite or NaN
            return difference / scale if scale else 0.0 if difference <= 1e-30 else difference
    if value.is_complex() or reference.is_complex():
        value, reference = (
            torch.view_as_real(t.detach().resolve_conj().to(torch.complex128)) for t in (value, reference)
        )
    wide, against = value.detach().double(), reference.detach().double()
    finite = torch.isfinite(against)
    if not bool(finite.all()):
        same = torch.isfinite(wide) == finite
        rest = ~finite
        agree = (wide[rest] == against[rest]) | (wide[rest].isnan() & against[rest].isnan())
        if not bool(same.all()) or not bool(agree.all()):
            return math.inf
        wide, against = wide[finite], against[finite]
        if not wide.numel():
            return 0.0
    scale = float(against.abs().max())
    difference = float((wide - against).abs().max())
    if math.isnan(difference):
        return math.inf
    if scale == 0.0:
        return 0.0 if difference <= 1e-30 else difference
    return difference / scale


def _largest_difference(value: Tensor, reference: Tensor) -> tuple[float, float]:
    """Largest absolute difference and largest absolute reference value; NaN where there is one.

    Piece by piece, so that what is widened stays in the processor's cache.
    """
    difference = scale = 0.0
    for mine, theirs in zip(
        value.reshape(-1).split(_PIECE), reference.reshape(-1).split(_PIECE), strict=True
    ):
        against = theirs.double()
        apart, size = torch.aminmax(mine - against), torch.aminmax(against)
        bounds = float(apart.min), float(apart.max), float(size.min), float(size.max)
        if any(map(math.isnan, bounds)):
            return math.nan, math.nan
        difference = max(difference, -bounds[0], bounds[1])
        scale = max(scale, -bounds[2], bounds[3])
    return difference, scale


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How far a candidate is from the reference, and whether that is near enough."""

    ok: bool
    max_rel_error: float
    eager_rel_error: float
    detail: str = ""


@dataclasses.dataclass
class Expectation:
    """One set of inputs with the reference and the eager result."""

    live: tuple[Tensor, ...]
    eager: tuple[Tensor, ...]
    reference: tuple[Tensor, ...]
    eager_errors: tuple[float, ...]
    """How far each of eager's outputs is from the reference."""
    has_reference: bool
    label: str


def _fresh(tensor: Tensor, generator: torch.Generator, *, realistic: bool) -> Tensor:
    """A random tensor that looks like ``tensor``: same shape, dtype, range of values.

    Whole numbers are those of ``tensor`` in another order where they are to be realistic, and otherwise any that
    are as good an index as those are.
    """
    if not tensor.numel():
        return tensor.clone()
    if tensor.dtype == torch.bool:
        return tensor.clone()
    if tensor.dtype.is_floating_point:
        wide = tensor.float()
        finite = wide[torch.isfinite(wide)]
        if not finite.numel():
            return tensor.clone()
        mean, spread = finite.mean(), finite.std(correction=0)
        if finite.numel() == 1:  # one number says nothing of its range: its own size, both signs
            spread = mean.abs() if mean else torch.ones(())
        made = torch.randn(tensor.shape, generator=generator) * spread + mean
        return torch.where(torch.isfinite(wide), made, wide).to(tensor.dtype)
    if tensor.dtype.is_complex:
        return torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
    low = min(int(tensor.min()), 0)
    high = max(int(tensor.max()), -low - 1)
    if not realistic and high - low < 2**31:
        return torch.randint(low, high + 1, tensor.shape, generator=generator).to(tensor.dtype)
    order = torch.randint(0, tensor.numel(), (tensor.numel(),), generator=generator)
    return tensor.flatten()[order].reshape(tensor.shape)


def expectations(
    problem: Problem, num_fresh: int | None = None, seed: int = 0, *, seen: Sequence[Tensor] | None = None
) -> list[Expectation]:
    """The live inputs and ``num_fresh`` random ones like them, each with eager and float64 results.

    None makes one fresh set, and several where a call is cheap: a backend that is wrong for negative numbers or
    where two values tie is then found out at next to no cost. ``seen`` are eager's outputs on the live inputs where
    they are known already.
    """
    if num_fresh is None:
        start = time.perf_counter()
        with torch.no_grad():
            result = problem.eager([t.clone() for t in problem.live])
        num_fresh = NUM_FRESH_CHEAP if time.perf_counter() - start < CHEAP_S else 1
        seen = result if seen is None else seen
    generator = torch.Generator().manual_seed(seed)
    sets = [("the cell's inputs", problem.live)]
    for index in range(num_fresh):
        fresh = tuple(_fresh(t, generator, realistic=index % 2 == 0) for t in problem.live)
        sets.append((f"random inputs {index + 1}", fresh))
    made = []
    # Many weights are widened where they are read, one after the other, in memory that is used again.
    large = sum(weight.nbytes for weight in problem.weights) >= LARGE_BYTES
    weights = problem.weights if large else widened(problem.weights)
    versions = [weight._version for weight in weights]
    for label, live in sets:
        try:
            with torch.no_grad():
                known = seen if live is problem.live else None
                eager = tuple(known) if known else problem.eager([t.clone() for t in live])
        except (RuntimeError, IndexError, ValueError):
            if label == "the cell's inputs":
                raise
            continue
        if not large and [weight._version for weight in weights] != versions:  # the graph updates a buffer
            weights = widened(problem.weights)
            versions = [weight._version for weight in weights]
        reference = float64_reference(problem, live, weights)
        # A float64 result can serve as reference if it is near, and whole numbers are equal to eager's.
        errors = [relative_error(narrow, wide) for narrow, wide in zip(eager, reference or (), strict=False)]
        if reference is None or any(not error < 0.05 for error in errors):
            reference, errors = None, [0.0] * len(eager)
        made.append(
            Expectation(tuple(live), eager, reference or eager, tuple(errors), reference is not None, label)
        )
    return made


def agreement(
    run: Callable[[tuple[Tensor, ...]], Sequence[Tensor]],
    expected: Sequence[Expectation],
    precision: str,
    tolerance: float | None = None,
) -> Agreement:
    """Run a candidate on every set of inputs and compare it, output by output.

    A candidate may be as far from float64 as the declared precision allows, or four times as far as
    eager itself is, whichever is larger; ``tolerance`` replaces both. Integer and boolean outputs must equal
    eager's unless a precision was given away.
    """
    worst, worst_eager, detail, ok = 0.0, 0.0, "", True
    owners: list[Tensor] = []  # inputs and results of every set, held so that memory shared with one shows
    for case in expected:
        live = tuple(_in_layout_of(t, like) for t, like in zip(case.live, expected[0].live, strict=True))
        outputs = run(live)
        if (broken := _broken_promise(case.live, live, outputs, owners)) is not None:
            return Agreement(False, math.inf, 0.0, f"{broken} on {case.label}")
        owners += (*live, *outputs)
        if len(outputs) != len(case.eager):
            return Agreement(False, math.inf, 0.0, f"{len(outputs)} outputs instead of {len(case.eager)}")
        for index, (value, eager, reference, eager_error) in enumerate(
            zip(outputs, case.eager, case.reference, case.eager_errors, strict=True)
        ):
            if value.dtype != eager.dtype or value.shape != eager.shape:
                got = f"{value.dtype}{list(value.shape)}"
                want = f"{eager.dtype}{list(eager.shape)}"
                return Agreement(False, math.inf, 0.0, f"output {index} is {got} instead of {want}")
            error = relative_error(value, reference)
            allowed = tolerance if tolerance is not None else max(ALLOWED_ERROR[precision], 4 * eager_error)
            if eager.dtype in (torch.bfloat16, torch.float16) and tolerance is None:
                allowed = max(allowed, ALLOWED_ERROR["bf16" if eager.dtype == torch.bfloat16 else "fp16"])
            worst_eager = max(worst_eager, eager_error)
            if not error <= allowed and ok:
                ok = False
                detail = (
                    f"differs at output {index} (max rel {error:.1g}, allowed {allowed:.1g}) on {case.label}"
                )
            worst = max(worst, error)
    return Agreement(ok, worst, worst_eager, detail)


def _in_layout_of(tensor: Tensor, like: Tensor) -> Tensor:
    """A copy that is laid out in memory as the cell's own input is, gaps between elements included."""
    if any(size > 1 and stride == 0 for size, stride in zip(like.shape, like.stride(), strict=True)):
        return tensor.clone()  # expanded: its elements share memory and cannot be written one by one
    made = torch.empty_strided(like.shape, like.stride(), dtype=tensor.dtype, device=tensor.device)
    return made.copy_(tensor)


def _broken_promise(
    given: Sequence[Tensor], live: Sequence[Tensor], outputs: Sequence[Tensor], owners: Sequence[Tensor]
) -> str | None:
    """How a candidate changed its inputs or shares memory, which neither eager nor the contract does; or None."""
    for index, (before, after) in enumerate(zip(given, live, strict=True)):
        if relative_error(after, before) != 0.0:
            return f"changes input {index}"
    taken = {t.untyped_storage().data_ptr() for t in (*live, *owners) if t.numel()}
    for index, tensor in enumerate(outputs):
        if tensor.numel() and (storage := tensor.untyped_storage().data_ptr()) in taken:
            return f"output {index} shares memory with an input or with another result"
        if tensor.numel():
            taken.add(storage)
    return None
