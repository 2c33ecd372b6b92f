"""Which optimisers train a model, and in which other form each of them may step."""

from __future__ import annotations

import gc
import inspect
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

PER_PARAMETER = (
    torch.optim.AdamW,
    torch.optim.Adam,
    torch.optim.SGD,
    torch.optim.RMSprop,
    torch.optim.Adagrad,
)
"""Optimisers whose update of a parameter reads nothing of another one."""
own: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
"""Optimisers that are parts of this package's, and no loop's."""


def optimizers_of(parameters: frozenset[int]) -> list[torch.optim.Optimizer]:
    """Optimisers that train these parameters, wherever they are; those first that have no state yet."""
    found: list[torch.optim.Optimizer] = []
    for one in gc.get_objects():
        # By type: a proxy answers for another object, with a warning.
        if issubclass(type(one), torch.optim.Optimizer) and any(
            id(weight) in parameters for group in one.param_groups for weight in group["params"]
        ):
            found.append(one)
    return sorted((one for one in found if one not in own), key=lambda one: len(one.state))


def without_rivals(optimizers: Sequence[torch.optim.Optimizer]) -> list[torch.optim.Optimizer]:
    """Of optimisers that train the same parameters, as an earlier run of a cell leaves them, the first."""
    taken: set[int] = set()
    found = []
    for one in optimizers:
        weights = {id(weight) for group in one.param_groups for weight in group["params"]}
        if taken.isdisjoint(weights):
            found.append(one)
            taken |= weights
    return found


def weights_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """What an optimiser trains."""
    return [one for group in optimizer.param_groups for one in group["params"]]


def can_fuse(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimiser has a fused form that it doesn't use."""
    return (
        all("fused" in group and not group["fused"] for group in optimizer.param_groups)
        and not any(group.get("differentiable") for group in optimizer.param_groups)
        and all(one.is_floating_point() for one in weights_of(optimizer))
    )


def not_per_parameter(optimizer: torch.optim.Optimizer) -> str:
    """Why an optimiser can't update one parameter at a time; nothing where it can."""
    name = type(optimizer).__name__
    if type(optimizer) not in PER_PARAMETER:
        return f"{name} is none of {', '.join(one.__name__ for one in PER_PARAMETER)}"
    for word in ("differentiable", "capturable"):
        if any(group.get(word) for group in optimizer.param_groups):
            return f"{name} was made with {word}=True"
    if _has_hooks(optimizer):
        return f"{name} has hooks on its step"
    if not all(type(one) is nn.Parameter and one.layout == torch.strided for one in weights_of(optimizer)):
        return f"{name} trains tensors that are no plain parameters"
    return ""


def not_eight_bit(optimizer: torch.optim.Optimizer) -> str:
    """Why an optimiser's moments can't take a byte a value; nothing where they can."""
    name, groups = type(optimizer).__name__, optimizer.param_groups
    decoupled = type(optimizer) is torch.optim.AdamW or all(
        group.get("decoupled_weight_decay") or not group.get("weight_decay") for group in groups
    )
    if type(optimizer) not in (torch.optim.AdamW, torch.optim.Adam) or not decoupled:
        return f"{name} is no AdamW"
    for word in ("amsgrad", "maximize", "differentiable", "capturable", "fused"):
        if any(group.get(word) for group in groups):
            return f"{name} was made with {word}=True"
    if _has_hooks(optimizer):
        return f"{name} has hooks on its step"
    for one in weights_of(optimizer):
        plain = type(one) is nn.Parameter and one.dtype in (torch.float32, torch.bfloat16)
        if not plain or not torch._prims_common.is_non_overlapping_and_dense_or_false(one):
            return f"{name} trains tensors that are no dense float32 or bfloat16 parameters"
    return ""


def _has_hooks(optimizer: torch.optim.Optimizer) -> bool:
    return bool(optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks)


Update = Callable[[Tensor, Mapping[str, Any]], None]
"""Updates one parameter that has a gradient, by the values of its group."""


def update_of(optimizer: torch.optim.Optimizer, *, fused: bool = False) -> Update:
    """An optimiser's own update, for one parameter at a time.

    It is its ``step`` on an object that shares the state and holds one parameter, so that results are the same bit by
    bit. Hooks are not called: the step that the loop asks for calls them.
    """
    step = inspect.unwrap(type(optimizer).step)
    one: Any = object.__new__(type(optimizer))
    one.__dict__.update({name: value for name, value in optimizer.__dict__.items() if name != "step"})
    own.add(one)

    def update(weight: Tensor, group: Mapping[str, Any]) -> None:
        form = {"fused": True, "foreach": False} if fused and "fused" in group else {}
        one.param_groups = [{**group, **form, "params": [weight]}]
        with torch.no_grad():
            step(one)
        one.param_groups = []

    return update
