"""What optimizers keep, made the same on all ranks after these have trained apart."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from deepseek_lab.distributed.worker.local_steps import LocalSteps

_ROUNDED = {"momentum_buffer": "int8", "exp_avg": "int8", "exp_avg_sq": "bf16", "square_avg": "bf16"}
"""How means may be found, by the name in PyTorch's optimizers; exactly where nothing is said."""
_COUNT = "step"
"""Of updates, which is no mean but the largest."""


def agree(steps: LocalSteps, optimizers: Mapping[int, Optimizer]) -> None:
    """Replace what optimizers keep by means over all ranks; by number, the same on all ranks.

    What only some ranks keep, because a parameter has had no gradient on others, begins anew on all. Called by all
    ranks together.
    """
    kept = {
        (number, at): state
        for number, optimizer in optimizers.items()
        for at, one in enumerate(_parameters(optimizer))
        if (state := optimizer.state.get(one))
    }
    told: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(told, {key: (_outline(state), _count(state)) for key, state in kept.items()})
    found: dict[str, list[Tensor]] = {}
    for key, state in kept.items():
        rows = [rank.get(key) for rank in told]
        if any(row is None or row[0] != rows[0][0] for row in rows):
            _begin_anew(optimizers[key[0]], key[1])
            continue
        _set_count(state, max(row[1] for row in rows))
        for name, one in _leaves(state):
            if isinstance(one, Tensor) and one.is_floating_point() and name != _COUNT:
                found.setdefault(_ROUNDED.get(name, "plain"), []).append(one)
    for way, tensors in sorted(found.items()):
        steps.mean_of(tensors, way)


def _parameters(optimizer: Optimizer) -> Iterator[Tensor]:
    """In the order of the cell, which is the same on all ranks; that of the states is that of first gradients."""
    for group in optimizer.param_groups:
        yield from group["params"]


def _begin_anew(optimizer: Optimizer, at: int) -> None:
    del optimizer.state[list(_parameters(optimizer))[at]]


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """All that is in a state, with the name that it has there."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from _leaves(one, name or str(key))
    elif isinstance(value, list | tuple | deque):
        for one in value:
            yield from _leaves(one, name)
    else:
        yield name, value


def _outline(state: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (name, str(tuple(one.shape)), str(one.dtype))
        if isinstance(one, Tensor)
        else (name, type(one).__name__)
        for name, one in _leaves(state)
    ]


def _count(state: Mapping[str, Any]) -> float:
    count = state.get(_COUNT, 0)
    return float(count) if isinstance(count, int | float | Tensor) else 0.0


@torch.no_grad()
def _set_count(state: dict[str, Any], count: float) -> None:
    mine = state.get(_COUNT)
    if isinstance(mine, Tensor):
        mine.fill_(count)
    elif isinstance(mine, int | float):
        state[_COUNT] = type(mine)(count)
