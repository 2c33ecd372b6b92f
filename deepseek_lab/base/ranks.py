"""Ranks and what they answered, as plain records."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket closed")
"""What gloo says."""
_TOGETHER = ("Timed out waiting", "gloo/", "ProcessGroup", "NCCL")
"""What is in the text of errors of gloo, NCCL and their groups."""
_MOST_OUTPUT = 100_000


@dataclasses.dataclass(frozen=True)
class RankState:
    """One rank as it is now.

    ``state`` is one of ``starting``, ``ready``, ``busy``, ``dead`` and ``stopped``.
    """

    rank: int
    state: str
    pid: int
    device: str = ""
    line: int | None = None
    """Of the cell, where it is."""
    function: str = ""
    """The innermost one."""
    last_line: str = ""
    """That it printed."""
    why: str = ""
    """How it ended."""
    host: str = ""
    """Name of its machine, where that is another one."""


@dataclasses.dataclass(frozen=True)
class RankVitals:
    """How a rank of a training is doing: rates are those of the last seconds, and when it has ended of the whole.

    What is not known is None.
    """

    rank: int
    state: str
    """``starting``, ``training``, ``dead`` or ``ended``."""
    why: str = ""
    """How its last process ended."""
    num_replaced: int = 0
    """How often it was given a new process."""
    num_updates: int = 0
    updates_per_s: float | None = None
    samples_per_s: float | None = None
    waiting: float | None = None
    """Share of the time in which it waited for messages of other ranks."""
    late_s: float | None = None
    """How much longer the others wait in an update than it does, where it is the one that they wait for."""
    memory_bytes: int | None = None
    """Resident."""
    device_bytes: int | None = None
    """Of tensors on its GPU."""
    loss: float | None = None
    """What the last backward pass began at."""
    link_bytes_per_s: float | None = None
    """Sent and received."""


@dataclasses.dataclass(frozen=True)
class RankAnswer:
    """What one rank said to what it was asked.

    ``status`` is one of ``ok``, ``error`` (it raised), ``interrupted``, ``dead`` (its process ended) and ``unblocked``
    (it waited for a rank that would not come).
    """

    rank: int
    status: str
    seconds: float = 0.0
    value: str = ""
    error: str = ""
    """Name of the exception, or how the process ended."""
    text: str = ""
    """The traceback, from the cell on."""
    line: int | None = None
    device: str = ""
    broken: bool = False
    """Whether its connections to the others are shut down."""
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    waited: str = ""
    """The operation in which it waited for others."""
    record: str = ""
    """What it did in place of what others did, by their records, as the rest of a sentence."""

    @property
    def in_collective(self) -> bool:
        """Whether it failed in what ranks do together."""
        return self.status in {"error", "unblocked"} and any(
            word in self.text for word in (*_LOST, *_TOGETHER)
        )

    @property
    def peer_lost(self) -> bool:
        """Whether it failed as a connection to another rank had ended."""
        return self.error == "RuntimeError" and any(word in self.text for word in _LOST)


class RankOutput:
    """What ranks printed during a cell; of very long output the end."""

    def __init__(self) -> None:
        self._parts: dict[int, list[str]] = {}
        self._sizes: dict[int, int] = {}
        self._left_out: dict[int, int] = {}

    def add(self, rank: int, text: str) -> None:
        """A rank printed."""
        parts = self._parts.setdefault(rank, [])
        parts.append(text)
        size = self._sizes[rank] = self._sizes.get(rank, 0) + len(text)
        if size > 2 * _MOST_OUTPUT:
            whole = "".join(parts)
            self._left_out[rank] = self._left_out.get(rank, 0) + size - _MOST_OUTPUT
            self._parts[rank] = [whole[-_MOST_OUTPUT:]]
            self._sizes[rank] = _MOST_OUTPUT

    def __getitem__(self, rank: int) -> str:
        text = "".join(self._parts.get(rank, ()))
        left_out = self._left_out.get(rank)
        return f"... ({left_out:,} characters before this)\n{text}" if left_out else text

    @property
    def ranks(self) -> list[int]:
        """Those that printed something."""
        return sorted(self._parts)


def alike(texts: Mapping[int, str]) -> list[tuple[str, str]]:
    """Ranks with the same text together: pairs of ``0-2,5`` and the text, empty texts left out."""
    groups: dict[str, list[int]] = {}
    for rank in sorted(texts):
        if texts[rank].strip():
            groups.setdefault(texts[rank], []).append(rank)
    return [(spans(ranks), text) for text, ranks in groups.items()]


def spans(numbers: Iterable[int]) -> str:
    """``0-2,5`` for 0, 1, 2 and 5."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def parse_spans(text: str) -> list[int]:
    """The numbers that ``0,2-3`` or ``[0, 2-3]`` names.

    Raises:
        ValueError: it names none.
    """
    numbers: dict[int, None] = {}
    for part in text.strip().removeprefix("[").removesuffix("]").split(","):
        first, dash, last = part.strip().partition("-")
        numbers.update(dict.fromkeys(range(int(first), int(last if dash else first) + 1)))
    if not numbers:
        raise ValueError(text)
    return list(numbers)
