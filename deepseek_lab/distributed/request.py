"""What ranks were asked for, and what they have answered and saved."""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from deepseek_lab.base.operations import Finding, find
from deepseek_lab.base.ranks import RankAnswer
from deepseek_lab.distributed.records import Asked

_LONG_S, _LATE_S = 5.0, 0.5
"""An interrupted wait is explained that was so long; records that were asked for before it have so long to come."""


@dataclasses.dataclass(frozen=True)
class Saved:
    """What all ranks of a training have said at one place."""

    place: dict[str, Any]
    states: Sequence[Any]
    """By rank, what it alone knows."""
    values: Sequence[Any]
    """What all of them have."""
    num_steps: int
    left: dict[str, str]
    """Names that could not be saved, and why: with these nothing can go on."""
    fresh: tuple[int, ...] = ()
    """Ranks that were not there: their states are those of another one, whose random numbers they do not take."""

    def by(self, numbers: Sequence[int | None]) -> Saved:
        """As ranks take it up that had these numbers; None for one that was not there."""
        states = [self.states[number or 0] for number in numbers]
        fresh = [new for new, number in enumerate(numbers) if number is None or number in self.fresh]
        return dataclasses.replace(self, states=states, fresh=tuple(fresh))


class Request:
    """Something that ranks were asked for, and their answers."""

    def __init__(
        self, number: int, ranks: Iterable[int], keep: Callable[[Saved], None] = lambda saved: None
    ) -> None:
        self.number = number
        self._keep = keep
        self.waits = set(ranks)
        self.answers: dict[int, RankAnswer] = {}
        self.payloads: dict[int, Sequence[Any]] = {}
        self.unblocked_at_s: float | None = None
        self.failed_at_s: float | None = None
        self.ended_at_s: float | None = None
        """When the first rank ended well."""
        self.said: collections.deque[tuple[int, str, str]] = collections.deque()
        self.saved: Saved | None = None
        """The last place that all ranks have saved."""
        self._can_save: dict[Any, dict[int, bool]] = {}
        self._saving: dict[Any, dict[int, tuple[dict[str, Any], Sequence[Any]]]] = {}
        self.asked: Asked | None = None
        """Records that were asked for when it was interrupted."""
        self.finding: Finding | None = None
        """Why ranks waited for each other."""
        self.looked_at_s = time.monotonic()
        """When it was last seen whether they wait for each other in different operations."""
        self.unheard: Exception | None = None
        """What the listener raised."""

    def tell(self, listener: Callable[[int, str, str], None] | None) -> None:
        """Hand on what was printed since the last time. A listener that fails hears no more; the ranks go on."""
        while self.said:
            part = self.said.popleft()
            if listener is not None and self.unheard is None:
                try:
                    listener(*part)
                except Exception as error:
                    self.unheard = error

    def can_save(self, rank: int, fields: dict[str, Any], size: int) -> bool | None:
        """A rank has said whether a place is still to come; gives whether all can save there, when all have said it."""
        place = fields["place"]
        said = self._can_save.setdefault((tuple(place["path"]), tuple(place["turns"])), {})
        said[rank] = fields["can"]
        while len(self._can_save) > 2:
            del self._can_save[next(iter(self._can_save))]
        return all(said.values()) if len(said) == size else None

    def save(self, rank: int, fields: dict[str, Any], payload: Sequence[Any], size: int) -> None:
        """A rank has saved where it is."""
        place = fields["place"]
        key = tuple(place["path"]), tuple(place["turns"])
        parts = self._saving.setdefault(key, {})
        parts[rank] = fields, payload
        while len(self._saving) > 2:  # a rank was told too late
            del self._saving[next(iter(self._saving))]
        if len(parts) == size:
            told = parts[0][0]
            states = [parts[number][1][0] for number in range(size)]
            self.saved = Saved(place, states, parts[0][1][1:], told["num_steps"], told["left"])
            self._saving.clear()
            self._keep(self.saved)

    def sort_out(self) -> None:
        """Tell ranks that failed because another one did from those that failed by themselves."""
        alone = [one for one in self.answers.values() if one.status in {"ok", "unblocked"} or one.peer_lost]
        if len(alone) == len(self.answers) and not any(one.status == "ok" for one in alone):
            return
        for number, one in self.answers.items():
            if one.status == "error" and one.peer_lost:
                self.answers[number] = dataclasses.replace(one, status="unblocked", broken=True)

    @property
    def has_failed_together(self) -> bool:
        """Whether ranks have failed in what they do together."""
        return any(one.in_collective for one in self.answers.values())

    def say_who_does_not_come(self, ranks: Sequence[int]) -> None:
        """Tell at once of ranks that are waited for and go on with something else, for that may take for ever."""
        record = self.finding.record if self.finding is not None else {}
        if self.finding is not None and any(rank in record for rank in ranks):
            self._say(self.finding)

    def explain(self) -> None:
        """Add to the answers what the records say; of an interrupted wait it is told, for nobody reads its answers."""
        if self.asked is not None:
            finding = find(self.asked.wait(_LATE_S))
            if finding.for_s > _LONG_S and finding.record:
                self._say(finding)
        if self.finding is None:
            return
        for rank, one in self.answers.items():
            if one.status == "unblocked" or one.in_collective:
                waited = "" if self.finding.differ else self.finding.waited.get(rank, "")
                record = self.finding.record.get(rank, "")
                self.answers[rank] = dataclasses.replace(one, waited=waited, record=record)

    def _say(self, finding: Finding) -> None:
        text = "".join(f"{line}\n" for line in finding.sentences())
        self.said.append((min([*self.waits, *self.answers]), "stderr", text))
