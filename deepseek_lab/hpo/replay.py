"""A study as the events that its search would have told."""

from __future__ import annotations

from collections.abc import Iterator

from deepseek_lab.base import events as ev
from deepseek_lab.hpo.record import Entry, Record
from deepseek_lab.hpo.spaces import Space


def events_of(record: Record) -> Iterator[ev.Event]:
    """Everything that a study says, in the order in which its trials ended."""
    found = record.news()
    run, facts = record.name, record.facts
    yield ev.SearchStarted(
        run=run,
        study=record.name,
        metrics=tuple(facts["metrics"]),
        directions=tuple(facts["directions"]),
        num_trials=None,
        limit_s=None,
        num_workers=0,
        sampler="",
        num_found=len(found),
        at_s=min((one.at_s - one.seconds for one in found), default=0.0),
    )
    for name, space in record.spaces.items():
        yield space_event(run, name, space)
    for number, entry in enumerate(found):
        yield ended_event(run, number, entry)
    if (compared := facts.get("compared")) is not None:
        ci95 = compared["ci95"]
        yield ev.SearchCompared(
            run=run,
            compared=ev.Compared(
                **{
                    **compared,
                    "defaults": tuple(compared["defaults"]),
                    "found": tuple(compared["found"]),
                    "ci95": None if ci95 is None else (ci95[0], ci95[1]),
                }
            ),
        )
    yield ev.RunEnded(run=run)


def space_event(run: str, name: str, space: Space) -> ev.SpaceFound:
    """A range, told."""
    return ev.SpaceFound(
        run=run,
        name=name,
        space=space.kind,
        low=space.low,
        high=space.high,
        labels=space.labels,
        default=str(space.default),
    )


def ended_event(run: str, number: int, entry: Entry) -> ev.TrialEnded:
    """A trial that has ended, told."""
    return ev.TrialEnded(
        run=run,
        at_s=entry.at_s,
        trial=number,
        config=entry.config,
        purpose=entry.purpose,
        cost=entry.turns * entry.share,
        status=entry.status,
        numbers={name: float(one) for name, one in entry.params.items() if not isinstance(one, str)},
        labels={name: one for name, one in entry.params.items() if isinstance(one, str)},
        values=entry.values,
        curve=entry.curve,
        seconds=entry.seconds,
        error=entry.error,
        allowed=sum(max(0.0, one) for one in entry.constraints) <= 0.0,
    )
