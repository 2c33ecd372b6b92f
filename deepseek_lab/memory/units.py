"""The parts of a model that can be computed a second time, each on its own: as a tree, from large to small."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence

from torch import nn

MAX_UNITS = 512
DEPTH = 3


@dataclasses.dataclass(frozen=True)
class Unit:
    """One module of a model that is recomputed as a whole, or in part; ``path`` is where it is in the model."""

    path: str
    module: nn.Module
    inner: tuple[Unit, ...] = ()
    """Its own parts, if it has any; a stage's are its blocks."""
    level: int = 0

    @property
    def holds_blocks(self) -> bool:
        """Whether its parts are blocks that are repeated, as a stage's."""
        return bool(self.inner) and bool(_blocks(self.module))


def find_units(model: nn.Module, apart: Collection[nn.Module] = ()) -> list[Unit]:
    """The parts of a model: its repeated blocks, and what stands beside them.

    A block is a module that has siblings of its class in one container; the blocks that are outermost count, as a
    transformer's layers or a ResNet's stages. What holds no block is a part as a whole. A model without any
    block is divided at its children, and a part is divided as a model is. Modules that are ``apart`` belong to no part.
    """
    return _parts("", model, {id(one) for one in apart}, set(), 0)


def every(units: Sequence[Unit]) -> Iterator[Unit]:
    """These and all within them."""
    for one in units:
        yield one
        yield from every(one.inner)


def division(
    units: Sequence[Unit], levels: Collection[int], usable: Callable[[Unit], bool] = lambda one: True
) -> list[Unit]:
    """The parts at these levels of the tree; one that has no parts of its own stands for them.

    Where several levels are taken, a part is recomputed with its parts recomputed within it: only what goes into it is
    held until its turn comes, and then only what goes into them. For a part that is not usable its own parts are taken.
    """
    found = []
    last = max(levels)
    for one in units:
        whole = not one.inner or one.level >= last
        if (one.level in levels or whole) and usable(one):
            found.append(one)
        elif whole:
            found += division(one.inner, (one.level + 1,), usable)
        if not whole:
            found += division(one.inner, levels, usable)
    return found


def _parts(path: str, model: nn.Module, away: set[int], seen: set[int], level: int) -> list[Unit]:
    found: list[Unit] = []
    _divide(path, model, _blocks(model), away, found, top=True, unwrap=level == 0)
    own = []
    for unit in found:  # a module that has several places is one part, under its first one
        known = id(unit.module) in seen or len(seen) >= MAX_UNITS
        if not known and (level == 0 or unit.module is not model):
            seen.add(id(unit.module))
            own.append(unit)
    if level + 1 == DEPTH:
        return [dataclasses.replace(one, level=level) for one in own]
    return [
        Unit(
            one.path,
            one.module,
            tuple(
                inner
                for inner in _parts(one.path, one.module, away, seen, level + 1)
                if any(True for _ in inner.module.parameters())
            ),
            level,
        )
        for one in own
    ]


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
    path: str,
    module: nn.Module,
    blocks: set[int],
    away: set[int],
    found: list[Unit],
    *,
    top: bool = False,
    unwrap: bool = False,
) -> None:
    if id(module) in away:
        return
    inner = [one for one in module.modules() if one is not module]
    holds = any(id(one) in away or (id(one) in blocks and id(module) not in blocks) for one in inner)
    children = list(module.named_children())
    if not holds and not (top and children):
        found.append(Unit(path, module))
        return
    only = unwrap and len(children) == 1 and any(True for _ in children[0][1].children())
    for name, child in children:
        place = f"{path}.{name}" if path else name
        _divide(place, child, blocks, away, found, top=only, unwrap=only)
