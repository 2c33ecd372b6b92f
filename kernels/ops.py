"""Registration of the operators with `torch.library`, so that eager code, autograd and compilers see them.

CPU tensors go to `cpu/ops.py`, CUDA and ROCm tensors to `triton/ops.py`, every other device to the contract's
meaning. Gradients are those of the meaning: the backward pass differentiates it at the saved inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from deepseek_lab._kernels.contracts import CONTRACTS, Contract
from deepseek_lab._kernels.cpu.ops import IMPLEMENTATIONS

NAMESPACE = "deepseek"


@cache
def register() -> Any:
    """Define every contract's operator, once; the returned object keeps the registrations alive."""
    library: Any = torch.library.Library(NAMESPACE, "FRAGMENT")
    for contract in CONTRACTS.values():
        name = contract.name
        library.define(name + contract.schema, tags=(torch.Tag.pt2_compliant_tag,))
        library.impl(name, IMPLEMENTATIONS[name], "CPU")
        library.impl(name, _on_gpu(contract), "CUDA")
        library.impl(name, _meaning_of(contract), "CompositeExplicitAutograd")
        qualified = f"{NAMESPACE}::{name}"
        torch.library.register_fake(qualified, _fake(contract), lib=library)
        torch.library.register_autograd(
            qualified, _backward(contract), setup_context=_save_inputs, lib=library
        )
    return library


def _meaning_of(contract: Contract) -> Callable[..., Tensor]:
    def meaning(*args: Any) -> Tensor:
        contract.check(*args)
        return contract.meaning(*args).contiguous()

    return meaning


def _on_gpu(contract: Contract) -> Callable[..., Tensor]:
    meaning = _meaning_of(contract)

    def on_gpu(*args: Any) -> Tensor:
        implementation = _triton_implementations().get(contract.name, meaning)
        return implementation(*args)

    return on_gpu


@cache
def _triton_implementations() -> dict[str, Callable[..., Tensor]]:
    try:
        from deepseek_lab._kernels import triton
    except ImportError:  # no Triton for this platform: the meaning runs
        return {}
    return triton.IMPLEMENTATIONS


def _fake(contract: Contract) -> Callable[..., Tensor]:
    def fake(*args: Any) -> Tensor:
        contract.check(*args)
        x: Tensor = args[0]
        return x.new_empty(contract.result_shape(*args))

    return fake


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*(value for value in inputs if isinstance(value, Tensor)))
    ctx.others = tuple(None if isinstance(value, Tensor) else (value,) for value in inputs)


def _backward(contract: Contract) -> Callable[..., tuple[Tensor | None, ...]]:
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        args = [next(saved) if other is None else other[0] for other in ctx.others]
        wanted = [i for i, needed in enumerate(ctx.needs_input_grad) if needed]

        def of_wanted(*values: Tensor) -> Tensor:
            full = list(args)
            for i, value in zip(wanted, values, strict=True):
                full[i] = value
            return contract.meaning(*full)

        pull_back = torch.func.vjp(of_wanted, *(args[i] for i in wanted))[1]
        grads: list[Tensor | None] = [None] * len(args)
        for i, value in zip(wanted, pull_back(grad), strict=True):
            grads[i] = value
        return tuple(grads)

    return backward
