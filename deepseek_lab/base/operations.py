"""What ranks have done together last, operation by operation, and what that says of ranks that wait for each other."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from deepseek_lab.base.ranks import alike, spans

_SAME_SIZE = frozenset({"all_reduce", "broadcast", "reduce", "all_gather", "reduce_scatter"})
"""Operations to which all ranks of a group bring as many values of one type."""


@dataclasses.dataclass(frozen=True)
class Operation:
    """A collective operation, or a message to or from one rank."""

    name: str
    group: str
    number: int = 0
    """Of the group's collectives, from 1 on; 0 for messages."""
    shapes: tuple[tuple[int, ...], ...] = ()
    """Of the tensors that this rank brings, or receives where it brings none."""
    dtype: str = ""
    num_bytes: int = 0
    peer: int | None = None
    """The rank at the other end of a message."""
    line: int | None = None
    """Of the cell."""
    at_s: float = 0.0
    """When it was asked for, in seconds since 1970."""
    took_s: float | None = None
    """Until it was seen to have ended; None where nobody saw when."""
    state: str = "ended"
    """``waits``, ``ended`` or ``failed``."""

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Operation:
        """From plain data."""
        shapes = tuple(tuple(shape) for shape in fields["shapes"])
        return cls(**{**fields, "shapes": shapes})

    @property
    def num_values(self) -> int:
        """Of all tensors."""
        return sum(math.prod(shape) for shape in self.shapes)

    def text(self) -> str:
        """What it is: ``all_reduce of [64, 10] float32``."""
        if not self.shapes:
            return self.name
        many = len(self.shapes) > 1
        what = f"{len(self.shapes)} tensors, {self.num_values:,}" if many else str(list(self.shapes[0]))
        return f"{self.name} of {what} {self.dtype}".rstrip()


@dataclasses.dataclass(frozen=True)
class RankRecord:
    """The last operations of a rank, and where it was when it was asked for them."""

    operations: tuple[Operation, ...] = ()
    """In the order in which they were asked for."""
    groups: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    """Ranks of each group that it belongs to."""
    whole: bool = True
    """Whether nothing older was left out."""
    waits: bool = False
    """Whether it waits for other ranks."""
    line: int | None = None
    """Of the cell, where it is; None where it is in none."""
    source: str = ""
    """That line."""
    stack: tuple[str, ...] = ()
    """Where it is, from the cell on: ``file, line 3, in f``."""
    at_s: float = 0.0
    """When it was asked, by the clock of its operations."""

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> RankRecord:
        """From plain data."""
        parts = {
            "operations": tuple(map(Operation.of, fields["operations"])),
            "groups": {name: tuple(ranks) for name, ranks in fields["groups"].items()},
            "stack": tuple(fields["stack"]),
        }
        return cls(**{**fields, **parts})

    @property
    def first_waiting(self) -> Operation | None:
        """Of the operations that it waits in, or else of those that have failed, the first one."""
        for state in ("waits", "failed"):
            found = [one for one in self.operations if one.state == state]
            if found:
                return min(found, key=_asked_s)
        return None


@dataclasses.dataclass(frozen=True)
class Finding:
    """Why ranks wait for each other, by rank."""

    waited: Mapping[int, str] = dataclasses.field(default_factory=dict)
    """The operation that it waits in, or has waited in."""
    record: Mapping[int, str] = dataclasses.field(default_factory=dict)
    """What a rank has done in place of coming to an operation, as the rest of a sentence."""
    differ: bool = False
    """Whether ranks have called different operations, which nothing but an end of them can help."""
    for_s: float = 0.0
    """How long the first rank has waited."""

    def sentences(self) -> list[str]:
        """All of it, a line for ranks that are alike."""
        lines = [f"{ranks_words(which)} waited in {text}" for which, text in alike(self.waited)]
        return lines + [f"{ranks_words(which)} {text}" for which, text in alike(self.record)]


def find(records: Mapping[int, RankRecord]) -> Finding:
    """What ranks wait for, from the first operation on that ranks of a group do not share."""
    groups = {name: None for record in records.values() for name in record.groups}
    found = [one for group in groups if (one := _find_in(group, records)) is not None]
    first = min(found, key=lambda one: one.at_s) if found else _messages(records)
    waiting = _waiting(records)
    if not first.differ:
        waiting |= first.came
    for_s = max((records[rank].at_s - one.at_s for rank, one in waiting.items()), default=0.0)
    waited = {rank: called(one, records) for rank, one in waiting.items()}
    return Finding(waited, first.record, first.differ, for_s)


def called(one: Operation, records: Mapping[int, RankRecord]) -> str:
    """``all_reduce of [64] float32, number 7 of all ranks``."""
    return (
        f"{one.text()}, number {one.number:,} of {group_words(one.group, records)}"
        if one.number
        else one.text()
    )


def group_words(group: str, records: Mapping[int, RankRecord]) -> str:
    """``all ranks``, or which; empty for a group that is not there any more."""
    ranks = {rank for record in records.values() for members in record.groups.values() for rank in members}
    members = next((record.groups[group] for record in records.values() if group in record.groups), ())
    return "all ranks" if members and len(members) == len(ranks) else ranks_words(members) if members else ""


def ranks_words(which: str | Sequence[int]) -> str:
    """``rank 1`` or ``ranks 0,2``."""
    text = which if isinstance(which, str) else spans(which)
    return f"rank {text}" if text.isdigit() else f"ranks {text}"


@dataclasses.dataclass(frozen=True)
class _Found:
    """Where ranks part."""

    came: Mapping[int, Operation] = dataclasses.field(default_factory=dict)
    record: Mapping[int, str] = dataclasses.field(default_factory=dict)
    differ: bool = False

    @property
    def at_s(self) -> float:
        return min(map(_asked_s, self.came.values()))


def _asked_s(one: Operation) -> float:
    return one.at_s


def _waiting(records: Mapping[int, RankRecord]) -> dict[int, Operation]:
    return {rank: one for rank, record in records.items() if (one := record.first_waiting) is not None}


def _find_in(group: str, records: Mapping[int, RankRecord]) -> _Found | None:
    """The first operation of a group that is not the same on all of its ranks."""
    calls: dict[int, dict[int, Operation]] = {}
    for rank, record in records.items():
        mine = {one.number: one for one in record.operations if one.group == group and one.number}
        if group in record.groups and (mine or record.whole):
            calls[rank] = mine
    if len(calls) < 2:
        return None
    last = {rank: max(mine, default=0) for rank, mine in calls.items()}
    together = min(last.values())
    for number in range(max(min(mine, default=1) for mine in calls.values()), together + 1):
        now = {rank: mine[number] for rank, mine in calls.items() if number in mine}
        if len({one.name for one in now.values()}) > 1 or _sizes_clash(list(now.values())):
            return _Found(now, {rank: _differs(one, records) for rank, one in now.items()}, differ=True)
    came = {rank: mine[together + 1] for rank, mine in calls.items() if together + 1 in mine}
    if not came:
        return None
    to = f"{next(iter(came.values())).name}, number {together + 1:,} of {group_words(group, records)}"
    missing = {
        rank: f"did not come to {to}{_where(records[rank])}" for rank, at in last.items() if at == together
    }
    return _Found(came, missing)


def _messages(records: Mapping[int, RankRecord]) -> _Found:
    """Ranks that wait for a message, and those that do not come to it."""
    waiting = _waiting(records)
    missing = {
        one.peer: f"did not come to {one.name} of rank {rank}{_where(records[one.peer])}"
        for rank, one in waiting.items()
        if one.peer is not None and one.peer in records and one.peer not in waiting
    }
    return _Found(waiting, missing)


def _sizes_clash(operations: Sequence[Operation]) -> bool:
    """Whether ranks have brought other numbers of values, or other types, to an operation that did not come to its end
    with that.
    """
    same = len({(one.num_values, one.dtype) for one in operations}) == 1
    ended = all(one.state == "ended" for one in operations)
    return operations[0].name in _SAME_SIZE and not same and not ended


def _differs(one: Operation, records: Mapping[int, RankRecord]) -> str:
    line = "" if one.line is None else f" at line {one.line}"
    of = group_words(one.group, records)
    return f"called {one.text()}{line} as number {one.number:,} of {of}, and others something else"


def _where(record: RankRecord) -> str:
    if record.line is None:
        return ""
    source = f": {record.source}" if record.source else ""
    return f"; it was at line {record.line}{source}"
