"""The parts of a module that are gathered one at a time when it is sharded, and what cannot be sharded."""

from __future__ import annotations

import collections
from collections.abc import Iterator

from torch import nn

from deepseek_lab.base.errors import TargetError

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


def units(root: nn.Module) -> list[nn.Module]:
    """The blocks of a module, and last the module itself, which has what is in no block.

    A block is a child of a ``ModuleList`` or ``Sequential`` in which its class stands more than once, as the layers of
    a transformer do; there are no blocks within a block, and a container is none, but may hold some. What a block has
    in common with something outside of it (tied weights, a module that is used in two places) could not be gathered
    with the block alone, so such a block belongs to the module itself.
    """
    found = dict.fromkeys(_blocks(root))
    return [*(one for one in found if _stands_alone(one, root)), root]


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    children = list(module.children())
    repeated: set[type[nn.Module]] = set()
    if isinstance(module, nn.ModuleList | nn.Sequential):
        counts = collections.Counter(type(child) for child in children)
        repeated = {kind for kind, count in counts.items() if count > 1 and not issubclass(kind, _CONTAINERS)}
    for child in children:
        if type(child) not in repeated:
            yield from _blocks(child)
        elif any(True for _ in child.parameters()):
            yield child


def _stands_alone(block: nn.Module, root: nn.Module) -> bool:
    inside = set(block.modules())
    outside = [module for module in root.modules() if module not in inside]
    parameters = {id(one) for one in block.parameters()}
    return not any(
        any(id(one) in parameters for one in module.parameters(recurse=False))
        or any(child in inside and child is not block for child in module.children())
        for module in outside
    )


def require(module: nn.Module, *, cut: bool = True) -> None:
    """Refuse what cannot be sharded, or would silently train otherwise; where ``cut``, each parameter is.

    Raises:
        TargetError: a parameter is such.
    """
    for name, one in module.named_parameters():
        hint = "%%deepseek distributed --strategy ddp"
        if type(one) is not nn.Parameter:
            why = f"is a {type(one).__name__}"
        elif cut and one.ndim == 0:
            why, hint = "has no dimension along which it could be cut", f"give it one value, or {hint}"
        elif cut and not one.is_contiguous():
            why, hint = "is not contiguous in memory", f"make it so by .contiguous(), or {hint}"
        elif one._backward_hooks or one._post_accumulate_grad_hooks:
            why = "has a hook on its gradient, which a shard would not call"
        elif one.grad is not None:
            why, hint = (
                "has a gradient from before its module was called",
                f"optimizer.zero_grad(), or {hint}",
            )
        else:
            continue
        raise TargetError(f"{type(module).__name__} cannot be sharded: {name} {why}", hint=hint)
