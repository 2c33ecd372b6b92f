"""The optimiser's step inside the backward pass: the same bit by bit, and left where a loop needs gradients."""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import deepseek_lab
from deepseek_lab.base.errors import UsageError
from deepseek_lab.memory.gradients import GradientWatch
from deepseek_lab.memory.in_backward import StepInBackward
from deepseek_lab.memory.optimizers import update_of
from deepseek_lab.memory.run import MemoryRun
from tests.memory.models import Language, make, words
from tests.memory.test_training import peak_of, same_state

ALLOW = ("step-in-backward",)
WIDTH, LAYERS, ROWS = 64, 8, 256
Make = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "AdamW": lambda weights: torch.optim.AdamW(weights, 1e-3),
    "Adam": lambda weights: torch.optim.Adam(weights, 1e-3, amsgrad=True),
    "SGD": lambda weights: torch.optim.SGD(weights, 0.01, momentum=0.9, nesterov=True),
    "RMSprop": lambda weights: torch.optim.RMSprop(weights, 1e-4, momentum=0.5),
    "Adagrad": lambda weights: torch.optim.Adagrad(weights, 1e-3),
}


class Wide(nn.Module):
    """A stack of layers with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.1), nn.Tanh()) for _ in range(LAYERS))
        )
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x))


def loss_of(model: nn.Module, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(ROWS, WIDTH, generator=generator)
    return F.cross_entropy(model(x), torch.randint(0, 10, (ROWS,), generator=generator))


class Loop:
    """A loop with a schedule; what it does beside its step is given."""

    def __init__(
        self,
        make_optimizer: Make,
        between: Callable[[Loop], None] = lambda loop: None,
        limit: float | None = None,
    ) -> None:
        self.model = make(Wide)
        self.optimizer = make_optimizer(self.model.parameters())
        self.schedule = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.9)
        self.between, self.count = between, 0
        self.losses: list[float] = []
        self.loss = loss_of
        self.run: MemoryRun | None = None
        if limit is not None:
            self.run = deepseek_lab.memory_limit(self.model, f"{int(limit)}B", allow=ALLOW)

    def step(self) -> None:
        torch.manual_seed(self.count)
        loss = self.loss(self.model, self.count)
        loss.backward()
        self.between(self)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        self.losses.append(float(loss.detach()))
        self.count += 1
        if self.run is not None:
            self.run.wait()

    def steps(self, count: int) -> Loop:
        for _ in range(count):
            self.step()
        return self

    @property
    def row(self) -> Any:
        assert self.run is not None
        return next(iter(self.run.report.rows.values()))

    @property
    def actions(self) -> str:
        return " ".join(one.action for one in self.row.planned.steps)

    @property
    def notes(self) -> str:
        assert self.run is not None
        return "\n".join(self.run.report.notes)


def limit_for(make_optimizer: Make) -> float:
    """Less than a step holds in eager mode."""
    loop = Loop(make_optimizer).steps(2)
    return 0.8 * peak_of(loop)  # type: ignore[arg-type]


def same_optimizers(one: torch.optim.Optimizer, other: torch.optim.Optimizer) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert first["param_groups"] == second["param_groups"]
    assert first["state"].keys() == second["state"].keys()
    for index, state in first["state"].items():
        assert state.keys() == second["state"][index].keys()
        for name, value in state.items():
            expected = second["state"][index][name]
            assert torch.equal(value, expected) if isinstance(value, Tensor) else value == expected, name


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_training_is_the_same_bit_by_bit(name: str) -> None:
    make_optimizer = OPTIMIZERS[name]
    limit = limit_for(make_optimizer)
    bounded, plain = Loop(make_optimizer, limit=limit).steps(8), Loop(make_optimizer).steps(8)
    assert "step inside the backward pass" in bounded.actions, bounded.notes
    assert bounded.row.measured.peak_bytes <= limit
    assert abs(bounded.row.measured.peak_bytes / bounded.row.planned.predicted_bytes - 1) < 0.08
    assert bounded.losses == plain.losses
    same_state(plain.model, bounded.model)
    same_optimizers(plain.optimizer, bounded.optimizer)
    assert plain.schedule.state_dict() == bounded.schedule.state_dict()
    assert bounded.run is not None
    bounded.run.restore()
    assert all(type(one) is nn.Parameter for one in bounded.model.parameters())
    assert not any(one._post_accumulate_grad_hooks for one in bounded.model.parameters())
    bounded.steps(1)
    plain.steps(1)
    assert bounded.losses == plain.losses


def test_without_permission_gradients_stay() -> None:
    make_optimizer = OPTIMIZERS["AdamW"]
    loop = Loop(make_optimizer)
    loop.run = deepseek_lab.memory_limit(loop.model, f"{int(limit_for(make_optimizer))}B")
    loop.steps(5)
    assert "backward pass" not in loop.actions
    loop.run.restore()


def clip(loop: Loop) -> None:
    nn.utils.clip_grad_norm_(loop.model.parameters(), 0.1)


def look(loop: Loop) -> None:
    next(loop.model.parameters()).grad  # noqa: B018


def change_rate(loop: Loop) -> None:
    loop.optimizer.param_groups[0]["lr"] *= 0.9


def again(loop: Loop) -> None:
    loop.loss(loop.model, loop.count + 100).backward()


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (clip, r"the loop reads or sets \.grad"),
        (look, r"the loop reads or sets \.grad"),
        (change_rate, "changes the optimiser's values after the backward pass"),
        (again, "several backward passes|gradients of an earlier pass are still there"),
    ],
)
def test_a_loop_that_was_seen_to_need_gradients_keeps_them(
    between: Callable[[Loop], None], reason: str
) -> None:
    make_optimizer = OPTIMIZERS["AdamW"]
    bounded = Loop(make_optimizer, between, limit_for(make_optimizer)).steps(6)
    assert bounded.losses == Loop(make_optimizer, between).steps(6).losses
    assert "backward pass" not in (bounded.actions if bounded.row.planned else "")
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(bounded.notes)
    assert bounded.run is not None
    bounded.run.restore()


def test_optimisers_with_hooks_or_a_closure_step_as_ever() -> None:
    make_optimizer = OPTIMIZERS["SGD"]
    hooked = Loop(make_optimizer, limit=limit_for(make_optimizer))
    hooked.optimizer.register_step_pre_hook(lambda *args: None)
    hooked.steps(5)
    assert "has hooks on its step" in hooked.notes
    assert hooked.run is not None
    hooked.run.restore()

    model = make(Wide)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    run = deepseek_lab.memory_limit(model, f"{int(limit_for(make_optimizer))}B", allow=ALLOW)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, 0)
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(closure)
        run.wait()
    assert "backward pass" not in str(next(iter(run.report.rows.values())).planned)
    run.restore()


def test_gradients_of_several_processes_are_left_to_them() -> None:
    """A process alone stands for them: what adds up gradients does so after they are complete here."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        make_optimizer = OPTIMIZERS["SGD"]
        loop = Loop(make_optimizer, limit=limit_for(make_optimizer)).steps(5)
        assert "gradients are those of several processes together" in loop.notes
        assert loop.run is not None
        loop.run.restore()
    finally:
        torch.distributed.destroy_process_group()


def planned(name: str = "AdamW") -> tuple[Loop, Loop]:
    """A loop that steps in its backward pass, and the same one without a limit."""
    make_optimizer = OPTIMIZERS[name]
    bounded, plain = (
        Loop(make_optimizer, limit=limit_for(make_optimizer)).steps(5),
        Loop(make_optimizer).steps(5),
    )
    assert "step inside the backward pass" in bounded.actions, bounded.notes
    return bounded, plain


def test_a_loop_that_clips_all_of_a_sudden_is_told_and_steps_as_ever_from_then_on() -> None:
    bounded, _ = planned()
    bounded.between = clip
    bounded.steps(1)
    assert ".grad was asked for" in bounded.notes
    assert "no longer steps in the backward pass" in bounded.notes
    plain = Loop(OPTIMIZERS["AdamW"])
    plain.model.load_state_dict(bounded.model.state_dict())
    plain.optimizer.load_state_dict(copy.deepcopy(bounded.optimizer.state_dict()))
    plain.schedule.load_state_dict(bounded.schedule.state_dict())
    plain.between, plain.count, plain.losses = clip, bounded.count, []
    before = len(bounded.losses)
    bounded.steps(5)
    assert plain.steps(5).losses == bounded.losses[before:]
    assert "backward pass" not in bounded.actions
    assert bounded.run is not None
    bounded.run.restore()


def test_a_loop_that_begins_to_accumulate_is_told() -> None:
    bounded, _ = planned()
    bounded.between = again
    bounded.steps(1)
    assert "another call came before optimizer.step()" in bounded.notes
    assert bounded.run is not None
    bounded.run.restore()


def test_an_error_in_a_backward_pass_is_told_with_what_it_left() -> None:
    bounded, _ = planned("SGD")

    before = signal.getsignal(signal.SIGINT)
    bounded.loss = _failing
    with pytest.raises(ZeroDivisionError):
        bounded.step()
    assert bounded.run is not None
    bounded.run.close(error=True)
    assert "a backward pass ended early: " in bounded.notes
    done = int(bounded.notes.rpartition("ended early: ")[2].split()[0])
    assert 0 < done < len(list(bounded.model.parameters()))
    assert signal.getsignal(signal.SIGINT) == before
    bounded.loss = loss_of
    bounded.steps(2)
    bounded.run.restore()


def _failing(model: nn.Module, step: int) -> Tensor:
    handle = model.blocks[4].register_forward_hook(
        lambda module, args, result: result.register_hook(lambda gradient: 1 / 0) and None
    )
    try:
        return loss_of(model, step)
    finally:
        handle.remove()


def test_an_interrupt_waits_for_the_end_of_the_backward_pass() -> None:
    """It comes in the middle, and leaves what the whole step leaves."""
    bounded, plain = planned()

    def interrupted(model: nn.Module, step: int) -> Tensor:
        handle = model.blocks[5].register_forward_hook(
            lambda module, args, result: (
                result.register_hook(lambda gradient: os.kill(os.getpid(), signal.SIGINT)) and None
            )
        )
        try:
            return loss_of(model, step)
        finally:
            handle.remove()

    before = signal.getsignal(signal.SIGINT)
    bounded.loss = interrupted
    with pytest.raises(KeyboardInterrupt):
        bounded.step()
    assert signal.getsignal(signal.SIGINT) == before
    plain.steps(1)
    bounded.schedule.step()  # what the interrupt kept from running
    same_state(plain.model, bounded.model)
    same_optimizers(plain.optimizer, bounded.optimizer)
    assert "ended early" not in bounded.notes
    assert bounded.run is not None
    bounded.run.restore()


def test_a_weight_that_the_backward_pass_needs_later_keeps_its_gradient() -> None:
    """A part that uses a weight without differentiating it would be recomputed with the new one."""

    class Borrower(nn.Module):
        def __init__(self, lender: nn.Linear) -> None:
            super().__init__()
            self.own, self.lender = nn.Linear(WIDTH, WIDTH), (lender,)

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(4):
                x = torch.tanh(F.linear(torch.tanh(self.own(x)), self.lender[0].weight.detach()))
            return x

    class Borrowing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(WIDTH, WIDTH)
            self.first = Borrower(self.last)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x))

    def losses(limited: bool) -> list[float]:
        model = make(Borrowing)
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        run = None
        if limited:
            run = deepseek_lab.memory_limit(model, "1640KiB", allow=ALLOW)
        found = []
        for step in range(6):
            optimizer.zero_grad()
            loss = (
                model(torch.randn(512, WIDTH, generator=torch.Generator().manual_seed(step))).square().mean()
            )
            loss.backward()
            optimizer.step()
            found.append(float(loss.detach()))
            if run is not None:
                run.wait()
        if run is not None:
            row = next(iter(run.report.rows.values()))
            assert row.planned is not None
            assert "backward pass" not in " ".join(one.action for one in row.planned.steps)
            assert "this model does not permit it: the backward pass uses a weight" in "\n".join(
                run.report.notes
            )
            run.restore()
        return found

    assert losses(True) == losses(False)


def test_a_tied_head_whose_logits_are_left_out_and_a_loop_that_keeps_them() -> None:
    """A weight with two uses takes its step after both; logits that are asked for later come from the old one."""

    def losses(limit: float | None) -> tuple[list[float], list[Tensor]]:
        model = make(Language)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        run = deepseek_lab.memory_limit(model, f"{int(limit)}B", allow=ALLOW) if limit else None
        found, seen = [], []
        for step in range(7):
            torch.manual_seed(step)
            optimizer.zero_grad()
            ids = words(step, 4)
            logits = model(ids)
            loss = F.cross_entropy(logits.view(-1, 5000), ids.roll(1, 1).view(-1))
            loss.backward()
            optimizer.step()
            found.append(float(loss.detach()))
            if step == 6:
                seen.append(logits.detach()[0, 0].clone())
            if run is not None:
                run.wait()
        if run is not None:
            actions = [one.action for one in next(iter(run.report.rows.values())).planned.steps]
            assert "the optimiser's step inside the backward pass" in actions
            assert any("logits" in one for one in actions)
            run.restore()
        return found, seen

    expected, expected_logits = losses(None)
    found, logits = losses(16 << 20)
    assert found == pytest.approx(expected, rel=1e-4)
    assert torch.allclose(logits[0], expected_logits[0], atol=2e-3)


def test_who_reads_a_gradient_is_told_and_a_copy_is_an_ordinary_parameter() -> None:
    weight = nn.Parameter(torch.ones(3))
    weight.sum().backward()
    told: list[int] = []
    watch = GradientWatch([weight], lambda: told.append(1))
    watch.open()
    assert isinstance(weight, nn.Parameter)
    assert type(copy.deepcopy(weight)) is nn.Parameter
    torch.optim.SGD([weight], 0.1).zero_grad(set_to_none=False)
    assert not told
    assert torch.equal(weight.grad, torch.zeros(3))
    assert told == [1]
    watch.close()
    assert type(weight) is nn.Parameter


def test_only_one_gradient_is_held_at_a_time() -> None:
    model = make(Wide)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    held: list[int] = []
    mode = StepInBackward(optimizer, lambda: update_of(optimizer))
    weights = list(model.parameters())
    handles = [
        one.register_post_accumulate_grad_hook(
            lambda weight: held.append(sum(other.grad is not None for other in weights))
        )
        for one in weights
    ]
    loss_of(model, 0).backward()
    assert held
    assert max(held) == 0  # ours comes first, and lets the gradient go at once
    mode.close()
    for handle in handles:
        handle.remove()


def test_words_that_can_not_be_allowed_are_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="--allow does not know '8bit'") as caught:
        deepseek_lab.memory_limit(make(Wide), "1GiB", allow=("8bit",))
    assert "--allow 8bit-optimizer" in str(caught.value)
    assert "step-in-backward" in str(caught.value)
