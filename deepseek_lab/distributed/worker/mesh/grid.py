"""The grid of ranks that one training runs on: its groups, and where this rank is."""

from __future__ import annotations

import contextlib
import functools
import gc
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from deepseek_lab.distributed.mesh import NAMES, Mesh


class Grid:
    """Groups of ranks along each dimension of a mesh; made and closed by all ranks together.

    Args:
        mesh: How many ranks in each dimension.
        device: Of this rank.
    """

    def __init__(self, mesh: Mesh, device: str) -> None:
        self.mesh, self.device = mesh, torch.device(device)
        self.rank = dist.get_rank()
        self.place = mesh.place(self.rank)
        """This rank's, by dimension."""
        _forget()
        names = tuple(name for name in NAMES if getattr(mesh, name) > 1)
        self._whole: DeviceMesh | None = init_device_mesh(
            self.device.type, tuple(getattr(mesh, name) for name in names), mesh_dim_names=names
        )

    def along(self, name: str) -> DeviceMesh:
        """This rank and those that differ from it in this dimension alone, where that has more than one rank."""
        assert self._whole is not None, "the grid is closed"
        return self._whole[name]

    def group(self, name: str) -> Any:
        """The same as a process group."""
        return self.along(name).get_group()

    def peer(self, name: str, index: int) -> int:
        """The rank that stands at another place of this dimension, and in the others where this one does."""
        place = self.place | {name: index}
        return (place["data"] * self.mesh.pipeline + place["pipeline"]) * self.mesh.tensor + place["tensor"]

    def agreed(self, fine: bool) -> bool:
        """Whether it is fine on all ranks."""
        told = torch.tensor([int(fine)], device=self.device)
        dist.all_reduce(told, dist.ReduceOp.MIN)
        return bool(told.item())

    def told(self, value: Any) -> Any:
        """What the first rank has."""
        held = [value]
        dist.broadcast_object_list(held, src=0, device=self.device)
        return held[0]

    def all_told(self, value: Any) -> list[Any]:
        """What each rank has."""
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, value)
        return everyone

    def close(self) -> None:
        """End the groups."""
        whole, self._whole = self._whole, None
        if whole is None:
            return
        for group in whole.get_all_groups():
            if group is not dist.group.WORLD:
                with contextlib.suppress(RuntimeError, ValueError, AssertionError):
                    dist.destroy_process_group(group)


def _forget() -> None:
    """Have DTensor forget meshes of groups that are gone: what it remembers of operators it knows by their ranks."""
    from torch.distributed.tensor.debug import _clear_sharding_prop_cache

    _clear_sharding_prop_cache()
    kind = type(functools.lru_cache(_forget))
    for one in gc.get_objects():
        if type(one) is kind and str(getattr(one, "__module__", "")).startswith("torch.distributed.tensor"):
            one.cache_clear()
