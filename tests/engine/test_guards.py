"""The weight guard sees every way in which a tensor's values can become others, and nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from deepseek_lab import _kernels
from deepseek_lab.engine.guards import WeightGuard


@pytest.fixture(autouse=True, params=["compiled", "plain"])
def _reads(request: pytest.FixtureRequest) -> Iterator[None]:
    """Words are read by our library, and where it was not compiled by Python."""
    assert _kernels.load().available
    with _kernels.force_isa(None) if request.param == "plain" else contextlib.nullcontext():
        yield


CHANGES: dict[str, Callable[[Tensor], object]] = {
    "in place": lambda t: t.add_(1),
    "through data": lambda t: t.data.mul_(3),
    "through a detached view": lambda t: t.detach().fill_(2),
    "through numpy": lambda t: t.detach().numpy().__setitem__(..., 9),
    "a copy": lambda t: t.copy_(torch.full_like(t, 5)),
    "new storage": lambda t: setattr(t, "data", torch.full_like(t, 5)),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (7, 5), (64, 64)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.int64, torch.int8])
def test_change_is_seen(change: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    weight = (torch.rand(shape) * 50 + 10).to(dtype)
    other = torch.ones(4)
    guard = WeightGuard([other, weight])
    assert guard.changed([other, weight]) is None
    with torch.no_grad():
        CHANGES[change](weight)
    assert guard.changed([other, weight]) is not None
    assert WeightGuard([other, weight]).changed([other, weight]) is None


@pytest.mark.parametrize("shape", [(), (4, 4)])
def test_bfloat16_changed_through_data(shape: tuple[int, ...]) -> None:
    weight = torch.ones(shape, dtype=torch.bfloat16)
    guard = WeightGuard([weight])
    weight.data.mul_(2)
    assert guard.changed([weight]) is not None


def test_another_object_with_the_same_values_is_a_change() -> None:
    weight = torch.ones(3)
    guard = WeightGuard([weight])
    assert guard.changed([weight.clone()]) == "weight 0 was replaced"
    assert guard.changed([weight.view_as(weight)]) is not None


def test_use_is_no_change() -> None:
    weight = nn.Parameter(torch.randn(8, 8))
    guard = WeightGuard([weight])
    loss = (weight @ weight).sum()
    loss.backward()
    _ = weight.detach().numpy().copy(), weight.t().contiguous(), weight.data_ptr()
    weight.grad = None
    weight.requires_grad_(False)
    assert guard.changed([weight]) is None


@pytest.mark.parametrize(
    "weight",
    [
        torch.empty(0),
        torch.empty(3, 0),
        torch.randn(6, 4)[::2, 1:3],
        torch.randn(4, 6).t(),
        torch.randn(1).expand(5),
        torch.randn(9)[1:],
        torch.zeros(3, dtype=torch.bool),
    ],
    ids=["empty", "no columns", "strided", "transposed", "expanded", "offset", "boolean"],
)
def test_odd_layouts_are_watched_without_a_crash(weight: Tensor) -> None:
    guard = WeightGuard([weight])
    assert guard.changed([weight]) is None


def test_last_element_of_a_strided_weight_is_watched() -> None:
    base = torch.zeros(6, 4)
    weight = base[::2, 1:3]
    guard = WeightGuard([weight])
    weight.data[-1, -1] = 1.0
    assert guard.changed([weight]) is not None


def test_weights_made_in_inference_mode() -> None:
    with torch.inference_mode():
        weight = torch.ones(5)
    guard = WeightGuard([weight])
    assert guard.changed([weight]) is None
    with torch.inference_mode():
        weight.mul_(2)
    assert guard.changed([weight]) is not None
