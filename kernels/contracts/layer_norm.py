"""layer_norm: normalisation of each row, in one pass over the tensor.

Measured on two cores with AVX-512: from 128 rows on 3.9-5.9x against mean, square and root composed in Python,
1.0-1.1x against F.layer_norm in float32 and 1.2-1.5x in bfloat16. For one row F.layer_norm is at least twice as
fast: the call's own cost decides.
Source: Ba, Kiros, Hinton, "Layer Normalization", arXiv:1607.06450; torch.nn.functional.layer_norm.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deepseek_lab._kernels.contracts._contract import Contract, check_vectors, normal


def layer_norm(x: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(var + eps) * gamma + beta over the last dimension, with the biased variance.

    x [..., k]; gamma and beta [k] or None; float32, bfloat16 or float16, all alike. Returns a contiguous
    tensor of x's shape and dtype. Other dtypes run this meaning.

    Raises ValueError when gamma or beta is not [k].

    >>> layer_norm(torch.tensor([[1.0, 3.0]]), None, None, 0.0)
    tensor([[-1.,  1.]])
    """
    return F.layer_norm(x, x.shape[-1:], gamma, beta, eps)


def check(x: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float = 1e-5) -> None:
    """Raise ValueError unless the arguments fit together."""
    if x.dim() < 1:
        raise ValueError("layer_norm: x has no dimension; expected x [..., k].")
    check_vectors("layer_norm", gamma=(gamma, x.shape[-1]), beta=(beta, x.shape[-1]))


def sample(rows: int, k: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> tuple[Any, ...]:
    """Rows far from zero: a kernel that subtracts squared means loses its digits here. n does not matter."""
    x = normal(generator, dtype, rows, k, scale=2.0) + 3.0
    gamma = None if n % 2 else normal(generator, dtype, k)
    beta = None if n % 3 == 0 else normal(generator, dtype, k)
    return x, gamma, beta, 1e-5


CONTRACT = Contract(
    name="layer_norm",
    schema="(Tensor x, Tensor? gamma, Tensor? beta, float eps=1e-05) -> Tensor",
    meaning=layer_norm,
    check=check,
    sample=sample,
    tolerances={torch.float32: 3e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3},
)
