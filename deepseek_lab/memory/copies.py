"""Copies of a model and its optimisers, for a rehearsal without values."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from deepseek_lab.memory.eight_bit import MOMENTS, QuantisedState


def without_hooks(model: nn.Module) -> None:
    """Take a user's hooks away from a copy: they are told of real calls only. PyTorch's own make weights, and stay."""
    for module in model.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks):
            for key, hook in list(hooks.items()):
                if not str(getattr(type(hook), "__module__", "")).startswith("torch."):
                    del hooks[key]


def as_parameter(real: Tensor, fake: Tensor) -> Tensor:
    """A copy that is a parameter where the real one is."""
    if isinstance(real, nn.Parameter):
        return nn.Parameter(fake, requires_grad=real.requires_grad)
    return fake


def is_pytorchs(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimiser is PyTorch's own, whose step is known to run without values."""
    return type(optimizer).__module__.startswith("torch.optim.")


def copied(
    optimizer: torch.optim.Optimizer, memo: Mapping[int, Any], mode: FakeTensorMode
) -> torch.optim.Optimizer:
    """An optimiser of the copies. Made by hand: a scheduler leaves a ``step`` of the real one among the attributes."""

    def fake(value: Any) -> Any:
        if not isinstance(value, Tensor) or isinstance(value, FakeTensor):
            return value
        if value.numel() == 1:  # the number of steps, which is asked for its value
            count = value.item()
            with mode:
                return torch.tensor(count, dtype=value.dtype)
        return mode.from_tensor(value.detach())

    made: Any = object.__new__(type(optimizer))
    made.__dict__.update({name: value for name, value in optimizer.__dict__.items() if name != "step"})
    for name, value in made.__dict__.items():
        if name.endswith("_hooks"):
            made.__dict__[name] = type(value)()
    with torch.no_grad():
        made.param_groups = [
            {
                name: [memo[id(one)] for one in value if id(one) in memo] if name == "params" else value
                for name, value in group.items()
            }
            for group in optimizer.param_groups
        ]
        made.state = collections.defaultdict(dict)
        for weight, state in optimizer.state.items():
            if id(weight) in memo:
                items = state.items()
                if isinstance(state, QuantisedState):  # what it would hold, without making it
                    with mode:
                        moments = {name: torch.empty_like(memo[id(weight)]).float() for name in MOMENTS}
                    items = {**dict(dict.items(state)), **moments}.items()
                made.state[memo[id(weight)]] = {name: fake(value) for name, value in items}
    return made  # type: ignore[no-any-return]
