"""Training graphs that Inductor has compiled: the same gradients, buffers and random stream, whatever a loop does."""

from __future__ import annotations

import copy
import gc
import shutil
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import deepseek_lab
from deepseek_lab.base.settings import settings
from deepseek_lab.engine.api import Optimized
from deepseek_lab.engine.training import compiled
from tests.engine.functional import Functional, gradients
from tests.engine.test_training import lane_of, train_until

pytestmark = pytest.mark.skipif(compiled.missing() is not None, reason="no C++ compiler")


@pytest.fixture(autouse=True)
def _compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "compile_training", True)


class Mixed(nn.Module):
    """Attention, dropout and norms, with a result that is saved for the backward pass, and one of whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.2, batch_first=True)
        self.norm = nn.BatchNorm1d(16)
        self.shift = nn.Parameter(torch.zeros(2, 6, 16))

    def forward(self, tokens: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = self.block(self.embed(tokens) * scale) + self.shift
        hidden = self.norm(hidden.flatten(0, 1)).view_as(hidden)
        return torch.sigmoid(hidden), hidden.sum(-1), hidden.argmax(-1)


@pytest.fixture(scope="module")
def plain() -> Functional:
    torch.manual_seed(0)
    return Functional(Mixed())


@pytest.fixture(scope="module")
def folder(plain: Functional, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is built of :class:`Mixed`, once."""
    folder = tmp_path_factory.mktemp("compiled")
    compiled.build(plain, plain.arguments(*inputs()), folder)
    return folder


@pytest.fixture(scope="module")
def program(plain: Functional, folder: Path) -> Callable[[Sequence[Tensor]], tuple[Tensor, ...]]:
    return compiled.load(folder, plain)


def inputs(size: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(50, (size, 6), generator=generator)
    return tokens, torch.rand(16, generator=generator).requires_grad_()


def loss_of(outputs: Sequence[Tensor]) -> Tensor:
    return outputs[0].square().sum() + (outputs[1] * outputs[2]).mean()


def same(found: Sequence[Tensor | None], expected: Sequence[Tensor | None]) -> None:
    """Equal but for rounding, which is no smaller in a small tensor that is the sum of large ones."""
    largest = max(float(one.detach().double().abs().max()) for one in expected if one is not None)
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-6 * largest)


def test_steps_are_those_of_the_plain_program(plain: Functional, program: Callable[..., tuple]) -> None:
    """Results, gradients, buffers and the random stream, over several steps with gradients that add up."""
    ours, theirs = plain.arguments(*inputs()), plain.arguments(*inputs())
    for seed in range(3):
        tokens, _ = inputs(seed=seed)
        ours[-2] = theirs[-2] = tokens
        for run, arguments in ((program, ours), (plain, theirs)):
            torch.manual_seed(seed)
            outputs = run(arguments)
            assert [one.requires_grad for one in outputs] == [True, True, False]
            loss_of(outputs).backward()
            arguments[-1].state = torch.get_rng_state()  # type: ignore[attr-defined]
        assert torch.equal(ours[-1].state, theirs[-1].state)  # type: ignore[attr-defined]
    same(gradients(ours), gradients(theirs))
    same(ours, theirs)


def test_it_is_the_libraries_that_run(plain: Functional, folder: Path) -> None:
    def never(arguments: Sequence[Tensor]) -> tuple[Tensor, ...]:
        raise AssertionError("the plain program ran")

    run = compiled.load(folder, never)
    loss_of(run(plain.arguments(*inputs()))).backward()
    with pytest.raises(AssertionError, match="the plain program ran"):
        run(plain.arguments(*inputs())[:-1])


@pytest.mark.parametrize("what", ["ragged", "strides", "frozen", "autocast"])
def test_arguments_of_another_form_run_plainly(
    what: str, plain: Functional, program: Callable[..., tuple]
) -> None:
    found = []
    for run in (program, plain):
        torch.manual_seed(0)
        if what == "ragged":
            plain.module.shift.data = plain.module.shift.data[:1]
        arguments = plain.arguments(*inputs(size=1 if what == "ragged" else 2))
        if what == "strides":
            arguments[-2] = arguments[-2].t().contiguous().t()
        if what == "frozen":
            arguments[0].requires_grad_(False)
        with torch.autocast("cpu", enabled=what == "autocast"):
            outputs = run(arguments)
        loss_of(outputs).backward()
        found.append([*outputs, *gradients(arguments)])
    plain.module.shift.data = torch.zeros(2, 6, 16)
    same(*found)


def test_a_result_that_is_written_to_keeps_its_gradient(
    plain: Functional, program: Callable[..., tuple]
) -> None:
    """A sigmoid's result is what its gradient is computed from; its sum's is not."""
    found = []
    for run in (program, plain):
        torch.manual_seed(0)
        arguments = plain.arguments(*inputs())
        outputs = run(arguments)
        outputs[1].mul_(3.0)
        loss_of(outputs).backward()
        found.append(gradients(arguments))
    same(*found)
    torch.manual_seed(0)
    arguments = plain.arguments(*inputs())
    state = torch.get_rng_state()
    first = program(arguments)
    loss = loss_of([first[0].clone(), *first[1:]])
    first[0].detach().zero_()  # eager refuses; here it is computed again, from what was drawn then
    loss.backward()
    torch.set_rng_state(state)
    again = plain.arguments(*inputs())
    loss_of(plain(again)).backward()
    same(gradients(arguments), gradients(again))


def test_a_weight_that_is_written_to_before_the_backward_pass_is_an_error(
    plain: Functional, program: Callable[..., tuple]
) -> None:
    arguments = plain.arguments(*inputs())
    loss = loss_of(program(arguments))
    with torch.no_grad():
        for one in arguments[: len(list(plain.module.parameters()))]:
            one.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_second_backward_pass(plain: Functional, program: Callable[..., tuple]) -> None:
    arguments = plain.arguments(*inputs())
    loss = loss_of(program(arguments))
    loss.backward(retain_graph=True)
    once = [None if one is None else one.clone() for one in gradients(arguments)]
    loss.backward()
    same(gradients(arguments), [None if one is None else 2 * one for one in once])
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_gradients_of_gradients(plain: Functional, program: Callable[..., tuple]) -> None:
    found = []
    for run in (program, plain):
        torch.manual_seed(0)
        arguments = plain.arguments(*inputs())
        (slope,) = torch.autograd.grad(loss_of(run(arguments)), arguments[-1], create_graph=True)
        slope.square().sum().backward()
        found.append([*gradients(arguments), torch.get_rng_state()])
    same(*found)


def test_nothing_is_held_after_a_step(plain: Functional, program: Callable[..., tuple]) -> None:
    arguments = plain.arguments(*inputs())
    outputs = program(arguments)
    loss = loss_of(outputs)
    held = [weakref.ref(one) for one in (*outputs, arguments[0])]
    loss.backward()
    del outputs, arguments, loss
    gc.collect()
    assert [one() for one in held] == [None] * len(held)


def test_gradients_share_no_memory(plain: Functional, program: Callable[..., tuple]) -> None:
    arguments = plain.arguments(*inputs())
    loss_of(program(arguments)).backward()
    found = [one for one in gradients(arguments) if one is not None]
    assert len({one.untyped_storage().data_ptr() for one in found}) == len(found)


class Pointwise(nn.Module):
    """Arithmetic on single values, one after the other: what a compiler makes one loop of."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.Parameter(torch.rand(12, 512))
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        for scale in self.scales:
            x = torch.tanh(x * scale + 0.1) + x.sigmoid()
        return self.drop(x)


@pytest.mark.usefixtures("own_store")
def test_a_loop_is_compiled_last_and_begins_with_it_the_next_time() -> None:
    """It takes part in the race under its name; where it has won, another process finds it in the store."""

    def loop(model: nn.Module) -> tuple[Optimized, Callable[[], float]]:
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)

        def step() -> float:
            optimizer.zero_grad()
            loss = model(torch.ones(256, 512)).square().mean()
            loss.backward()
            optimizer.step()
            return loss.item()

        return deepseek_lab.optimize(model, backends=["inductor"], name="net"), step

    torch.manual_seed(0)
    model = Pointwise()
    fresh = copy.deepcopy(model)
    fast, step = loop(model)
    train_until(fast, step, {"kept", "eager"})
    rows = [row for row in fast.report.candidates if "inductor" in row.name.split("+")]
    (row,) = rows
    assert row.status in ("won", "lost"), row
    assert row.speedup is not None
    assert row.max_rel_error is not None
    assert row.max_rel_error < 1e-4
    if not lane_of(fast).way.compiled:
        pytest.skip("something else is faster here")
    step()
    assert lane_of(fast).graph.program is not None
    assert "torch.compile" in next(iter(fast.report.graphs.values())).plan
    fast.restore()
    again, step = loop(fresh)
    train_until(again, step, {"racing", "kept", "eager"})
    lane = lane_of(again)
    assert lane._contender.compiled
    (row,) = [row for row in again.report.candidates if "inductor" in row.name.split("+")]
    assert row.cached
    again.restore()


@pytest.mark.usefixtures("own_store")
def test_what_libraries_compute_is_not_compiled() -> None:
    model = nn.Sequential(nn.Linear(1024, 1024, bias=False), nn.Linear(1024, 8, bias=False))
    fast = deepseek_lab.optimize(model, backends=["inductor"], name="net")
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)

    def step() -> float:
        optimizer.zero_grad()
        loss = model(torch.ones(512, 1024)).square().mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    train_until(fast, step, {"kept", "eager"})
    (row,) = [row for row in fast.report.candidates if "inductor" in row.name.split("+")]
    assert row.status == "skipped"
    assert row.reason.startswith("products and convolutions take ")
    fast.restore()


def test_without_a_compiler_it_is_skipped_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert compiled.missing() == "needs a C++ compiler, and there is no no-such-compiler here"
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert compiled.missing() is None
