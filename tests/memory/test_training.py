"""Loops within a limit: the same training bit by bit, no more than the limit, and nothing of it left behind."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import deepseek_lab
from deepseek_lab.base.errors import TargetError, UsageError
from deepseek_lab.base.memory import MemoryReport
from deepseek_lab.engine import allocator
from deepseek_lab.memory.limit import MemoryLimitError
from deepseek_lab.memory.meter import Meter, unique_bytes
from deepseek_lab.memory.run import MemoryRun
from tests.memory.models import (
    Block,
    Convolutional,
    Language,
    Loop,
    Residual,
    Unsteady,
    language_loss,
    make,
    picture_loss,
    words,
)

MIB = 1 << 20
KINDS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module, int], Tensor]]] = {
    "language": (Language, language_loss),
    "convolutional": (lambda: Convolutional(16, 8), picture_loss),
}


def peak_of(loop: Loop) -> int:
    """The most that a step holds."""
    with Meter() as meter:
        meter.hold(loop.model.parameters())
        meter.hold(one.grad for one in loop.model.parameters())
        meter.hold(loop.model.buffers())
        for state in loop.optimizer.state.values():
            meter.hold(one for one in state.values() if isinstance(one, Tensor))
        loop.step()
    peak = meter.peak_bytes
    meter.release()
    return peak


def limited(loop: Loop, limit: float) -> MemoryRun:
    return deepseek_lab.memory_limit(loop.model, f"{int(limit)}B")


def row_of(run: MemoryRun) -> Any:
    return next(iter(run.report.rows.values()))


def eager_peak(name: str) -> int:
    kind, loss = KINDS[name]
    loop = Loop(make(kind), loss)
    loop.steps(2)
    return peak_of(loop)


def same_state(one: nn.Module, other: nn.Module) -> None:
    for (name, value), (_, expected) in zip(
        one.state_dict().items(), other.state_dict().items(), strict=True
    ):
        assert torch.equal(value, expected), name


@pytest.mark.parametrize("share", [0.45, 0.8])
def test_batch_norm_and_random_numbers_are_as_without_a_limit(share: float) -> None:
    """Recomputation alone: bit by bit the same, running statistics and random numbers included."""
    kind, loss = KINDS["convolutional"]
    plain, bounded = Loop(make(kind), loss), Loop(make(kind), loss)
    plain.steps(2)
    peak, own = peak_of(plain), unique_bytes(plain.model.parameters())
    limit = 4 * own + share * (peak - 4 * own)
    run = limited(bounded, limit)
    torch.manual_seed(5)
    losses = bounded.until_planned(run) + bounded.steps(3)
    state = torch.get_rng_state()
    plain = Loop(make(kind), loss)
    torch.manual_seed(5)
    assert plain.steps(len(losses)) == losses
    assert torch.equal(torch.get_rng_state(), state)
    same_state(plain.model, bounded.model)
    row = row_of(run)
    assert row.planned.steps
    assert row.measured.peak_bytes <= limit
    assert abs(row.measured.peak_bytes / row.planned.predicted_bytes - 1) < 0.08
    run.restore()


@pytest.mark.parametrize("share", [0.9, 0.5, 0.2])
def test_a_language_model_keeps_within_a_limit(share: float) -> None:
    kind, loss = KINDS["language"]
    plain, bounded = Loop(make(kind), loss), Loop(make(kind), loss)
    peak = eager_peak("language")
    limit = share * peak
    run = limited(bounded, limit)
    torch.manual_seed(5)
    losses = bounded.until_planned(run) + bounded.steps(3)
    torch.manual_seed(5)
    assert plain.steps(len(losses)) == pytest.approx(losses, rel=1e-5)
    row = row_of(run)
    assert row.measured.peak_bytes <= limit
    assert abs(row.measured.peak_bytes / row.planned.predicted_bytes - 1) < 0.08
    assert abs(row.planned.plain_bytes / peak - 1) < 0.08
    assert peak_of(bounded) <= limit
    run.restore()


def test_a_training_that_fits_is_left_as_it_is() -> None:
    loop = Loop(make(Language), language_loss)
    run = limited(loop, 2 * eager_peak("language"))
    loop.until_planned(run)
    row = row_of(run)
    assert row.planned.fits
    assert not row.planned.steps
    assert peak_of(loop) == pytest.approx(row.planned.plain_bytes, rel=0.05)
    run.restore()


def test_a_limit_below_what_the_weights_take_is_refused_before_anything_runs() -> None:
    loop = Loop(make(Language), language_loss)
    before = copy.deepcopy(loop.model.state_dict())
    state = torch.get_rng_state()
    run = limited(loop, 200_000)
    with pytest.raises(
        MemoryLimitError, match="parameters, gradients and optimiser state alone hold"
    ) as caught:
        loop.step()
    assert "--memory-limit" in str(caught.value)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in loop.model.state_dict().items():
        assert torch.equal(value, before[name])
    run.restore()
    loop.step()


def test_a_limit_that_no_plan_keeps_is_refused_with_what_would_do() -> None:
    loop = Loop(make(Language), language_loss)
    own = unique_bytes(loop.model.parameters())
    run = limited(loop, 3 * own)
    with pytest.raises(MemoryLimitError, match="more than the limit") as caught:
        loop.step()
    run.restore()
    enough = str(caught.value).rpartition("--memory-limit ")[2].partition(",")[0]
    run = deepseek_lab.memory_limit(loop.model, enough)
    loop.until_planned(run)
    assert row_of(run).planned.fits
    run.restore()


def test_nothing_is_left_behind() -> None:
    loop = Loop(make(Language), language_loss)
    run = limited(loop, 0.4 * eager_peak("language"))
    loop.until_planned(run)
    assert "forward" in loop.model.__dict__
    run.restore()
    assert not [path for path, one in loop.model.named_modules() if "forward" in one.__dict__]
    assert not [
        path for path, one in loop.model.named_modules() if one._forward_hooks or one._forward_pre_hooks
    ]
    with pytest.raises(AttributeError):
        torch.utils._python_dispatch._get_current_dispatch_mode().peak_bytes  # noqa: B018


def test_copies_and_files_of_a_model_are_its_own() -> None:
    """An average of weights is a copy; a checkpoint may be the whole model."""
    loop = Loop(make(Language), language_loss)
    run = limited(loop, 0.4 * eager_peak("language"))
    loop.until_planned(run)
    average = copy.deepcopy(loop.model).eval()
    buffer = io.BytesIO()
    torch.save(loop.model, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False).eval()
    with torch.no_grad():
        for weight in average.parameters():
            weight.zero_()
    ids = words(3)
    with torch.no_grad():
        assert not average(ids).any()
        loop.model.eval()
        assert torch.equal(loaded(ids), loop.model(ids))
    assert loaded.state_dict().keys() == loop.model.state_dict().keys()
    run.restore()


def test_parts_that_can_not_be_computed_again_are_left_alone_and_named() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.count = nn.Linear(64, 64), 0

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1
            return self.linear(x)

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([Block(64), Block(64), Block(64)])
            self.unsteady, self.counting = Unsteady(64), Counting()

        def forward(self, x: Tensor) -> Tensor:
            for one in (*self.blocks, self.unsteady, self.counting):
                x = one(x)
            return x

    model = make(Mixed)
    seen: list[int] = []
    model.blocks[1].mlp.register_forward_hook(lambda *args: seen.append(1))
    loop = Loop(model, lambda model, step: model(torch.randn(16, 64, 64)).square().mean())
    run = limited(loop, 4 * unique_bytes(model.parameters()) + 24 * MIB)
    loop.until_planned(run)
    count = loop.count
    notes = "\n".join(run.report.notes)
    assert "Mixed.unsteady is not recomputed: it does not compute the same a second time" in notes
    assert "Mixed.counting is not recomputed: its forward pass sets attributes" in notes
    assert "Mixed.blocks.1 is not recomputed: a module in it has hooks" in notes
    assert len(seen) == count
    run.restore()


def test_gradients_of_a_model_that_draws_other_random_numbers_are_right() -> None:
    """Python's random numbers go on as they would have."""
    import random

    def losses(limit: float | None) -> list[float]:
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Sequential(Unsteady(64), nn.GELU()) for _ in range(4)))
        loop = Loop(model, lambda model, step: model(torch.ones(256, 64)).square().mean())
        run = limited(loop, limit) if limit else None
        random.seed(3)
        found = loop.steps(6)
        if run is not None:
            run.restore()
        return found

    assert losses(None) == losses(64 * MIB)


def test_an_input_that_is_written_to_afterwards() -> None:
    class Shift(nn.Module):
        """Keeps nothing of its input for the backward pass, so that eager lets anybody write to that."""

        def __init__(self) -> None:
            super().__init__()
            self.shift, self.act = nn.Parameter(torch.zeros(64)), nn.Tanh()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(x + self.shift)

    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([Shift() for _ in range(3)])

        def forward(self, x: Tensor) -> Tensor:
            x = self.blocks[0](x) * 2.0
            y = self.blocks[1](x)
            x += 1.0
            return self.blocks[2](x + y)

    plain, bounded = (
        Loop(make(Writing), lambda model, step: model(torch.ones(64, 64, 64)).square().mean())
        for _ in range(2)
    )
    run = limited(bounded, 8 * MIB)
    found = bounded.until_planned(run)
    assert found == plain.steps(len(found))
    assert "blocks.1 is not recomputed: what it is given is written to" in "\n".join(run.report.notes)
    run.restore()


def test_a_larger_batch_is_planned_anew() -> None:
    sizes = iter([4] * 6 + [16] * 6)

    def loss(model: nn.Module, step: int) -> Tensor:
        ids = words(step, next(sizes))
        return F.cross_entropy(model(ids).view(-1, 5000), ids.view(-1))

    loop = Loop(make(Language), loss)
    limit = 0.5 * eager_peak("language")
    run = limited(loop, limit)
    for _ in range(6):
        loop.step()
        run.wait()
    assert not row_of(run).planned.steps
    with Meter() as meter:
        meter.hold(loop.model.parameters())
        loop.step()
    careful = meter.peak_bytes
    meter.release()
    assert careful <= limit
    for _ in range(4):
        loop.step()
        run.wait()
    assert row_of(run).planned.steps
    assert "larger batch" in run.report.notes[-1]
    run.restore()


def test_clipping_schedules_evaluation_and_two_optimisers() -> None:
    def train(limit: float | None) -> tuple[list[float], nn.Module]:
        model = make(Language)
        body = [p for name, p in model.named_parameters() if "blocks" in name]
        rest = [p for name, p in model.named_parameters() if "blocks" not in name]
        optimizers = [torch.optim.AdamW(body, lr=1e-3), torch.optim.SGD(rest, lr=0.1, momentum=0.9)]
        schedule = torch.optim.lr_scheduler.StepLR(optimizers[0], 2)
        run = deepseek_lab.memory_limit(model, f"{int(limit)}B") if limit else None
        torch.manual_seed(7)
        losses = []
        for step in range(7):
            for one in optimizers:
                one.zero_grad()
            loss = language_loss(model, step)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            for one in optimizers:
                one.step()
            schedule.step()
            losses.append(float(loss.detach()))
            with torch.no_grad():
                model.eval()
                losses.append(float(language_loss(model, 99)))
                model.train()
            if run is not None:
                run.wait()
        if run is not None:
            assert row_of(run).planned is not None, run.report.notes
            run.restore()
        return losses, model

    expected, _ = train(None)
    found, _ = train(0.4 * eager_peak("language"))
    assert found == pytest.approx(expected, rel=1e-4)


def test_gradients_that_are_accumulated_stay_right() -> None:
    def train(limit: float | None) -> list[float]:
        model = make(Language)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        run = deepseek_lab.memory_limit(model, f"{int(limit)}B") if limit else None
        torch.manual_seed(7)
        losses = []
        for step in range(5):
            for part in range(2):
                loss = language_loss(model, 2 * step + part) / 2
                loss.backward()
                losses.append(float(loss.detach()))
            optimizer.step()
            optimizer.zero_grad()
            if run is not None:
                run.wait()
        if run is not None:
            assert row_of(run).planned is not None, run.report.notes
            assert row_of(run).measured.peak_bytes <= limit
            run.restore()
        return losses

    assert train(0.5 * eager_peak("language")) == pytest.approx(train(None), rel=1e-4)


def test_calls_that_are_held_together_stay_recomputed() -> None:
    """A twin network's two calls: no rehearsal of one call says what they hold."""
    plain, bounded = (
        Loop(make(Language), lambda model, step: language_loss(model, step) + language_loss(model, step + 1))
        for _ in range(2)
    )
    run = limited(bounded, eager_peak("language"))
    torch.manual_seed(1)
    found = bounded.steps(4)
    torch.manual_seed(1)
    assert found == pytest.approx(plain.steps(4), rel=1e-4)
    assert "a step holds more than one call of the model at once" in "\n".join(run.report.notes)
    run.restore()


def test_an_evaluation_that_computes_gradients_for_nothing_is_no_part_of_a_step() -> None:
    loop = Loop(make(Language), language_loss)
    run = limited(loop, 0.4 * eager_peak("language"))
    for _ in range(5):
        language_loss(loop.model, 99)
        loop.step()
        run.wait()
    assert row_of(run).planned is not None, run.report.notes
    run.restore()


def test_an_error_in_the_middle_of_a_step_changes_nothing_that_follows() -> None:
    plain, bounded = Loop(make(Language), language_loss), Loop(make(Language), language_loss)
    run = limited(bounded, 0.4 * eager_peak("language"))

    def train(loop: Loop, run: MemoryRun | None) -> list[float]:
        torch.manual_seed(7)
        losses = []
        for step in range(8):
            if step in (1, 4):  # what a KeyboardInterrupt leaves: a step that never came to its end
                loop.optimizer.zero_grad()
                loss = loop.loss(loop.model, loop.count)
                if step == 4:
                    loss.backward()
                del loss
                if run is not None:
                    run.close(error=True)
            losses.append(loop.step())
            if run is not None:
                run.wait()
        return losses

    assert train(bounded, run) == pytest.approx(train(plain, None), rel=1e-4)
    run.restore()


def test_a_loop_that_looks_at_its_logits_keeps_them() -> None:
    def train(limit: float | None) -> list[float]:
        model = make(Language)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        run = deepseek_lab.memory_limit(model, f"{int(limit)}B") if limit else None
        torch.manual_seed(7)
        found = []
        for step in range(6):
            optimizer.zero_grad()
            ids = words(step)
            logits = model(ids)
            loss = F.cross_entropy(logits.view(-1, 5000), ids.roll(1, 1).view(-1))
            loss.backward()
            optimizer.step()
            found += [float(loss.detach()), float((logits.argmax(-1) == ids).float().mean())]
            if run is not None:
                run.wait()
        if run is not None and limit is not None:
            row = row_of(run)
            assert "logits" not in " ".join(one.action for one in row.planned.steps)
            assert row.measured.peak_bytes <= limit
            run.restore()
        return found

    assert train(0.95 * eager_peak("language")) == pytest.approx(train(None), rel=1e-4)


def test_a_compiled_model_is_refused_by_name() -> None:
    model = make(Language)
    model.compile(backend="eager")
    with pytest.raises(TargetError, match=r"was given to torch\.compile") as caught:
        deepseek_lab.memory_limit(model, "1GiB")
    assert "activation_memory_budget" in str(caught.value)
    with pytest.raises(TargetError, match=r"was given to torch\.compile"):
        deepseek_lab.memory_limit(torch.compile(make(Language), backend="eager"), "1GiB")


def test_an_optimised_graph_and_a_limit_do_not_run_past_each_other() -> None:
    model = make(Language)
    fast = deepseek_lab.optimize(model, backends=["inductor"])
    assert model._compiled_call_impl is not None
    run = deepseek_lab.memory_limit(model, "1GiB")
    assert model._compiled_call_impl is None
    assert "no longer run by an optimised graph" in run.report.notes[0]
    with pytest.raises(TargetError, match="trains within a memory limit") as caught:
        deepseek_lab.optimize(model)
    assert "restore()" in str(caught.value)
    loop = Loop(model, language_loss)
    loop.until_planned(run)
    run.restore()
    fast.restore()
    assert model._compiled_call_impl is None


def test_a_loss_that_is_nan_from_the_start_is_the_loop_s_own_affair() -> None:
    loop = Loop(make(Language), lambda model, step: language_loss(model, step) * float("nan"))
    run = limited(loop, 0.4 * eager_peak("language"))
    assert all(value != value for value in loop.until_planned(run))
    assert row_of(run).planned is not None
    run.restore()


def test_a_model_that_asks_for_values_stays_recomputed() -> None:
    class Asking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([Block(64), Block(64)])

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)
            return x * 2.0 if float(x.detach().sum()) > 0 else x

    plain, bounded = (
        Loop(make(Asking), lambda model, step: model(torch.ones(16, 64, 64)).square().mean())
        for _ in range(2)
    )
    run = limited(bounded, 64 * MIB)
    torch.manual_seed(1)
    found = bounded.steps(4)
    torch.manual_seed(1)
    assert found == plain.steps(4)
    assert "everything stays recomputed" in "\n".join(run.report.notes)
    assert row_of(run).measured.peak_bytes < 64 * MIB
    run.restore()


def test_a_custom_function_and_updates_by_hand() -> None:
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return 2 * x * gradient

    class Own(nn.Module):
        def __init__(self, width: int = 64) -> None:
            super().__init__()
            self.linear = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width))

        def forward(self, x: Tensor) -> Tensor:
            return Square.apply(self.linear(x))

    def train(limit: str | None) -> list[float]:
        torch.manual_seed(0)
        model = nn.Sequential(*(Own() for _ in range(4)))
        run = deepseek_lab.memory_limit(model, limit) if limit else None
        losses = []
        for _ in range(6):
            loss = model(torch.ones(2048, 64)).mean()
            loss.backward()
            with torch.no_grad():
                for weight in model.parameters():
                    weight -= 0.01 * weight.grad
                    weight.grad = None
            losses.append(float(loss.detach()))
            if run is not None:
                run.wait()
        if run is not None:
            assert row_of(run).planned.steps
            run.restore()
        return losses

    assert train("5MiB") == train(None)


def test_bf16_is_run_where_it_is_allowed() -> None:
    loop = Loop(make(Language), language_loss)
    seen: list[torch.dtype] = []
    loop.model.blocks[0].mlp[0].register_forward_hook(lambda module, args, result: seen.append(result.dtype))
    run = deepseek_lab.memory_limit(loop.model, "100GiB", precision="bf16")
    loop.until_planned(run)
    assert set(seen) == {torch.bfloat16}
    run.restore()
    loop.step()
    assert seen[-1] == torch.float32


def test_what_is_typed_wrongly_is_said() -> None:
    model = make(Language)
    with pytest.raises(UsageError, match="'lots' is no amount of memory"):
        deepseek_lab.memory_limit(model, "lots")
    with pytest.raises(UsageError, match="is no amount of memory"):
        deepseek_lab.memory_limit(model, "0GiB")
    with pytest.raises(TargetError, match="does not go together with --precision int8"):
        deepseek_lab.memory_limit(model, "1GiB", precision="int8")
    with pytest.raises(TargetError, match="a module is trained within a memory limit"):
        MemoryRun("1GiB").open({"loss": language_loss})


def test_auto_aims_at_what_there_is() -> None:
    loop = Loop(make(Language), language_loss)
    run = deepseek_lab.memory_limit(loop.model, "auto")
    loop.until_planned(run)
    assert row_of(run).planned.limit_bytes > row_of(run).planned.plain_bytes
    run.restore()


def test_blocks_that_go_back_at_once_leave_no_holes() -> None:
    """In a process of its own: what its heap has done before decides what it does."""
    program = """
import torch
from deepseek_lab.engine import allocator
from deepseek_lab.measure.resident import resident_bytes

lasting = []

def holes():
    blocks = [torch.ones(1 << 19) for _ in range(200)]  # 2 MiB each
    lasting.extend(torch.ones(1 << 10) for _ in range(100))  # what is freed below them stays in the heap
    before = resident_bytes()
    del blocks[::2]
    freed = before - resident_bytes()
    return freed / (100 << 21)

large = torch.ones(30 << 18)
del large  # from here on glibc takes blocks of up to 30 MiB from the heap
usual = holes()
allocator.return_at_once(True)
at_once = holes()
allocator.return_at_once(False)
print(usual, at_once, holes())
"""
    if not allocator.available():
        pytest.skip("this process has another C library")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    usual, at_once, usual_again = map(float, done.stdout.split()[-3:])
    assert usual < 0.5
    assert at_once > 0.9
    assert usual_again < 0.5


def test_the_log_gives_the_same_report() -> None:
    loop = Loop(make(Language), language_loss)
    run = limited(loop, 0.4 * eager_peak("language"))
    loop.until_planned(run)
    assert MemoryReport.fold(run.log).to_dict() == run.report.to_dict()
    run.restore()


def test_the_same_by_hand_is_code_that_runs() -> None:
    kind, loss = KINDS["convolutional"]
    loop = Loop(make(kind), loss)
    own = unique_bytes(loop.model.parameters())
    limit = 4 * own + 0.6 * (eager_peak("convolutional") - 4 * own)
    run = limited(loop, limit)
    loop.until_planned(run)
    code, planned = row_of(run).planned.code, row_of(run).planned
    run.restore()
    assert "checkpoint" in code
    by_hand = Loop(make(kind), loss)
    exec(code, {"Convolutional": by_hand.model})
    by_hand.steps(2)
    assert peak_of(by_hand) == pytest.approx(planned.predicted_bytes, rel=0.03)


def test_a_step_can_be_compared_with_eager() -> None:
    loop = Loop(make(Language), language_loss)
    limit = 0.4 * eager_peak("language")
    run = limited(loop, limit)
    loop.until_planned(run)
    with run.paused():
        assert peak_of(loop) > limit
    assert peak_of(loop) <= limit
    run.restore()


def test_blocks_of_convolutions_are_parts() -> None:
    from deepseek_lab.memory.units import find_units

    paths = [unit.path for unit in find_units(make(Convolutional))]
    assert paths == ["stem", "blocks.0", "blocks.1", "blocks.2", "blocks.3", "head"]
    assert isinstance(make(Convolutional).blocks[0], Residual)
