"""linear: matrix-vector products of a few rows, as fast as memory delivers the weight.

With up to eight rows a linear layer reads each weight once and multiplies it a few times, so it costs what
reading the weight costs. The kernel keeps a tile of weights in registers while all rows go past, and asks
for the next tile ahead.
Measured on two cores with AVX-512 against F.linear (tests/benchmarks/kernels.py --direct), weights of GPT-2
and SmolLM2 stored [n, k]: 4 rows 1.3-2.3x, 8 rows 1.1-3.1x, bfloat16 1.7-2.5x. Stored [k, n]: float32
0.9-1.8x, bfloat16 1.9-2.3x. One float32 row: 1.04-1.15x for the output embedding and a tie below it, where
F.linear runs instead and a rewrite to this operator gains nothing.
Source: torch.nn.functional.linear; Goto and van de Geijn, "Anatomy of High-Performance Matrix
Multiplication", ACM TOMS 34(3), 2008, section 4 (the shapes that block matrix multiplication serves badly).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deepseek_lab._kernels.contracts._contract import Contract, check_linear, normal


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """X @ weight.T + bias.

    x [..., k], weight [n, k], bias [n] or None; float32, bfloat16 or float16, all alike. A weight stored the
    other way round (GPT-2's Conv1D: pass weight.t()) is read in place. Returns [..., n] in x's dtype; sums
    run in float32. With more rows than the kernel serves well, and for other dtypes, this meaning runs.

    Raises ValueError when the shapes do not fit.

    >>> linear(torch.tensor([1.0, 2.0]), torch.tensor([[3.0, 4.0]]))
    tensor([11.])
    """
    return F.linear(x, weight, bias)


def check(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:
    """Raise ValueError unless the arguments fit together."""
    check_linear("linear", x, weight, bias=(bias, weight.shape[0]))


def sample(rows: int, k: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> tuple[Any, ...]:
    """Seeded arguments, with and without the optional vectors."""
    weight = normal(generator, dtype, n, k, scale=max(k, 1) ** -0.5)
    bias = None if n % 3 == 0 else normal(generator, dtype, n)
    return normal(generator, dtype, rows, k), weight, bias


CONTRACT = Contract(
    name="linear",
    schema="(Tensor x, Tensor weight, Tensor? bias=None) -> Tensor",
    meaning=linear,
    check=check,
    sample=sample,
    tolerances={torch.float32: 5e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3},
    weight=1,
)
