"""Launching the Triton kernels on tensors of one GPU; what they do not take runs the contract's meaning."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from deepseek_lab._kernels.contracts import CONTRACTS, DTYPES
from deepseek_lab._kernels.triton.kernels import GELU_ERF, GELU_TANH, LAYER_NORM, NO_PROLOGUE, product_kernel

BLOCK_N = 64
BLOCK_K = 64


def _on_device_of(x: Tensor) -> AbstractContextManager[object]:
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def _factors(dtype: torch.dtype) -> tl.dtype:
    """The dtype of the tiles' products: x's own, so that tensor cores take them.

    Triton's interpreter has no bfloat16 arithmetic (its documentation, "Debugging Triton", limitations);
    there float32.
    """
    if dtype == torch.bfloat16:
        return tl.float32 if triton.knobs.runtime.interpret else tl.bfloat16
    return tl.float16 if dtype == torch.float16 else tl.float32


def _product(
    x: Tensor,
    prologue: int,
    first: Tensor | None,
    second: Tensor | None,
    weight: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    eps: float = 0.0,
) -> Tensor:
    rows = x.reshape(x.shape[:-1].numel(), x.shape[-1])
    if rows.stride(1) != 1:
        rows = rows.contiguous()
    (m, k), n = rows.shape, weight.shape[0]
    out = torch.empty((*x.shape[:-1], n), dtype=x.dtype, device=x.device)
    if out.numel() == 0:
        return out
    vectors = [None if v is None else v.contiguous() for v in (first, second, scale, bias)]
    # A pointer that no branch reads still has to be one.
    first_, second_, scale_, bias_ = (rows if v is None else v for v in vectors)
    block_m = 16 if m <= 16 else 64
    grid = (triton.cdiv(m, block_m), triton.cdiv(n, BLOCK_N))
    with _on_device_of(x):
        product_kernel[grid](
            rows, first_, second_, weight, scale_, bias_, out,
            m, n, k, eps, rows.stride(0), weight.stride(0), weight.stride(1),
            prologue=prologue, has_first=first is not None, has_second=second is not None,
            has_scale=scale is not None, has_bias=bias is not None, factors=_factors(x.dtype),
            block_m=block_m, block_n=BLOCK_N, block_k=BLOCK_K,
        )  # fmt: skip
    return out


def _taken(x: Tensor, *others: Tensor | None) -> bool:
    return (
        x.numel() > 0
        and x.dtype in DTYPES
        and all(o is None or (o.dtype == x.dtype and o.device == x.device) for o in others)
    )


def layer_norm_linear(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    eps: float = 1e-5,
) -> Tensor:
    """The contract `layer_norm_linear` on a GPU."""
    contract = CONTRACTS["layer_norm_linear"]
    contract.check(x, gamma, beta, weight, bias, eps)
    if not _taken(x, gamma, beta, weight, bias):
        return contract.meaning(x, gamma, beta, weight, bias, eps).contiguous()
    return _product(x, LAYER_NORM.value, gamma, beta, weight, None, bias, eps)


def gelu_linear(
    x: Tensor, bias_in: Tensor | None, weight: Tensor, bias: Tensor | None, approximate: str = "none"
) -> Tensor:
    """The contract `gelu_linear` on a GPU."""
    contract = CONTRACTS["gelu_linear"]
    contract.check(x, bias_in, weight, bias, approximate)
    if not _taken(x, bias_in, weight, bias):
        return contract.meaning(x, bias_in, weight, bias, approximate).contiguous()
    prologue = GELU_TANH.value if approximate == "tanh" else GELU_ERF.value
    return _product(x, prologue, bias_in, None, weight, None, bias)


def int8_linear(x: Tensor, weight_q: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """The contract `int8_linear` on a GPU."""
    contract = CONTRACTS["int8_linear"]
    contract.check(x, weight_q, scale, bias)
    if not _taken(x, bias) or scale.dtype != torch.float32 or weight_q.device != x.device:
        return contract.meaning(x, weight_q, scale, bias).contiguous()
    return _product(x, NO_PROLOGUE.value, None, None, weight_q, scale, bias)


IMPLEMENTATIONS: dict[str, Callable[..., Tensor]] = {
    "layer_norm_linear": layer_norm_linear,
    "gelu_linear": gelu_linear,
    "int8_linear": int8_linear,
}
