"""What a graph does besides returning values: random numbers, memory that is shared, updates in place."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import deepseek_lab
from deepseek_lab.engine.results import Result, Step
from tests.engine.cases import WIDTH, decided, equal, installed, pristine, reasons, rows, tower

pytestmark = pytest.mark.usefixtures("strangers")


class _Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(tower(self.linear(x)))


RANDOM: dict[str, Callable[[Tensor], Tensor]] = {
    "rand_like": lambda x: tower(x) + torch.rand_like(x),
    "randn": lambda x: tower(x) + torch.randn(WIDTH),
    "bernoulli": lambda x: tower(x) * torch.bernoulli(torch.full_like(x, 0.5)),
    "in place": lambda x: tower(x) + torch.empty_like(x).normal_(),
    "multinomial": lambda x: tower(x) + torch.multinomial(torch.ones(64), 1),
    "permutation": lambda x: tower(x)[torch.randperm(64)] * 1.0,
    "dropout": lambda x: F.dropout(tower(x), 0.3),
    "attention with dropout": lambda x: F.scaled_dot_product_attention(
        tower(x)[None], x[None], x[None], dropout_p=0.5
    ),
    "gumbel": lambda x: F.gumbel_softmax(tower(x)),
}


@pytest.mark.parametrize("kind", RANDOM)
def test_random_operation_draws_eagers_own_stream(kind: str) -> None:
    function, x = RANDOM[kind], rows()
    fast = decided(function, x)
    for seed in (1, 2):
        torch.manual_seed(seed)
        got = [fast(x) for _ in range(2)]
        after = torch.get_rng_state()
        torch.manual_seed(seed)
        wanted = [function(x) for _ in range(2)]
        equal(got, wanted)
        assert torch.equal(after, torch.get_rng_state())
    assert fast.report.chosen == "eager"
    assert "random numbers" in reasons(fast)


def test_numbers_of_numpys_stream_stay_numpys() -> None:
    def noisy(x: Tensor) -> Tensor:
        return tower(x) + torch.from_numpy(np.random.rand(WIDTH).astype(np.float32))

    x = rows()
    fast = deepseek_lab.optimize(noisy, backends=("planted-fast",))
    np.random.seed(7)
    before = torch.get_rng_state()
    got = [fast(x) for _ in range(3)]
    assert torch.equal(before, torch.get_rng_state())
    np.random.seed(7)
    equal(got, [noisy(x) for _ in range(3)])


def test_dropout_in_training_and_evaluation() -> None:
    module, x = _Dropping().eval(), rows()
    fast, twin = installed(module, x), pristine(module)
    with torch.no_grad():
        for training in (True, False):
            module.train(training), twin.train(training)  # type: ignore[attr-defined]
            torch.manual_seed(5)
            got = [fast(x), fast(x)]
            torch.manual_seed(5)
            equal(got, [twin(x), twin(x)])


def test_random_stream_is_untouched_by_optimising() -> None:
    module, x = _Dropping().eval(), rows()
    before = torch.get_rng_state()
    fast = deepseek_lab.optimize(module, backends=("planted-fast",))
    with torch.no_grad():
        fast(x)
        deepseek_lab.wait(120)
        fast(x)
    assert torch.equal(before, torch.get_rng_state())


ALIASING: dict[str, Callable[[Tensor], object]] = {
    "the input itself": lambda x: (tower(x) + 1.0, x),
    "a view of the input": lambda x: (tower(x) + 1.0, x[1:]),
    "a reshaped input": lambda x: (tower(x) + 1.0, x.reshape(-1)),
    "contiguous input": lambda x: (tower(x) + 1.0, x.contiguous()),
    "a result and its view": lambda x: (h := tower(x) + 1.0, h.t()),
    "one result twice": lambda x: (h := tower(x) + 1.0, h),
    "two views of one": lambda x: (tower(x) + 1.0).chunk(2),
    "an expanded result": lambda x: (tower(x) + 1.0)[:1].expand(64, WIDTH),
    "a detached result": lambda x: (h := tower(x) + 1.0, h.detach()),
    "a part and a part of it": lambda x: ((h := (tower(x) + 1.0)[2:, ::2]), h.unsqueeze(1).squeeze(1)[-1]),
    "parts of a split result and the whole": lambda x: (
        *torch.split(h := tower(x) + 1.0, [1, 60, 3]),
        torch.transpose(h, 0, 1),
    ),
    "a result that needs no copy": lambda x: (
        h := tower(x) + 1.0,
        h.to(torch.float32),
        h.contiguous().float(),
    ),
    "a result in another order": lambda x: (tower(x) + 1.0).view(64, 8, 8).transpose(1, 2),
    "a result in another order and a part of it": lambda x: (
        h := (tower(x) + 1.0).view(8, 8, 8, 8).permute(0, 3, 1, 2),
        h[1],
    ),
    "a view of the input and of a result": lambda x: (x.t()[1:], h := tower(x) + 1.0, h.flatten()),
}


@pytest.mark.parametrize("kind", ALIASING)
def test_results_that_share_memory_still_do(kind: str) -> None:
    function = ALIASING[kind]
    fast = decided(function, rows())

    def after_writing(call: Callable[[Tensor], object]) -> tuple[object, Tensor]:
        torch.manual_seed(7)
        x = rows()
        value = call(x)
        parts = value if isinstance(value, tuple | list) else (value,)
        for number, part in enumerate(parts):
            if not (part.stride()[0] == 0 and part.shape[0] > 1):
                part.mul_(number + 2.0)
        return [part.clone() for part in parts], x

    for _ in range(2):
        equal(after_writing(fast), after_writing(function))


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("kind", ALIASING)
def test_results_that_share_memory_come_from_a_program(kind: str, grad: bool) -> None:
    function = ALIASING[kind]
    fast = installed(function, rows(), grad=grad)
    x = rows()
    with torch.set_grad_enabled(grad):
        got, wanted = fast(x), function(x)
    equal(got, wanted)
    mine, theirs = _tensors(got), _tensors(wanted)
    assert [one.stride() for one in mine] == [one.stride() for one in theirs]
    assert _sharing([x, *mine]) == _sharing([x, *theirs])
    assert not fast.report.fallbacks


def _tensors(value: object) -> list[Tensor]:
    parts = value if isinstance(value, tuple | list) else (value,)
    return [part for part in parts if isinstance(part, Tensor)]


def _sharing(tensors: list[Tensor]) -> list[int]:
    """For each tensor the first one that has the same memory."""
    owners = [tensor.untyped_storage().data_ptr() for tensor in tensors]
    return [owners.index(one) for one in owners]


@pytest.mark.parametrize("kind", ALIASING)
def test_gradients_of_results_that_share_memory(kind: str) -> None:
    function = ALIASING[kind]
    fast = installed(function, rows().requires_grad_(), grad=True)
    x = rows()

    def gradient(call: Callable[[Tensor], object]) -> Tensor:
        own = x.clone().requires_grad_()
        parts = [part for part in _tensors(call(own)) if part.requires_grad]
        sum((part * (number + 2.0)).sin().sum() for number, part in enumerate(parts)).backward()  # type: ignore[union-attr]
        assert own.grad is not None
        return own.grad

    equal(gradient(fast), gradient(function))


UNEXPLAINED: dict[str, Callable[[Tensor], object]] = {
    "a result before and after an update": lambda x: ((h := tower(x) + 1.0), h.mul_(2.0)),
    "a result and its bits": lambda x: ((h := tower(x) + 1.0), h.view(torch.int32)),
    "a view whose position is computed": lambda x: ((h := tower(x) + 1.0), h.as_strided((2, 2), (2, 1))),
}


@pytest.mark.parametrize("kind", UNEXPLAINED)
def test_memory_shared_in_another_way_keeps_eager(kind: str) -> None:
    function = UNEXPLAINED[kind]
    fast = decided(function, rows())
    assert fast.report.chosen == "eager"
    assert "shares memory with another output" in reasons(fast)
    x = rows()
    with torch.no_grad():
        equal(fast(x), function(x))


def test_view_taken_without_gradients() -> None:
    def partly(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = tower(x) + 1.0
        with torch.no_grad():
            part = h.t()
        return h, part, h.detach()[0]

    fast = decided(partly, rows().requires_grad_(), grad=True)

    def slopes(call: Callable[[Tensor], tuple[Tensor, ...]]) -> tuple[list[bool], Tensor | None]:
        torch.manual_seed(3)
        x = rows().requires_grad_()
        parts = call(x)
        sum(part.square().sum() for part in parts if part.requires_grad).backward()  # type: ignore[union-attr]
        return [part.requires_grad for part in parts], x.grad

    equal(slopes(fast), slopes(partly))


def test_view_that_cannot_be_taken_is_answered_by_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    function = ALIASING["a result and its view"]
    fast = installed(function, rows())
    (runner,) = (one for dispatcher in fast.run.dispatchers.values() for one in dispatcher.runners)
    assert runner.results is not None
    monkeypatch.setattr(runner, "results", (runner.results[0], Result(0, steps=(Step("view", (3,)),))))
    x = rows()
    with torch.no_grad():
        equal(fast(x), function(x))
    assert "raised RuntimeError" in reasons(fast)


def test_input_updated_in_place() -> None:
    def update(x: Tensor, total: Tensor) -> Tensor:
        total.add_(tower(x))
        return total.sum() + x

    fast = decided(update, rows(), torch.zeros(64, WIDTH))
    x, mine, theirs = rows(), torch.zeros(64, WIDTH), torch.zeros(64, WIDTH)
    for _ in range(3):
        equal(fast(x, mine), update(x, theirs))
        equal(mine, theirs)
    assert "updates input" in reasons(fast)


def test_input_updated_in_place_and_waiting_repeats_no_update() -> None:
    """Racing repeats the last call; a call that changes its inputs must not be repeated on them."""

    def update(x: Tensor, total: Tensor) -> Tensor:
        total += 1.0
        print(end="")  # Python between two graphs
        return tower(x) * 2.0

    total = torch.zeros(3)
    fast = deepseek_lab.optimize(update, backends=("planted-fast",))
    for _ in range(3):
        fast(rows(), total)
    deepseek_lab.wait(120)
    equal(total, torch.full((3,), 3.0))
    fast(rows(), total)
    equal(total, torch.full((3,), 4.0))


def test_batch_norm_in_training_updates_its_buffers() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(WIDTH, WIDTH)
            self.norm = nn.BatchNorm1d(WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(tower(self.linear(x)))

    module = Normed().train()
    twin = pristine(module)
    fast = deepseek_lab.optimize(module, backends=("planted-fast",))
    inputs = [rows() for _ in range(4)]
    with torch.no_grad():
        for x in inputs[:3]:
            equal(fast(x), twin(x))
        deepseek_lab.wait(120)
        equal(fast(inputs[3]), twin(inputs[3]))
        equal(module.state_dict(), twin.state_dict())  # type: ignore[attr-defined]
        assert int(module.norm.num_batches_tracked) == 4
        assert "in place" in reasons(fast)
        module.eval(), twin.eval()  # type: ignore[attr-defined]
        for _ in range(2):
            equal(fast(inputs[0]), twin(inputs[0]))
        deepseek_lab.wait(120)
        equal(fast(inputs[1]), twin(inputs[1]))


def test_buffer_assigned_in_forward() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.seen = self.seen + 1.0
            return tower(x) * self.seen

    module, x = Counting(), rows()
    twin = pristine(module)
    fast = deepseek_lab.optimize(module, backends=("planted-fast",))
    for _ in range(2):
        equal(fast(x), twin(x))
    deepseek_lab.wait(120)
    for _ in range(2):
        equal(fast(x), twin(x))
    equal(module.seen, twin.seen)  # type: ignore[attr-defined]


def test_global_that_the_function_writes() -> None:
    log: list[int] = []

    def noting(x: Tensor) -> Tensor:
        log.append(len(log))
        return tower(x) + 1.0

    x = rows()
    fast = deepseek_lab.optimize(noting, backends=("planted-fast",))
    equal(fast(x), x + 1.0)
    deepseek_lab.wait(120)
    assert log == [0]
    for _ in range(3):
        equal(fast(x), x + 1.0)
    assert log == [0, 1, 2, 3]


def test_waiting_for_another_kind_of_call_repeats_none_of_its_effects(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Evaluation first, then one step of training: what the step did is done once."""

    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(WIDTH)
            self.num_calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.num_calls += 1
            return self.norm(tower(x)) * 2.0

    module = Noisy().eval()
    twin = pristine(module)
    fast = deepseek_lab.optimize(module, backends=("planted-fast",))
    with torch.no_grad():
        fast(x := rows()), twin(x)
        deepseek_lab.wait(120)
        module.train(), twin.train()  # type: ignore[attr-defined]
        equal(fast(x), twin(x))
        deepseek_lab.wait(120)
    equal(module.state_dict(), twin.state_dict())  # type: ignore[attr-defined]
    assert module.num_calls == 2


def test_waiting_for_another_kind_of_call_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    def talking(x: Tensor) -> Tensor:
        print("hello")
        return tower(x) * 2.0

    fast = deepseek_lab.optimize(talking, backends=("planted-fast",))
    fast(rows())
    deepseek_lab.wait(120)
    for _ in range(3):
        fast(rows(1000))
    capsys.readouterr()
    deepseek_lab.wait(120)
    assert capsys.readouterr().out == ""


class Depth:
    """How deep a call is; set for the time of a call, as context variables are."""

    value: int | None = None


DEPTH = Depth()


def test_what_is_set_and_set_back_may_be_repeated_by_waiting() -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            DEPTH.value = 1
            result = tower(self.linear(x))
            DEPTH.value = None
            return result

    fast = deepseek_lab.optimize(Nested(), backends=("planted-fast",))
    with torch.no_grad():
        fast(rows())
        deepseek_lab.wait(120)
    assert fast.report.chosen == "planted-fast"
    assert "outlive" not in reasons(fast)
    assert not any(runner.lasting_effects for one in fast.run.dispatchers.values() for runner in one.runners)
    fast.restore()
