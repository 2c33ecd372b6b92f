"""The parts of a model that can be computed a second time, each on its own."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection

from torch import nn

MAX_UNITS = 512


@dataclasses.dataclass(frozen=True)
class Unit:
    """One module of a model that is recomputed as a whole, or in part; ``path`` is where it is in the model."""

    path: str
    module: nn.Module


def find_units(model: nn.Module, apart: Collection[nn.Module] = ()) -> list[Unit]:
    """The parts of a model: its repeated blocks, and what stands beside them.

    A block is a module that has siblings of its class in one container; the blocks that are outermost count, as a
    transformer's layers or a ResNet's bottlenecks. What holds no block is a part as a whole. A model without any
    block is divided at its children. Modules that are ``apart`` belong to no part.
    """
    blocks = _blocks(model)
    away = {id(one) for one in apart}
    found: list[Unit] = []
    _divide("", model, blocks, away, found, top=True)
    seen: set[int] = set()
    units = []
    for unit in found:  # a module that has several places is one part, under its first one
        if id(unit.module) not in seen:
            seen.add(id(unit.module))
            units.append(unit)
    return units[:MAX_UNITS]


def _blocks(model: nn.Module) -> set[int]:
    blocks: set[int] = set()
    for container in model.modules():
        if not isinstance(container, nn.ModuleList | nn.Sequential):
            continue
        children = [one for one in container.children() if any(True for _ in one.children())]
        often = {kind for kind, count in Counter(map(type, children)).items() if count > 1}
        blocks |= {id(one) for one in children if type(one) in often}
    return blocks


def _divide(
    path: str, module: nn.Module, blocks: set[int], away: set[int], found: list[Unit], *, top: bool = False
) -> None:
    if id(module) in away:
        return
    inner = [one for one in module.modules() if one is not module]
    holds = any(id(one) in away or (id(one) in blocks and id(module) not in blocks) for one in inner)
    children = list(module.named_children())
    if not holds and not (top and children):
        found.append(Unit(path, module))
        return
    only = top and len(children) == 1 and any(True for _ in children[0][1].children())
    for name, child in children:
        _divide(f"{path}.{name}" if path else name, child, blocks, away, found, top=only)
