"""The loss of a loop, recorded while it is computed, is the same function of other results."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepseek_lab.engine import allocator, wire
from deepseek_lab.engine.training.tape import MAX_OPERATIONS, Loss, LossTape

LABELS = torch.tensor([1, 0, 2, 1])
WEIGHT = nn.Parameter(torch.tensor([0.3, 0.2, 0.5]))
HIDDEN = torch.linspace(-1, 1, 12).reshape(4, 3)


def recorded(compute: Callable[[Tensor, Tensor], Tensor], *, backward: bool = True) -> list[Loss | None]:
    """What a tape says of a loss of two results."""
    found: list[Loss | None] = []
    one, other = (torch.randn(4, 3, requires_grad=True) for _ in range(2))
    results = (one * 1.0, other * 1.0)
    tape = LossTape(results, found.append)
    assert tape.start()
    try:
        loss = compute(*results)
        if backward:
            loss.backward()
    finally:
        tape.stop()
    assert torch.overrides._get_current_function_mode() is None
    return found


def custom(one: Tensor, other: Tensor) -> Tensor:
    """A loss by hand."""
    picked = one.log_softmax(-1).gather(1, LABELS[:, None]).squeeze(1)
    return -(picked * WEIGHT.detach()[LABELS]).mean() + 0.1 * other.T[0].abs().sum()


def in_place(one: Tensor, other: Tensor) -> Tensor:
    """A loss that writes into what it computed."""
    scores = one * 2.0
    scores[:, 0] = 0.0
    scores.clamp_(min=-1.0)
    return scores.square().sum()


def with_metrics(one: Tensor, other: Tensor) -> Tensor:
    """A loss beside which other things are computed."""
    loss = F.cross_entropy(one, LABELS)
    with torch.no_grad():
        accuracy = (one.argmax(-1) == LABELS).float().mean().item()
        _ = f"{accuracy:.2f} {other.shape}"
    largest = torch.max(one, dim=1)
    return loss + 0.01 * largest.values.sum()


LOSSES: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda one, other: F.cross_entropy(one, LABELS, label_smoothing=0.1),
    lambda one, other: nn.CrossEntropyLoss(weight=WEIGHT.detach())(one, LABELS),
    lambda one, other: F.mse_loss(one, other) + WEIGHT.square().sum(),
    lambda one, other: torch.stack([one[:2].sum(), other[..., 1:].mean()]).logsumexp(0),
    lambda one, other: F.kl_div(one.log_softmax(-1), other.softmax(-1), reduction="batchmean"),
    custom,
    in_place,
    with_metrics,
]


@pytest.mark.parametrize("compute", LOSSES)
def test_recorded_loss_is_the_same_function(compute: Callable[[Tensor, Tensor], Tensor]) -> None:
    (loss,) = recorded(compute)
    assert loss is not None
    travelled = wire.from_bytes(pickle.loads(pickle.dumps(wire.to_bytes(loss.graph))))
    again = Loss(travelled, loss.used, loss.extras, loss.value)
    for _ in range(2):
        results = [torch.randn(4, 3, requires_grad=True) for _ in range(2)]
        expected = compute(*(one * 1.0 for one in results))
        found = again.of([one * 1.0 for one in results], again.extras)
        assert torch.allclose(found, expected)
        for got, wanted in zip(
            torch.autograd.grad(found, results, allow_unused=True),
            torch.autograd.grad(expected, results, allow_unused=True),
            strict=True,
        ):
            assert (got is None) == (wanted is None)
            assert got is None or wanted is None or torch.allclose(got, wanted)


def test_metrics_are_not_part_of_it() -> None:
    (loss,) = recorded(with_metrics)
    assert loss is not None
    names = {getattr(node.target, "__name__", "") for node in loss.graph.graph.nodes}
    assert "cross_entropy" in names
    assert "argmax" not in names


class Outside(torch.autograd.Function):
    """What a tape does not see."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 3

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * 3


@pytest.mark.parametrize(
    "compute",
    [
        lambda one, other: Outside.apply(one).sum(),
        lambda one, other: sum((one[0] * k).sum() for k in range(MAX_OPERATIONS)),
        lambda one, other: torch.nn.functional.embedding(LABELS, HIDDEN.requires_grad_()).sum(),
    ],
    ids=["a function of one's own", "endless", "of something else"],
)
def test_what_cannot_be_recorded_is_none(compute: Callable[[Tensor, Tensor], Tensor]) -> None:
    assert recorded(compute) == [None]


def test_a_gradient_that_is_given_is_no_loss() -> None:
    found: list[Loss | None] = []
    result = torch.randn(3, requires_grad=True) * 1.0
    tape = LossTape([result], found.append)
    tape.start()
    (result * 2).backward(torch.ones(3))
    tape.stop()
    assert found == [None]


def test_without_a_backward_pass_nothing_is_told_and_nothing_stays() -> None:
    assert recorded(LOSSES[0], backward=False) == []


def test_under_a_mode_of_the_users_it_does_not_start() -> None:
    with torch.device("cpu"):
        assert not LossTape([torch.ones(1, requires_grad=True) * 1], lambda loss: None).start()
        assert torch.ones(1).sum() == 1


def test_a_mode_that_the_user_enters_meanwhile_leaves_as_ever() -> None:
    found: list[Loss | None] = []
    result = torch.randn(3, requires_grad=True) * 1.0
    tape = LossTape([result], found.append)
    tape.start()
    with torch.device("cpu"):
        loss = result.sum()
        tape.stop()
        loss.backward()
    assert not tape.recording
    assert found == []
    tape.stop()
    assert torch.overrides._get_current_function_mode() is None


def test_results_are_not_kept_after_the_backward_pass() -> None:
    import weakref

    found: list[Loss | None] = []
    result = torch.randn(1000, requires_grad=True) * 1.0
    tape = LossTape([result], found.append)
    tape.start()
    result.sum().backward()
    gone = weakref.ref(result)
    del result
    gc.collect()
    assert gone() is None
    tape.stop()


def test_kept_memory_costs_no_page_faults_and_is_given_back() -> None:
    import resource

    if not allocator.available():
        pytest.skip("the C library is not glibc")

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        blocks = [torch.ones(2 << 20) for _ in range(40)]  # 8 MiB each
        del blocks
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    try:
        allocator.keep(False)
        faults()
        usual = faults()
        allocator.keep(True)
        faults()
        kept, held = faults(), resident()
    finally:
        allocator.give_back()
    assert usual > 100  # 320 MiB; how much a fault brings, a page, some, or 2 MiB, is the kernel's choice
    assert kept < usual / 20
    assert held - resident() > 200 << 20
