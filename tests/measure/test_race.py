"""Timing without a clock: laws of the interval and of ratios, and races on a clock that the test turns."""

from __future__ import annotations

import itertools
import math
import random
import statistics
import types
from collections.abc import Callable, Iterator

import pytest

from deepseek_lab.measure import race as module
from deepseek_lab.measure.race import BLOCK_S, Ratio, median_ci95, race, time_block


@pytest.mark.parametrize("count", range(1, 40))
def test_interval_holds_the_median_and_stays_within_the_values(count: int) -> None:
    values = [random.gauss(0, 1) for _ in range(count)]
    low, high = median_ci95(values)
    assert min(values) <= low <= statistics.median(values) <= high <= max(values)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_few_values_give_the_whole_range(count: int) -> None:
    assert median_ci95(list(range(count))) == (0, count - 1)


@pytest.mark.parametrize("count", range(6, 60))
def test_interval_covers_at_least_95_per_cent(count: int) -> None:
    """Exactly, by the binomial distribution of how many values lie below the median."""
    low, high = median_ci95(list(range(count)))
    below = sum(math.comb(count, k) for k in range(int(low) + 1)) / 2**count
    above = sum(math.comb(count, k) for k in range(int(high) + 1, count + 1)) / 2**count
    assert below + above <= 0.05
    if low + 1 < high - 1:
        one_less = 2 * sum(math.comb(count, k) for k in range(int(low) + 2)) / 2**count
        assert one_less > 0.05, "a narrower interval would do"


def test_interval_does_not_depend_on_order_and_follows_shift_and_scale() -> None:
    values = [random.gauss(5, 2) for _ in range(15)]
    low, high = median_ci95(values)
    assert median_ci95(random.sample(values, 15)) == (low, high)
    assert median_ci95([3 * v + 1 for v in values]) == pytest.approx((3 * low + 1, 3 * high + 1))


def test_one_outlier_does_not_move_a_ratio() -> None:
    base, contender = [2.0] * 15, [1.0] * 14 + [1000.0]
    ratio = Ratio.of(base, contender)
    assert ratio.speedup == pytest.approx(2.0)
    assert ratio.ci95 == pytest.approx((2.0, 2.0))


def test_ratio_of_a_thing_with_itself_is_one() -> None:
    times = [random.uniform(1, 2) for _ in range(9)]
    ratio = Ratio.of(times, times)
    assert (ratio.speedup, ratio.ci95, ratio.num_rounds) == (1.0, (1.0, 1.0), 9)


def test_ratio_turned_round_is_its_reciprocal() -> None:
    a = [random.uniform(1, 2) for _ in range(11)]
    b = [random.uniform(1, 4) for _ in range(11)]
    one, other = Ratio.of(a, b), Ratio.of(b, a)
    assert one.speedup == pytest.approx(1 / other.speedup)
    assert one.ci95 == pytest.approx((1 / other.ci95[1], 1 / other.ci95[0]))


def test_ratio_is_in_milliseconds_and_free_of_units() -> None:
    ratio = Ratio.of([0.004] * 7, [0.002] * 7)
    assert (ratio.base_ms, ratio.median_ms) == pytest.approx((4.0, 2.0))
    scaled = Ratio.of([4.0] * 7, [2.0] * 7)
    assert scaled.speedup == pytest.approx(ratio.speedup)


def test_times_must_be_paired() -> None:
    with pytest.raises(ValueError, match="zip"):
        Ratio.of([1.0, 2.0], [1.0])


class Clock:
    """A clock that stands still until somebody works."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.calls: list[str] = []

    def worker(self, name: str, *seconds: float) -> Callable[[], None]:
        """A callable that takes the given times in turn."""
        durations: Iterator[float] = itertools.cycle(seconds)

        def work() -> None:
            self.calls.append(name)
            self.now_s += next(durations)

        return work


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", types.SimpleNamespace(perf_counter=lambda: made.now_s))
    monkeypatch.setattr(module, "involuntary_switches", lambda: 0)
    return made


def test_block_is_long_enough_and_its_first_call_is_dropped(clock: Clock) -> None:
    seconds = itertools.chain([5.0], itertools.repeat(0.001))

    def work() -> None:
        clock.calls.append("x")
        clock.now_s += next(seconds)

    assert time_block(work) == pytest.approx(0.001)
    assert clock.now_s - 5.0 >= BLOCK_S
    assert len(clock.calls) == pytest.approx(BLOCK_S / 0.001 + 1, abs=2)


def test_long_call_is_made_twice_a_block(clock: Clock) -> None:
    assert time_block(clock.worker("x", 2.0)) == pytest.approx(2.0)
    assert len(clock.calls) == 2


def test_block_of_instant_calls_ends(clock: Clock) -> None:
    time_block(clock.worker("x", 0.0), max_calls=50)
    assert len(clock.calls) == 51


def test_identical_callables_tie(clock: Clock) -> None:
    work = {name: clock.worker(name, 0.001, 0.0012, 0.0011) for name in ("eager", "same")}
    ratio = race(work, "eager", budget_s=100.0)["same"]
    assert ratio.speedup == pytest.approx(1.0, rel=0.05)
    assert ratio.ci95[0] <= 1.0 <= ratio.ci95[1]


def test_twice_as_fast_is_two(clock: Clock) -> None:
    work = {"eager": clock.worker("eager", 0.002), "fast": clock.worker("fast", 0.001)}
    found = race(work, "eager", budget_s=100.0)
    assert list(found) == ["fast"]
    assert found["fast"].speedup == pytest.approx(2.0, rel=1e-6)
    assert found["fast"].ci95 == pytest.approx((2.0, 2.0), rel=1e-6)


def test_drift_of_the_machine_cancels(clock: Clock) -> None:
    """A processor that slows down all the time hits both alike, for rounds are paired and turn round."""

    def drifting(seconds: float) -> Callable[[], None]:
        def work() -> None:
            clock.now_s += seconds * (1.0 + clock.now_s)

        return work

    ratio = race({"eager": drifting(0.003), "same": drifting(0.003)}, "eager", budget_s=100.0)["same"]
    assert ratio.ci95[0] <= 1.0 <= ratio.ci95[1]


def test_order_turns_round_every_round(clock: Clock) -> None:
    work = {name: clock.worker(name, 0.04) for name in ("a", "b", "c")}
    race(work, "a", budget_s=0.0, min_rounds=3, max_rounds=3)
    order = [name for name, _ in itertools.groupby(clock.calls)]
    assert order == ["a", "b", "c", "b", "a", "b", "c"]


def test_budget_ends_a_race_and_not_before_the_fewest_rounds(clock: Clock) -> None:
    work = {name: clock.worker(name, 0.01) for name in ("a", "b")}
    assert race(work, "a", budget_s=0.0, min_rounds=5, max_rounds=15)["b"].num_rounds == 5
    assert race(work, "a", budget_s=1e9, min_rounds=5, max_rounds=15)["b"].num_rounds == 15


def test_race_can_be_stopped(clock: Clock) -> None:
    work = {name: clock.worker(name, 0.01) for name in ("a", "b")}
    assert race(work, "a", budget_s=1e9, should_stop=lambda: True)["b"].num_rounds == 1


def test_error_in_a_call_is_not_swallowed(clock: Clock) -> None:
    def fails() -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        race({"a": clock.worker("a", 0.01), "b": fails}, "a", budget_s=1.0)
