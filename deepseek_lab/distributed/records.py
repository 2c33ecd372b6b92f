"""What ranks have done last, asked of them while they do something else."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from deepseek_lab.base.operations import RankRecord
from deepseek_lab.distributed.channel import Message

WAIT_S = 2.0
"""A rank whose interpreter is held by something for longer tells nothing."""
FEW = 256
"""Operations by which it is seen who waits for whom."""


_CLASH = re.compile(r"op\.preamble\.length <= op\.nbytes\. (\d+) vs (\d+)")
"""What gloo says before it ends the process (gloo/transport/tcp/pair.cc)."""
_CALLED = re.compile(
    r'distributed_c10d\.py", line \d+ in (\w+)\n(?:  File .*c10d_logger.*\n)?  File ".*", line (\d+)'
)


def clash(words: str) -> str:
    """How ranks have brought different sizes to an operation, as the rest of a sentence about the one that died of it.

    Args:
        words: What its process wrote last (:func:`deepseek_lab.distributed.launchers.launcher.tail`).
    """
    sizes = _CLASH.search(words)
    if sizes is None:
        return ""
    called = _CALLED.search(words)
    where = f"was in {called[1]} at line {called[2]} and " if called is not None else ""
    return (
        f"{where}was sent {int(sizes[1]):,} bytes where it expected {int(sizes[2]):,}: "
        "ranks have brought tensors of different sizes to it"
    )


class Records:
    """Asks ranks, whose listening threads answer.

    Args:
        send: Sends a message to a rank.
    """

    def __init__(self, send: Callable[[int, Message], None]) -> None:
        self._send = send
        self._changed = threading.Condition()
        self._number = 0
        self._came: dict[int, dict[int, RankRecord]] = {}

    def begin(self, ranks: Iterable[int], limit: int = FEW) -> Asked:
        """Ask for the last operations; returns at once."""
        numbers = set(ranks)
        with self._changed:
            self._number += 1
            call = self._number
            self._came[call] = {}
        for rank in sorted(numbers):
            self._send(rank, Message("record", {"call": call, "limit": limit}))
        return Asked(self, call, numbers)

    def heard(self, rank: int, fields: dict[str, Any]) -> None:
        """A rank told; called in the thread that listens."""
        with self._changed:
            came = self._came.get(fields.pop("call"))
            if came is not None:  # else nobody waits any more
                came[rank] = RankRecord.of(fields)
                self._changed.notify_all()


class Asked:
    """Records that are on their way."""

    def __init__(self, records: Records, call: int, ranks: set[int]) -> None:
        self._records, self._call, self._ranks = records, call, ranks

    def wait(self, timeout_s: float = WAIT_S) -> dict[int, RankRecord]:
        """What has come, within that time; once."""
        until = time.monotonic() + timeout_s
        changed, came = self._records._changed, self._records._came[self._call]
        with changed:
            while self._ranks - came.keys() and time.monotonic() < until:
                changed.wait(max(0.0, until - time.monotonic()))
            return self._records._came.pop(self._call)
