"""Weights kept without loss: what is found, what is refused, and that nothing of a weight is rounded."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deepseek_lab import _kernels
from deepseek_lab._kernels.contracts.compact_linear import BLOCK, widen

_kernels.load()
Q4_1, Q4_0, Q8_0 = "Q4_1", "Q4_0", "Q8_0"


def quantized(weight: Tensor, form: str) -> Tensor:
    """The weight as a checkpoint in ggml's block format holds it, widened to float32 as loaders do."""
    blocks = weight.unflatten(1, (-1, BLOCK))
    if form == Q4_1:
        low = blocks.amin(-1, keepdim=True)
        scale = (blocks.amax(-1, keepdim=True) - low) / 15
        codes = ((blocks - low) / scale).round().clamp(0, 15)
        wide = codes * scale.half().float() + low.half().float()
    elif form == Q4_0:
        at = blocks.abs().argmax(-1, keepdim=True)
        scale = blocks.gather(-1, at) / -8
        codes = (blocks / scale + 8.5).floor().clamp(0, 15)
        wide = (codes - 8) * scale.half().float()
    else:
        scale = blocks.abs().amax(-1, keepdim=True) / 127
        wide = (blocks / scale).round() * scale.half().float()
    return wide.flatten(1)


def normal(n: int, k: int, seed: int = 0) -> Tensor:
    return torch.randn((n, k), generator=torch.Generator().manual_seed(seed)) * 0.05


@pytest.mark.parametrize(
    ("form", "dtype", "bytes_each"),
    [(Q4_1, torch.uint8, 0.75), (Q4_0, torch.uint8, 0.75), (Q8_0, torch.int8, 1.125)],
)
def test_blocks_are_found_and_hold_the_weight_exactly(
    form: str, dtype: torch.dtype, bytes_each: float
) -> None:
    weight = quantized(normal(96, 256), form)
    made = _kernels.compact_weight(weight)
    assert made is not None
    assert made.codes.dtype == dtype
    assert made.nbytes == bytes_each * weight.numel()
    assert torch.equal(widen(made.codes, made.scale, made.minimum, 256), weight)
    one_hot = torch.eye(256)[[0, 1, 31, 32, 100, 255]]
    got = torch.ops.deepseek.compact_linear(one_hot, made.codes, made.scale, made.minimum, None)
    assert torch.equal(got, weight[:, [0, 1, 31, 32, 100, 255]].T), "the kernel reads another weight"


@pytest.mark.parametrize("isa", [*_kernels.isas(), None])
def test_every_instruction_set_reads_the_same_weight(isa: str | None) -> None:
    weight = quantized(normal(33, 96, seed=3), Q4_1)
    made = _kernels.compact_weight(weight)
    assert made is not None
    with _kernels.force_isa(isa):
        got = torch.ops.deepseek.compact_linear(torch.eye(96), made.codes, made.scale, made.minimum, None)
    assert torch.equal(got, weight.T)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_checkpoints_are_found(dtype: torch.dtype) -> None:
    weight = normal(64, 100).to(dtype).float()
    made = _kernels.compact_weight(weight)
    assert made is not None
    assert made.codes.dtype == dtype
    assert torch.equal(made.codes.float(), weight)


@pytest.mark.parametrize("form", [Q4_1, Q8_0, "bf16"])
def test_one_number_that_does_not_fit_keeps_float32(form: str) -> None:
    weight = normal(64, 64).bfloat16().float() if form == "bf16" else quantized(normal(64, 64), form)
    weight[-1, -1] = torch.nextafter(weight[-1, -1], torch.tensor(1.0))
    made = _kernels.compact_weight(weight)
    assert made is None or torch.equal(widen(made.codes, made.scale, made.minimum, 64), weight)


def test_weights_of_full_precision_are_left_alone() -> None:
    assert _kernels.compact_weight(normal(64, 64)) is None
    assert _kernels.compact_weight(normal(64, 64).double()) is None
    assert _kernels.compact_weight(torch.zeros(0, 4)) is None
    weight = normal(4, 64).bfloat16().float()
    weight[0, 0] = float("nan")
    assert _kernels.compact_weight(weight) is None


def test_zeros_constants_and_odd_lengths() -> None:
    for weight in (torch.zeros(3, 40), torch.full((3, 31), 0.5), normal(5, 41).bfloat16().float()):
        made = _kernels.compact_weight(weight)
        assert made is not None
        assert torch.equal(widen(made.codes, made.scale, made.minimum, weight.shape[1]), weight)
        x = torch.randn(3, weight.shape[1])
        got = torch.ops.deepseek.compact_linear(x, made.codes, made.scale, made.minimum, None)
        torch.testing.assert_close(got, x @ weight.T)
