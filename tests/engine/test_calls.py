"""A call of an optimised target is the target's own: what it prints, raises, returns, and by whom it is called."""

from __future__ import annotations

import dataclasses
import traceback
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import deepseek_lab
from tests.engine.cases import (
    FAST,
    WIDTH,
    Tower,
    decided,
    equal,
    installed,
    pristine,
    reasons,
    rows,
    tower,
    uses_program,
)

pytestmark = pytest.mark.usefixtures("strangers")


def test_module_that_prints(capsys: pytest.CaptureFixture[str]) -> None:
    class Talking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(WIDTH, WIDTH)
            self.num_calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.num_calls += 1
            print(f"call {self.num_calls}")
            return tower(self.linear(x)) + 1.0

    module, x = Talking(), rows()
    twin = pristine(module)
    fast = deepseek_lab.optimize(module, backends=FAST)
    with torch.no_grad():
        equal(fast(x), twin(x))
        assert capsys.readouterr().out == "call 1\ncall 1\n"
        deepseek_lab.wait(120)
        assert capsys.readouterr().out == ""
        for number in range(2, 5):
            equal(fast(x), twin(x))
            assert capsys.readouterr().out == f"call {number}\ncall {number}\n"
    assert module.num_calls == 4


class _Refusing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.limit = 1000.0

    def forward(self, x: Tensor, strict: bool = False) -> Tensor:
        h = tower(self.linear(x))
        if strict:
            raise ValueError("too strict for me")
        return torch.relu(h)


def test_exception_in_the_call_is_the_users_own() -> None:
    module, x = _Refusing(), rows()
    fast = installed(module, x)
    with pytest.raises(ValueError, match="too strict for me") as caught:
        fast(x, strict=True)
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (last.filename, last.name) == (__file__, "forward")
    assert caught.value.__cause__ is None
    with torch.no_grad():
        equal(fast(x), pristine(module)(x))


def test_exception_in_the_first_call_is_the_users_own() -> None:
    module, x = _Refusing(), rows()
    fast = deepseek_lab.optimize(module, backends=FAST)
    with pytest.raises(ValueError, match="too strict for me") as caught:
        fast(x, strict=True)
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (last.filename, last.name) == (__file__, "forward")
    assert str(caught.value) == "too strict for me"
    with torch.no_grad():
        for _ in range(3):
            equal(fast(x), pristine(module)(x))
        deepseek_lab.wait(120)
        equal(fast(x), pristine(module)(x))


def test_exception_that_depends_on_values() -> None:
    def checked(x: Tensor) -> Tensor:
        h = tower(x) * 2.0
        if bool((x > 100).any()):
            raise ArithmeticError("a value is too large")
        return h + 1.0

    x = rows()
    fast = decided(checked, x)
    equal(fast(x), checked(x))
    with pytest.raises(ArithmeticError, match="a value is too large"):
        fast(x + 1000.0)
    equal(fast(x), checked(x))


@dataclasses.dataclass
class _Result:
    logits: Tensor
    extra: dict[str, Any]
    name: str = "none"


class _Pair(NamedTuple):
    left: Tensor
    right: list[Tensor]


class _Structured(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, batch: dict[str, Any]) -> _Result:
        h = tower(self.linear(batch["x"]))
        pair = _Pair(h + 1.0, [h * 2.0, batch["mask"]["inner"][0] * h])
        return _Result(torch.relu(h), {"pair": pair, "count": 3, "none": None}, name="done")


def test_dataclasses_and_nested_dictionaries() -> None:
    def batch() -> dict[str, Any]:
        return {"x": rows(), "mask": {"inner": [torch.ones(WIDTH), "word"]}}

    module = _Structured()
    fast, twin = installed(module, batch()), pristine(module)
    with torch.no_grad():
        for _ in range(3):
            inputs = batch()
            got, wanted = fast(inputs), twin(inputs)
            assert (type(got), got.name, got.extra["count"]) == (_Result, "done", 3)
            assert type(got.extra["pair"]) is _Pair
            equal(got.logits, wanted.logits)
            equal(got.extra["pair"].left, wanted.extra["pair"].left)
            equal(got.extra["pair"].right, wanted.extra["pair"].right)


def test_results_belong_to_the_caller() -> None:
    """What a call returned is not touched by a later one, and changing it changes no later one."""
    module = Tower()
    fast, twin = installed(module, rows()), pristine(module)
    with torch.no_grad():
        inputs = [rows() for _ in range(3)]
        got = [fast(x) for x in inputs]
        for value, x in zip(got, inputs, strict=True):
            equal(value, twin(x))
            value.zero_()
        equal(fast(inputs[0]), twin(inputs[0]))


def test_module_used_inside_another_one() -> None:
    inner, x = Tower(), rows()
    fast = installed(inner, x)
    outer = nn.Sequential(inner, nn.Linear(WIDTH, 3))
    with torch.no_grad():
        equal(outer(x), pristine(outer)(x))
    outer_fast = installed(outer, x)
    with torch.no_grad():
        equal(outer_fast(x), pristine(outer)(x))
        equal(fast(x), pristine(inner)(x))


def test_calls_from_several_threads() -> None:
    import threading

    module = Tower()
    fast, twin = deepseek_lab.optimize(module, backends=FAST), pristine(module)
    wrong: list[BaseException] = []

    def work(seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        try:
            with torch.no_grad():
                for _ in range(30):
                    x = torch.randn(64, WIDTH, generator=generator)
                    equal(fast(x), twin(x))
        except BaseException as error:
            wrong.append(error)

    with torch.no_grad():
        fast(rows())
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    deepseek_lab.wait(120)
    for thread in threads:
        thread.join()
    assert not wrong, wrong[0]
    assert uses_program(fast) or reasons(fast)


class _Both(NamedTuple):
    first: Tensor
    second: Tensor


class _Fields(dict[str, Tensor]):
    """Read by attribute, as the outputs of Hugging Face's models are."""

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class _FirstOf(Tower):
    def forward(self, x: Any) -> Tensor:
        return super().forward(x.first)


@pytest.mark.parametrize("kind", [_Both, _Fields])
def test_waiting_repeats_a_call_with_containers_of_the_users_own_classes(kind: type) -> None:
    module, x = _FirstOf(), kind(first=rows(), second=rows())
    fast = installed(module, x)
    with torch.no_grad():
        equal(fast(x), pristine(module)(x))


def test_waiting_raises_nothing_where_the_call_cannot_be_made_again() -> None:
    module, x = Tower(), rows()
    fast = deepseek_lab.optimize(module, backends=FAST)
    with torch.no_grad():
        fast(x)
        module.first = nn.Linear(3, WIDTH)  # for inputs that are narrower from now on
        assert deepseek_lab.wait(120)
        narrow = torch.randn(64, 3)
        equal(fast(narrow), pristine(module)(narrow))
