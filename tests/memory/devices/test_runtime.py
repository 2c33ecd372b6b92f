"""What plans run: the optimizer, the loss in chunks, recomputation, on real tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from deepseek_lab.memory.devices.runtime.adamw8bit import (
    AdamW8bit,
    _nearest_codes,
    _place,
    dynamic_map,
)
from deepseek_lab.memory.devices.runtime.loss import LinearCrossEntropy, WithLoss
from deepseek_lab.memory.devices.runtime.shard import recompute, step_in_backward
from tests.memory.devices.models import gpt

Make = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Many operators on few values: a second thread would only wait."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _trained(make: Make, dtype: torch.dtype, seed: int) -> float:
    """Final loss of a network that learns a random linear map: the mean of the last 20 of 200 steps."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(32, 257), nn.ReLU(), nn.Linear(257, 32)).to(dtype)
    target = nn.Linear(32, 32)
    optimizer = make(model.parameters())
    losses = []
    for _ in range(200):
        inputs = torch.randn(64, 32)
        wanted = target(inputs).detach()
        loss = (model(inputs.to(dtype)).float() - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses[-20:]) / 20


@pytest.fixture(scope="module")
def exact() -> list[float]:
    """Final losses with PyTorch's AdamW in float32, by seed."""
    return [_trained(lambda p: torch.optim.AdamW(p, 1e-3), torch.float32, seed) for seed in range(3)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_8_bit_moments_converge_as_32_bit_ones_do(dtype: torch.dtype, exact: list[float]) -> None:
    """bfloat16 parameters too, because they are rounded stochastically: within the spread of float32 seeds."""
    ours = [_trained(lambda p: AdamW8bit(p, 1e-3), dtype, seed) for seed in range(3)]
    spread = max(exact) - min(exact)
    assert sum(ours) / 3 <= max(exact) + spread
    assert sum(ours) / 3 >= min(exact) - spread


def test_without_stochastic_rounding_small_updates_are_lost() -> None:
    """Steps of 1e-4 on weights near 1, where bfloat16 is 2**-8 apart."""

    def moved(make: Make) -> float:
        weight = nn.Parameter(torch.ones(4096, dtype=torch.bfloat16))
        optimizer = make([weight])
        for _ in range(100):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        return 1 - weight.float().mean().item()

    assert moved(lambda p: torch.optim.AdamW(p, 1e-4, weight_decay=0)) == 0
    assert moved(lambda p: AdamW8bit(p, 1e-4, weight_decay=0)) == pytest.approx(0.01, rel=0.1)


def test_small_parameters_follow_adamw_exactly() -> None:
    ours, theirs = (nn.Linear(16, 16) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    optimizers = AdamW8bit(ours.parameters(), 1e-2), torch.optim.AdamW(theirs.parameters(), 1e-2)
    for _ in range(20):
        inputs = torch.randn(8, 16)
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            model(inputs).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-5, atol=1e-6)


def test_moments_take_a_byte_each_and_survive_a_state_dict() -> None:
    def fresh() -> tuple[nn.Parameter, AdamW8bit]:
        weight = nn.Parameter(torch.arange(10_000.0).sin())
        return weight, AdamW8bit([weight], 1e-2, slab=4096)

    def step(weight: nn.Parameter, optimizer: AdamW8bit, number: int) -> None:
        weight.grad = torch.cos(weight.detach() * (number + 1))
        optimizer.step()

    first, optimizer = fresh()
    for number in range(5):
        step(first, optimizer, number)
    state = optimizer.state[first]
    held = sum(
        value.numel() * value.element_size() for value in state.values() if isinstance(value, torch.Tensor)
    )
    assert held <= 2.04 * 10_000
    second, other = fresh()
    second.data.copy_(first.data)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert other.state[second]["exp_avg"].dtype == torch.uint8
    for number in range(5, 8):
        step(first, optimizer, number)
        step(second, other, number)
    assert torch.equal(first, second)


@pytest.mark.parametrize("signed", [True, False])
def test_the_map_is_that_of_the_paper(signed: bool) -> None:
    values = dynamic_map(signed)
    assert len(set(values.tolist())) == 256
    assert torch.equal(values, values.sort().values)
    assert values.max() == 1
    assert bool(values.min() < 0) == signed
    assert 0.0 in values
    assert values[values > 0].min() < 1e-6


def test_channels_last_parameters() -> None:
    conv = nn.Conv2d(32, 64, 3).to(memory_format=torch.channels_last)
    twin = copy.deepcopy(conv)
    optimizers = AdamW8bit(conv.parameters(), 1e-2), torch.optim.AdamW(twin.parameters(), 1e-2)
    image = torch.randn(2, 32, 8, 8)
    for model, optimizer in zip((conv, twin), optimizers, strict=True):
        model(image).square().mean().backward()
        model.weight.grad = model.weight.grad.contiguous()
        optimizer.step()
    torch.testing.assert_close(conv.weight, twin.weight, rtol=0, atol=2e-4)


@pytest.mark.parametrize("chunk", [1, 33, 100, 1000])
def test_loss_in_chunks_is_the_loss(chunk: int) -> None:
    hidden, weight = torch.randn(100, 32, requires_grad=True), torch.randn(50, 32, requires_grad=True)
    labels = torch.randint(50, (100,))
    labels[::7] = -100
    ours = LinearCrossEntropy.apply(hidden, weight, labels, chunk)
    plain = functional.cross_entropy(hidden @ weight.T, labels)
    torch.testing.assert_close(ours, plain)
    for one, other in zip(
        torch.autograd.grad(3 * ours, (hidden, weight)),
        torch.autograd.grad(3 * plain, (hidden, weight)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def _gradients(change: Callable[[nn.Module], Any], chunk: int = 0) -> tuple[float, list[torch.Tensor]]:
    torch.manual_seed(0)
    model = gpt(3, 128, device="cpu")
    change(model)
    training = WithLoss(model, "next-token", "lm_head", chunk)
    ids = torch.randint(1000, (2, 64))
    loss = training(ids, input_ids=ids, use_cache=False)
    loss.backward()
    return loss.item(), [each.grad for each in model.parameters() if each.grad is not None]


@pytest.mark.parametrize("how", ["selective", "full"])
def test_recomputation_changes_nothing(how: str) -> None:
    loss, gradients = _gradients(lambda model: None)
    again, recomputed = _gradients(lambda model: [recompute(block, how) for block in model.transformer.h])
    assert loss == again
    assert len(gradients) == len(recomputed)
    assert all(torch.equal(one, other) for one, other in zip(gradients, recomputed, strict=True))


def test_a_model_with_its_loss_in_chunks_has_the_same_gradients() -> None:
    loss, gradients = _gradients(lambda model: None)
    again, chunked = _gradients(lambda model: None, chunk=37)
    assert again == pytest.approx(loss, rel=1e-6)
    for one, other in zip(gradients, chunked, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_step_inside_backward_is_the_same_step() -> None:
    plain, ours = (nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 4)) for _ in range(2))
    ours.load_state_dict(plain.state_dict())
    optimizer = torch.optim.AdamW(plain.parameters(), 1e-2)
    step_in_backward(ours.parameters(), lambda some: torch.optim.AdamW(some, 1e-2))
    for _ in range(5):
        inputs = torch.randn(8, 16)
        optimizer.zero_grad()
        plain(inputs).square().mean().backward()
        optimizer.step()
        ours(inputs).square().mean().backward()
        assert all(each.grad is None for each in ours.parameters())
    for one, other in zip(plain.parameters(), ours.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("signed", [True, False])
def test_the_table_finds_the_nearest_code(signed: bool) -> None:
    """But for values nearer to the border of two codes than a thousandth of themselves."""
    generator = torch.Generator().manual_seed(0)
    values, small = dynamic_map(signed), torch.rand(50_000, generator=generator)
    shares = torch.cat(
        [torch.randn(50_000, generator=generator) / 4, 10 ** (-9 * small), torch.tensor([0.0, 1.0, 1e-38])]
    ).clamp(-1, 1)
    shares = shares if signed else shares.abs()
    codes = _nearest_codes(values)[_place(shares).long()].long()
    best = torch.bucketize(shares, (values[1:] + values[:-1]) / 2)
    further = (values[codes] - shares).abs() - (values[best] - shares).abs()
    assert float((further / shares.abs().clamp_min(1e-9)).max()) < 1e-3
    assert values[codes[-3:]].tolist() == [0.0, 1.0, 0.0]
