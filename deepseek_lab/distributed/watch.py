"""A training on ranks as events: who is how fast, who waits, whom the others wait for, and who has died."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from deepseek_lab.base import events as ev
from deepseek_lab.base.ranks import RankState, RankVitals, spans

_WINDOW_S, _WINDOW_UPDATES = 5.0, 3
"""Rates are over the last seconds, and over so many updates where these take longer."""
_TOLD_S = 0.4
_LATE = 0.1
"""The others wait for a rank when that is so much of their updates."""
_SURE_S = 2.0
"""Nobody is said to be late who has not been watched for so long."""
_ALIKE = 0.8
"""Ranks that are late by so much of what the latest one is are waited for too."""
_DRAWN = 8
"""Ranks that have curves of their own, at most."""
_numbers = itertools.count(1)


@dataclasses.dataclass(frozen=True)
class _Sample:
    """What a rank said of itself; all but the last three only grow."""

    at_s: float
    num_updates: int
    num_samples: int
    waited_s: float | None
    link_bytes: int | None
    memory_bytes: int | None
    device_bytes: int | None
    loss: float | None


@dataclasses.dataclass(frozen=True)
class _Rates:
    """What became of a rank from one sample to a later one."""

    seconds: float
    num_updates: int
    samples_per_s: float | None
    waited_s: float | None
    link_bytes_per_s: float | None

    @classmethod
    def between(cls, first: _Sample, last: _Sample) -> _Rates:
        seconds = last.at_s - first.at_s

        def a_second(before: float | None, after: float | None) -> float | None:
            known = before is not None and after is not None and after >= before
            return (after - before) / seconds if known else None  # type: ignore[operator]

        waited = a_second(first.waited_s, last.waited_s)
        return cls(
            seconds,
            last.num_updates - first.num_updates,
            a_second(first.num_samples, last.num_samples) if last.num_samples else None,
            None if waited is None else min(1.0, waited) * seconds,
            a_second(first.link_bytes, last.link_bytes),
        )


class _Rank:
    """What is known of one rank."""

    def __init__(self) -> None:
        self.state, self.why = "starting", ""
        self.num_replaced = 0
        self.known: RankVitals | None = None
        """When it was last said how it was doing, with figures."""
        self.was_finite = True
        self.began: _Sample | None = None
        """Of what it was asked for now."""
        self.steady: _Sample | None = None
        """The first one after an update; the first update takes longer than those that come."""
        self.last: _Sample | None = None
        self._request: int | None = None
        self._window: collections.deque[_Sample] = collections.deque()

    def add(self, request: int | None, sample: _Sample) -> None:
        if request != self._request:  # begun anew, or gone on with in another process
            self._request, self.began, self.steady = request, sample, None
            self._window.clear()
        assert self.began is not None
        self.last = sample
        if self.steady is None and sample.num_updates > self.began.num_updates:
            self.steady = sample
        if self.steady is None:
            return
        window = self._window
        window.append(sample)
        while (
            len(window) > 2
            and sample.at_s - window[1].at_s >= _WINDOW_S
            and sample.num_updates - window[1].num_updates >= _WINDOW_UPDATES
        ):
            window.popleft()

    def rates(self, *, whole: bool) -> _Rates | None:
        """Over the last seconds, or since its first update; a training that is short is measured from its beginning."""
        last, first = self.last, self.steady if whole or not self._window else self._window[0]
        if whole and (first is None or first is last):
            first = self.began
        if first is None or last is None or last.at_s <= first.at_s:
            return None
        return _Rates.between(first, last)


class Watch:
    """Folds what ranks say of themselves into events.

    Args:
        log: Where events go; they are emitted in the threads that hear the ranks.
        size: How many ranks.
    """

    def __init__(self, log: ev.EventLog, size: int) -> None:
        self.run = f"ranks-{next(_numbers)}-{time.time_ns():x}"
        self.vitals: tuple[RankVitals, ...] = ()
        """How the ranks were doing when it was last said."""
        self.ended = ""
        """Why nothing more comes."""
        self._log = log
        self._ranks = [_Rank() for _ in range(size)]
        self._lock = threading.Lock()
        self._told_s = 0.0
        self._drawn = 0
        """Updates up to which there are curves."""
        log.emit(ev.RunStarted(run=self.run, verb="distributed", targets=(f"{size} ranks",)))

    def measured(self, rank: int, fields: Mapping[str, Any]) -> None:
        """A rank said how it is doing."""
        with self._lock:
            if self.ended or rank >= len(self._ranks):
                return
            one = self._ranks[rank]
            names = [field.name for field in dataclasses.fields(_Sample)]
            one.add(fields["request"], _Sample(**{name: fields[name] for name in names}))
            one.state = "training"
            loss = fields["loss"]
            if loss is not None and not math.isfinite(loss) and one.was_finite:
                one.was_finite = False
                self._note(f"the loss of rank {rank} is {loss} after {fields['num_updates']:,} updates")
            if time.monotonic() - self._told_s > _TOLD_S:
                self._tell()

    def changed(self, state: RankState) -> None:
        """A rank is in another state."""
        with self._lock:
            one = self._ranks[state.rank]
            if self.ended:
                return
            if state.state == "dead" and one.state != "dead":
                one.state, one.why = "dead", state.why
                self._note(f"rank {state.rank} {state.why}")
            elif state.state in {"ready", "busy"} and one.state == "dead":
                one.state = "starting"
                one.num_replaced += 1
                self._note(f"rank {state.rank} was replaced")
            else:
                return
            self._tell()

    def regrouped(self, kept: Sequence[int], text: str) -> None:
        """Ranks go on without others; those that had these numbers have the numbers from 0 on. ``text`` tells it."""
        with self._lock:
            if self.ended:
                return
            self._ranks = [self._ranks[number] for number in kept]
            self._note(text)
            self._tell()

    def end(self, failed: str = "") -> list[str]:
        """Nothing more comes; gives what is to be remarked of the whole.

        Args:
            failed: What ended it, where it did not come to its end.
        """
        with self._lock:
            for one in self._ranks:
                if one.state != "dead":
                    one.state = "ended"
            self._tell(whole=True)
            notes = _notes(self.vitals)
            for note in notes:
                self._note(note)
            updates = f"{self._done():,} updates"
            self.ended = f"{failed} after {updates}" if failed else updates
            self._log.emit(ev.RunEnded(run=self.run, reason=self.ended))
        return notes

    @property
    def known(self) -> dict[int, RankVitals]:
        """The last figures of each rank that there were, also of one that has died since."""
        with self._lock:
            found = {number: one.known for number, one in enumerate(self._ranks)}
            return {
                number: dataclasses.replace(one, rank=number)
                for number, one in found.items()
                if one is not None
            }

    def _done(self) -> int:
        return min(one.num_updates for one in self.vitals)

    def _note(self, text: str) -> None:
        self._log.emit(ev.Noted(run=self.run, text=text))

    def _tell(self, *, whole: bool = False) -> None:
        self._told_s = time.monotonic()
        rates = [
            one.rates(whole=whole) if one.state in {"training", "ended"} else None for one in self._ranks
        ]
        late = _late(rates)
        self.vitals = tuple(
            _vitals(number, one, rates[number], late.get(number)) for number, one in enumerate(self._ranks)
        )
        for one, vitals in zip(self._ranks, self.vitals, strict=True):
            if vitals.memory_bytes is not None:
                one.known = vitals
        done = self._done()
        self._log.emit(ev.Progressed(run=self.run, done=done, unit="update"))
        # A training that goes on from what was saved is drawn once; rates of the whole are no point of a curve.
        if all(rates) and done > self._drawn and not (whole and self._drawn):
            self._drawn = done
            self._log.measured(self.run, done, _curves(self.vitals), time.time())
        self._log.emit(ev.RanksSeen(run=self.run, ranks=self.vitals))


def _vitals(number: int, one: _Rank, rates: _Rates | None, late_s: float | None) -> RankVitals:
    last = one.last
    known = RankVitals(number, one.state, one.why, one.num_replaced)
    if last is None:
        return known
    known = dataclasses.replace(known, num_updates=last.num_updates)
    if one.state in {"training", "ended"}:
        known = dataclasses.replace(
            known, memory_bytes=last.memory_bytes, device_bytes=last.device_bytes, loss=last.loss
        )
    if rates is None:
        return known
    return dataclasses.replace(
        known,
        updates_per_s=rates.num_updates / rates.seconds,
        samples_per_s=rates.samples_per_s,
        waiting=None if rates.waited_s is None else rates.waited_s / rates.seconds,
        late_s=late_s,
        link_bytes_per_s=rates.link_bytes_per_s,
    )


def _late(rates: Sequence[_Rates | None]) -> dict[int, float]:
    """Ranks that the others wait for, and by how many seconds an update.

    Messages take all ranks equally long, so who waits less than the others comes later than they do.
    """
    waits: list[float] = []
    updates_s: list[float] = []
    for one in rates:
        if one is None or one.waited_s is None or one.num_updates < _WINDOW_UPDATES or one.seconds < _SURE_S:
            return {}
        waits.append(one.waited_s / one.num_updates)
        updates_s.append(one.seconds / one.num_updates)
    longest = max(waits)
    most = longest - min(waits)
    if most < _LATE * statistics.median(updates_s):
        return {}
    late = [number for number, wait in enumerate(waits) if longest - wait >= _ALIKE * most]
    if 2 * len(late) > len(waits):  # one comes early, and all others come together
        return {}
    others = statistics.mean(wait for number, wait in enumerate(waits) if number not in late)
    return {number: others - waits[number] for number in late}


def _curves(vitals: Sequence[RankVitals]) -> dict[str, float]:
    """What is drawn over updates: of all ranks together, and where they are few of each."""
    losses = [one.loss for one in vitals if one.loss is not None]
    samples = [one.samples_per_s for one in vitals if one.samples_per_s is not None]
    found: dict[str, float] = {}
    if losses:
        found["loss"] = statistics.fmean(losses)
    if samples:
        found["samples per second"] = math.fsum(samples)
    waiting = {one.rank: 100 * one.waiting for one in vitals if one.waiting is not None}
    if waiting:
        found["waiting, %"] = statistics.fmean(waiting.values())
    if len(vitals) <= _DRAWN:
        found |= {f"waiting of rank {rank}, %": share for rank, share in waiting.items()}
        found |= {f"loss of rank {one.rank}": one.loss for one in vitals if one.loss is not None}
    return found


def _notes(vitals: Sequence[RankVitals]) -> list[str]:
    late = {one.rank: one for one in vitals if one.late_s is not None}
    if not late:
        return []
    seconds = statistics.fmean(one.late_s or 0.0 for one in late.values())
    rate = statistics.fmean(one.updates_per_s or 0.0 for one in late.values())
    which = f"rank{'s' if len(late) > 1 else ''} {spans(late)}"
    return [
        f"the others waited for {which}, {1e3 * seconds:.3g} ms an update, {100 * seconds * rate:.0f} % of the time"
    ]
