"""One rank as the notebook sees it."""

from __future__ import annotations

import time
from typing import Any

from deepseek_lab.base.ranks import RankVitals
from deepseek_lab.distributed.launchers import Process


class Rank:
    """One rank, over the processes that it has had."""

    def __init__(self, number: int, place: int | None = None, incarnation: int = 0) -> None:
        self.number = number
        """In the group; those that come after one that is gone move up."""
        self.place = number if place is None else place
        """Where its processes start, which stays."""
        self.local: int | None = None
        """Its number on its machine, which stays, and with it its GPU."""
        self.incarnation = incarnation
        self.process: Process | None = None
        self.state = "starting"
        self.why = ""
        self.device = ""
        self.host = ""
        """Name of its machine, by that machine."""
        self.machine = ""
        """What it shares with ranks that it reaches without a network."""
        self.address = ""
        """At which the other ranks reach it."""
        self.doing: dict[str, Any] = {}
        """The last word on where it is."""
        self.last_line = ""
        self.figures: RankVitals | None = None
        """How it was doing when it was last seen in a training."""
        self.freed = True
        """Whether it was ended for nothing else could end the collective that it was in."""
        self._busy: list[tuple[float, float]] = []

    def beat(self, doing: dict[str, Any]) -> None:
        """It said where it is."""
        self.doing = doing
        now = time.monotonic()
        self._busy = [part for part in self._busy if now - part[0] < 2.5] + [(now, doing["busy_s"])]

    @property
    def stuck(self) -> bool:
        """Whether it waits in a collective, and has computed nothing for about two seconds."""
        if not self._busy:
            return False
        (first_s, first), (last_s, last) = self._busy[0], self._busy[-1]
        return (
            bool(self.doing.get("waits"))
            and last_s - first_s > 1.5
            and last - first < 0.2 * (last_s - first_s)
        )

    @property
    def identity(self) -> str:
        """What its process is called; no other one ever was."""
        return f"rank-{self.place}.{self.incarnation}"
