"""Gradients after a backward pass: had by all stages or by none, and averaged over the copies of a model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from deepseek_lab.distributed.worker.mesh.grid import Grid
from deepseek_lab.distributed.worker.mesh.owned import Owned

_BUCKET = 25 * 1024 * 1024 // 4
"""Values that go at once."""


class Averages:
    """What becomes of gradients.

    Args:
        grid: Of the ranks.
        waits: Held open where others are waited for.
    """

    def __init__(self, grid: Grid, waits: contextlib.AbstractContextManager[Any]) -> None:
        self._grid, self._waits = grid, waits
        self._parameters: list[Tensor] = []
        self._heard: set[int] = set()
        self._handles: list[Any] = []
        self._touched = False

    def attend(self, parameters: Iterable[Tensor]) -> None:
        """Take care of the gradients of these, in the same order on all ranks."""
        self._parameters += parameters

    def look(self) -> list[Tensor]:
        """Hear of those that are trained; gives the ones that were not before."""
        new = [one for one in self._parameters if one.requires_grad and id(one) not in self._heard]
        self._heard |= {id(one) for one in new}
        self._handles += [one.register_post_accumulate_grad_hook(lambda _: self.passed()) for one in new]
        return new

    def passed(self) -> None:
        """A backward pass has come to one of them."""
        self._touched = True

    def close(self) -> None:
        """Take care of none."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._heard.clear()
        self._parameters.clear()

    @torch.no_grad()
    def after(self) -> None:
        """A backward pass is over, on all ranks."""
        touched, self._touched = self._touched, False
        mesh = self._grid.mesh
        for one in self._parameters:
            gradient = one.grad
            both = isinstance(one, DTensor) and isinstance(gradient, DTensor)
            if both and gradient.placements != one.placements:  # type: ignore[union-attr, attr-defined]
                one.grad = gradient.redistribute(placements=one.placements)  # type: ignore[union-attr, attr-defined]
        if not touched or mesh.size == mesh.tensor:
            return
        with self._waits:
            self._agree()
            if mesh.data > 1:
                self._average()

    def _agree(self) -> None:
        """Have a gradient where any rank has one."""
        told = torch.tensor([_has(one.grad) for one in self._parameters], dtype=torch.uint8)
        told = told.to(self._grid.device)
        dist.all_reduce(told, dist.ReduceOp.MAX)
        for one, has in zip(self._parameters, told.tolist(), strict=True):
            if not has:
                one.grad = None
            elif one.grad is None:
                one.grad = torch.zeros_like(one)

    def _average(self) -> None:
        locals_ = [
            local
            for one in self._parameters
            if one.grad is not None and (local := here(one.grad)) is not None
        ]
        group, num = self._grid.group("data"), self._grid.mesh.data
        for bucket in _buckets(locals_):
            flat = torch.cat([one.reshape(-1) for one in bucket])
            dist.all_reduce(flat, group=group)
            flat /= num
            for one, part in zip(bucket, flat.split([one.numel() for one in bucket]), strict=True):
                one.copy_(part.view(one.shape))


def here(one: Tensor) -> Tensor | None:
    """What this rank has of a tensor; None where its values are on another stage."""
    if isinstance(one, Owned):
        one = one.local
    if isinstance(one, DTensor):
        return one._local_tensor
    return None if one.device.type == "meta" else one


def _has(gradient: Tensor | None) -> bool:
    return gradient is not None and here(gradient) is not None


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    made: list[list[Tensor]] = []
    for one in tensors:
        fits = made and made[-1][0].dtype == one.dtype
        if not fits or sum(each.numel() for each in made[-1]) + one.numel() > _BUCKET:
            made.append([])
        made[-1].append(one)
    return made
