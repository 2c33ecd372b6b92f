"""The device code: one tiled product with a prologue on x, for float and int8 weights.

Tiling after the matrix-multiplication tutorial of the Triton documentation; statistics of LayerNorm are
gathered in the program that uses them, so normalised rows never reach memory.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

NO_PROLOGUE, LAYER_NORM, GELU_ERF, GELU_TANH = (tl.constexpr(i) for i in range(4))


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _sigmoid_gelu(v: Any) -> Any:
    """0.5 v (1 + tanh u) = v * sigmoid(2u), u = sqrt(2/pi) (v + 0.044715 v^3)."""
    return v * tl.sigmoid(1.5957691216057308 * (v + 0.044715 * v * v * v))


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def product_kernel(
    x_ptr: Any, first_ptr: Any, second_ptr: Any, weight_ptr: Any, scale_ptr: Any, bias_ptr: Any, out_ptr: Any,
    m: Any, n: Any, k: Any, eps: Any, x_stride: Any, weight_stride_n: Any, weight_stride_k: Any,
    prologue: tl.constexpr, has_first: tl.constexpr, has_second: tl.constexpr,
    has_scale: tl.constexpr, has_bias: tl.constexpr, factors: tl.constexpr,
    block_m: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr,
) -> None:  # fmt: skip
    """out[m, n] = prologue(x)[m, k] @ weight[n, k].T * scale[n] + bias[n], one block_m x block_n tile a
    program.

    first and second are gamma and beta of LAYER_NORM, or bias_in and nothing of a GELU. factors is the dtype
    in which tiles are multiplied (int8 fits exactly in every float dtype); sums are float32.
    """
    rows = (tl.program_id(0) * block_m + tl.arange(0, block_m)).to(tl.int64)
    columns = (tl.program_id(1) * block_n + tl.arange(0, block_n)).to(tl.int64)
    steps = tl.arange(0, block_k).to(tl.int64)
    row_ok = rows < m
    column_ok = columns < n
    x_rows = x_ptr + rows[:, None] * x_stride

    if prologue == LAYER_NORM:
        total = tl.zeros((block_m,), dtype=tl.float32)
        for start in range(0, k, block_k):
            inside = row_ok[:, None] & (start + steps < k)[None, :]
            total += tl.sum(
                tl.load(x_rows + start + steps[None, :], mask=inside, other=0.0).to(tl.float32), axis=1
            )
        mean = (total / k)[:, None]
        squares = tl.zeros((block_m,), dtype=tl.float32)
        for start in range(0, k, block_k):
            inside = row_ok[:, None] & (start + steps < k)[None, :]
            value = tl.load(x_rows + start + steps[None, :], mask=inside, other=0.0).to(tl.float32)
            deviation = tl.where(inside, value - mean, 0.0)
            squares += tl.sum(deviation * deviation, axis=1)
        inverse = (1.0 / tl.sqrt(squares / k + eps))[:, None]

    sums = tl.zeros((block_m, block_n), dtype=tl.float32)
    for start in range(0, k, block_k):
        step = start + steps
        step_ok = step < k
        inside = row_ok[:, None] & step_ok[None, :]
        value = tl.load(x_rows + step[None, :], mask=inside, other=0.0).to(tl.float32)
        if prologue == LAYER_NORM:
            value = (value - mean) * inverse
            if has_first:
                value *= tl.load(first_ptr + step, mask=step_ok, other=0.0).to(tl.float32)[None, :]
            if has_second:
                value += tl.load(second_ptr + step, mask=step_ok, other=0.0).to(tl.float32)[None, :]
        elif prologue != NO_PROLOGUE:
            if has_first:
                value += tl.load(first_ptr + step, mask=step_ok, other=0.0).to(tl.float32)[None, :]
            if prologue == GELU_ERF:
                value = 0.5 * value * (1.0 + tl.erf(value * 0.7071067811865476))
            else:
                value = _sigmoid_gelu(value)
        value = tl.where(inside, value, 0.0)
        weights = tl.load(
            weight_ptr + columns[None, :] * weight_stride_n + step[:, None] * weight_stride_k,
            mask=step_ok[:, None] & column_ok[None, :],
            other=0,
        )
        sums = tl.dot(value.to(factors), weights.to(factors), sums, input_precision="ieee")

    if has_scale:
        sums *= tl.load(scale_ptr + columns, mask=column_ok, other=0.0)[None, :]
    if has_bias:
        sums += tl.load(bias_ptr + columns, mask=column_ok, other=0.0).to(tl.float32)[None, :]
    out = out_ptr + rows[:, None] * n + columns[None, :]
    tl.store(out, sums.to(out_ptr.dtype.element_ty), mask=row_ok[:, None] & column_ok[None, :])
