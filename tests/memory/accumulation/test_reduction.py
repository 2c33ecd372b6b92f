"""Is a loss a mean or a sum, and over how many values? Read off the graph that autograd made."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepseek_lab.memory.accumulation.reduction import reduction_of

_LINEAR = nn.Linear(8, 5)
_X = torch.linspace(-1, 1, 48).view(6, 8)
_Y = torch.tensor([1, 2, -100, 4, 0, -100])
_SOFT = torch.full((6, 5), 0.2)
_MASK = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])


def _out() -> Tensor:
    out: Tensor = _LINEAR(_X)
    return out


_MEANS: dict[str, tuple[Callable[[], Tensor], float]] = {
    "labelled only": (lambda: F.cross_entropy(_out(), _Y), 4),
    "class weights": (
        lambda: F.cross_entropy(_out(), _Y, weight=torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])),
        11,
    ),
    "soft targets": (lambda: F.cross_entropy(_out(), _SOFT), 6),
    "squared": (lambda: F.mse_loss(_out(), _SOFT), 30),
    "absolute": (lambda: F.l1_loss(_out(), _SOFT), 30),
    "smooth": (lambda: F.smooth_l1_loss(_out(), _SOFT), 30),
    "binary": (lambda: F.binary_cross_entropy_with_logits(_out(), _SOFT), 30),
    "divergence": (lambda: F.kl_div(_out().log_softmax(1), _SOFT, reduction="batchmean"), 6),
    "by hand": (lambda: (_out() - _SOFT).pow(2).mean(), 30),
    "over a dimension": (lambda: _out().pow(2).sum(1).mean(-1), 6),
    "a sum over the batch's size": (lambda: _out().pow(2).sum() / 6, 6),
    "of what a mask leaves": (lambda: (_out().pow(2).sum(1) * _MASK).sum() / _MASK.sum(), 4),
    "scaled": (lambda: 0.25 * F.cross_entropy(_out(), _Y) * torch.tensor(3.0), 4),
    "with a penalty": (lambda: F.cross_entropy(_out(), _Y) + 0.01 * _LINEAR.weight.pow(2).sum(), 4),
    "in lower precision": (lambda: F.cross_entropy(_out().bfloat16(), _Y).float(), 4),
}


@pytest.mark.parametrize("name", _MEANS)
def test_a_mean_says_over_how_many_values_it_is(name: str) -> None:
    make, count = _MEANS[name]
    found = reduction_of(make())
    assert (found.kind, found.doubt) == ("mean", "")
    assert set(found.counts) == {count}
    assert found.weight(6) == count


@pytest.mark.parametrize(
    "make",
    [
        lambda: F.cross_entropy(_out(), _Y, reduction="sum"),
        lambda: F.mse_loss(_out(), _SOFT, reduction="sum"),
        lambda: _out().pow(2).sum(),
        lambda: _out().pow(2).mean(1).sum(),
        lambda: 3 * F.cross_entropy(_out(), _Y, reduction="none").sum(),
    ],
)
def test_a_sum_weighs_every_micro_batch_alike(make: Callable[[], Tensor]) -> None:
    found = reduction_of(make())
    assert (found.kind, found.doubt, found.weight(6)) == ("sum", "", 1.0)


def test_two_means_are_weighed_together_where_that_is_right() -> None:
    both = F.mse_loss(_out(), _SOFT) + F.cross_entropy(_out(), _SOFT)
    assert reduction_of(both).agrees(6)
    assert reduction_of(both).weight(6) == 6
    apart = F.mse_loss(_out(), _SOFT) + F.cross_entropy(_out(), _Y)
    assert not reduction_of(apart).agrees(6)


class _Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):  # type: ignore[no-untyped-def]
        return value.sum()

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        return gradient.expand(6, 5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: _Own.apply(_out()),
        lambda: _out().logsumexp((0, 1)),
        lambda: F.mse_loss(_out(), _SOFT) + _out().sum(),
        lambda: _out().pow(2).mean().sqrt(),
    ],
)
def test_what_cannot_be_seen_is_said_and_taken_for_a_mean_over_samples(make: Callable[[], Tensor]) -> None:
    found = reduction_of(make())
    assert found.doubt
    assert found.weight(6) == 6
