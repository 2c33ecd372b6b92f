"""Gradients of a call that has been made, computed a second time by PyTorch's own operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from deepseek_lab.engine.training.programs import Program


def gradients_again(
    plain: Program,
    arguments: Sequence[Tensor],
    wanted: Sequence[int],
    gradients: Sequence[Tensor],
    *,
    state: Tensor | None,
    before: Mapping[int, Tensor],
) -> list[Tensor | None]:
    """Run a program again and differentiate it, as differentiably as is asked for now; nothing else is changed by it.

    Args:
        plain: The program.
        arguments: What it was called with.
        wanted: Arguments, by number, whose gradients are wanted.
        gradients: The loss's gradients by the outputs.
        state: Of the random generator before the call; None where nothing was drawn.
        before: Values of arguments that the call has changed, by number, as they were.

    Returns:
        A gradient for each of ``wanted``; None where none flows.
    """
    deeper, after = torch.is_grad_enabled(), torch.get_rng_state()
    if state is not None:
        torch.set_rng_state(state)
    try:
        with torch.enable_grad():
            given = [before[index].clone() if index in before else one for index, one in enumerate(arguments)]
            pairs = [
                (output, gradient)
                for output, gradient in zip(plain(given), gradients, strict=True)
                if output.requires_grad
            ]
            return list(
                torch.autograd.grad(
                    [output for output, _ in pairs],
                    [given[index] for index in wanted],
                    [gradient for _, gradient in pairs],
                    create_graph=deeper,
                    allow_unused=True,
                )
            )
    finally:
        torch.set_rng_state(after)
