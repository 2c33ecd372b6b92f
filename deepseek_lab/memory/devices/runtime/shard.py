"""Sharding, recomputation and the optimiser step inside the backward pass, on PyTorch's own FSDP2."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

aten = torch.ops.aten
KEPT = {
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten.baddbmm.default,
    aten.convolution.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
    aten._scaled_dot_product_fused_attention_overrideable.default,
}
"""Results of matrix products and of attention, which selective recomputation keeps (arXiv:2205.05198)."""


def keep_products(_context: Any, operator: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
    """Keep what is dear to compute, compute the rest again."""
    return CheckpointPolicy.MUST_SAVE if operator in KEPT else CheckpointPolicy.PREFER_RECOMPUTE


def recompute(block: nn.Module, how: str) -> None:
    """Keep of a block's forward pass what ``how`` says: ``none`` (all is kept), ``selective`` or ``full`` (nothing
    is, arXiv:1604.06174).
    """
    if how == "none":
        return
    inner = block.forward
    more: dict[str, Any] = {"use_reentrant": False}
    if how == "selective":
        more["context_fn"] = functools.partial(create_selective_checkpoint_contexts, keep_products)

    def forward(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(inner, *args, **more, **kwargs)

    block.forward = forward


def shard(
    model: nn.Module,
    blocks: Sequence[nn.Module],
    mesh: DeviceMesh | None,
    ways: Sequence[str],
    compute: torch.dtype | None,
    reduce: torch.dtype | None,
    offload: bool = False,
    pin: bool = True,
) -> None:
    """Make each block and the rest of the model FSDP units; ``ways`` says for each block what is recomputed."""
    precision = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=reduce)
    place = CPUOffloadPolicy(pin_memory=pin) if offload else OffloadPolicy()
    for block, how in zip(blocks, ways, strict=True):
        recompute(block, how)
        fully_shard(block, mesh=mesh, mp_policy=precision, offload_policy=place)
    fully_shard(model, mesh=mesh, mp_policy=precision, offload_policy=place)


def step_in_backward(
    parameters: Iterable[nn.Parameter], make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
) -> list[torch.optim.Optimizer]:
    """Step each parameter as soon as its gradient is there, and free the gradient (arXiv:2306.09782). Gradients can
    then be neither accumulated over several backward passes nor clipped by their norm over all parameters.
    """
    made = {parameter: make([parameter]) for parameter in parameters if parameter.requires_grad}

    def hook(parameter: torch.Tensor) -> None:
        optimizer = made[parameter]  # type: ignore[index]
        optimizer.step()
        optimizer.zero_grad()

    for parameter in made:
        parameter.register_post_accumulate_grad_hook(hook)
    return list(made.values())
