"""Activations of which each rank has a part, between a layer that is split by columns and one that is split by rows.

To the user's code such a tensor has its whole shape, so that heads are counted as they were. What it may run through is
what acts on each column or head by itself (:mod:`deepseek_lab.distributed.worker.mesh.rules`); for everything else it
is made whole again, which is right and slow. The same rules find the layers that can be split: with one part it is the
whole tensor, and what would have made it whole is noted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.utils._pytree import tree_leaves, tree_map

from deepseek_lab.base.errors import TargetError
from deepseek_lab.distributed.worker.mesh.randomness import apart

_OWN_FUNCTION = "an autograd function of one's own may need all of its outputs"
Origins = frozenset[int]
"""Layers that something came from, by number."""


class Stop(Exception):
    """An operator needs all parts of a tensor; the message says why."""


class Cut:
    """How tensors are cut.

    Args:
        num: Parts that every cut is to allow.
        mesh: Of the ranks that have them; None has all of them here, as one.
    """

    def __init__(self, num: int, mesh: DeviceMesh | None = None) -> None:
        self.num, self.mesh = num, mesh
        self.parts = 1 if mesh is None else num
        self.index = 0 if mesh is None else mesh.get_local_rank()
        self.num_bytes: int | None = None
        """Of what ranks add up in a forward pass and its backward pass, where that is counted."""
        self._spread: tuple[Tensor, int, bool, DTensor] | None = None

    # What a search listens to.

    def stopped(self, origins: Origins, why: str) -> None:
        """Something was made whole."""

    def met(self, origins: Origins) -> None:
        """What came from these layers is in one tensor."""

    def resolve(self, origins: Origins, blocks: int) -> None:
        """Columns of these layers are so many blocks of equal size, each of which is to be cut."""

    def choose(self, origins: Origins, blocks: list[int]) -> int:
        """One of several ways in which columns may be blocks."""
        return blocks[0]

    def doubted(self, origins: Origins, why: str) -> None:
        """It was taken as blocks what may have been heads."""

    def note(self, sent: Tensor) -> None:
        """Something of this size is added up over all ranks, forward or backward."""
        if self.num_bytes is not None:
            self.num_bytes += sent.numel() * sent.element_size()

    # What is cut, and made whole.

    def replicated(self, plain: Tensor) -> DTensor:
        """What all ranks have, for use in their parts: its gradient is the sum of what all find."""
        kept, grad = self._spread, torch.is_grad_enabled()
        version = -1 if plain.is_inference() else plain._version
        if kept is not None and kept[0] is plain and kept[1:3] == (version, grad):
            return kept[3]
        assert self.mesh is not None
        if plain.requires_grad:
            self.note(plain)
        made = DTensor.from_local(plain, self.mesh, [Replicate()], run_check=False)
        self._spread = plain, version, grad, made
        return made

    def forget(self) -> None:
        """Keep nothing of what was spread."""
        self._spread = None

    def spread(self, plain: Tensor) -> Tensor:
        """The same as a plain tensor."""
        if self.parts == 1 or not plain.requires_grad or not torch.is_grad_enabled():
            return plain
        made: Tensor = self.replicated(plain).to_local(grad_placements=[Partial()])
        return made

    def part(self, plain: Tensor, dim: int, blocks: int) -> Tensor:
        """This rank's part of what all ranks have."""
        if self.parts == 1:
            return plain
        if blocks > 1:
            plain, dim = plain.unflatten(dim, (blocks, -1)), dim + 1
        if plain.requires_grad and torch.is_grad_enabled():
            assert self.mesh is not None
            made = DTensor.from_local(plain, self.mesh, [Replicate()], run_check=False)
            part = made.redistribute(placements=[Shard(dim)]).to_local()
        else:
            part = plain.chunk(self.parts, dim)[self.index]
        return part.flatten(dim - 1, dim) if blocks > 1 else part

    def whole(self, part: Tensor, dim: int, blocks: int) -> Tensor:
        """What the ranks' parts are parts of."""
        if self.parts == 1:
            return part
        if blocks > 1:
            part, dim = part.unflatten(dim, (blocks, -1)), dim + 1
        assert self.mesh is not None
        made: Tensor = DTensor.from_local(part, self.mesh, [Shard(dim)], run_check=False).full_tensor()
        return made.flatten(dim - 1, dim) if blocks > 1 else made

    def random(self) -> contextlib.AbstractContextManager[None]:
        """Random numbers that differ from part to part, and leave those of all ranks alike."""
        if self.parts == 1:
            return contextlib.nullcontext()
        return apart(int(torch.randint(2**62, ())) + self.index)


class Slice(Tensor):
    """A part of a tensor that has the shape of the whole.

    ``blocks`` is in how many blocks of equal size the dimension falls, each of which is cut; None where that is not
    known yet.
    """

    local: Tensor
    at: int
    """The dimension that is cut."""
    cut: Cut
    blocks: int | None
    origins: Origins
    sizes: tuple[int, ...]
    """Of the whole."""

    @staticmethod
    def of(
        local: Tensor, dim: int, cut: Cut, *, blocks: int | None = 1, origins: Origins = frozenset()
    ) -> Slice:
        """Make one of this rank's part."""
        sizes = list(local.shape)
        dim %= len(sizes)
        sizes[dim] *= cut.parts
        made: Slice = Tensor._make_wrapper_subclass(
            Slice, sizes, dtype=local.dtype, device=local.device, requires_grad=local.requires_grad
        )
        made.local, made.at, made.cut, made.blocks = local, dim, cut, blocks
        made.origins, made.sizes = origins, tuple(sizes)
        return made

    def like(self, local: Tensor, dim: int, blocks: int | None = 1) -> Slice:
        """One that this became."""
        return Slice.of(local, dim, self.cut, blocks=blocks, origins=self.origins)

    def whole(self) -> Tensor:
        """All parts."""
        return self.cut.whole(self.local, self.at, self.blocks or 1)

    @property
    def part(self) -> Tensor:
        """What this rank has, as a layer that is split by rows takes it.

        Raises:
            Stop: autograd does not know how it came about.
        """
        if _has_function(self):
            raise Stop(_OWN_FUNCTION)
        return self.local

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from deepseek_lab.distributed.worker.mesh.rules import TOLD, rule_of

        kwargs = kwargs or {}
        if function in TOLD:
            with torch._C.DisableTorchFunctionSubclass():
                return function(*args, **kwargs)
        mine = slices((args, kwargs))
        cut, origins = mine[0].cut, union(mine)
        name = name_of(function)
        try:
            if any(_has_function(one) for one in mine):
                raise Stop(_OWN_FUNCTION)
            rule = rule_of(name)
            if rule is None:
                raise Stop(f"{name}() needs all of its outputs")
            cut.met(origins)
            return rule(function, args, kwargs)
        except Stop as stop:
            cut.stopped(origins, str(stop))
        return together(function, args, kwargs, name)

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        mine = slices((args, kwargs or {}))
        cut, origins = mine[0].cut, union(mine)
        cut.stopped(origins, f"{function} needs all of its outputs")
        if cut.parts > 1:
            raise TargetError(
                f"{function} has a part of a tensor between two layers that are split",
                hint="%%deepseek distributed --strategy fsdp",
            )
        args, kwargs = tree_map(_plain, (args, kwargs or {}))
        return function(*args, **kwargs)


def together(function: Callable[..., Any], args: Any, kwargs: Any, name: str) -> Any:
    """Call a function with whole tensors.

    Raises:
        TargetError: it would write into a part.
    """
    writes = (name.endswith("_") and not name.endswith("__")) or name == "setitem"
    if writes and args and isinstance(args[0], Slice) and args[0].cut.parts > 1:
        raise TargetError(
            f"{name} writes into a tensor between two layers that are split, of which each rank has a part",
            hint="%%deepseek distributed --strategy fsdp",
        )
    args, kwargs = tree_map(_plain, (args, kwargs))
    return function(*args, **kwargs)


def _plain(value: Any) -> Any:
    return value.whole() if isinstance(value, Slice) else value


def slices(values: Any) -> list[Slice]:
    """Those among values."""
    return [one for one in tree_leaves(values) if isinstance(one, Slice)]


def wholes(values: Any) -> Any:
    """The same values, each slice whole."""
    return tree_map(_plain, values) if slices(values) else values


def _has_function(one: Slice) -> bool:
    """Whether autograd knows of it, which knows of parts alone unless a function of one's own was applied."""
    with torch._C.DisableTorchFunctionSubclass():
        return one.grad_fn is not None


_get = "__get__"
_PROPERTIES = {
    getattr(Tensor.T, _get): "transpose",
    getattr(Tensor.mT, _get): "transpose",
    getattr(Tensor.data, _get): "detach",
}


def name_of(function: Any) -> str:
    """What a function is called, whichever way it was called."""
    name = _PROPERTIES.get(function) or str(getattr(function, "__name__", function))
    if name.startswith("__") and name.endswith("__"):
        name = name[2:-2]
        if name[1:] in {"add", "sub", "mul", "div", "truediv", "floordiv", "pow", "matmul", "mod"}:
            name = f"{name[1:]}_" if name[0] == "i" else name[1:]
    return name


def union(values: Iterable[Slice]) -> Origins:
    """Layers that any of these came from."""
    return Origins().union(*(one.origins for one in values))
