"""Blocks of a model in the order in which a forward pass calls them, and stages of about equal cost."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from deepseek_lab.base.errors import TargetError
from deepseek_lab.distributed.scaling.work import Clock, Rates

_RATES = {"cpu": Rates(5e10, 1e10), "cuda": Rates(1e14, 1.5e12, 2)}
"""Costs are compared with each other: only the ratio of the two counts."""


@dataclasses.dataclass(frozen=True)
class Block:
    """A module that is on one stage."""

    name: str
    module: nn.Module
    cost_s: float
    """Of a forward pass, worked out from its operators."""
    num_bytes: int
    """That it gives in one."""


@dataclasses.dataclass(frozen=True)
class Course:
    """A forward pass: blocks with parameters in their order, and the modules that call them."""

    blocks: tuple[Block, ...]
    callers: frozenset[nn.Module]
    num_parts: int
    """That a batch goes through in."""


def course(
    root: nn.Module, call: Callable[[], Any], num: int, num_parts: int, device: torch.device
) -> Course:
    """Find at least so many blocks, as large as they may be.

    Args:
        root: The model.
        call: Makes its forward pass.
        num: Stages.
        num_parts: That a batch goes through in.
        device: That the model is on.

    Raises:
        TargetError: there are fewer, or one is called again later.
    """
    callers = _callers(root)
    while True:
        found = _watch(root, call, callers, device)
        if len(found) >= num:
            return Course(tuple(found), frozenset(callers), num_parts)
        inner = [one for one in found if _opens(one.module)]
        if not inner:
            break
        callers.add(max(inner, key=lambda one: one.cost_s).module)
    if len(found) < 2:
        raise TargetError(
            f"{type(root).__name__} is one block, which cannot be {num} stages",
            hint="--strategy tensor, or fsdp",
        )
    words = ", ".join(one.name or type(one.module).__name__ for one in found)
    raise TargetError(
        f"{type(root).__name__} has {len(found)} blocks ({words}), which cannot be {num} stages",
        hint=f"--mesh pipeline={len(found)}, or --strategy tensor",
    )


def _callers(root: nn.Module) -> set[nn.Module]:
    """The model, and whatever of it has blocks."""
    inner = set(_repeated(root))
    within = {one for block in inner for one in block.modules()}
    return {root} | {
        one for one in root.modules() if one not in within and any(each in inner for each in one.modules())
    }


def _repeated(module: nn.Module) -> Iterator[nn.Module]:
    """Modules with parameters that stand in a container together with others of their class; none within another."""
    children = list(module.children())
    counts: collections.Counter[type[nn.Module]] = collections.Counter()
    if isinstance(module, nn.ModuleList | nn.Sequential):
        counts.update(type(child) for child in children)
    for child in children:
        called = not isinstance(child, nn.ModuleList | nn.ModuleDict)
        if counts[type(child)] > 1 and called and any(True for _ in child.parameters()):
            yield child
        else:
            yield from _repeated(child)


def _opens(module: nn.Module) -> bool:
    """Whether a block can be taken apart into the modules that it calls."""
    children = [one for one in module.children() if any(True for _ in one.parameters())]
    return len(children) > 1 and not isinstance(module, nn.MultiheadAttention | nn.RNNBase)


def _watch(
    root: nn.Module, call: Callable[[], Any], callers: set[nn.Module], device: torch.device
) -> list[Block]:
    names = {module: name for name, module in root.named_modules()}
    clock = Clock(_RATES.get(device.type, _RATES["cpu"]))
    costs: dict[nn.Module, float] = {}
    given: dict[nn.Module, int] = {}
    runs: list[nn.Module] = []
    open_: list[tuple[nn.Module, float]] = []

    def before(module: nn.Module, inputs: Any) -> None:
        if module not in callers and module in names:
            open_.append((module, clock.seconds))

    def after(module: nn.Module, inputs: Any, output: Any) -> None:
        if module in callers or module not in names:
            return
        _, began_s = open_.pop()
        if not open_ and any(True for _ in module.parameters()):
            costs[module] = costs.get(module, 0.0) + clock.seconds - began_s
            given[module] = sum(
                one.numel() * one.element_size() for one in tree_leaves(output) if isinstance(one, Tensor)
            )
            runs.append(module)

    handles = [
        nn.modules.module.register_module_forward_pre_hook(before),
        nn.modules.module.register_module_forward_hook(after),
    ]
    try:
        with torch.no_grad(), clock:
            call()
    finally:
        for handle in handles:
            handle.remove()
    _require_once(runs, names)
    return [Block(names[module], module, cost, given[module]) for module, cost in costs.items()]


def _require_once(runs: Sequence[nn.Module], names: dict[nn.Module, str]) -> None:
    again = [module for module, count in collections.Counter(runs).items() if count > 1]
    for module in again:
        places = [index for index, one in enumerate(runs) if one is module]
        if places[-1] - places[0] + 1 > len(places):
            raise TargetError(
                f"{names[module]} is called again after other blocks, so that a pass would go back to its stage",
                hint="--strategy tensor, or --strategy fsdp",
            )


def balanced(costs: Sequence[float], num: int) -> list[int]:
    """The stage of each block: stages follow each other, and the most expensive one is as cheap as can be.

    >>> balanced([1, 1, 1, 1, 4], 2)
    [0, 0, 0, 0, 1]
    """
    count = len(costs)
    sums = [0.0]
    for cost in costs:
        sums.append(sums[-1] + cost)
    best: list[list[float]] = [[0.0] + [float("inf")] * count]
    cuts: list[list[int]] = []
    for stage in range(1, num + 1):
        row, cut = [float("inf")] * (count + 1), [0] * (count + 1)
        for end in range(stage, count + 1):
            for start in range(stage - 1, end):
                worst = max(best[-1][start], sums[end] - sums[start])
                if worst < row[end]:
                    row[end], cut[end] = worst, start
        best.append(row)
        cuts.append(cut)
    stages, end = [0] * count, count
    for stage in reversed(range(num)):
        start = cuts[stage][end]
        stages[start:end] = [stage] * (end - start)
        end = start
    return stages
