"""A batch in parts that go through a model one after the other, and what the model gives for them, put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from deepseek_lab.base.errors import TargetError


class Batch:
    """What a model is called with.

    The batch is the first dimension of the first tensor, and of all that are as long. Parts differ by a sample where it
    does not come out even.

    Args:
        args: Of the call.
        kwargs: Of the call.
        num: Parts, as far as there are samples.
    """

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any], num: int) -> None:
        flat, spec = tree_flatten((args, kwargs))
        size = next((len(one) for one in flat if isinstance(one, Tensor) and one.ndim), 1)
        num = max(1, min(num, size))
        self.sizes = [size // num + (index < size % num) for index in range(num)]
        """Samples of each part."""
        columns = [
            torch.split(one, self.sizes)
            if num > 1 and isinstance(one, Tensor) and one.ndim and len(one) == size
            else [one] * num
            for one in flat
        ]
        self.parts: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
            tree_unflatten([column[index] for column in columns], spec) for index in range(num)
        ]
        """Arguments of each part."""

    def together(self, made: Sequence[Any]) -> Any:
        """What the model gave for the parts, as it would have given it for all.

        Samples stand after each other; numbers, such as a loss, are their mean by samples.

        Raises:
            TargetError: something has neither samples nor a mean.
        """
        if len(made) == 1:
            return made[0]
        flats, specs = zip(*(tree_flatten(one) for one in made), strict=True)
        if any(spec != specs[0] for spec in specs):
            raise TargetError(
                "the model gives other things for one part of a batch than for another",
                hint="--micro-batches 1",
            )
        return tree_unflatten([self._column(column) for column in zip(*flats, strict=True)], specs[0])

    def _column(self, column: tuple[Any, ...]) -> Any:
        first = column[0]
        if isinstance(first, Tensor):
            if not first.ndim and first.is_floating_point():
                total = sum(self.sizes)
                return sum(one * (size / total) for one, size in zip(column, self.sizes, strict=True))
            if first.ndim and all(len(one) == size for one, size in zip(column, self.sizes, strict=True)):
                return torch.cat(column)
        elif isinstance(first, bool | int | float | str | None) and all(one == first for one in column):
            return first
        what = f"a tensor {tuple(first.shape)}" if isinstance(first, Tensor) else f"a {type(first).__name__}"
        raise TargetError(
            f"the model gives {what}, which cannot be put together from parts of a batch",
            hint="leave it out, as use_cache=False does for caches, or --micro-batches 1",
        )
