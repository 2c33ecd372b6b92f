from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deepseek_lab._kernels.contracts import exchange as meaning
from deepseek_lab._kernels.cpu import exchange, library

INF, NAN = float("inf"), float("nan")


def encoded(
    values: Tensor, error: Tensor | None, how: object = exchange
) -> tuple[Tensor, Tensor, Tensor | None]:
    codes = torch.empty(values.numel(), dtype=torch.int8)
    scale = torch.empty(-(-values.numel() // exchange.GROUP))
    error = None if error is None else error.clone()
    how.encode(values, error, codes, scale)  # type: ignore[attr-defined]
    return codes, scale, error


@pytest.fixture(params=["avx512", "avx2", "generic"])
def isa(request: pytest.FixtureRequest) -> object:
    if request.param not in library.isas():
        pytest.skip(f"this processor or build has no {request.param}")
    return library.force_isa(request.param)


@pytest.mark.parametrize("num", [1, 5, 255, 256, 257, 1000, 40_000])
@pytest.mark.parametrize("feeds_back", [False, True])
def test_kernels_agree_with_the_meaning(isa: library.force_isa, num: int, feeds_back: bool) -> None:  # type: ignore[valid-type]
    values, error = torch.randn(num) * 3, torch.randn(num) if feeds_back else None
    values[num // 2 :] *= 1e-3
    expected = encoded(values, error, meaning)
    with isa:  # type: ignore[attr-defined]
        codes, scale, left = encoded(values, error)
        out, added = torch.empty(num), torch.ones(num)
        exchange.decode(codes, scale, out)
        exchange.decode(codes, scale, added, add=True)
    # x * (127 / max) may round to either side where it is half-way
    assert (codes.int() - expected[0].int()).abs().max() <= 1
    assert (codes != expected[0]).float().mean() < 1e-3
    torch.testing.assert_close(scale, expected[1])
    total = values if error is None else values + error
    step = scale.repeat_interleave(exchange.GROUP)[:num]
    assert ((out - total).abs() <= step * 0.501).all()
    torch.testing.assert_close(added, out + 1)
    if left is not None:
        torch.testing.assert_close(out + left, total, rtol=1e-5, atol=1e-6)


def test_what_is_not_finite_stays_so(isa: library.force_isa) -> None:  # type: ignore[valid-type]
    values = torch.ones(1024)
    values[3], values[300], values[513] = INF, NAN, -INF
    with isa:  # type: ignore[attr-defined]
        for how in (exchange, meaning):
            codes, scale, left = encoded(values, torch.zeros(1024), how)
            out = torch.empty(1024)
            exchange.decode(codes, scale, out)
            assert out[:256].isinf().all()
            assert out[256:512].isnan().all()
            assert out[512:768].isinf().all()
            assert torch.equal(out[768:], torch.ones(256))
            assert left is not None
            assert left.isfinite().all()


def test_next_to_nothing_is_zero(isa: library.force_isa) -> None:  # type: ignore[valid-type]
    values = torch.full((300,), 1e-35)
    values[256:] = 0
    with isa:  # type: ignore[attr-defined]
        codes, scale, left = encoded(values, torch.zeros(300))
    assert not codes.any()
    assert not scale.any()
    assert left is not None
    assert torch.equal(left, values)


def test_what_is_left_out_comes_the_next_times() -> None:
    """The mean of what was sent tends to the value, however coarse the codes are."""
    value, error, total = (
        torch.rand(512) + torch.tensor([0.0, 500.0]).repeat(256),
        torch.zeros(512),
        torch.zeros(512),
    )
    for _ in range(200):
        codes, scale, left = encoded(value, error)
        assert left is not None
        error = left
        exchange.decode(codes, scale, total, add=True)
    torch.testing.assert_close(total / 200, value, rtol=0, atol=0.02)


def test_tensors_that_are_not_contiguous_and_no_library() -> None:
    values = torch.randn(600)
    expected = encoded(values, None, meaning)
    with library.force_isa(None):
        codes, scale, _ = encoded(values, None)
    assert torch.equal(codes, expected[0])
    strided = torch.stack([values, values], 1)[:, 0]
    codes, scale, _ = encoded(strided, None)
    assert torch.equal(codes, expected[0])
    torch.testing.assert_close(scale, expected[1])
