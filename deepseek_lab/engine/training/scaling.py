"""Gradients in float16, scaled: what is too small for it would be zero, and take its part of a network out of training.

The loop's own backward pass goes through a graph of ours, so that its gradients are multiplied where they enter it and
divided where they leave it (Micikevicius et al. 2018, arXiv:1710.03740), and the loop sees them as they are. Where the
multiple is too large for float16 the pass is taken again in the code's own precision: no step is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deepseek_lab.engine.training.again import gradients_again
from deepseek_lab.engine.training.programs import Program

FIRST_SCALE = 2.0**14
MAX_SCALE = 2.0**24
INTERVAL = 500
"""The scale is doubled after so many backward passes in a row that were finite."""


class Scaled:
    """A program in float16 whose gradients are scaled.

    Args:
        low: The program in float16.
        plain: The same in the code's own precision.
        kept: Arguments, by number, that the program may change: weights that are not trained.
    """

    def __init__(self, low: Program, plain: Program, kept: Sequence[int]) -> None:
        self.low, self.plain, self.kept = low, plain, tuple(kept)
        self.scale = FIRST_SCALE
        self.num_again = 0
        """Backward passes that were not finite, and were taken again."""
        self._num_finite = 0

    def __call__(self, arguments: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The outputs, differentiable."""
        if self.scale < 1.0:  # float16 is no use here
            return self.plain(arguments)
        found: tuple[Tensor, ...] = _Run.apply(self, *arguments)  # type: ignore[no-untyped-call]
        return found

    def was_finite(self, finite: bool) -> None:
        """Keep account of a backward pass."""
        if not finite:
            self.scale, self._num_finite = self.scale / 2, 0
            self.num_again += 1
            return
        self._num_finite += 1
        if self._num_finite >= INTERVAL:
            self.scale, self._num_finite = min(2 * self.scale, MAX_SCALE), 0


class _Run(torch.autograd.Function):
    """One call; its own graph is kept until the backward pass."""

    @staticmethod
    def forward(ctx: Any, scaled: Scaled, *arguments: Tensor) -> Any:
        ctx.scaled, ctx.arguments = scaled, arguments
        ctx.state = torch.get_rng_state()
        ctx.before = {
            index: arguments[index].clone() for index in scaled.kept if not arguments[index].requires_grad
        }
        ctx.inner = [one.detach().requires_grad_(one.requires_grad) for one in arguments]
        with torch.enable_grad():
            ctx.outputs = scaled.low(ctx.inner)
        outputs = tuple(one.detach() for one in ctx.outputs)
        ctx.mark_non_differentiable(
            *(one for one, inner in zip(outputs, ctx.outputs, strict=True) if not inner.requires_grad)
        )
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        scaled: Scaled = ctx.scaled
        wanted = [index for index, one in enumerate(ctx.arguments) if one.requires_grad]
        found: list[Tensor | None] | None = None
        if ctx.outputs is None:
            raise RuntimeError(
                "Trying to backward through the graph a second time; specify retain_graph=True"
            )
        if not torch.is_grad_enabled():
            found = _scaled(ctx, wanted, gradients)
            if found is not None or all(map(_finite, gradients)):
                scaled.was_finite(found is not None)
        if found is None:
            found = gradients_again(
                scaled.plain, ctx.arguments, wanted, gradients, state=ctx.state, before=ctx.before
            )
        all_of: list[Tensor | None] = [None] * len(ctx.arguments)
        for index, gradient in zip(wanted, found, strict=True):
            all_of[index] = gradient
        return (None, *all_of)


def _scaled(ctx: Any, wanted: Sequence[int], gradients: Sequence[Tensor]) -> list[Tensor | None] | None:
    """The gradients by way of multiples of them; None where these are not finite."""
    scale = ctx.scaled.scale
    pairs = [
        (output, gradient * scale)
        for output, gradient in zip(ctx.outputs, gradients, strict=True)
        if output.requires_grad
    ]
    keeps = torch._C._autograd._get_current_graph_task_keep_graph()
    found = torch.autograd.grad(
        [output for output, _ in pairs],
        [ctx.inner[index] for index in wanted],
        [gradient for _, gradient in pairs],
        retain_graph=keeps,
        allow_unused=True,
    )
    if not keeps:
        ctx.outputs = ctx.inner = None
    made = [None if one is None else one / scale for one in found]  # several may be one tensor
    return made if all(one is None or _finite(one) for one in made) else None


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor.sum()))  # reads once and writes nothing
