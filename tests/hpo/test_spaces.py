"""Ranges in a cell: their defaults without a search, their names, and what is no range."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest

import deepseek_lab as ds
from deepseek_lab.base.errors import UsageError
from deepseek_lab.hpo import spaces
from deepseek_lab.hpo.record import distribution, space_of
from deepseek_lab.hpo.spaces import Space


class Asked:
    """A trial that keeps what it is asked for."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def value(self, name: str, space: Space) -> Any:
        self.names.append(name)
        return space.default

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    made = Asked()
    monkeypatch.setattr(spaces, "current", made)
    return made


def test_without_a_search_a_range_is_its_default() -> None:
    assert ds.log(1e-4, 1e-2) == pytest.approx(1e-3)
    assert ds.log(1e-4, 1e-2, default=5e-3) == 5e-3
    assert ds.uniform(0, 1) == 0.5
    assert ds.uniform(0, 1, step=0.25) == 0.5
    assert ds.integer(1, 5) == 3
    assert type(ds.integer(1, 5)) is int
    assert ds.integer(1, 100, log=True) == 10
    assert ds.choice("a", "b") == "a"
    assert ds.choice(64, 128, default=128) == 128
    assert ds.choice(max, min) is max
    assert list(ds.epochs(3)) == [0, 1, 2]
    data = [1, 2, 3]
    assert ds.subset(data) is data
    assert ds.validation(data, data) == (data, data)
    ds.report(0, 1.0)
    ds.constrain(1.0)


def test_a_value_is_called_what_it_is_assigned_or_passed_to(asked: Asked) -> None:
    class Holder:
        rate = 0.0

    def made(width: int, *, depth: int) -> int:
        return width + depth

    lr = ds.log(1e-5, 1e-1)
    holder = Holder()
    holder.rate = ds.uniform(0, 1)
    made(ds.integer(1, 3), depth=ds.integer(1, 3))
    options = {"momentum": ds.uniform(0, 1)}
    ds.choice(1, 2, name="named")
    assert asked.names[:3] == ["lr", "rate", f"line {line_of('made(ds.integer')}"]
    assert asked.names[3:] == ["depth", "momentum", "named"]
    assert lr
    assert options


def line_of(text: str) -> int:
    with open(__file__) as file:
        return next(number for number, line in enumerate(file, 1) if line.strip().startswith(text))


def test_a_function_without_source_knows_the_names_of_its_values(asked: Asked) -> None:
    names: dict[str, Any] = {"ds": ds}
    exec("def f():\n    width = ds.integer(1, 9)\n    return width\n", names)
    names["f"]()
    assert asked.names == ["width"]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: ds.log(0, 1), "has no logarithm"),
        (lambda: ds.uniform(2, 1), "wrong way round"),
        (lambda: ds.uniform(1, 1), "equal"),
        (lambda: ds.log(1e-3, float("inf")), "needs two numbers"),
        (lambda: ds.uniform("a", 2), "needs two numbers"),  # type: ignore[arg-type]
        (lambda: ds.integer(1.5, 3), "whole numbers"),  # type: ignore[arg-type]
        (lambda: ds.integer(0, 8, log=True), "begins at 1"),
        (lambda: ds.log(1e-4, 1e-2, default=1.0), "outside"),
        (lambda: ds.choice(), "nothing to choose from"),
        (lambda: ds.choice([1, 2]), "has one option"),
        (lambda: ds.choice(1, 1), "twice"),
        (lambda: ds.choice(1, 2, default=3), "none of the options"),
        (lambda: ds.uniform(0, 1, step=2), "does not fit"),
    ],
)
def test_what_is_no_range_is_told(make: Any, told: str) -> None:
    with pytest.raises(UsageError, match=told) as error:
        make()
    assert error.value.hint


@pytest.mark.parametrize(
    "space",
    [
        Space("log", 1e-5, 1e-1),
        Space("uniform", 0.0, 1.0),
        Space("uniform", 0.0, 1.0, 0.25),
        Space("integer", 1, 9, 2),
        Space("log-integer", 1, 64, 1),
        Space("choice", labels=("relu", "gelu"), default=""),
    ],
)
def test_a_range_is_the_same_after_a_way_through_a_study(space: Space) -> None:
    assert space_of(distribution(space)).same_range(space)
    assert Space.from_dict(space.to_dict()) == space


def test_ranges_need_neither_torch_nor_optuna() -> None:
    code = (
        "import sys, deepseek_lab as ds; ds.log(1, 2); print({'torch', 'optuna', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("space", "inside", "outside"),
    [
        (Space("log", 1e-5, 1e-1), [1e-5, 0.003, 0.1], [1e-6, 7.0, "0.01", True, math.nan]),
        (Space("uniform", 0.0, 1.0, step=0.25), [0, 0.25, 1.0], [0.3, 1.25]),
        (Space("integer", 2, 10, step=2), [2, 10], [3, 4.0, 12]),
        (Space("log-integer", 8, 256, step=1), [8, 31], [7, 8.5]),
        (Space("choice", labels=("8", "sgd")), ["8", "sgd"], [8, "adam"]),
    ],
)
def test_a_range_knows_its_values(space: Space, inside: list[object], outside: list[object]) -> None:
    assert all(space.holds(one) for one in inside)
    assert not any(space.holds(one) for one in outside)
