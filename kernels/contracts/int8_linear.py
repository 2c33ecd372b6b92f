"""int8_linear: a linear layer whose weight is stored in int8, for decoding.

A quarter of the bytes of float32, read once for up to eight rows; activations stay in floating point.
Measured on two cores with AVX-512 against F.linear on the float32 weight: 1-8 rows 1.04-3.5x for the
weights of a block and 3.3-5.8x for the output embedding; at 32 rows about even. With more rows the weight
is widened in every call, which costs more than the float32 product: keep the float32 weight there.
Source: Dettmers et al., "LLM.int8()", arXiv:2208.07339 (vector-wise symmetric quantisation); Frantar et
al., "GPTQ", arXiv:2210.17323 (weight-only products for decoding).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deepseek_lab._kernels.contracts._contract import Contract, check_linear, normal


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric int8 weight and one float32 scale per output channel: weight ~ weight_q * scale[:, None].

    weight [n, k] of any floating dtype. Returns weight_q [n, k] int8 in -127..127 and scale [n]; each element
    is off by at most scale / 2. A channel of zeros has scale 1.

    Raises ValueError when weight is not a finite floating-point matrix.

    >>> quantize_weight(torch.tensor([[1.0, -2.0]]))[0]
    tensor([[  64, -127]], dtype=torch.int8)
    """
    if weight.dim() != 2 or not weight.is_floating_point():
        raise ValueError(
            f"quantize_weight: weight has shape {tuple(weight.shape)} and dtype {weight.dtype}; "
            "expected a floating-point matrix [n, k]."
        )
    wide = weight.detach().float()
    largest = wide.abs().amax(dim=1) if weight.shape[1] else wide.new_zeros(weight.shape[0])
    if not bool(torch.isfinite(largest).all()):
        raise ValueError("quantize_weight: weight has infinite or NaN elements; int8 has no number for them.")
    scale = torch.where(largest > 0, largest / 127.0, torch.ones_like(largest))
    return (wide / scale[:, None]).round().clamp(-127, 127).to(torch.int8), scale


def int8_linear(x: Tensor, weight_q: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """X @ (weight_q * scale[:, None]).T + bias.

    x [..., k] float32, bfloat16 or float16; weight_q [n, k] int8; scale [n] float32; bias [n] in x's dtype or
    None. Returns [..., n] in x's dtype; sums run in float32. Gradients reach x, scale and bias; weight_q has
    none.

    Raises ValueError when the shapes do not fit or weight_q is not int8.

    >>> int8_linear(torch.tensor([1.0, 2.0]), torch.tensor([[3, 4]], dtype=torch.int8), torch.tensor([0.5]))
    tensor([5.5000])
    """
    wide = torch.promote_types(x.dtype, scale.dtype)
    product = F.linear(x.to(wide), weight_q.to(wide)) * scale
    return (product if bias is None else product + bias).to(x.dtype)


def check(x: Tensor, weight_q: Tensor, scale: Tensor, bias: Tensor | None = None) -> None:
    """Raise ValueError unless the arguments fit together."""
    if weight_q.dtype != torch.int8:
        raise ValueError(f"int8_linear: weight_q is {weight_q.dtype}; quantize_weight(weight) makes it int8.")
    n = weight_q.shape[0]
    check_linear("int8_linear", x, weight_q, scale=(scale, n), bias=(bias, n))


def sample(rows: int, k: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> tuple[Any, ...]:
    """Seeded arguments, with and without the optional vectors."""
    weight_q, scale = quantize_weight(normal(generator, torch.float32, n, k, scale=max(k, 1) ** -0.5))
    bias = None if n % 3 == 0 else normal(generator, dtype, n)
    return normal(generator, dtype, rows, k), weight_q, scale, bias


CONTRACT = Contract(
    name="int8_linear",
    schema="(Tensor x, Tensor weight_q, Tensor scale, Tensor? bias=None) -> Tensor",
    meaning=int8_linear,
    check=check,
    sample=sample,
    tolerances={torch.float32: 5e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3},
    weight=1,
)
