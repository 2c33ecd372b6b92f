"""A loop that is watched runs as it would by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from deepseek_lab.base import events as ev
from deepseek_lab.base.errors import UsageError
from deepseek_lab.monitor import Track


def test_runs_over_the_steps_and_keeps_what_was_logged() -> None:
    seen = []
    for item in (run := Track("abc", name="letters")):
        seen.append(item)
        run.log(loss=torch.tensor([0.5]), step=len(seen))
    assert seen == ["a", "b", "c"]
    assert run.ended == "all 3 steps"
    assert run.values["loss"] == [(0, 0.5), (1, 0.5), (2, 0.5)]
    assert run.last["step"] == 3


def test_stops_after_the_step_that_it_is_in() -> None:
    for item in (run := Track(range(10))):
        if item == 3:
            run.stop()
            assert run.stopping
    assert run.done == 4
    assert run.ended == "stopped after 4 steps"
    assert not run.stopping
    assert list(run.values) == ["memory GiB"]


def test_an_iterator_without_a_length_and_one_that_raises() -> None:
    def steps() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("disk")

    run = Track(steps())
    with pytest.raises(OSError, match="disk"):
        list(run)
    assert (run.total, run.done, run.ended) == (None, 2, "OSError after 2 steps")
    with pytest.raises(TypeError, match="total="):
        len(run)


def test_what_cannot_be_kept_is_refused_by_name_and_nothing_is_kept() -> None:
    run = Track(range(2))
    with pytest.raises(UsageError, match=r"loss is no single number but Tensor"):
        run.log(good=1.0, loss=torch.ones(2))
    assert "good" not in run.values
    with pytest.raises(UsageError, match="something to run over"):
        Track(3)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="total is a number of steps"):
        Track([1], total=-1)


def test_a_value_that_is_not_finite_is_told_once() -> None:
    for _ in (run := Track(range(4))):
        run.log(loss=math.nan, other=math.inf)
    notes = [event.text for event in run.log_of_events if isinstance(event, ev.Noted)]
    assert notes == ["loss is nan at step 0", "other is inf at step 0"]
    assert run.to_dict()["values"]["loss"] == [(step, None) for step in range(4)]


def test_an_ended_run_is_not_run_again() -> None:
    run = Track(range(2))
    list(run)
    with pytest.raises(UsageError, match="has ended"):
        list(run)


def test_as_a_context_it_says_why_it_ended() -> None:
    run = Track(range(5))

    def loop() -> None:
        with run:
            for item in run:
                1 / (item - 2)

    with pytest.raises(ZeroDivisionError):
        loop()
    assert run.ended == "ZeroDivisionError after 2 steps"


def test_its_log_survives_a_file(tmp_path: Path) -> None:
    for step in (run := Track(range(50))):
        run.log(loss=step / 3, accuracy=-step)
    run.log_of_events.save(tmp_path / "run.jsonl")
    again = ev.EventLog.load(tmp_path / "run.jsonl")
    assert [event.to_dict() for event in again] == [event.to_dict() for event in run.log_of_events]
    assert list(again.series.steps()) == list(run.log_of_events.series.steps())


def test_a_million_values_stay_small() -> None:
    log = ev.EventLog()
    for step in range(100_000):
        log.emit(ev.Measured(run="r", step=step, values={"loss": 1.0}))
        log.emit(ev.Progressed(run="r", done=step))
    rows = log.series.since()
    assert sum(column.itemsize for column in (rows.code, rows.step, rows.at_s, rows.value)) <= 26
    assert len(log.since()) == 0
    assert log.progress is not None
    assert log.progress.done == 99_999
