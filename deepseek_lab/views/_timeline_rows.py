"""A memory timeline as the rows that travel to a page, and as fewer of them where a notebook keeps them.

Folding keeps instants: of each of many stretches of time the moment that held most, and the last one. What was
allocated between two instants and is alive at the second becomes one row for each context and each instant at which it
goes; what came and went between two instants is counted as churn. So totals at every instant are exact, for each
category, module and place, no peak vanishes, and folding again is the same as folding harder at once.
"""

from __future__ import annotations

import bisect
import collections
import dataclasses
from typing import Any

from deepseek_lab.base.timeline import MemoryTimeline
from deepseek_lab.views._packed import Packer

NAME_CHARS = 200
"""Longest name that a folded timeline keeps whole."""

OTHERS = "others"
"""Category of what is left over where there are too many."""

Context = tuple[str, str, str, str, int]
"""Category, module, operator, file and line."""


@dataclasses.dataclass
class Rows:
    """Columns of events, or of groups of events that share a context and their instants."""

    at: list[int]
    """Ticks from the first event."""
    bytes: list[int]
    """What the row allocated; for a free the same, negative where the allocation was not recorded."""
    frees: list[int]
    """The row whose allocation ends, or -1."""
    context: list[int]
    count: list[int]
    """Blocks that the row stands for."""
    churn_bytes: list[int]
    churn_events: list[int]
    """What came and went since the row before."""
    contexts: list[Context]
    tick_s: float
    events: int
    """How many events there were before folding."""
    out_of_memory_at: int | None = None
    device: str = ""
    folded: bool = False

    def allocates(self, row: int) -> bool:
        """Whether the row allocated what it holds."""
        return self.frees[row] < 0 and self.bytes[row] >= 0

    def base(self) -> int:
        """Bytes that were there from the start."""
        return -sum(
            size for size, freed in zip(self.bytes, self.frees, strict=True) if freed < 0 and size < 0
        )

    def totals(self) -> list[int]:
        """Bytes after each row."""
        total, found = self.base(), []
        for size, freed in zip(self.bytes, self.frees, strict=True):
            total += size if freed < 0 else -self.bytes[freed]
            found.append(total)
        return found

    def peak(self) -> tuple[int, int]:
        """The row after which memory held most, -1 for the start, and the bytes then."""
        best, most = -1, self.base()
        for row, total in enumerate(self.totals()):
            if total > most and not self.passing(row):
                best, most = row, total
        return best, most

    def passing(self, row: int) -> bool:
        """Whether a row is only a part of its instant, so that what memory holds after it never was."""
        return self.folded and row + 1 < len(self.at) and self.at[row] == self.at[row + 1]

    def alive(self, at: int) -> dict[int, tuple[int, int]]:
        """By context what is there after a row: bytes and blocks."""
        found: dict[int, list[int]] = collections.defaultdict(lambda: [0, 0])
        ended = {freed for freed in self.frees[: at + 1] if freed >= 0}
        for row, size in enumerate(self.bytes):
            if self.allocates(row):
                present = row <= at and row not in ended
            else:
                present = self.frees[row] < 0 and row > at  # it was there until then
            if present:
                entry = found[self.context[row]]
                entry[0] += abs(size)
                entry[1] += self.count[row]
        return {context: (entry[0], entry[1]) for context, entry in found.items()}

    def packed(self) -> str:
        """The table that ``js/src/core/timeline/data.ts`` reads."""
        words: dict[str, int] = {}
        columns: dict[str, list[int]] = {}
        for at, name in enumerate(("category", "module", "operator", "file")):
            columns[name] = [words.setdefault(str(context[at]), len(words)) for context in self.contexts]
        columns["line"] = [context[4] for context in self.contexts]
        meta: dict[str, Any] = {
            "words": list(words),
            "contexts": columns,
            "tick_s": self.tick_s,
            "events": self.events,
            "device": self.device,
            "folded": self.folded,
        }
        if self.out_of_memory_at is not None:
            meta["out_of_memory_at"] = self.out_of_memory_at
        packer = Packer(len(self.at), meta)
        packer.integers("at", self.at)
        last, sizes = 0, []
        for size, freed in zip(self.bytes, self.frees, strict=True):
            last = size if freed < 0 else last  # a step of nothing: the reader takes what the allocation has
            sizes.append(last)
        packer.integers("bytes", sizes)
        packer.integers("context", self.context)
        packer.references("frees", [(freed,) if freed >= 0 else () for freed in self.frees])
        if self.folded:
            packer.integers("count", self.count)
            packer.integers("churn_bytes", self.churn_bytes)
            packer.integers("churn_events", self.churn_events)
        return packer.base64()


def rows_of(record: MemoryTimeline) -> Rows:
    """The rows of a recording, one an event."""
    first = record.at_s[0] if len(record) else 0.0
    ends = [record.at_s[-1] if len(record) else 0.0]
    if record.out_of_memory_at_s is not None:
        ends.append(record.out_of_memory_at_s)
    tick_s = max(1e-9, (max(ends) - first) / 2**46)
    names = (record.category, record.module, record.operator, record.file)
    keys: dict[tuple[int, ...], int] = {}
    context = [
        keys.setdefault(key, len(keys))
        for key in zip(*(column.codes for column in names), record.line, strict=True)
    ]
    category, module, operator, file = (column.words for column in names)
    count = len(record)
    out_of_memory = record.out_of_memory_at_s
    return Rows(
        at=[round((at_s - first) / tick_s) for at_s in record.at_s],
        bytes=list(record.bytes),
        frees=list(record.frees),
        context=context,
        count=[1] * count,
        churn_bytes=[0] * count,
        churn_events=[0] * count,
        contexts=[(category[c], module[m], operator[o], file[f], line) for c, m, o, f, line in keys],
        tick_s=tick_s,
        events=count,
        out_of_memory_at=None if out_of_memory is None else max(0, round((out_of_memory - first) / tick_s)),
        device=record.device,
    )


def fold(rows: Rows, stretches: int) -> Rows:
    """The same timeline with two instants for each of ``stretches`` parts of its time."""
    kept = _instants(rows, stretches)
    if not kept:
        return dataclasses.replace(rows, folded=True)
    instant = [bisect.bisect_left(kept, row) for row in range(len(rows.at))]
    ends = {freed: row for row, freed in enumerate(rows.frees) if freed >= 0}
    groups: dict[
        tuple[int, int, int], list[int]
    ] = {}  # context, instants: bytes, blocks, context of the free
    ungrouped: dict[tuple[int, int], list[int]] = {}  # what was there from the start
    churn = [[rows.churn_bytes[row], rows.churn_events[row]] for row in kept]
    last = {row: at for at, row in enumerate(kept)}
    lead: list[tuple[int, ...] | None] = [None] * len(kept)
    never = len(kept)
    for row, size in enumerate(rows.bytes):
        at = instant[row]
        if row not in last:
            churn[at][0] += rows.churn_bytes[row]
            churn[at][1] += rows.churn_events[row]
        if rows.frees[row] >= 0:
            continue
        blocks, context = rows.count[row], rows.context[row]
        if size < 0:
            entry = ungrouped.setdefault((context, at), [0, 0])
        else:
            end = ends.get(row)
            gone = never if end is None else instant[end]
            if gone == at:
                churn[at][0] += size
                churn[at][1] += 2 * blocks
                continue
            key = (context, at, gone)
            entry = groups.setdefault(key, [0, 0, 0])
            if end is not None:
                entry[2] = rows.context[end]
            if row in last:
                lead[at] = key
        entry[0] += size
        entry[1] += blocks
    return _emitted(rows, kept, groups, ungrouped, churn, lead)


def _instants(rows: Rows, stretches: int) -> list[int]:
    """Rows after which an instant ends: for each stretch the first with most, and the last."""
    if not rows.at:
        return []
    width = (rows.at[-1] + 1) / stretches
    kept: set[int] = set()
    stretch, best, most, last = 0, -1, -1, -1
    for row, total in enumerate(rows.totals()):
        if rows.passing(row):
            continue
        here = int(rows.at[row] / width)
        if here != stretch and best >= 0:
            kept |= {best, last}
            best, most = -1, -1
        stretch = here
        if total > most:
            best, most = row, total
        last = row
    return sorted(kept | {best, last, len(rows.at) - 1})


def _emitted(
    rows: Rows,
    kept: list[int],
    groups: dict[tuple[int, int, int], list[int]],
    ungrouped: dict[tuple[int, int], list[int]],
    churn: list[list[int]],
    lead: list[tuple[int, ...] | None],
) -> Rows:
    made = dataclasses.replace(
        rows, at=[], bytes=[], frees=[], context=[], count=[], churn_bytes=[], churn_events=[], folded=True
    )
    begin: list[list[tuple[int, int, int]]] = [[] for _ in kept]
    end: list[list[tuple[int, int, int]]] = [[] for _ in range(len(kept) + 1)]
    leave: list[list[tuple[int, int]]] = [[] for _ in kept]
    for key in groups:
        begin[key[1]].append(key)
        end[key[2]].append(key)
    for unseen in ungrouped:
        leave[unseen[1]].append(unseen)
    placed: dict[tuple[int, int, int], int] = {}
    passed = [0, 0]
    time = -1

    def add(size: int, freed: int, context: int, blocks: int) -> None:
        for column, value in zip(
            (made.at, made.bytes, made.frees, made.context, made.count, made.churn_bytes, made.churn_events),
            (time, size, freed, context, blocks, *passed),
            strict=True,
        ):
            column.append(value)
        passed[:] = 0, 0

    for at, row in enumerate(kept):
        time = max(time + 1, rows.at[row])  # instants stay apart, by one tick where they were not
        passed[0] += churn[at][0]
        passed[1] += churn[at][1]
        for key in end[at]:
            add(groups[key][0], placed[key], groups[key][2], groups[key][1])
        for unseen in leave[at]:
            add(ungrouped[unseen][0], -1, unseen[0], ungrouped[unseen][1])
        for key in sorted(begin[at], key=lambda key, at=at: key == lead[at]):  # type: ignore[misc]
            placed[key] = len(made.at)
            add(groups[key][0], -1, key[0], groups[key][1])
        if passed[1] and at == len(kept) - 1:
            add(0, -1, rows.context[row], 0)
    return made


def coarser(rows: Rows, keep: int) -> Rows:
    """The same with at most twice ``keep`` contexts: those with most bytes at the peak stay as they are, others lose
    their operator and place, then their module, then their category.
    """
    there = rows.alive(rows.peak()[0])
    seen = collections.Counter(rows.context)
    ranked = sorted(seen, key=lambda context: (there.get(context, (0, 0))[0], seen[context]), reverse=True)
    best = set(ranked[:keep])
    for levels in (2, 1, 0):
        found: dict[Context, int] = {}
        codes = [
            found.setdefault(_short(context, 4 if number in best else levels), len(found))
            for number, context in enumerate(rows.contexts)
        ]
        if len(found) <= 2 * keep:
            break
    return dataclasses.replace(rows, context=[codes[one] for one in rows.context], contexts=list(found))


def _short(context: Context, levels: int) -> Context:
    """A context without what is beyond some levels, its names cut to what a notebook keeps."""
    category, module, operator, file = (
        part if len(part) <= NAME_CHARS else part[: NAME_CHARS - 1] + "…" for part in context[:4]
    )
    if levels > 2:
        return category, module, operator, file, context[4]
    return (category if levels > 0 else OTHERS), (module if levels > 1 else ""), "", "", 0
