"""Gradients in float16: as large as they are, whatever float16 can hold, and no step lost."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import deepseek_lab
from deepseek_lab.engine.training import scaling
from deepseek_lab.engine.training.scaling import FIRST_SCALE, Scaled
from deepseek_lab.engine.training.ways import Way
from tests.engine.functional import Functional, gradients
from tests.engine.test_training import train_until, use


@pytest.fixture
def plain() -> Functional:
    return Functional(nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.Dropout(0.2), nn.Linear(32, 4)))


def low(plain: Functional) -> scaling.Program:
    def run(arguments: Sequence[Tensor]) -> tuple[Tensor, ...]:
        with torch.autocast("cpu", dtype=torch.float16):
            return tuple(one.float() for one in plain(arguments))

    return run


def stepped(run: scaling.Program, plain: Functional, factor: float) -> list[Tensor]:
    torch.manual_seed(0)
    arguments = plain.arguments(torch.randn(64, 16))
    (run(arguments)[0].mean() * factor).backward()
    return arguments


def scaled(plain: Functional) -> Scaled:
    return Scaled(low(plain), plain, range(len(plain.names)))


def near(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Gradients together as in float32 to what float16 rounds, buffers too."""
    pairs = [
        (one, other)
        for one, other in zip(gradients(found), gradients(expected), strict=True)
        if other is not None
    ]
    assert all(one is not None for one, _ in pairs)
    difference = torch.cat([(one - other).flatten() for one, other in pairs])  # type: ignore[operator]
    length = torch.cat([other.flatten() for _, other in pairs]).norm()
    assert difference.norm() < 1e-2 * length
    for one, other in zip(found, expected, strict=True):
        if not other.requires_grad:
            torch.testing.assert_close(one, other, rtol=2e-3, atol=2e-3)


def test_gradients_that_float16_cannot_hold_are_kept(plain: Functional) -> None:
    expected = stepped(plain, plain, 1e-5)
    lost = stepped(low(plain), plain, 1e-5)
    assert not any(one.abs().sum() for one in gradients(lost[:1]) if one is not None)  # what scaling is for
    run = scaled(plain)
    near(stepped(run, plain, 1e-5), expected)
    assert run.num_again == 0


def test_a_scale_that_is_too_large_is_halved_and_the_pass_taken_again(plain: Functional) -> None:
    """In the code's own precision, with the same random numbers, and norms' statistics moved once."""
    factor = 65504.0 * 64 * 4 / FIRST_SCALE * 1.5
    run = scaled(plain)
    found, expected = stepped(run, plain, factor), stepped(plain, plain, factor)
    assert (run.num_again, run.scale) == (1, FIRST_SCALE / 2)
    for one, other in zip(gradients(found), gradients(expected), strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)
    for _ in range(20):
        taken = run.num_again
        found = stepped(run, plain, factor)
        if run.num_again == taken:
            break
    assert run.num_again == taken
    near(found, expected)


def test_a_loss_that_is_not_finite_is_no_reason_for_another_scale(plain: Functional) -> None:
    run = scaled(plain)
    found = stepped(run, plain, float("nan"))
    assert run.scale == FIRST_SCALE
    assert found[0].grad is not None
    assert found[0].grad.isnan().any()


def test_the_scale_grows_again(plain: Functional, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "INTERVAL", 3)
    run = scaled(plain)
    for _ in range(6):
        stepped(run, plain, 1.0)
    assert run.scale == 4 * FIRST_SCALE


def test_where_float16_is_of_no_use_the_code_runs_in_its_own_precision(plain: Functional) -> None:
    run = scaled(plain)
    run.scale = 0.5
    found, expected = stepped(run, plain, 1.0), stepped(plain, plain, 1.0)
    for one, other in zip(gradients(found), gradients(expected), strict=True):
        assert one is None or (other is not None and torch.equal(one, other))


def test_a_second_backward_pass(plain: Functional) -> None:
    arguments = plain.arguments(torch.randn(64, 16))
    loss = scaled(plain)(arguments)[0].mean()
    loss.backward(retain_graph=True)
    assert arguments[0].grad is not None
    once = arguments[0].grad.clone()
    loss.backward()
    torch.testing.assert_close(arguments[0].grad, 2 * once)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_gradients_of_gradients(plain: Functional) -> None:
    """They are computed in the code's own precision."""
    found = []
    for run in (scaled(plain), plain):
        torch.manual_seed(0)
        arguments = plain.arguments(torch.randn(64, 16))
        (slope,) = torch.autograd.grad(run(arguments)[0].square().mean(), arguments[0], create_graph=True)
        slope.square().sum().backward()
        found.append(arguments[-2 - len(list(plain.module.buffers()))].grad)
    assert found[0] is not None
    assert found[1] is not None
    torch.testing.assert_close(found[0], found[1], rtol=1e-2, atol=1e-4)


@pytest.mark.usefixtures("own_store")
def test_a_loop_in_float16_learns(plain: Functional) -> None:
    model = plain.module
    fast = deepseek_lab.optimize(model, precision="fp16", name="net")
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    x = torch.randn(64, 16)
    y = x[:, :4].argmax(1)

    def step() -> float:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y) * 1e-4
        (loss * 1e4).backward()
        optimizer.step()
        return loss.item() * 1e4

    losses = train_until(fast, step, {"kept", "eager"})
    (row,) = [row for row in fast.report.candidates if row.name == "fp16"]
    assert row.status in ("won", "lost"), row
    lane = use(fast, Way(precision="fp16"))
    losses += [step() for _ in range(30)]
    assert isinstance(lane.graph.program, Scaled)
    assert losses[-1] < 0.7 * losses[0]
    fast.restore()
