"""A search that begins with what was best in another study."""

from __future__ import annotations

import dataclasses
from typing import Any

from deepseek_lab.base import events as ev
from deepseek_lab.base.search import SearchReport
from tests.hpo.searched import CURVE, Done, Look

LARGER = f"""{CURVE.replace("64, 128, 256, default=128", "64, 256, 512, default=256")}
depth = ds.integer(1, 3)
accuracy += 0.001 * depth
"""


def best_of(done: Done, num: int) -> tuple[dict[str, Any], ...]:
    whole = [row for row in done.result.rows.values() if row.status == "complete" and row.cost >= 1]
    return tuple(dict(row.params) for row in sorted(whole, key=lambda row: -row.values[0])[:num])


def tried(done: Done) -> list[dict[str, Any]]:
    """Configurations in the order in which they were begun."""
    report = SearchReport.fold(done.log)
    return [dict(report.rows[one.trial].params) for one in done.log if isinstance(one, ev.TrialBegan)]


def test_the_best_of_another_study_come_first(look: Look) -> None:
    first = best_of(look(CURVE, trials=24, name="before"), 3)
    done = look(CURVE, trials=8, seed=5, name="after", first=first, first_of="before")
    assert tried(done)[1:4] == list(first)
    assert "the best 3 of study before are tried first" in done.result.notes
    assert tried(done)[4] not in first


def test_what_a_range_has_not_is_chosen_anew(look: Look) -> None:
    first = ({"lr": 0.003, "width": "128", "old": 3}, {"lr": 7.0, "width": "256"})
    done = look(LARGER, trials=8, name="after", first=first, first_of="before")
    one, other = tried(done)[1:3]
    assert one["lr"] == 0.003
    assert one["width"] in ("64", "256", "512")
    assert 1e-5 <= other["lr"] <= 1e-1
    assert other["width"] == "256"
    assert {one["depth"], other["depth"]} <= {1, 2, 3}
    assert "the best 2 of study before are tried first, but for depth" in done.result.notes


def test_nothing_is_tried_twice_when_a_search_goes_on(look: Look) -> None:
    first = ({"lr": 0.003, "width": "256"}, {"lr": 0.002, "width": "256"})
    look(CURVE, trials=2, name="after", first=first, first_of="before")
    done = look(CURVE, trials=8, name="after", first=first, first_of="before")
    configs = {row.config: dict(row.params) for row in done.result.rows.values()}
    assert [one in configs.values() for one in first] == [True, True]
    assert sum(one in first for one in configs.values()) == 2


def test_a_study_of_other_ranges_is_told(look: Look) -> None:
    done = look(CURVE, trials=6, name="after", first=({"momentum": 0.5},), first_of="before")
    assert "study before has no range of this cell, so nothing of it is tried first" in done.result.notes
    assert done.result.num_configs == 6


def test_two_workers_take_each_once(look: Look) -> None:
    first = tuple({"lr": 10.0**-exponent, "width": "256"} for exponent in (2, 3, 4))
    done = look(CURVE, trials=8, workers=2, name="after", first=first, first_of="before")
    configs = {row.config: dict(row.params) for row in done.result.rows.values()}
    assert [list(configs.values()).count(one) for one in first] == [1, 1, 1]
    assert dataclasses.asdict(done.search._options)["first_of"] == "before"
