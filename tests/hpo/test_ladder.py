"""The schedule: what runs next, how far, and what a sampler is told."""

from __future__ import annotations

import random

import pytest

from deepseek_lab.hpo.ladder import LEAST_WHOLE, WHOLE, Ladder, Rung, rungs, spearman

STOPS = (Rung(0.1, step=0), Rung(0.3, step=2), WHOLE)
SMALL = (Rung(1.0, 1 / 6), WHOLE)


def drive(ladder: Ladder, quality: dict[str, float], noise: float, seed: int = 0) -> float:
    """Run a schedule to its end, one trial at a time; returns what it cost in whole trials."""
    draw = random.Random(seed)
    names = iter(quality)
    cost = 0.0
    while (step := ladder.next()) is not None:
        name = step.config if step.config is not None else next(names)
        assert ladder.configs.get(name) is None or step.rung not in ladder.configs[name].values
        ladder.begin(name, step.rung)
        for size in ladder.sizes:
            value = quality[name] + noise * (1 - size.cost) * draw.gauss(0, 1)
            if size.step is not None and step.config is None and not ladder.reached(name, size.step, value):
                cost += size.cost
                ladder.end(name, {})
                break
        else:
            size = ladder.sizes[step.rung]
            cost += size.cost
            ladder.end(name, {step.rung: quality[name] + noise * (1 - size.cost) * draw.gauss(0, 1)})
    return cost


@pytest.mark.parametrize("num_steps", [0, 1, 2, 3, 5, 10, 20, 100])
@pytest.mark.parametrize("num_turns", [0, 1, 2, 10])
@pytest.mark.parametrize("loads", [False, True])
def test_sizes_grow_up_to_the_whole(num_steps: int, num_turns: int, loads: bool) -> None:
    steps = list(range(0, 3 * num_steps, 3))
    sizes = rungs(steps, num_turns, loads)
    assert sizes[-1] == WHOLE
    costs = [one.cost for one in sizes]
    assert costs == sorted(set(costs))
    for one in sizes[:-1]:
        assert one.cost <= 0.5
        if num_steps > 2:
            assert one.step == steps[round(one.turns * num_steps) - 1]
        else:
            assert one.step is None
    if num_steps <= 2 and num_turns <= 1 and not loads:
        assert sizes == (WHOLE,)


@pytest.mark.parametrize("sizes", [STOPS, SMALL])
def test_the_best_are_run_whole_for_a_fraction_of_the_cost(sizes: tuple[Rung, ...]) -> None:
    quality = {f"c{index}": index / 60 for index in random.Random(1).sample(range(60), 60)}
    ladder = Ladder(sizes, True, 60)
    cost = drive(ladder, quality, noise=0.0)
    whole = {name for name, one in ladder.configs.items() if ladder.top in one.values}
    assert len(ladder.configs) == 60
    assert "c59" in whole
    assert LEAST_WHOLE <= len(whole) <= 30
    assert cost < 60 * 0.5


@pytest.mark.parametrize("sizes", [(Rung(0.1, step=0), WHOLE), SMALL])
def test_a_small_search_still_runs_some_whole(sizes: tuple[Rung, ...]) -> None:
    ladder = Ladder(sizes, False, 3)
    drive(ladder, {"a": 3.0, "b": 1.0, "c": 2.0}, noise=0.0)
    assert {name for name, one in ladder.configs.items() if 1 in one.values} == {"a", "b", "c"}


def test_where_small_trials_tell_nothing_more_are_run_whole() -> None:
    def whole(noise: float) -> int:
        quality = {f"c{index}": index / 40 for index in random.Random(4).sample(range(40), 40)}
        ladder = Ladder(SMALL, True, 48)
        # Some ran whole from the start, so that it can be seen how well small trials tell.
        draw = random.Random(5)
        for index in range(8):
            value = draw.random()
            small = value if not noise else draw.random()
            ladder.begin(f"p{index}", 1)
            ladder.end(f"p{index}", {0: small, 1: value})
        drive(ladder, quality, noise)
        return sum(ladder.top in one.values for one in ladder.configs.values())

    assert whole(noise=5.0) > whole(noise=0.0) + 2


def test_a_trial_is_stopped_where_it_is_not_among_the_best() -> None:
    ladder = Ladder(STOPS, True, None)
    for name, value in {"a": 0.5, "b": 0.6, "c": 0.7}.items():
        ladder.begin(name, 2)
        assert ladder.reached(name, 0, value), "there is nothing to compare the first ones with"
        assert ladder.reached(name, 1, -1.0), "no rung is at this step"
    ladder.begin("d", 2)
    assert not ladder.reached("d", 0, 0.4)
    ladder.begin("e", 2)
    assert ladder.reached("e", 0, 0.8)


def test_a_failed_configuration_does_not_rise_and_stands_last() -> None:
    ladder = Ladder(SMALL, True, 8)
    for index in range(8):
        ladder.begin(f"c{index}", 0)
        ladder.end(f"c{index}", {0: None if index == 0 else index / 8})
    step = ladder.next()
    assert step is not None
    assert step.config == "c7"
    order = ladder.order()
    assert order["c0"] == 1.0
    assert order["c7"] == 0.0


def test_who_came_far_too_early_stands_where_its_values_on_the_rungs_put_it() -> None:
    ladder = Ladder(STOPS, True, None)
    for name, values in {
        "early": {0: 0.1, 1: 0.2, 2: 0.3},
        "good": {0: 0.8, 1: 0.9, 2: 0.95},
        "stopped": {0: 0.7},
        "other": {0: 0.75, 1: 0.8},
    }.items():
        ladder.begin(name, 2)
        ladder.end(name, dict(values))
    order = ladder.order()
    assert sorted(order, key=lambda name: order[name]) == ["good", "other", "stopped", "early"]


def test_what_breaks_its_constraints_comes_after_what_meets_them() -> None:
    ladder = Ladder(SMALL, True, 4)
    for name, value, violation in [("a", 0.9, 1.0), ("b", 0.5, 0.0), ("c", 0.4, 0.0), ("d", 0.8, 0.1)]:
        ladder.begin(name, 0)
        ladder.end(name, {0: value}, violation)
    assert sorted(ladder.order(), key=lambda name: ladder.order()[name]) == ["b", "c", "d", "a"]


def test_abandoned_trials_leave_no_trace() -> None:
    ladder = Ladder((WHOLE,), True, 2)
    ladder.begin("a", 0)
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
