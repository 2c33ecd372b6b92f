"""The schedule: what runs next, and what a sampler is told."""

from __future__ import annotations

import random

import pytest

from deepseek_lab.hpo.ladder import LEAST_WHOLE, WHOLE, Ladder, Rung, rungs, spearman


def drive(ladder: Ladder, quality: dict[str, float], noise: float, seed: int = 0) -> float:
    """Run a schedule to its end, one trial at a time; returns what it cost in whole trials."""
    draw = random.Random(seed)
    names = iter(quality)
    cost = 0.0
    while (step := ladder.next()) is not None:
        name = step.config if step.config is not None else next(names)
        assert ladder.configs.get(name) is None or step.rung not in ladder.configs[name].values
        ladder.begin(name, step.rung, rises=step.rises)
        size = ladder.sizes[step.rung]
        cost += size.cost
        ladder.end(name, {step.rung: quality[name] + noise * (1 - size.cost) * draw.gauss(0, 1)})
    return cost


@pytest.mark.parametrize("num_turns", [0, 1, 2, 3, 5, 10, 20, 100])
@pytest.mark.parametrize("loads", [False, True])
def test_sizes_grow_up_to_the_whole(num_turns: int, loads: bool) -> None:
    sizes = rungs(num_turns, loads)
    assert sizes[-1] == WHOLE
    costs = [one.cost for one in sizes]
    assert costs == sorted(set(costs))
    for one in sizes[:-1]:
        assert one.cost <= 0.56
        turns = one.turns * max(1, num_turns)
        assert turns == pytest.approx(round(turns))
        assert loads or one.share == 1.0
    if not loads and num_turns <= 1:
        assert sizes == (WHOLE,)


def test_the_best_are_run_whole_for_a_fraction_of_the_cost() -> None:
    quality = {f"c{index}": index / 60 for index in random.Random(1).sample(range(60), 60)}
    ladder = Ladder((Rung(0.1, 1.0), Rung(0.3, 1.0), WHOLE), True, 60)
    cost = drive(ladder, quality, noise=0.0)
    whole = {name for name, one in ladder.configs.items() if ladder.top in one.values}
    assert len(ladder.configs) == 60
    assert "c59" in whole
    assert LEAST_WHOLE <= len(whole) <= 3 + LEAST_WHOLE
    assert cost < 60 * 0.3


@pytest.mark.parametrize(("noise", "start"), [(0.0, 0), (9.0, 1)])
def test_the_smallest_size_is_used_where_it_tells_enough(noise: float, start: int) -> None:
    quality = {f"c{index}": index / 60 for index in random.Random(2).sample(range(60), 60)}
    ladder = Ladder((Rung(0.1, 0.5), Rung(0.25, 1.0), WHOLE), True, 60)
    draw = random.Random(3)
    names = iter(quality)
    began: list[int] = []
    while (step := ladder.next()) is not None:
        name = step.config if step.config is not None else next(names)
        if step.config is None:
            began.append(step.rung)
        ladder.begin(name, step.rung, rises=step.rises)
        ladder.end(name, {step.rung: quality[name] + (noise * draw.gauss(0, 1) if not step.rung else 0.0)})
    assert ladder.start == start
    assert set(began[:8]) == {1}
    assert set(began[10:]) == {start}
    assert "c59" in {name for name, one in ladder.configs.items() if 2 in one.values}


def test_a_small_search_still_runs_some_whole() -> None:
    ladder = Ladder((Rung(0.1, 1.0), WHOLE), False, 3)
    drive(ladder, {"a": 3.0, "b": 1.0, "c": 2.0}, noise=0.0)
    assert {name for name, one in ladder.configs.items() if 1 in one.values} == {"a", "b", "c"}


def test_where_small_trials_tell_nothing_more_are_run_whole() -> None:
    def whole(noise: float) -> int:
        quality = {f"c{index}": index / 40 for index in random.Random(4).sample(range(40), 40)}
        ladder = Ladder((Rung(0.1, 1.0), WHOLE), True, 40)
        # Some ran whole from the start, so that it can be seen how well small trials tell.
        draw = random.Random(5)
        for index in range(8):
            name = f"p{index}"
            value = draw.random()
            small = value if not noise else draw.random()
            ladder.begin(name, 1, rises=False)
            ladder.end(name, {0: small, 1: value})
        ladder.num = 48
        drive(ladder, quality, noise)
        return sum(ladder.top in one.values for one in ladder.configs.values())

    assert whole(noise=5.0) > whole(noise=0.0) + 4


def test_a_failed_configuration_does_not_rise_and_stands_last() -> None:
    ladder = Ladder((Rung(0.1, 1.0), WHOLE), True, 8)
    for index in range(8):
        ladder.begin(f"c{index}", 0, rises=False)
        ladder.end(f"c{index}", {0: None if index == 0 else index / 8})
    step = ladder.next()
    assert step is not None
    assert step.config == "c7"
    order = ladder.order()
    assert order["c0"] == 1.0
    assert order["c7"] == 0.0


def test_a_configuration_that_rose_stands_before_those_that_did_not() -> None:
    ladder = Ladder((Rung(0.1, 1.0), WHOLE), False, 5)
    for name, value in {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}.items():
        ladder.begin(name, 0, rises=False)
        ladder.end(name, {0: value})
    ladder.begin("a", 1, rises=True)
    ladder.end("a", {1: 50.0})
    assert min(ladder.order(), key=lambda name: ladder.order()[name]) == "a"


def test_what_breaks_its_constraints_comes_after_what_meets_them() -> None:
    ladder = Ladder((Rung(0.1, 1.0), WHOLE), True, 4)
    for name, value, violation in [("a", 0.9, 1.0), ("b", 0.5, 0.0), ("c", 0.4, 0.0), ("d", 0.8, 0.1)]:
        ladder.begin(name, 0, rises=False)
        ladder.end(name, {0: value}, violation)
    assert sorted(ladder.order(), key=lambda name: ladder.order()[name]) == ["b", "c", "d", "a"]


def test_abandoned_trials_leave_no_trace() -> None:
    ladder = Ladder((WHOLE,), True, 2)
    ladder.begin("a", 0, rises=False)
    ladder.abandon("a")
    assert not ladder.configs
    assert ladder.next() is not None


def test_rank_correlation() -> None:
    assert spearman([(1, 10), (2, 20), (3, 30)]) == pytest.approx(1.0)
    assert spearman([(1, 30), (2, 20), (3, 10)]) == pytest.approx(-1.0)
    assert spearman([(1, 1), (1, 2), (1, 3)]) == 0.0
    assert spearman([(1, 1)]) == 0.0
    # By hand: ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4.
    assert spearman([(1, 1), (2, 2), (2, 3), (3, 4)]) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)
