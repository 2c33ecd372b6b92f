"""AdamW's moments in a byte a value: it trains as the exact one does, and the optimiser stays the user's."""

from __future__ import annotations

import copy
import io
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import deepseek_lab
from deepseek_lab.memory.eight_bit import MOMENTS, EightBit, QuantisedState
from deepseek_lab.memory.limit import MemoryLimitError
from deepseek_lab.memory.meter import unique_bytes
from deepseek_lab.memory.optimizers import not_eight_bit
from tests.memory.models import make

ALLOW = ("8bit-optimizer",)


class Digits(nn.Module):
    """A classifier of scanned digits, 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU())
        self.head = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x))


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    found: Any = load_digits()
    return torch.tensor(found.data, dtype=torch.float32) / 16, torch.tensor(found.target)


def trained(
    digits: tuple[Tensor, Tensor], seed: int, limit: str | None = None, steps: int = 150
) -> tuple[float, float, Any, nn.Module, torch.optim.Optimizer]:
    """Loss and accuracy on digits that were not trained with, and the run."""
    torch.manual_seed(seed)
    model = Digits()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    run = deepseek_lab.memory_limit(model, limit, allow=ALLOW) if limit else None
    images, labels = digits
    for _ in range(steps):
        rows = torch.randint(0, 1400, (64,))
        optimizer.zero_grad()
        F.cross_entropy(model(images[rows]), labels[rows]).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        scores = model(images[1400:])
        loss = float(F.cross_entropy(scores, labels[1400:]))
        right = float((scores.argmax(1) == labels[1400:]).float().mean())
    return loss, right, run, model, optimizer


def test_it_converges_as_the_exact_one_does(digits: tuple[Tensor, Tensor]) -> None:
    """Within the spread of seeds, on digits that neither has seen."""
    exact = [trained(digits, seed)[:2] for seed in range(3)]
    ours = []
    for seed in range(3):
        loss, right, run, _, optimizer = trained(digits, seed, "1350KiB")
        assert all(isinstance(state, QuantisedState) for state in optimizer.state.values())
        run.restore()
        ours.append((loss, right))
    print("held-out loss and accuracy, exact", exact, "8 bits", ours)
    losses = [loss for loss, _ in exact]
    spread = max(losses) - min(losses)
    assert abs(sum(loss for loss, _ in ours) / 3 - sum(losses) / 3) <= max(spread, 0.05 * max(losses))
    assert min(right for _, right in ours) >= min(right for _, right in exact) - 0.02


def test_a_limit_that_only_8_bits_keep(digits: tuple[Tensor, Tensor]) -> None:
    """It is refused with the word that would do, and kept once that is allowed, from the first step on."""
    model = make(Digits)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    images, labels = digits[0][:16], digits[1][:16]

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    own = unique_bytes(model.parameters())
    limit = int(4.0 * own)  # weights and gradients are two, exact moments two more
    run = deepseek_lab.memory_limit(model, f"{limit}B")
    with pytest.raises(MemoryLimitError, match="more than the limit") as caught:
        step()
    assert "--allow 8bit-optimizer, which holds" in str(caught.value)
    run.restore()
    run = deepseek_lab.memory_limit(model, f"{limit}B", allow=ALLOW)
    for _ in range(6):
        step()
        run.wait()
    row = next(iter(run.report.rows.values()))
    assert row.planned.fits
    assert "AdamW's moments in 8 bits" in [one.action for one in row.planned.steps]
    assert row.measured.peak_bytes <= limit
    assert abs(row.measured.peak_bytes / row.planned.predicted_bytes - 1) < 0.08
    run.restore()


def test_it_is_not_taken_where_an_exact_plan_fits(digits: tuple[Tensor, Tensor]) -> None:
    *_, run, _, optimizer = trained(digits, 0, "64MiB", steps=6)
    assert not any(isinstance(state, QuantisedState) for state in optimizer.state.values())
    run.restore()


def adopted() -> tuple[nn.Linear, torch.optim.AdamW, EightBit]:
    torch.manual_seed(0)
    model = nn.Linear(512, 256)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(8, 512)).square().mean().backward()
        optimizer.step()
    return model, optimizer, EightBit(optimizer)


def close(found: Tensor, expected: Tensor) -> None:
    """To what a byte a value can say: a share of the largest of its block."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert float((found - expected).abs().max()) <= 0.02 * float(expected.abs().max())


@pytest.mark.parametrize(
    "see",
    [
        lambda optimizer: optimizer.state_dict()["state"][0],
        lambda optimizer: optimizer.state[optimizer.param_groups[0]["params"][0]],
        lambda optimizer: next(iter(copy.deepcopy(optimizer).state.values())),
        lambda optimizer: saved(optimizer.state_dict())["state"][0],
    ],
    ids=["state_dict", "state", "copy", "file"],
)
def test_who_looks_finds_ordinary_tensors(see: Callable[[torch.optim.Optimizer], Any]) -> None:
    _, optimizer, eight = adopted()
    before = {name: value.clone() for name, value in optimizer.state_dict()["state"][0].items()}
    eight.install()
    state = see(optimizer)
    assert set(state.keys()) == set(before)
    assert torch.equal(state["step"], before["step"])
    for name in MOMENTS:
        assert type(state[name]) is Tensor
        close(state[name], before[name])


def saved(value: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer)  # weights only: nothing of ours is in the file


def test_a_state_that_is_loaded_is_quantised_again_and_restored_as_it_is() -> None:
    model, optimizer, eight = adopted()
    exact = copy.deepcopy(optimizer.state_dict())
    eight.install()
    optimizer.load_state_dict(exact)
    assert all(isinstance(state, QuantisedState) for state in optimizer.state.values())
    held = sum(one.numel() * one.element_size() for one in eight.held())
    assert held < 0.4 * sum(
        one.numel() * 4 for state in exact["state"].values() for name, one in state.items() if name in MOMENTS
    )
    eight.restore()
    assert all(type(state) is dict for state in optimizer.state.values())
    close(optimizer.state[model.weight]["exp_avg"], exact["state"][0]["exp_avg"])
    assert not optimizer._optimizer_state_dict_post_hooks
    assert not optimizer._optimizer_load_state_dict_post_hooks


def test_gradients_are_there_again_after_the_step() -> None:
    model, optimizer, eight = adopted()
    eight.install()
    optimizer.zero_grad()
    model(torch.randn(8, 512)).sum().backward()
    gradient, weight = model.weight.grad.clone(), model.weight.detach().clone()
    eight.step_begins()
    assert model.weight.grad is None
    optimizer.step()
    eight.step_ended()
    assert torch.equal(model.weight.grad, gradient)
    assert not torch.equal(model.weight, weight)
    assert float(optimizer.state[model.weight]["step"]) == 4


@pytest.mark.parametrize(
    ("make_optimizer", "reason"),
    [
        (lambda weights: torch.optim.SGD(weights, 0.1), "SGD is no AdamW"),
        (lambda weights: torch.optim.Adam(weights, 0.1, weight_decay=0.1), "Adam is no AdamW"),
        (lambda weights: torch.optim.AdamW(weights, 0.1, amsgrad=True), "made with amsgrad=True"),
        (lambda weights: torch.optim.AdamW(weights, 0.1, fused=True), "made with fused=True"),
    ],
)
def test_other_optimisers_are_named(make_optimizer: Any, reason: str) -> None:
    assert reason in not_eight_bit(make_optimizer(list(nn.Linear(4, 4).parameters())))
    assert not_eight_bit(torch.optim.Adam(nn.Linear(4, 4).parameters())) == ""


def test_a_refusal_names_the_batch_that_would_do(digits: tuple[Tensor, Tensor]) -> None:
    model = make(lambda: nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 10)))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    images, labels = digits[0][:1024], digits[1][:1024]
    run = deepseek_lab.memory_limit(model, "300KiB")
    with pytest.raises(MemoryLimitError, match="more than the limit") as caught:
        F.cross_entropy(model(images), labels).backward()
    hint = str(caught.value)
    assert " instead of 1024, which hold" in hint
    assert "8bit" not in hint
    count = int(hint.partition("batches of ")[2].split()[0])
    for _ in range(6):
        optimizer.zero_grad()
        F.cross_entropy(model(images[:count]), labels[:count]).backward()
        optimizer.step()
        run.wait()
    row = next(iter(run.report.rows.values()))
    assert row.measured.peak_bytes <= 300 * 1024 or not row.planned.fits
    run.restore()


def test_a_step_that_fails_in_the_middle_is_finished_by_the_optimiser_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, optimizer, eight = adopted()
    other = nn.Linear(512, 256)
    other.load_state_dict(model.state_dict())
    eight.install()
    optimizer.zero_grad()
    model(torch.randn(8, 512)).sum().backward()
    update, bias = eight.update, model.bias.detach().clone()

    def failing(weight: Tensor, group: Any) -> None:
        if weight is model.bias:
            raise MemoryError
        update(weight, group)

    monkeypatch.setattr(eight, "update", failing)
    with pytest.raises(MemoryError):
        eight.step_begins()
    weight = model.weight.detach().clone()
    optimizer.step()
    eight.step_ended()
    assert torch.equal(model.weight, weight)  # it had taken its step
    assert not torch.equal(model.bias, bias)
    assert [float(state["step"]) for state in optimizer.state.values()] == [4, 4]
    assert all(type(state) is dict for state in optimizer.state.values())


def test_steps_without_the_limit_keep_their_moments(digits: tuple[Tensor, Tensor]) -> None:
    """A pause compares with eager; what AdamW remembers goes on."""
    *_, run, model, optimizer = trained(digits, 0, "1350KiB", steps=6)
    model.train()
    before = optimizer.state[model.head.weight]["exp_avg"].clone()
    with run.paused():
        optimizer.zero_grad()
        F.cross_entropy(model(digits[0][:64]), digits[1][:64]).backward()
        optimizer.step()
    after = optimizer.state[model.head.weight]["exp_avg"]
    assert not torch.equal(before, after)
    close(after, before.lerp(model.head.weight.grad, 0.1))
    run.restore()


def test_an_interrupt_waits_for_the_end_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer, eight = adopted()
    eight.install()
    optimizer.zero_grad()
    model(torch.randn(8, 512)).sum().backward()
    update, before = eight.update, [one.detach().clone() for one in model.parameters()]

    def interrupted(weight: Tensor, group: Any) -> None:
        if weight is model.weight:
            os.kill(os.getpid(), signal.SIGINT)
        update(weight, group)

    monkeypatch.setattr(eight, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        eight.step_begins()
    eight.step_ended()
    assert not any(torch.equal(one, old) for one, old in zip(model.parameters(), before, strict=True))
    assert [float(state["step"]) for state in optimizer.state.values()] == [4, 4]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
