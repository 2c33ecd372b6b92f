"""Statistics of a tensor are those that torch gives of the same elements."""

from __future__ import annotations

import math

import pytest
import torch

from deepseek_lab.measure import values
from deepseek_lab.measure.values import statistics_of


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5, 2)])
def test_statistics_are_torchs(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = (torch.randn(shape) * 3 + 1).to(dtype)
    found, wide = statistics_of(tensor), tensor.double()
    assert found is not None
    assert found.mean == pytest.approx(float(wide.mean()), rel=1e-12, abs=1e-12)
    assert found.std == pytest.approx(float(wide.std(correction=0)), rel=1e-9, abs=1e-12)
    assert (found.largest, found.nonfinite) == (float(wide.abs().max()), 0.0)


def test_pieces_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.randn(50, 40).t() * 1e3
    tensor[3, 4] = math.inf
    whole = statistics_of(tensor)
    monkeypatch.setattr(values, "_PIECE", 7)
    pieces = statistics_of(tensor)
    assert whole is not None
    assert pieces is not None
    assert (pieces.mean, pieces.std) == pytest.approx((whole.mean, whole.std))
    assert (pieces.largest, pieces.nonfinite) == (whole.largest, whole.nonfinite)


def test_what_is_not_finite_is_counted_and_left_out() -> None:
    tensor = torch.tensor([1.0, 3.0, math.nan, math.inf, -math.inf])
    found = statistics_of(tensor)
    assert found is not None
    assert (found.mean, found.std, found.largest) == (2.0, 1.0, 3.0)
    assert found.nonfinite == pytest.approx(0.6)
    nothing = statistics_of(torch.full((4,), math.nan))
    assert nothing is not None
    assert math.isnan(nothing.mean)
    assert nothing.nonfinite == 1.0


def test_infinities_of_both_signs_do_not_cancel() -> None:
    found = statistics_of(torch.tensor([math.inf, -math.inf, 2.0]))
    assert found is not None
    assert (found.mean, found.largest) == (2.0, 2.0)


def test_other_tensors_have_none() -> None:
    for tensor in (torch.arange(3), torch.empty(0), torch.ones(2, dtype=torch.complex64)):
        assert statistics_of(tensor) is None
    assert statistics_of(torch.eye(2).to_sparse()) is None
