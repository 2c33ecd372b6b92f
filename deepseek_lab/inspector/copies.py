"""Copies to run again: the user's objects, random numbers and hooks stay as they are."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
)


def plain(module: nn.Module) -> nn.Module:
    """The module itself, where it is compiled."""
    found = getattr(module, "_orig_mod", module)
    return found if isinstance(found, nn.Module) else module


def copy_of(module: nn.Module, *, share: bool) -> nn.Module:
    """A copy without hooks: these are the user's functions, and may write to what is the user's.

    Args:
        module: What to copy.
        share: Let parameters have the user's memory, as tensors of their own; for copies that are never stepped.

    Raises:
        Exception: whatever copying its attributes raises.
    """
    module = plain(module)
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        value = parameter.detach() if share else parameter.detach().clone()
        memo[id(parameter)] = nn.Parameter(value, requires_grad=parameter.requires_grad)
    for buffer in module.buffers():
        memo[id(buffer)] = buffer.detach().clone()
    made = copy.deepcopy(module, memo)
    for inner in made.modules():
        for name in _HOOKS:
            hooks = inner.__dict__.get(name)
            if hooks:
                hooks.clear()
    return made


def optimizer_of(
    optimizer: torch.optim.Optimizer, source: nn.Module, copied: nn.Module, state: Any
) -> torch.optim.Optimizer:
    """The optimiser in a state of its, over a copy's parameters instead of the source's; others are left out."""
    twins = dict(zip(map(id, plain(source).parameters()), copied.parameters(), strict=True))
    memo: dict[int, Any] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            memo[id(parameter)] = twins.get(id(parameter), parameter)
    hooks = {
        name: getattr(optimizer, name, None)
        for name in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
    }
    for value in hooks.values():
        if value is not None:
            memo[id(value)] = type(value)()
    made = copy.deepcopy(optimizer, memo)
    made.load_state_dict(copy.deepcopy(state))
    for group in made.param_groups:
        group["params"] = [one for one in group["params"] if any(one is twin for twin in twins.values())]
    return made


def copied(value: Any) -> Any:
    """Arguments with their tensors copied."""
    return tree_map(lambda one: one.detach().clone() if isinstance(one, Tensor) else one, value)


@contextlib.contextmanager
def apart(random_state: Tensor | None = None) -> Iterator[None]:
    """Random numbers, and whether gradients and autocast are on, as they were afterwards."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        if random_state is not None:
            torch.set_rng_state(random_state)
        yield
