"""What a model is made of: its repeated blocks, the rest, its head and its loss, without touching a value."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from deepseek_lab.base.errors import TargetError

KEPT_OF_A_KIND = 2
"""Blocks of one kind that a skeleton keeps: one at an end and one that stands for all others."""


@dataclasses.dataclass(frozen=True)
class Block:
    """One unit of sharding and recomputation."""

    path: str
    kind: int
    """Blocks of one kind have the same class and parameters of the same shapes."""
    num_parameters: int
    largest: int
    """Its largest parameter."""


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """A model in numbers."""

    class_name: str
    blocks: tuple[Block, ...]
    block_class: str
    num_rest: int
    """Parameters outside of all blocks."""
    buffer_bytes: int
    largest_of_rest: int
    """The largest parameter there."""

    @property
    def num_parameters(self) -> int:
        """All of them, each once."""
        return self.num_rest + sum(block.num_parameters for block in self.blocks)


def block_paths(model: nn.Module) -> list[str]:
    """Names of the repeated blocks, in order: children of one class, two or more, of the outermost ``ModuleList`` or
    ``Sequential`` whose children have parameters and children of their own.
    """
    found: list[str] = []

    def visit(module: nn.Module, path: str) -> None:
        prefix = f"{path}." if path else ""
        if _is_list_of_blocks(module):
            found.extend(prefix + name for name, _ in module.named_children())
            return
        for name, child in module.named_children():
            visit(child, prefix + name)

    visit(model, "")
    return found


def _is_list_of_blocks(module: nn.Module) -> bool:
    inner = list(module.children())
    return (
        isinstance(module, nn.ModuleList | nn.Sequential)
        and len(inner) >= 2
        and len({type(each) for each in inner}) == 1
        and all(any(True for _ in each.children()) for each in inner)
        and all(any(True for _ in each.parameters()) for each in inner)
    )


def anatomy(model: nn.Module) -> Anatomy:
    """The model's parts.

    Raises:
        TargetError: it has no parameters, or no repeated blocks.
    """
    every = {id(each): each for each in model.parameters()}
    if not every:
        raise TargetError(
            f"{type(model).__name__} has no parameters to train", hint="a model with parameters"
        )
    paths = block_paths(model)
    if not paths:
        raise TargetError(
            f"{type(model).__name__} has no repeated blocks: no ModuleList or Sequential holds two or more modules "
            "of one class",
            hint="a model whose layers are in an nn.ModuleList",
        )
    counted: set[int] = set()
    kinds: dict[Any, int] = {}
    blocks = []
    for path in paths:
        block = model.get_submodule(path)
        own = [each for each in block.parameters() if id(each) not in counted]
        counted.update(map(id, own))
        kind = kinds.setdefault(_signature(path, block), len(kinds))
        sizes = [each.numel() for each in own]
        blocks.append(Block(path, kind, sum(sizes), max(sizes, default=0)))
    rest = [each.numel() for key, each in every.items() if key not in counted]
    return Anatomy(
        class_name=type(model).__name__,
        blocks=tuple(blocks),
        block_class=type(model.get_submodule(paths[0])).__name__,
        num_rest=sum(rest),
        buffer_bytes=sum(each.numel() * each.element_size() for each in model.buffers()),
        largest_of_rest=max(rest, default=0),
    )


def _signature(path: str, block: nn.Module) -> Any:
    shapes = tuple((name, tuple(each.shape)) for name, each in block.named_parameters())
    return path.rpartition(".")[0], type(block), shapes


def skeleton(
    model: nn.Module, mode: FakeTensorMode, dtype: torch.dtype | None = None, *, whole: bool = False
) -> tuple[nn.Module, list[tuple[str, int]]]:
    """A copy of the model whose tensors are fake, with few blocks of each kind unless ``whole``; the model itself
    and its values are not touched. Beside it, path and kind of each block that is left.
    """
    blocks = anatomy(model).blocks if block_paths(model) else ()
    memo: dict[int, Any] = {}
    with mode:
        for each in model.parameters():
            kind = dtype if dtype is not None and each.is_floating_point() else each.dtype
            memo[id(each)] = nn.Parameter(torch.empty(each.shape, dtype=kind), each.requires_grad)
        for buffer in model.buffers():
            memo[id(buffer)] = torch.empty(buffer.shape, dtype=buffer.dtype)
        dropped = [] if whole else list(_surplus(blocks))
        for path in dropped:
            memo[id(model.get_submodule(path))] = nn.Identity()
        made = copy.deepcopy(model, memo)
    gone = set(dropped)
    for path in reversed(dropped):
        holder, _, name = path.rpartition(".")
        del made.get_submodule(holder)[int(name)]  # type: ignore[operator]
    kept: list[tuple[str, int]] = []
    positions: dict[str, int] = {}
    for block in blocks:
        if block.path not in gone:
            holder = block.path.rpartition(".")[0]
            at = positions[holder] = positions.get(holder, -1) + 1
            kept.append((f"{holder}.{at}".lstrip("."), block.kind))
    for module in made.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks):
            hooks.clear()
    return made.train(), kept


def _surplus(blocks: Sequence[Block]) -> Iterator[str]:
    left: dict[int, int] = {}
    for block in blocks:
        left[block.kind] = left.get(block.kind, 0) + 1
        if left[block.kind] > KEPT_OF_A_KIND:
            yield block.path
