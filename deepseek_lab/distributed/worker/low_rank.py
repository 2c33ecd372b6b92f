"""Gradients on their way between ranks as factors of low rank, with error feedback.

PowerSGD: Vogels, Karimireddy, Jaggi, NeurIPS 2019, arXiv:1905.13727. The gradient of a matrix goes as two thin ones,
found by one step of power iteration that begins where the last update's ended; what they do not hold is added to the
next gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from deepseek_lab.distributed.worker.feedback import Feedback

RANK = 32


def sizes(shape: Sequence[int], rank: int = RANK) -> tuple[int, int]:
    """Values of a tensor, and of what goes in its place: fewer where it is a matrix that is large both ways."""
    total = math.prod(shape)
    if len(shape) < 2 or total == 0:
        return total, total
    width = total // shape[0]
    thin = rank * (shape[0] + width)
    return total, min(total, thin)


class LowRank(Feedback):
    """Gradients of matrices as factors of rank 32, all others as they are; float32.

    ``common`` is where power iteration is, ``own`` what the factors did not hold.
    """

    def __init__(self, rank: int = RANK) -> None:
        super().__init__()
        self._rank = rank

    def mean(self, key: tuple[int, int], values: Tensor, parts: Sequence[Tensor], group: Any) -> None:
        """Write the mean over all ranks into ``values`` [n] float32, whose views ``parts`` are."""
        size = dist.get_world_size(group)
        thin, whole = [], []
        for index, one in enumerate(parts):
            if sizes(one.shape, self._rank)[1] < one.numel():
                thin.append(((*key, index), one.view(one.shape[0], -1)))
            else:
                whole.append(one)
        lefts = []
        for name, matrix in thin:
            matrix += self._error_of(name, matrix)
            lefts.append(matrix @ self._right_of(name, matrix))
        _sum([*lefts, *whole], group)
        for one in whole:
            one /= size
        rights, own = [], []
        for (_, matrix), left in zip(thin, lefts, strict=True):
            left.copy_(torch.linalg.qr(left)[0])
            own.append(matrix.T @ left)
            rights.append(own[-1] / size)
        _sum(rights, group)
        for (name, matrix), left, right, mine in zip(thin, lefts, rights, own, strict=True):
            torch.addmm(matrix, left, mine.T, alpha=-1, out=self.own[name])
            torch.mm(left, right.T, out=matrix)
            self.common[name] = right
            if (
                not right.isfinite().all()
            ):  # of the sum, so on all ranks; what comes next is not to suffer from it
                matrix.fill_(math.nan)
                del self.common[name], self.own[name]

    def _right_of(self, key: tuple[int, ...], matrix: Tensor) -> Tensor:
        """Where power iteration is [width, rank]; at first random numbers, the same on all ranks."""
        known = self.common.get(key)
        if known is None or known.shape[0] != matrix.shape[1]:
            generator = torch.Generator().manual_seed(sum(part << 12 * at for at, part in enumerate(key)))
            first = torch.randn(matrix.shape[1], self._rank, generator=generator)
            known = self.common[key] = first.to(matrix.device)
        return known

    def _error_of(self, key: tuple[int, ...], matrix: Tensor) -> Tensor:
        known = self.own.get(key)
        if known is None or known.shape != matrix.shape:
            known = self.own[key] = torch.zeros_like(matrix)
        return known


def _sum(tensors: Sequence[Tensor], group: Any) -> None:
    """Add up over all ranks, in one message, in place."""
    if not tensors:
        return
    flat = torch.cat([one.reshape(-1) for one in tensors])
    dist.all_reduce(flat, group=group)
    for one, part in zip(tensors, flat.split([one.numel() for one in tensors]), strict=True):
        one.copy_(part.view(one.shape))
