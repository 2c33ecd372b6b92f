"""What a step costs that is not looked at, in calls and frames and not by a clock; and that it counts."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deepseek_lab.inspector import budget, curves, losses, probes
from deepseek_lab.inspector.api import Inspect, inspect
from deepseek_lab.inspector.budget import FIRST, FIXED_S, Budget
from deepseek_lab.inspector.watch import Watch
from tests.inspector import data
from tests.inspector.models import mlp

NEVER = 1e-9


def _inspect(share: float = NEVER) -> Inspect:
    """After the first samples none is taken."""
    return inspect(found=lambda finding: None, share=share)


class Deep(nn.Module):
    """How many frames of Python are above it is what is between a call and forward."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(64))
        self.depths: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        frame, depth = sys._getframe(), 0
        while frame.f_back is not None:
            frame, depth = frame.f_back, depth + 1
        self.depths.append(depth)
        return x * self.weight


def _train(model: nn.Module, steps: int, poison: int = -1) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for step, (x, y) in zip(range(steps), data.batches(data.digits(), 32), strict=False):
        if step == poison:
            x = x.clone()
            x[3] = float("nan")
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_nothing_stands_between_inner_modules_in_a_step_that_is_not_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(budget, "ALLOWANCE_S", 0.0)
    model = nn.Sequential(Deep(), nn.Sequential(Deep()), mlp())
    _train(model, 1)
    plain = [one.depths.pop() for one in model.modules() if isinstance(one, Deep)]
    with _inspect() as seen:
        _train(model, FIRST + 8)
    watched = [one.depths[-1] for one in model.modules() if isinstance(one, Deep)]
    # The model's own call is seen, in one more frame; those inside of it are PyTorch's alone.
    assert [one - other for one, other in zip(watched, plain, strict=True)] == [1, 1]
    assert seen.report.num_samples == FIRST
    looked_at = [one.depths[0] for one in model.modules() if isinstance(one, Deep)]
    assert looked_at > watched  # a step that is looked at has one more for each module


def test_a_step_that_is_not_looked_at_asks_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No loss function is described, the budget is not asked, and gradients are looked at in every sixteenth step."""
    monkeypatch.setattr(budget, "ALLOWANCE_S", 0.0)
    counts = {"calls": 0, "asked": 0, "probes": 0, "judged": 0, "steps": 0}

    def count(owner: Any, name: str, key: str) -> None:
        original = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            counts[key] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    count(losses, "_call", "calls")
    count(Budget, "allows", "asked")
    count(probes, "_sum", "probes")
    count(curves.Curves, "judge", "judged")
    count(Watch, "step_ended", "steps")
    steps = 320
    with _inspect():
        _train(mlp(), steps)
    assert counts["steps"] == steps
    assert counts["calls"] <= FIRST
    assert counts["asked"] <= FIRST + 8 + steps // 16
    assert counts["probes"] <= 8 + steps // 16
    assert counts["judged"] <= 3  # in a step of its own, once more when it is closed


@pytest.mark.parametrize("step", [5, 37, 60])
def test_nan_is_on_its_step_although_that_was_not_looked_at(step: int) -> None:
    with _inspect() as seen:
        _train(mlp(), 64, poison=step)
    assert [(one.kind, one.since) for one in seen.findings if one.kind in ("input", "nonfinite")] == [
        ("input", step)
    ]


def test_a_loss_function_is_known_by_its_graph_where_its_call_was_not_seen() -> None:
    logits = torch.randn(8, 5, requires_grad=True)
    y = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])
    found = losses.call_in_graph(3 * nn.functional.cross_entropy(logits, y, ignore_index=2))
    assert found is not None
    call, (prediction, target) = found
    assert (call.name, call.ignore_index, call.is_classes) == ("cross_entropy", 2, True)
    assert torch.equal(target, y)
    assert torch.equal(prediction, logits.log_softmax(-1))
    two = nn.functional.cross_entropy(logits, y) + nn.functional.mse_loss(logits, logits.detach() + 1)
    assert losses.call_in_graph(two) is None
    assert losses.call_in_graph(logits.sum()) is None


def test_the_users_hooks_are_not_asked_for_what_autograd_keeps() -> None:
    asked: list[Tensor] = []
    logits, y = torch.randn(8, 5, requires_grad=True), torch.zeros(8, dtype=torch.long)

    def unpack(kept: Tensor) -> Tensor:
        asked.append(kept)
        return kept

    with torch.autograd.graph.saved_tensors_hooks(lambda one: one, unpack):
        assert losses.call_in_graph(nn.functional.cross_entropy(logits, y)) is None
    assert not asked


def test_what_every_step_costs_is_taken_off_what_samples_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that the test sets: steps of a third of a millisecond, samples of one."""
    now = 0.0
    monkeypatch.setattr(budget, "time", types.SimpleNamespace(perf_counter=lambda: now))

    def share_of(step_s: float) -> float:
        nonlocal now
        now = 0.0
        made, steps = Budget(), int(60 / step_s)
        for _ in range(steps):
            now += step_s
            if made.rest:
                made.rest -= 1
            elif made.allows():
                now += 1e-3
                made.add(1e-3)
        return made.spent_s / now

    short, long = share_of(3.3e-4), share_of(0.005)
    assert 0.25 * budget.SHARE * 0.8 < short < 0.35 * budget.SHARE
    assert 0.85 * budget.SHARE < long <= 1.05 * budget.SHARE
    assert FIXED_S / 3.3e-4 > budget.SHARE
