"""Modules as programs of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Functional:
    """A module as a program: parameters and buffers first, then what it is called with."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.names = [name for name, _ in (*module.named_parameters(), *module.named_buffers())]

    def arguments(self, *live: Tensor) -> list[Tensor]:
        """Copies of the module's tensors, and these."""
        own = [*self.module.parameters(), *self.module.buffers()]
        return [*(one.detach().clone().requires_grad_(one.requires_grad) for one in own), *live]

    def __call__(self, arguments: Sequence[Tensor]) -> tuple[Tensor, ...]:
        own = dict(zip(self.names, arguments, strict=False))
        found = torch.func.functional_call(self.module, own, tuple(arguments[len(self.names) :]))
        return found if isinstance(found, tuple) else (found,)


def gradients(arguments: Sequence[Tensor]) -> list[Tensor | None]:
    """Those that a backward pass has left."""
    return [one.grad for one in arguments]
