"""Training cells: the user's own loop, run the fastest way that gives the same gradients, and left as it was."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import optimizer as optimizers

import deepseek_lab
from deepseek_lab.engine.api import Optimized
from deepseek_lab.engine.training.lane import TrainingLane
from deepseek_lab.engine.training.ways import Way, program

pytestmark = pytest.mark.usefixtures("own_store")


def network(*, dropout: float = 0.0) -> nn.Module:
    """Two convolutions with norms, and a head."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 5),
    )


def batches(seed: int = 0, size: int = 8) -> Iterator[tuple[Tensor, Tensor]]:
    """Images that differ by class, without an end."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        labels = torch.randint(5, (size,), generator=generator)
        noise = torch.randn(size, 3, 24, 24, generator=generator)
        yield noise + labels[:, None, None, None] * 0.5, labels


def step_of(model: nn.Module, **options: Any) -> Callable[[], float]:
    """A function that trains for one step and returns the loss."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, **options)
    data = batches()

    def step() -> float:
        x, y = next(data)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def lane_of(fast: Optimized) -> TrainingLane:
    """The one training lane of a target."""
    (found,) = [
        lane.training
        for dispatcher in fast.run.dispatchers.values()
        for lane in dispatcher.lanes.values()
        if lane.training is not None
    ]
    return found


def train_until(
    fast: Optimized, step: Callable[[], float], phases: set[str], limit_s: float = 400.0
) -> list[float]:
    """Take steps until the lane is in one of these phases."""
    losses = [step(), step()]
    until = time.monotonic() + limit_s
    while lane_of(fast).phase not in phases:
        assert time.monotonic() < until, f"still {lane_of(fast).phase}"
        losses.append(step())
        if lane_of(fast).phase == "searching":
            time.sleep(0.01)  # steps of a millisecond leave a busy machine nothing for the builder
    return losses


def use(fast: Optimized, way: Way) -> TrainingLane:
    """Have a lane run in a way from its next call on, whatever is faster."""
    lane = lane_of(fast)
    runner = lane.runner
    assert runner.spec is not None
    outputs = len(runner.has_gradient)
    lane.add_way(way, program(runner.graph, runner.spec, way, (None,) * outputs, (torch.float32,) * outputs))
    lane.settle(way, None)
    return lane


def test_a_loop_is_recorded_searched_and_raced_in_its_own_steps() -> None:
    model = network()
    fast = deepseek_lab.optimize(model, precision="bf16", name="net")
    step = step_of(model)
    losses = train_until(fast, step, {"kept", "eager"})
    rows = {row.name: row for row in fast.report.candidates}
    assert {"bf16", "bf16+channels-last", "channels-last"} <= set(rows)
    for name in ("bf16", "bf16+channels-last", "channels-last"):
        row = rows[name]
        assert row.status in ("won", "lost"), row
        assert row.speedup is not None
        assert row.max_rel_error is not None
        assert 0 < row.max_rel_error < (5e-2 if "bf16" in name else 1e-4), row
    lane = lane_of(fast)
    assert fast.report.chosen == lane.way.name
    assert losses[-1] < losses[0]
    assert math.isfinite(step())
    assert (lane.graph.program is None) == (lane.way.graph == Way())


def _differs(lane: Any) -> bool:
    """Whether a lane may run now in a way that rounds otherwise than eager."""
    training = lane.training
    ways = (training.way, training._contender) if training is not None else ()
    return any(way.graph != Way() or way.fused for way in ways)


def test_until_something_is_installed_a_loop_computes_what_it_computed_before() -> None:
    made = network(dropout=0.3)
    plain, model = copy.deepcopy(made), made
    torch.manual_seed(7)
    theirs = step_of(plain)
    expected = [theirs() for _ in range(30)]
    torch.manual_seed(7)
    fast = deepseek_lab.optimize(model, precision="bf16")
    ours, losses = step_of(model), []
    while len(losses) < 30:
        loss = ours()
        if any(map(_differs, _lanes(fast))):
            break
        losses.append(loss)
    assert losses == expected[: len(losses)]
    assert len(losses) > 4  # those that are recorded, and one more


def test_memory_reuse_changes_no_bit() -> None:
    made = nn.Sequential(nn.Flatten(), nn.Linear(1728, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 5))
    plain, model = copy.deepcopy(made), made
    fast = deepseek_lab.optimize(model)
    found = []
    for one in (plain, model):
        torch.manual_seed(7)
        optimizer, data, losses = torch.optim.RMSprop(one.parameters(), 1e-3), batches(), []
        for number in range(40):
            x, y = next(data)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(one(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if number == 2 and one is model:  # before the search begins
                use(fast, Way(keeps=True))
        found.append((losses, torch.get_rng_state()))
    assert lane_of(fast).phase == "kept"
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])
    for one, other in zip(model.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def _lanes(fast: Optimized) -> list[Any]:
    return [lane for one in fast.run.dispatchers.values() for lane in one.lanes.values()]


@pytest.mark.parametrize(
    "way", [Way("channels-last"), Way("channels-last", "bf16"), Way("", "bf16")], ids=lambda way: way.name
)
def test_gradients_come_back_as_eagers_are(way: Way) -> None:
    model = network()
    twin = copy.deepcopy(model)
    fast = deepseek_lab.optimize(model, precision="bf16")
    step = step_of(model)
    for _ in range(3):
        step()
    twin.load_state_dict(model.state_dict())
    use(fast, way)
    x, y = next(batches(3))
    for one in (model, twin):
        one.zero_grad()
        nn.functional.cross_entropy(one(x), y).backward()
    for own, plain in zip(model.parameters(), twin.parameters(), strict=True):
        assert own.grad is not None
        assert plain.grad is not None
        assert own.grad.dtype == plain.grad.dtype
        assert own.grad.stride() == plain.grad.stride()
    got, wanted = (torch.cat([p.grad.flatten() for p in one.parameters()]) for one in (model, twin))  # type: ignore[union-attr]
    apart = (got - wanted).norm() / wanted.norm()
    assert apart < (5e-2 if way.lowers else 1e-4)
    assert apart > (1e-4 if way.lowers else 0.0)
    assert torch.allclose(model[1].running_mean, twin[1].running_mean, atol=1e-2)  # type: ignore[index, arg-type]


def test_what_was_found_is_begun_with_by_the_next_loop() -> None:
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        model = network()
        fast = deepseek_lab.optimize(model, precision="bf16")
        train_until(fast, step_of(model), {"kept", "eager"})
        rows = fast.report.candidates
        results.append((lane_of(fast).way, [row.cached for row in rows], fast.report.build_s))
        fast.restore()
    (_, first, _), (_, second, _) = results
    assert not any(first)
    assert all(second)
    assert second


def test_restored_nothing_listens_any_more() -> None:
    model = network()
    fast = deepseek_lab.optimize(model, precision="bf16")
    step = step_of(model)
    for _ in range(3):
        step()
    assert optimizers._global_optimizer_post_hooks
    fast.restore()
    assert not optimizers._global_optimizer_post_hooks
    assert not optimizers._global_optimizer_pre_hooks
    assert torch.overrides._get_current_function_mode() is None
    assert math.isfinite(step())


def test_an_optimizer_is_fused_for_its_steps_and_as_it_was_between_them() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    twin = copy.deepcopy(model)
    fast = deepseek_lab.optimize(model)
    seen = []

    def losses(one: nn.Module) -> list[float]:
        optimizer = torch.optim.AdamW(one.parameters(), 1e-2)
        optimizer.register_step_pre_hook(lambda *_: seen.append(optimizer.param_groups[0]["fused"]))
        generator = torch.Generator().manual_seed(1)
        made = []
        for number in range(8):
            x = torch.randn(4, 8, generator=generator)
            loss = one(x).square().sum()
            optimizer.zero_grad()
            loss.backward()
            if number == 2 and one is model:  # before the search begins
                use(fast, Way(fused=True))
            optimizer.step()
            assert not optimizer.param_groups[0]["fused"]
            assert optimizer.param_groups[0]["foreach"] is None
            made.append(loss.item())
        return made

    assert losses(model) == pytest.approx(losses(twin), rel=1e-4)
    assert seen[:8] == [None, None, True, True, True, True, True, True]


class Saturating(nn.Module):
    """Finite in float32 and infinite in bf16 once its weight is near one."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 1, bias=False)
        self.norm = nn.BatchNorm1d(1)
        nn.init.constant_(self.linear.weight, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(torch.log(1.0001 - self.linear(x))) * 1.0


def test_results_that_are_not_finite_in_lower_precision_are_computed_again() -> None:
    model = Saturating().train()
    twin = copy.deepcopy(model)
    fast = deepseek_lab.optimize(model, precision="bf16")
    x = torch.full((6, 4), 0.25) * torch.linspace(0.2, 1.0, 6)[:, None]
    for _ in range(3):
        model(x).square().sum().backward()
    lane = use(fast, Way("", "bf16"))
    model(x).square().sum().backward()
    assert lane.phase == "kept"
    with torch.no_grad():
        for one in (model, twin):
            one.linear.weight.fill_(1.0)
            one.norm.load_state_dict(nn.BatchNorm1d(1).state_dict())
    got, wanted = model(x), twin(x)
    assert torch.isfinite(wanted).all()
    assert torch.equal(got, wanted)
    assert torch.equal(model.norm.running_var, twin.norm.running_var)  # type: ignore[arg-type]
    assert lane.phase == "eager"
    assert any("not finite" in item.reason for item in fast.report.fallbacks)


def test_infinite_in_eager_mode_too_is_the_users_own() -> None:
    model = Saturating().train()
    fast = deepseek_lab.optimize(model, precision="bf16")
    x = torch.full((6, 4), 0.25) * torch.linspace(0.2, 1.0, 6)[:, None]
    for _ in range(3):
        model(x).square().sum().backward()
    lane = use(fast, Way("", "bf16"))
    assert not torch.isfinite(model(x * 100)).all()
    assert lane.phase == "kept"


def test_loss_that_is_nan_from_the_start_stays_eager_and_says_so() -> None:
    model = network()
    fast = deepseek_lab.optimize(model, precision="bf16")
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    for _ in range(4):
        x, y = next(batches())
        loss = nn.functional.cross_entropy(model(x * math.nan), y)
        loss.backward()
        optimizer.step()
    deepseek_lab.wait(60)
    assert lane_of(fast).phase == "eager"
    assert "nan" in fast.report.summary()


def test_interrupt_in_the_middle_of_a_step_leaves_the_last_step() -> None:
    model = network()
    fast = deepseek_lab.optimize(model, precision="bf16")
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    data = batches()
    before: list[Tensor] = []
    for number in range(4):
        x, y = next(data)
        try:
            optimizer.zero_grad()
            before = [one.detach().clone() for one in model.parameters()]
            loss = nn.functional.cross_entropy(model(x), y)
            if number == 2:
                raise KeyboardInterrupt
            loss.backward()
            optimizer.step()
        except KeyboardInterrupt:
            for one, old in zip(model.parameters(), before, strict=True):
                assert torch.equal(one, old)
            fast.run.close(error=True)
            assert torch.overrides._get_current_function_mode() is None
    step = step_of(model)
    train_until(fast, step, {"kept", "eager"})


def test_two_models_with_an_optimizer_each() -> None:
    generator, critic = nn.Linear(4, 6), nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
    twins = copy.deepcopy((generator, critic))
    fast = [
        deepseek_lab.optimize(one, precision="bf16", name=name)
        for one, name in ((generator, "g"), (critic, "c"))
    ]

    def train(made: nn.Module, judge: nn.Module, num_steps: int) -> list[float]:
        ours, theirs = (torch.optim.Adam(one.parameters(), 1e-3) for one in (made, judge))
        noise, losses = torch.Generator().manual_seed(0), []
        for _ in range(num_steps):
            z = torch.randn(8, 4, generator=noise)
            fake = made(z)
            theirs.zero_grad()
            loss = judge(fake.detach()).mean() - judge(torch.ones(8, 6)).mean()
            loss.backward()
            theirs.step()
            ours.zero_grad()
            own = -judge(fake).mean()
            own.backward()
            ours.step()
            losses += [loss.item(), own.item()]
        return losses

    assert train(generator, critic, 8) == train(*twins, 8)
    phases = [lane.training.phase for one in fast for lane in _lanes(one) if lane.training is not None]
    assert phases  # the critic's may be under way to another capture: it is called with and without gradients
    assert set(phases) <= {"recording", "searching", "racing", "eager"}


def test_clipping_schedules_averages_and_evaluation_inside_of_the_loop() -> None:
    model = network()
    twin = copy.deepcopy(model)
    fast = deepseek_lab.optimize(model, precision="bf16")

    def train(one: nn.Module) -> list[float]:
        optimizer = torch.optim.SGD(one.parameters(), 0.1, momentum=0.9)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
        average = torch.optim.swa_utils.AveragedModel(one)
        data, losses = batches(), []
        for _ in range(8):
            x, y = next(data)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(one(x), y)
            loss.backward()
            nn.utils.clip_grad_norm_(one.parameters(), 0.5)
            optimizer.step()
            schedule.step()
            average.update_parameters(one)
            one.eval()
            with torch.no_grad():
                losses.append(nn.functional.cross_entropy(one(x), y).item())
            one.train()
            losses += [loss.item(), average(x).sum().item()]
        return losses

    assert train(model) == train(twin)
    assert lane_of(fast).phase in ("recording", "searching", "racing")


def test_accumulated_gradients_count_as_one_step() -> None:
    model = network()
    fast = deepseek_lab.optimize(model, precision="bf16")
    optimizer, data = torch.optim.AdamW(model.parameters(), 1e-3), batches()

    def step() -> float:
        optimizer.zero_grad()
        total = 0.0
        for _ in range(2):
            x, y = next(data)
            loss = nn.functional.cross_entropy(model(x), y) / 2
            loss.backward()
            total += loss.item()
        optimizer.step()
        return total

    train_until(fast, step, {"kept", "eager"})
    assert all(row.speedup is not None for row in fast.report.candidates if row.status in ("won", "lost"))


def test_without_an_optimizer_of_pytorchs_a_step_ends_where_the_next_begins() -> None:
    model = network()
    fast = deepseek_lab.optimize(model, precision="bf16")
    data = batches()

    def step() -> float:
        x, y = next(data)
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        with torch.no_grad():
            for one in model.parameters():
                assert one.grad is not None
                one -= 0.01 * one.grad
                one.grad = None
        return loss.item()

    train_until(fast, step, {"kept", "eager"})
    assert {row.name for row in fast.report.candidates} >= {"bf16", "channels-last"}


class Tied(nn.Module):
    """A weight in two places, a custom function, and an update in place."""

    class Doubled(torch.autograd.Function):
        """Twice its input."""

        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            return gradients[0] * 2

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 16)
        self.head = nn.Linear(16, 11, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, ids: Tensor) -> Tensor:
        self.seen += 1
        x = self.Doubled.apply(self.embedding(ids))
        x = (x.relu() * 1.0).add_(1.0)
        return self.head(x)


def test_tied_weights_custom_functions_updates_in_place_and_hooks() -> None:
    model = Tied()
    twin = copy.deepcopy(model)
    twin.head.weight = twin.embedding.weight
    fast = deepseek_lab.optimize(model, precision="bf16")

    def train(one: Tied, seen: list[float]) -> list[float]:
        one.head.weight.register_hook(lambda gradient: seen.append(gradient.sum().item()))
        optimizer, losses = torch.optim.AdamW(one.parameters(), 1e-2), []
        ids = torch.randint(11, (4, 6), generator=torch.Generator().manual_seed(0))
        for _ in range(8):
            loss = nn.functional.cross_entropy(one(ids).flatten(0, 1), ids.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    hooks: tuple[list[float], list[float]] = ([], [])
    assert train(model, hooks[0]) == train(twin, hooks[1])
    assert hooks[0] == hooks[1]
    assert model.seen == twin.seen == 8
    deepseek_lab.wait(90)
    assert lane_of(fast).phase in ("racing", "eager", "kept")


def test_a_loop_that_ended_is_decided_on_copies_and_confirmed_by_the_next() -> None:
    model = network()
    fast = deepseek_lab.optimize(model, precision="bf16")
    step = step_of(model)
    for _ in range(5):
        step()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    assert deepseek_lab.wait(120)
    for name, one in model.state_dict().items():
        assert torch.equal(one, before[name]), name
    assert fast.report.decided
    assert all(row.speedup is not None for row in fast.report.candidates if row.status in ("won", "lost"))
    lane = lane_of(fast)
    if lane.phase == "racing":
        train_until(fast, step, {"kept", "eager"})


def test_a_builder_that_is_killed_costs_the_search_and_nothing_else(tmp_path: Path) -> None:
    from deepseek_lab.engine.runs import workshop

    model = network()
    fast = deepseek_lab.optimize(model, precision="bf16")
    step = step_of(model)
    train_until(fast, step, {"searching"})
    until = time.monotonic() + 30
    while workshop().builder.pid is None and time.monotonic() < until:
        step()
    workshop().builder.kill()
    train_until(fast, step, {"kept", "eager", "racing"})
    assert math.isfinite(step())


def test_stopped_by_the_user() -> None:
    model = network()
    fast = deepseek_lab.optimize(model, precision="bf16")
    step = step_of(model)
    train_until(fast, step, {"searching"})
    fast.run.interrupt()
    train_until(fast, step, {"kept", "eager"}, limit_s=200)
    assert "stopped by the user" in fast.report.summary()


class Broken(nn.Module):
    """A forward pass that is captured in two graphs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 512), nn.Linear(512, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        torch._dynamo.graph_break()
        return self.second(x.relu())


def test_a_forward_pass_in_several_graphs_gains_by_what_stands_around_them() -> None:
    model = Broken()
    fast = deepseek_lab.optimize(model, precision="bf16")
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)

    def step() -> float:
        optimizer.zero_grad()
        loss = model(torch.randn(16, 64)).square().mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    train_until(fast, step, {"kept", "eager"})
    names = {row.name for row in fast.report.candidates}
    assert names
    assert all("memory reuse" in name or "fused optimizer" in name for name in names)
    assert not any("bf16" in name for name in names)


def test_a_search_that_fails_leaves_eager_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    from deepseek_lab.engine.training import search

    def fails(*args: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(search, "ways_for", fails)
    model = network()
    fast = deepseek_lab.optimize(model, precision="bf16")
    step = step_of(model)
    train_until(fast, step, {"eager"}, limit_s=200)
    assert "planted" in fast.report.summary()


def test_an_error_of_ours_in_a_call_costs_the_speed_up_and_not_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = network()
    fast = deepseek_lab.optimize(model, precision="bf16")
    step = step_of(model)
    step()

    def fails() -> bool:
        raise ZeroDivisionError("planted")

    lane = lane_of(fast)
    monkeypatch.setattr(lane, "begin", fails)
    assert math.isfinite(step())
    assert lane.phase == "eager"
    assert any("planted" in item.reason for item in fast.report.fallbacks)


def test_a_way_that_raises_gives_the_call_back_to_eager() -> None:
    model = network()
    fast = deepseek_lab.optimize(model, precision="bf16")
    step = step_of(model)
    step(), step()
    lane = lane_of(fast)

    def raises(arguments: object) -> Any:
        raise ZeroDivisionError("planted")

    way = Way("channels-last")
    lane.add_way(way, raises)
    lane.settle(way, None)
    assert math.isfinite(step())
    assert lane.phase == "eager"
    assert any("planted" in item.reason for item in fast.report.fallbacks)


def test_results_that_were_listened_to_can_be_saved_without_a_word(tmp_path: Path, recwarn: Any) -> None:
    model = network()
    deepseek_lab.optimize(model)
    for _ in range(2):
        out = model(next(batches())[0])
        torch.save(out, tmp_path / "out.pt")
    assert not [one for one in recwarn.list if "hook" in str(one.message)]


class Settling(nn.Module):
    """Decides something in its first call and keeps it, as classifiers of transformers do with ``problem_type``."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.kind = network(), None

    def forward(self, x: Tensor) -> Tensor:
        if self.kind is None:
            self.kind = "single label"
        return self.net(x)


def test_a_model_that_changes_itself_in_its_first_call_is_captured_again() -> None:
    model = Settling()
    fast = deepseek_lab.optimize(model, precision="bf16")
    step = step_of(model)
    until = time.monotonic() + 300
    while not any(
        lane.training is not None and lane.training.phase in ("kept", "eager") for lane in _lanes(fast)
    ):
        assert time.monotonic() < until
        step()
        time.sleep(0.01)
    assert "bf16" in {row.name for row in fast.report.candidates} | {
        row.name.removesuffix("+memory reuse") for row in fast.report.candidates
    }
