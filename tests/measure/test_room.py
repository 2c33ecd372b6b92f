"""How long the windows of a recording of memory are, counted in events and not by a clock."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from deepseek_lab.measure.profiler.room import FIRST_MARKS, MAX_EVENTS, Room

MARKS_OF_A_ROUND = 70


def windows(events_of: Callable[[int], int], rounds: int, round_s: float = 0.2) -> list[int]:
    """Events of each window of a loop, of which each round takes as many lines; the last one is open."""
    room, made, marks, open_s, events = Room(), [], 0, 0.0, 0
    for number in range(rounds):
        marks, open_s, events = marks + MARKS_OF_A_ROUND, open_s + round_s, events + events_of(number)
        if room.is_due(marks, open_s):
            made.append(events)
            if not room.closed(marks, open_s, events):
                return made
            marks, open_s, events = 0, 0.0, 0
    return [*made, events]


@pytest.mark.parametrize("events", [6_500, 14_500, 20_000])
def test_closing_in_the_middle_is_for_a_small_part_of_the_events(events: int) -> None:
    """Closing takes 2 us an event, more than recording it, so what is closed while the cell runs slows it."""
    made = windows(lambda number: events, MAX_EVENTS // events - 1)
    assert len(made) >= 2
    assert sum(made[:-1]) <= 0.15 * sum(made)


@pytest.mark.parametrize("events", [50, 2_000, 14_500])
def test_all_the_room_is_used_and_no_more(events: int) -> None:
    made = windows(lambda number: events, 100_000)
    assert 0.8 * MAX_EVENTS < sum(made) < 1.1 * MAX_EVENTS


def test_a_loop_that_becomes_heavier_is_counted_in_time() -> None:
    """Ten times as many operators below the same lines after a second."""
    made = windows(lambda number: 500 if number < 5 else 5_000, 100_000)
    assert MAX_EVENTS / 2 < sum(made) < 2 * MAX_EVENTS


def test_a_program_without_lines_is_counted_in_time() -> None:
    room = Room()
    assert room.closed(FIRST_MARKS, 0.25, 1_000)
    assert not room.is_due(1, 1.0)
    assert room.is_due(1, 60.0)
