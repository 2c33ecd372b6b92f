"""Every event survives the way through JSON, and a saved log gives the same report."""

from __future__ import annotations

import dataclasses
import json
import threading
import types
import typing
from pathlib import Path
from typing import Any

import pytest

from deepseek_lab.base import events as ev
from deepseek_lab.base.report import OptimizeReport


def _value(hint: Any, name: str) -> Any:
    """A value of an annotated type that is not the field's default."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _value(next(one for one in arguments if one is not type(None)), name)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return (_value(arguments[0], name), _value(arguments[0], name + "2"))
        return tuple(_value(one, name) for one in arguments)
    if origin is dict:
        return {f"{name} key": _value(arguments[1], name)}
    if dataclasses.is_dataclass(hint):
        return _filled(typing.cast(type[Any], hint))
    made: dict[type, Any] = {str: f'<{name}> \u00e9 \u2028 \\ "', int: 7, float: 0.1 + 0.2, bool: True}
    return made[hint]


def _filled(cls: type[Any]) -> Any:
    hints = typing.get_type_hints(cls)
    return cls(**{field.name: _value(hints[field.name], field.name) for field in dataclasses.fields(cls)})


@pytest.mark.parametrize("kind", sorted(ev.REGISTRY))
def test_event_survives_json(kind: str) -> None:
    event = _filled(ev.REGISTRY[kind])
    data = json.loads(json.dumps(event.to_dict()))
    again = ev.from_dict(data)
    assert again == event
    assert type(again) is ev.REGISTRY[kind]
    assert again.to_dict() == event.to_dict()


@pytest.mark.parametrize("kind", sorted(ev.REGISTRY))
def test_event_with_what_is_required_alone_survives_json(kind: str) -> None:
    cls = ev.REGISTRY[kind]
    hints = typing.get_type_hints(cls)
    missing = dataclasses.MISSING
    event = cls(
        **{
            field.name: _value(hints[field.name], field.name)
            for field in dataclasses.fields(cls)
            if field.default is missing and field.default_factory is missing
        }
    )
    assert ev.from_dict(json.loads(json.dumps(event.to_dict()))) == event


def test_every_kind_is_registered_under_its_own_name() -> None:
    assert all(kind == cls.kind for kind, cls in ev.REGISTRY.items())
    assert ev.REGISTRY["candidate_ended"] is ev.CandidateEnded


def test_field_of_a_later_version_is_dropped() -> None:
    event = ev.Noted(run="r", text="hello")
    assert ev.from_dict({**event.to_dict(), "colour": "red"}) == event


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(ValueError, match="newer than"):
        ev.from_dict({**ev.Noted(run="r", text="x").to_dict(), "version": 99})
    with pytest.raises(ValueError, match="unknown event kind 'nonsense'"):
        ev.from_dict({"kind": "nonsense", "run": "r"})


def test_saved_log_gives_the_same_report(tmp_path: Path) -> None:
    log = ev.EventLog()
    for cls in ev.REGISTRY.values():
        log.emit(_filled(cls))
    log.save(tmp_path / "log.jsonl")
    again = ev.EventLog.load(tmp_path / "log.jsonl")
    assert list(again) == list(log)
    assert OptimizeReport.fold(again).to_dict() == OptimizeReport.fold(log).to_dict()


def test_listener_hears_later_events_until_it_stops() -> None:
    log, heard = ev.EventLog(), []
    log.emit(ev.Noted(run="r", text="before"))
    stop = log.listen(heard.append)
    log.emit(ev.Noted(run="r", text="during"))
    stop()
    stop()
    log.emit(ev.Noted(run="r", text="after"))
    assert [event.text for event in heard] == ["during"]  # type: ignore[attr-defined]
    assert len(log) == 3


def test_log_takes_events_from_many_threads() -> None:
    log, heard = ev.EventLog(), []
    log.listen(heard.append)

    def work(number: int) -> None:
        for index in range(200):
            log.emit(ev.Noted(run=str(number), text=str(index)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(log) == len(heard) == 800
    for number in range(4):
        mine = [event.text for event in log if event.run == str(number)]  # type: ignore[attr-defined]
        assert mine == [str(index) for index in range(200)]


def test_values_that_are_read_while_they_are_added_are_all_there() -> None:
    """What waits to be sorted in is neither lost nor there twice, however often somebody looks."""
    log, total, ended = ev.EventLog(), 20_000, threading.Event()

    def work() -> None:
        for step in range(total):
            log.measured("r", step, {"loss": float(step)}, 1.0)
        ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    steps: list[int] = []
    while not (over := ended.is_set()) or len(steps) < total:
        steps.extend(log.series.since(len(steps)).step)
        assert not over or len(steps) == total
    thread.join()
    assert steps == list(range(total))
