"""What memory held over time: every allocation and every free of a recording, in columns.

A million events are 50 MB here. Whoever records decides what a category is; the names in :data:`CATEGORIES` are those
that views know an order and a colour for.
"""

from __future__ import annotations

import dataclasses
import math
from array import array
from collections.abc import Iterable, Iterator
from typing import NamedTuple

CATEGORIES = ("parameters", "optimizer state", "gradients", "activations", "temporary")
"""From what stays longest to what is gone first."""

MAX_BLOCK_BYTES = 2**46
"""A block is smaller than this, 64 TiB."""
MAX_LINE = 2**31


class MemoryEvent(NamedTuple):
    """One allocation, or the free of what an earlier event allocated."""

    at_s: float
    bytes: int
    """Positive where memory was allocated, negative where it was freed."""
    block: int
    """Which block; a number is used again once its block was freed, as addresses are."""
    category: str = ""
    module: str = ""
    """Path with dots between its levels."""
    operator: str = ""
    file: str = ""
    line: int = 0


@dataclasses.dataclass(frozen=True)
class Names:
    """A column of words, each kept once: row ``i`` is ``words[codes[i]]``."""

    words: tuple[str, ...]
    codes: array[int]

    @classmethod
    def of(cls, values: Iterable[str]) -> Names:
        """The column with these words in its rows.

        >>> Names.of(["mm", "add", "mm"]).words
        ('mm', 'add')
        """
        numbers: dict[str, int] = {}
        codes = array("I", (numbers.setdefault(value, len(numbers)) for value in values))
        return cls(tuple(numbers), codes)

    def __len__(self) -> int:
        return len(self.codes)

    def __iter__(self) -> Iterator[str]:
        return map(self.words.__getitem__, self.codes)

    def __getitem__(self, row: int) -> str:
        return self.words[self.codes[row]]


@dataclasses.dataclass(frozen=True)
class MemoryTimeline:
    """Events in the order in which they happened; the fields are those of :class:`MemoryEvent`.

    A free of a block whose allocation was not recorded says that the block was there from the start. A free takes all
    of its block, and what it frees counts for the allocation's category and module.

    Raises:
        ValueError: columns differ in length, a time is not finite or goes backwards, a block is allocated while it is
            alive, or a free has other bytes than its allocation.

    >>> timeline = MemoryTimeline.of([MemoryEvent(0.0, 8, 1), MemoryEvent(0.5, -8, 1)])
    >>> list(timeline.frees)
    [-1, 0]
    """

    at_s: array[float]
    bytes: array[int]
    block: array[int]
    category: Names
    module: Names
    operator: Names
    file: Names
    line: array[int]
    out_of_memory_at_s: float | None = None
    """When the device had no more, where that ended the recording."""
    device: str = ""
    frees: array[int] = dataclasses.field(init=False, repr=False)
    """For each row the row that allocated what it frees; -1 for allocations and where that was not recorded."""

    @classmethod
    def of(
        cls, events: Iterable[MemoryEvent], *, out_of_memory_at_s: float | None = None, device: str = ""
    ) -> MemoryTimeline:
        """The timeline of these events."""
        rows = list(events)
        try:
            return cls(
                array("d", (row.at_s for row in rows)),
                array("q", (row.bytes for row in rows)),
                array("q", (row.block for row in rows)),
                Names.of(row.category for row in rows),
                Names.of(row.module for row in rows),
                Names.of(row.operator for row in rows),
                Names.of(row.file for row in rows),
                array("q", (row.line for row in rows)),
                out_of_memory_at_s,
                device,
            )
        except OverflowError as error:
            raise ValueError(f"a number of an event takes more than 64 bits: {error}") from None

    def __post_init__(self) -> None:
        rows = len(self.at_s)
        names = (self.category, self.module, self.operator, self.file)
        if any(len(column) != rows for column in (self.bytes, self.block, self.line, *names)):
            raise ValueError("the columns of a timeline have different lengths")
        for column in names:
            if rows and max(column.codes) >= len(column.words):
                raise ValueError("a column of words names a word that is not there")
        if self.out_of_memory_at_s is not None and not math.isfinite(self.out_of_memory_at_s):
            raise ValueError("the time of running out of memory is not finite")
        if rows and not 0 <= min(self.line) <= max(self.line) < MAX_LINE:
            raise ValueError("a line is negative or too large")
        object.__setattr__(self, "frees", self._paired())

    def __len__(self) -> int:
        return len(self.at_s)

    def _paired(self) -> array[int]:
        frees = array("q")
        alive: dict[int, int] = {}
        last = -math.inf
        for row, (at_s, size, block) in enumerate(zip(self.at_s, self.bytes, self.block, strict=True)):
            if not last <= at_s < math.inf:
                raise ValueError(f"row {row} is at {at_s} s, after one at {last} s")
            if abs(size) >= MAX_BLOCK_BYTES:
                raise ValueError(f"row {row} has {size} bytes, more than a block can have")
            last = at_s
            if size >= 0:
                if alive.setdefault(block, row) != row:
                    raise ValueError(f"row {row} allocates block {block}, which is alive")
                frees.append(-1)
                continue
            start = alive.pop(block, -1)
            if start >= 0 and self.bytes[start] != -size:
                raise ValueError(
                    f"row {row} frees {-size} bytes of block {block}, which has {self.bytes[start]}"
                )
            frees.append(start)
        return frees
