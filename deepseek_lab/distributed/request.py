"""What ranks were asked for, and what they have answered and saved."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from deepseek_lab.base.ranks import RankAnswer


@dataclasses.dataclass(frozen=True)
class Saved:
    """What all ranks of a training have said at one place."""

    place: dict[str, int]
    states: Sequence[Any]
    """By rank, what it alone knows."""
    values: Sequence[Any]
    """What all of them have."""
    num_steps: int
    left: dict[str, str]
    """Names that could not be saved, and why: with these nothing can go on."""


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
        self._saving: dict[tuple[int, int], dict[int, tuple[dict[str, Any], Sequence[Any]]]] = {}
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

    def save(self, rank: int, fields: dict[str, Any], payload: Sequence[Any], size: int) -> None:
        """A rank has saved where it is."""
        place = fields["place"]
        key = place["statement"], place["turn"]
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
