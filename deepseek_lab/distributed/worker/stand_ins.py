"""Tensors that others stand in for: everything that refers to one is made to refer to the other."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Sequence
from types import CellType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from deepseek_lab.base.errors import TargetError


class Absent(nn.Parameter):
    """A tensor whose values are elsewhere, as something sees it that still refers to it.

    Raises:
        TargetError: at every use.
    """

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise TargetError(
            "a parameter is used that was taken from its module before the module was sharded",
            hint="take it from the module again, as in list(model.parameters()), or %%deepseek distributed "
            "--strategy ddp",
        )


class StandIn:
    """A tensor, and the shard that stands in for it. Slots, so that :func:`replace` leaves it alone."""

    __slots__ = ("_kind", "plain", "shard")

    def __init__(self, plain: Tensor, shard: Tensor) -> None:
        self.plain, self.shard = plain, shard
        self._kind: type[Tensor] = type(plain)

    def leave(self) -> None:
        """Give the values' memory back; whatever still uses the tensor raises."""
        self.plain.data = self.plain.data.new_empty(0)
        self.plain.__class__ = Absent

    def come(self, values: Tensor | None = None) -> None:
        """Be a tensor again, with these values, or without any."""
        self.plain.__class__ = self._kind
        if values is not None:
            self.plain.data = values
            self.plain.requires_grad_(self.shard.requires_grad)
            torch.autograd.graph.increment_version(self.plain)  # else it does not count as changed


def replace(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Have all lists, dicts, sets, attributes and variables of closures that hold the first of a pair hold the second.

    Tuples and the variables of functions that are running stay as they are.
    """
    other = {id(old): new for old, new in pairs}
    for holder in gc.get_referrers(*(old for old, _ in pairs)):
        if isinstance(holder, list):
            for index, value in enumerate(holder):
                if id(value) in other:
                    holder[index] = other[id(value)]
        elif isinstance(holder, dict):
            _replace_in(holder, other)
        elif isinstance(holder, set):
            held = [value for value in holder if id(value) in other]
            holder.difference_update(held)
            holder.update(other[id(value)] for value in held)
        elif isinstance(holder, CellType):
            holder.cell_contents = other[id(holder.cell_contents)]
        elif not isinstance(holder, type | ModuleType | Tensor) and hasattr(holder, "__dict__"):
            _replace_in(vars(holder), other)


def _replace_in(holder: dict[Any, Any], other: dict[int, Tensor]) -> None:
    items = [(other.get(id(key), key), other.get(id(value), value)) for key, value in holder.items()]
    if any(id(key) in other for key in holder):
        holder.clear()
        holder.update(items)
        return
    for key, value in items:
        if holder[key] is not value:
            holder[key] = value


def alive(kind: type[Any]) -> Iterable[Any]:
    """All objects of a class, or of one that is derived from it."""
    return [one for one in gc.get_objects() if issubclass(type(one), kind)]
