"""The choice of what to keep: within the budget, and no other choice within it costs less."""

from __future__ import annotations

import itertools
import random

import pytest

from deepseek_lab.memory.choice import Choice
from deepseek_lab.memory.operations import Operation
from deepseek_lab.memory.plan import Chosen, Plan
from deepseek_lab.memory.rehearsal import Rehearsed
from deepseek_lab.memory.solve import NUM_LEVELS, Option, options, solve
from deepseek_lab.memory.words import steps_of


def _best(parts: list[list[Option]], budget: float) -> float | None:
    sums = [
        sum(one.seconds for one in picked)
        for picked in itertools.product(*parts)
        if sum(one.bytes for one in picked) <= budget
    ]
    return min(sums) if sums else None


@pytest.mark.parametrize("seed", range(30))
def test_no_choice_within_the_budget_is_cheaper(seed: int) -> None:
    chance = random.Random(seed)
    parts = [
        [
            Option(frozenset(), chance.randrange(0, 10**6), chance.random())
            for _ in range(chance.randrange(1, 5))
        ]
        for _ in range(chance.randrange(1, 6))
    ]
    budget = chance.randrange(1, 3 * 10**6)
    picked = solve(parts, budget)
    # Bytes are counted in steps, rounded up: a choice may need one step more for each part.
    tighter = _best(parts, budget * (1 - len(parts) / NUM_LEVELS))
    if picked is None:
        assert tighter is None
        return
    assert sum(one.bytes for one in picked) <= budget
    seconds = sum(one.seconds for one in picked)
    assert seconds >= (_best(parts, budget) or 0.0) - 1e-9
    assert tighter is None or seconds <= tighter + 1e-9


def test_nothing_fits_less_than_nothing() -> None:
    assert solve([[Option(None, 1, 0.0)]], -1) is None
    assert solve([[Option(None, 10, 0.0)]], 5) is None


def test_options_go_from_the_fewest_bytes_to_the_most_and_never_cost_more_for_it() -> None:
    chance = random.Random(0)
    operations = [
        Operation(str(n), chance.randrange(1, 100), chance.random() < 0.7, chance.random()) for n in range(40)
    ]
    found = options(operations, 1500)
    assert found[0].keep == frozenset()
    assert found[-1].keep is None
    assert found[-1].seconds == 0.0
    for one, other in itertools.pairwise(found):
        assert one.bytes < other.bytes
        assert one.seconds > other.seconds
    for one in found:
        assert all(operations[index].keepable for index in one.keep or ())


def test_the_results_that_take_longest_for_their_bytes_are_kept_first() -> None:
    product, sum_ = Operation("mm", 100, True, 9.0), Operation("add", 100, True, 1.0)
    found = options([sum_, product, sum_, product], 1000)
    kept = [one.keep for one in found if one.keep]
    assert kept[0] == frozenset({1})
    assert all({1, 3} & keep for keep in kept)


def test_alike_parts_are_one_row_with_parts_within_them_too() -> None:
    """A row for each thing that is done, with what it saves and costs in all."""
    within = [Option(frozenset(), 0, 0.5, (f"stages.{index}.a",)) for index in range(3)]
    parts = tuple(Chosen(f"stages.{index}", one, 100) for index, one in enumerate(within))
    rehearsed = Rehearsed(10, 5, "backward")
    choice = Choice(in_backward=True, eight_bit=True)
    first, *others = steps_of(Plan(choice, rehearsed, rehearsed, parts), 1.0)
    assert first.action == "full recomputation, and again of its parts within it"
    assert first.where == ("stages.0", "stages.1", "stages.2")
    assert (first.saved_bytes, first.seconds) == (300, 1.5)
    assert [one.action for one in others] == [
        "the optimiser's step inside the backward pass",
        "AdamW's moments in 8 bits",
    ]
