"""Steps from what is known to be good."""

from __future__ import annotations

import random
import statistics

import pytest

from deepseek_lab.hpo.nearby import step
from deepseek_lab.hpo.sampling import Judged, Sampling
from deepseek_lab.hpo.spaces import Plain, Space

SPACES = {
    "lr": Space("log", 1e-5, 1e-1, default=1e-3),
    "dropout": Space("uniform", 0.0, 0.5, default=0.1),
    "grid": Space("uniform", 0.0, 1.0, step=0.25, default=0.5),
    "width": Space("log-integer", 8, 256, step=1, default=64),
    "even": Space("integer", 2, 10, step=2, default=4),
    "size": Space("choice", labels=("8", "16", "32", "64"), default="32"),
    "kind": Space("choice", labels=("adamw", "sgd", "lion"), default="adamw"),
    "fixed": Space("integer", 3, 3, step=1, default=3),
    "only": Space("choice", labels=("one",), default="one"),
}
DEFAULTS: dict[str, Plain] = {name: space.default for name, space in SPACES.items()}


def steps(params: dict[str, Plain], spaces: dict[str, Space], num: int = 400) -> list[dict[str, Plain]]:
    draw = random.Random(0)
    return [step(params, spaces, draw) for _ in range(num)]


def test_a_step_stays_within_the_ranges() -> None:
    for found in steps(DEFAULTS, SPACES):
        assert found.keys() == SPACES.keys()
        assert 1e-5 <= float(found["lr"]) <= 1e-1
        assert 0.0 <= float(found["dropout"]) <= 0.5
        assert found["grid"] in (0.0, 0.25, 0.5, 0.75, 1.0)
        assert isinstance(found["width"], int)
        assert 8 <= found["width"] <= 256
        assert found["even"] in (2, 4, 6, 8, 10)
        assert found["kind"] in ("adamw", "sgd", "lion")
        assert (found["fixed"], found["only"]) == (3, "one")


@pytest.mark.parametrize("name", ["lr", "dropout", "width", "even", "size", "kind"])
def test_a_range_by_itself_always_changes(name: str) -> None:
    for found in steps({name: DEFAULTS[name]}, SPACES):
        assert found[name] != DEFAULTS[name]


def test_numbers_that_stand_in_order_move_to_their_neighbours() -> None:
    assert {found["size"] for found in steps({"size": "32"}, SPACES)} == {"16", "64"}
    assert {found["size"] for found in steps({"size": "8"}, SPACES)} == {"16"}
    assert {found["kind"] for found in steps({"kind": "adamw"}, SPACES)} == {"sgd", "lion"}


def test_most_steps_are_small_and_some_are_not() -> None:
    moves = [abs(float(found["dropout"]) - 0.1) / 0.5 for found in steps({"dropout": 0.1}, SPACES)]
    assert statistics.median(moves) < 0.15
    assert max(moves) > 0.5


def test_a_range_that_the_study_does_not_know_is_left_out() -> None:
    assert step({"gone": 1.0, "lr": 1e-3}, SPACES, random.Random(0)).keys() == {"lr"}
    assert step({"gone": 1.0}, SPACES, random.Random(0)) == {}


def drawn(near: bool, seed: int = 0) -> list[dict[str, Plain]]:
    """Of a study that knows one good configuration and nine bad ones."""
    sampling = Sampling("random", seed, ("min",), near=near)
    known = [Judged("best", DEFAULTS, (0.0,))]
    far: dict[str, Plain] = {**DEFAULTS, "lr": 1e-5, "dropout": 0.5, "kind": "lion", "size": "8"}
    known += [Judged(f"bad {index}", far, (1.0,)) for index in range(9)]
    sampling.judge(known, SPACES)
    found = []
    for number in range(100):
        draw = sampling.draw(str(number))
        found.append({name: draw.suggest(name, space) for name, space in SPACES.items()})
        sampling.forget(str(number))
    return found


def shared(found: dict[str, Plain]) -> int:
    return sum(found[name] == value for name, value in DEFAULTS.items())


def test_every_other_configuration_is_a_step_from_the_best() -> None:
    near = sum(shared(found) >= 5 for found in drawn(near=True))
    assert 30 <= near <= 70
    assert sum(shared(found) >= 5 for found in drawn(near=False)) < 15


def test_the_same_seed_gives_the_same_configurations() -> None:
    assert drawn(near=True) == drawn(near=True)
    assert drawn(near=True) != drawn(near=True, seed=1)


def test_no_step_is_taken_twice_while_the_first_one_runs() -> None:
    spaces = {"kind": Space("choice", labels=("a", "b", "c"), default="a")}
    for seed in range(20):
        sampling = Sampling("random", seed, ("min",), near=True)
        sampling.judge([Judged("best", {"kind": "a"}, (0.0,))], spaces)
        steps = [draw.wanted for draw in (sampling.draw(str(number)) for number in range(8))]
        taken = [one["kind"] for one in steps if one is not None]
        assert len(set(taken)) == len(taken) <= 2
