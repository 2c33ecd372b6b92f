"""Shards of tensors, from whole ones and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from deepseek_lab.distributed.worker.mesh.owned import Owned, everywhere

PARTS = (DTensor, Owned)
"""Tensors of which a rank has a part: by ranks next to each other, or by stages of which one has it all."""


def alike(state: Mapping[str, Any], parameter: Tensor) -> dict[str, Tensor]:
    """Those of an optimizer's states for a parameter that are whole and have its shape."""
    return {
        name: value
        for name, value in state.items()
        if type(value) is Tensor and value.ndim and value.shape == parameter.shape
    }


def part_of(values: Tensor, shard: Tensor) -> Tensor:
    """This rank's part of whole values, cut as another shard is; copied, so that the whole can go."""
    if isinstance(shard, Owned):
        if shard.pipe.here != shard.stage:
            return shard.like(values.detach().to("meta"))
        inner = shard.local
        return shard.like(part_of(values, inner) if isinstance(inner, DTensor) else values.detach().clone())
    mesh, placements = shard.device_mesh, shard.placements  # type: ignore[attr-defined]
    part = distribute_tensor(values.detach(), mesh, placements, src_data_rank=None).to_local().clone()
    return DTensor.from_local(
        part, mesh, placements, run_check=False, shape=values.shape, stride=values.stride()
    )


def whole(shard: Tensor) -> Tensor:
    """The values of all ranks; called by all of them."""
    if isinstance(shard, Owned):
        values: Tensor = everywhere(shard.detach())
        return values
    whole: Tensor = shard.detach().full_tensor()  # type: ignore[attr-defined]
    return whole


def whole_scalar(op_call: Any, args: tuple[Any, ...], kwargs: dict[str, object]) -> Any:
    """What DTensor calls for ``item()``."""
    return whole(args[0]).item()


def make_whole(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: object) -> None:
    """A hook for what ``state_dict`` gives."""
    for name in module._parameters:
        value = state_dict.get(prefix + name)
        if isinstance(value, PARTS) and not isinstance(value, nn.Parameter):
            state_dict[prefix + name] = whole(value)


def make_shards(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: object) -> None:
    """A hook for what ``load_state_dict`` is given."""
    for name, own in module._parameters.items():
        value = state_dict.get(prefix + name)
        fits = isinstance(value, Tensor) and value.shape == own.shape if own is not None else False
        if fits and isinstance(own, PARTS) and not isinstance(value, PARTS):
            state_dict[prefix + name] = part_of(value.to(own.device), own)


def make_states_whole(_: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """A hook for what an optimizer's ``state_dict`` gives."""
    states = {
        key: {name: whole(value) if isinstance(value, PARTS) else value for name, value in state.items()}
        for key, state in state_dict["state"].items()
    }
    return {**state_dict, "state": states}


def described(shard: Tensor) -> tuple[Any, ...]:
    """What has to be the same on all ranks."""
    if isinstance(shard, Owned):
        return (str(shard.stage),)  # copies of a model may have had batches of other sizes
    return tuple(shard.shape), str(shard.dtype), str(shard.placements)  # type: ignore[attr-defined]


def num_bytes(tensors: Iterable[Tensor]) -> tuple[int, int]:
    """Of the storages that tensors have on this rank, and of the tensors when they are whole."""
    each = {id(one): one for one in tensors}.values()
    inner = [one.local if isinstance(one, Owned) else one for one in each]
    local = [one.to_local() if isinstance(one, DTensor) else one for one in inner]
    local = [one for one in local if not one.is_meta]
    storages = {storage._cdata: storage for one in local if (storage := one.untyped_storage())}
    held = sum(storage.nbytes() for storage in storages.values())
    return held, sum(one.numel() * one.element_size() for one in each)
