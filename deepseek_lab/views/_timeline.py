"""A memory timeline as text and as a view to explore; ``js/src/core/timeline/`` shows the latter."""

from __future__ import annotations

from deepseek_lab.base.timeline import MemoryTimeline
from deepseek_lab.views import _bundle, _page, _tables, _words
from deepseek_lab.views._timeline_rows import Rows, coarser, fold, rows_of

FRAME_BYTES = 160_000
"""Largest size of a frame: a picture and text beside it fit into what a notebook keeps."""
_CONTEXTS = (2000, 500, 120, 30, 8)
_STRETCHES = (1200, 800, 500, 300, 150, 75, 40, 10)
_KIND = "timeline"


def packed_timeline(record: MemoryTimeline, max_bytes: int | None = None) -> str:
    """The timeline as a packed table: every event, or as many instants as ``max_bytes`` has room for.

    However small, totals at every instant that is kept are exact, and so are the peak and, but for tens of thousands
    of different places, what was there then.
    """
    rows = rows_of(record)
    if max_bytes is None:
        return rows.packed()
    if len(rows.at) <= max_bytes:
        packed = rows.packed()
        if len(packed) <= max_bytes:
            return packed
    return folded_rows(rows, max_bytes).packed()


def folded_rows(rows: Rows, max_bytes: int) -> Rows:
    """Fold until the packed table has at most ``max_bytes``."""
    for contexts in _CONTEXTS:
        rows = coarser(rows, contexts)
        folded = rows
        for stretches in _STRETCHES:
            folded = fold(folded, stretches)
            if len(folded.at) <= max_bytes and len(folded.packed()) <= max_bytes:
                return folded
    raise ValueError(f"a timeline does not fit into {max_bytes} bytes")


def timeline_frame(record: MemoryTimeline, title: str, max_bytes: int = FRAME_BYTES) -> str:
    """A timeline to explore, as HTML of at most ``max_bytes`` in a notebook; empty without the front end."""
    around = _page.frame(_KIND, title, "")
    if around is None:
        return ""
    return _page.frame(_KIND, title, packed_timeline(record, max_bytes - _bundle.size(around))) or ""


def timeline_page(record: MemoryTimeline, title: str) -> str:
    """A page of its own with every event; empty where the front end was not built."""
    return _page.page(_KIND, title, packed_timeline(record)) or ""


def timeline_text(record: MemoryTimeline, *, max_rows: int = 12) -> str:
    """A line about the peak, then what was there at it, largest first.

    >>> from deepseek_lab.base.timeline import MemoryEvent
    >>> print(timeline_text(MemoryTimeline.of([MemoryEvent(0, 2048, 1, "parameters", "model.head")])))
    memory: at most 2.00 KiB, at the start; 1 event
      bytes     share  blocks  category    module
      2.00 KiB  100 %       1  parameters  model.head
    """
    rows = rows_of(record)
    at, most = rows.peak()
    lines = [summary(rows, at, most)]
    if not rows.at:
        return lines[0]
    there = sorted(rows.alive(at).items(), key=lambda item: (-item[1][0], item[0]))
    table = []
    for context, (size, blocks) in there[:max_rows]:
        category, module, operator, file, line = rows.contexts[context]
        place = f"{_words.file_name(file)}:{line}" if file else ""
        share = f"{size / most:.0%}".replace("%", " %") if most else ""
        named = (_words.clip(word, 32) for word in (category, module, operator, place))
        table.append((_words.memory(size), share, f"{blocks:,}", *named))
    columns = ("bytes", "share", "blocks", "category", "module", "operator", "place")
    printed = _tables.as_text(_tables.Table(columns, tuple(table), frozenset({1, 2})))
    lines += [f"  {line}".rstrip() for line in printed.splitlines()]
    if len(there) > max_rows:
        left = sum(size for _, (size, _) in there[max_rows:])
        lines.append(f"  … {_words.memory(left)} in {_words.plural(len(there) - max_rows, 'more place')}")
    return "\n".join(lines)


def summary(rows: Rows, at: int, most: int) -> str:
    """What the peak was, in a line."""
    if not rows.at:
        return "memory: nothing was recorded"
    after = _words.seconds(rows.at[at] * rows.tick_s) if at >= 0 else ""
    when = f"{after} after the start" if after else "at the start"
    device = f" on {_words.clip(rows.device, 40)}" if rows.device else ""
    ended = "; out of memory at the end" if rows.out_of_memory_at is not None else ""
    count = _words.plural(rows.events, "event")
    return f"memory{device}: at most {_words.memory(most)}, {when}; {count}{ended}"
