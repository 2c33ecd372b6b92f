"""The operators on CPU tensors: compiled kernels where they pay, the contract's meaning elsewhere."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from deepseek_lab._kernels.contracts import compact_linear as compact_linear_contract
from deepseek_lab._kernels.contracts import gelu_linear as gelu_linear_contract
from deepseek_lab._kernels.contracts import int8_linear as int8_linear_contract
from deepseek_lab._kernels.contracts import layer_norm as layer_norm_contract
from deepseek_lab._kernels.contracts import layer_norm_linear as layer_norm_linear_contract
from deepseek_lab._kernels.contracts import linear as linear_contract
from deepseek_lab._kernels.contracts.compact_linear import CompactWeight
from deepseek_lab._kernels.cpu import library

_DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_GELU_CODES = {"none": 0, "tanh": 1}

# Where the compiled product pays, by measurement (tests/benchmarks/kernels.py). With more rows the
# processor's matrix
# product beats reading the weight at full speed. One float32 row is a tie that the call's own cost decides:
# it pays only
# for weights beyond every cache, and not for weights stored [k, n].
FEW_ROWS = 8
FEW_ROWS_INT8 = 32
LARGE_WEIGHT = 1 << 23

num_threads = torch.get_num_threads


def _dtype_code(x: Tensor, *others: Tensor | None) -> int | None:
    """The dtype's code when a compiled kernel takes these tensors, else None."""
    dtype = x.dtype
    for other in others:
        if other is not None and other.dtype != dtype:
            return None
    return _DTYPE_CODES.get(dtype)


def _rows(x: Tensor, k: int) -> tuple[Tensor, int, int]:
    """x as m contiguous rows: a tensor that holds them, m, their stride; copied only where strides ask."""
    if x.is_contiguous():
        return x, x.numel() // k if k else x.shape[:-1].numel(), k
    if x.dim() != 2:
        x = x.reshape(x.shape[:-1].numel(), k)
    if x.stride(1) != 1:
        x = x.contiguous()
    return x, x.shape[0], x.stride(0)


def _weight(weight: Tensor) -> tuple[Tensor, int, int]:
    """weight [n, k] and its two strides, one of which is 1."""
    stride_n, stride_k = weight.stride()
    if stride_k == 1 or stride_n == 1:
        return weight, stride_n, stride_k
    return weight.contiguous(), weight.shape[1], 1


def _vector(vector: Tensor | None) -> Tensor | None:
    return vector if vector is None or vector.is_contiguous() else vector.contiguous()


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _done(code: int, out: Tensor) -> Tensor:
    if code == 0:
        return out
    if code == 2:
        raise MemoryError("deepseek kernels: no memory for the scratch rows; use fewer rows per call.")
    raise RuntimeError(f"deepseek kernels: the compiled library refused its arguments (status {code}).")


def _is_single_float_row(m: int, code: int) -> bool:
    return m == 1 and code == 0


def layer_norm(x: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float = 1e-5) -> Tensor:
    """The contract `layer_norm` on the CPU."""
    layer_norm_contract.check(x, gamma, beta, eps)
    lib, code = library.active(), _dtype_code(x, gamma, beta)
    if lib is None or code is None:
        return layer_norm_contract.layer_norm(x, gamma, beta, eps).contiguous()
    k = x.shape[-1]
    (rows, m, stride), gamma, beta = _rows(x, k), _vector(gamma), _vector(beta)
    out = x.new_empty(x.shape)
    status = lib.deepseek_layer_norm(
        rows.data_ptr(), stride, _pointer(gamma), _pointer(beta), out.data_ptr(), m, k, eps, code,
        num_threads()
    )  # fmt: skip
    return _done(status, out)


def bias_gelu(x: Tensor, bias_in: Tensor | None, approximate: str) -> Tensor:
    """gelu(x + bias_in) in one pass; the first half of gelu_linear when there are many rows."""
    lib, code = library.active(), _dtype_code(x, bias_in)
    if lib is None or code is None:
        return F.gelu(x if bias_in is None else x + bias_in, approximate=approximate)
    k = x.shape[-1]
    (rows, m, stride), bias_in, gelu = _rows(x, k), _vector(bias_in), _GELU_CODES[approximate]
    out = x.new_empty(x.shape)
    status = lib.deepseek_bias_gelu(
        rows.data_ptr(), stride, _pointer(bias_in), out.data_ptr(), m, k, gelu, code, num_threads()
    )
    return _done(status, out)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The contract `linear` on the CPU."""
    linear_contract.check(x, weight, bias)
    lib, code = library.active(), _dtype_code(x, weight, bias)
    n, k = weight.shape
    if lib is None or code is None or x.numel() > FEW_ROWS * k:
        return F.linear(x, weight, bias).contiguous()
    (rows, m, stride), (weight, stride_n, stride_k) = _rows(x, k), _weight(weight)
    if _is_single_float_row(m, code) and (stride_k != 1 or n * k < LARGE_WEIGHT):
        return F.linear(x, weight, bias)
    bias = _vector(bias)
    out = x.new_empty((*x.shape[:-1], n))
    status = lib.deepseek_linear(
        rows.data_ptr(), stride, weight.data_ptr(), stride_n, stride_k, _pointer(bias), out.data_ptr(),
        m, n, k, code, num_threads(),
    )  # fmt: skip
    return _done(status, out)


def few_rows_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x @ weight.T + bias by the compiled product whatever the rows: for callers that have measured.

    x float32 [..., k], weight float32 [n, k] of any strides, bias float32 [n] or None; the library must be loaded.
    """
    n, k = weight.shape
    (rows, m, stride), (weight, stride_n, stride_k) = _rows(x, k), _weight(weight)
    bias, out = _vector(bias), x.new_empty((*x.shape[:-1], n))
    status = library.active().deepseek_linear(  # type: ignore[union-attr]
        rows.data_ptr(), stride, weight.data_ptr(), stride_n, stride_k, _pointer(bias), out.data_ptr(),
        m, n, k, 0, num_threads(),
    )  # fmt: skip
    return out if status == 0 else _done(status, out)


def layer_norm_linear(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    eps: float = 1e-5,
) -> Tensor:
    """The contract `layer_norm_linear` on the CPU."""
    layer_norm_linear_contract.check(x, gamma, beta, weight, bias, eps)
    lib, code = library.active(), _dtype_code(x, gamma, beta, weight, bias)
    if lib is None or code is None:
        return layer_norm_linear_contract.layer_norm_linear(x, gamma, beta, weight, bias, eps).contiguous()
    n, k = weight.shape
    (rows, m, stride), (weight, stride_n, stride_k) = _rows(x, k), _weight(weight)
    if m > FEW_ROWS or (_is_single_float_row(m, code) and stride_k != 1):
        return F.linear(layer_norm(x, gamma, beta, eps), weight, bias)
    gamma, beta, bias = _vector(gamma), _vector(beta), _vector(bias)
    out = x.new_empty((*x.shape[:-1], n))
    status = lib.deepseek_layer_norm_linear(
        rows.data_ptr(), stride, _pointer(gamma), _pointer(beta), weight.data_ptr(), stride_n, stride_k,
        _pointer(bias), out.data_ptr(), m, n, k, eps, code, num_threads(),
    )  # fmt: skip
    return _done(status, out)


def gelu_linear(
    x: Tensor, bias_in: Tensor | None, weight: Tensor, bias: Tensor | None, approximate: str = "none"
) -> Tensor:
    """The contract `gelu_linear` on the CPU."""
    gelu_linear_contract.check(x, bias_in, weight, bias, approximate)
    lib, code = library.active(), _dtype_code(x, bias_in, weight, bias)
    if lib is None or code is None:
        return gelu_linear_contract.gelu_linear(x, bias_in, weight, bias, approximate).contiguous()
    n, k = weight.shape
    (rows, m, stride), (weight, stride_n, stride_k) = _rows(x, k), _weight(weight)
    if m > FEW_ROWS or (_is_single_float_row(m, code) and stride_k != 1):
        return F.linear(bias_gelu(x, bias_in, approximate), weight, bias)
    bias_in, bias = _vector(bias_in), _vector(bias)
    out = x.new_empty((*x.shape[:-1], n))
    status = lib.deepseek_gelu_linear(
        rows.data_ptr(), stride, _pointer(bias_in), weight.data_ptr(), stride_n, stride_k, _pointer(bias),
        out.data_ptr(), m, n, k, _GELU_CODES[approximate], code, num_threads(),
    )  # fmt: skip
    return _done(status, out)


def int8_linear(x: Tensor, weight_q: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """The contract `int8_linear` on the CPU."""
    int8_linear_contract.check(x, weight_q, scale, bias)
    lib, code = library.active(), _dtype_code(x, bias)
    n, k = weight_q.shape
    if lib is None or code is None or scale.dtype != torch.float32 or x.numel() > FEW_ROWS_INT8 * k:
        return int8_linear_contract.int8_linear(x, weight_q, scale, bias).contiguous()
    (rows, m, stride), (weight_q, stride_n, stride_k) = _rows(x, k), _weight(weight_q)
    scale_, bias = scale.contiguous(), _vector(bias)
    out = x.new_empty((*x.shape[:-1], n))
    status = lib.deepseek_int8_linear(
        rows.data_ptr(), stride, weight_q.data_ptr(), stride_n, stride_k, scale_.data_ptr(), _pointer(bias),
        out.data_ptr(), m, n, k, code, num_threads(),
    )  # fmt: skip
    return _done(status, out)


def compact_linear(
    x: Tensor,
    codes: Tensor,
    scale: Tensor | None = None,
    minimum: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """The contract `compact_linear` on the CPU."""
    compact_linear_contract.check(x, codes, scale, minimum, bias)
    lib = library.active()
    if lib is None or x.dtype != torch.float32 or (bias is not None and bias.dtype != torch.float32):
        return compact_linear_contract.compact_linear(x, codes, scale, minimum, bias).contiguous()
    n, k = codes.shape[0], x.shape[-1]
    (rows, m, stride), codes, bias = _rows(x, k), codes.contiguous(), _vector(bias)
    out = x.new_empty((*x.shape[:-1], n))
    if scale is None:
        status = lib.deepseek_narrow_linear(
            rows.data_ptr(), stride, codes.data_ptr(), _DTYPE_CODES[codes.dtype], _pointer(bias), out.data_ptr(),
            m, n, k, num_threads(),
        )  # fmt: skip
        return _done(status, out)
    scale, minimum = scale.contiguous(), _vector(minimum)
    status = lib.deepseek_block_linear(
        rows.data_ptr(), stride, codes.data_ptr(), scale.data_ptr(), _pointer(minimum),
        4 if codes.dtype == torch.uint8 else 8, _pointer(bias), out.data_ptr(), m, n, k, num_threads(),
    )  # fmt: skip
    return _done(status, out)


def bound_compact_linear(weight: CompactWeight) -> Callable[[Tensor, Tensor | None], Tensor]:
    """compact_linear(x, weight, bias) with all that does not depend on x looked up once.

    For graphs that call the same layer thousands of times; x must be float32 with the weight's k features.
    """
    codes, scale, minimum = weight.codes, weight.scale, weight.minimum
    lib = library.active()
    if lib is None or scale is None:
        return lambda x, bias: compact_linear(x, codes, scale, minimum, bias)
    call = lib.deepseek_block_linear
    n, bits = codes.shape[0], 4 if codes.dtype == torch.uint8 else 8
    at, scale_at, minimum_at = codes.data_ptr(), scale.data_ptr(), _pointer(minimum)
    kept = (codes, scale, minimum)

    def linear(x: Tensor, bias: Tensor | None) -> Tensor:
        k = x.shape[-1]
        if not x.is_contiguous():
            x = x.contiguous()
        out = x.new_empty((*x.shape[:-1], n))
        status = call(
            x.data_ptr(), k, at, scale_at, minimum_at, bits, _pointer(bias), out.data_ptr(),
            x.numel() // k, n, k, num_threads(),
        )  # fmt: skip
        return out if status == 0 else _done(status, out)

    linear.weight = kept  # type: ignore[attr-defined]
    return linear


IMPLEMENTATIONS: dict[str, Callable[..., Tensor]] = {
    "layer_norm": layer_norm,
    "linear": linear,
    "layer_norm_linear": layer_norm_linear,
    "gelu_linear": gelu_linear,
    "int8_linear": int8_linear,
    "compact_linear": compact_linear,
}
