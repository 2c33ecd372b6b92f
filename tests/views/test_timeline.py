"""Memory timelines as records, as text, as a picture and packed. How a page shows them is tested in ``js/tests``."""

from __future__ import annotations

import base64
import collections
import json
import math
import random
import struct
import zlib
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from deepseek_lab.base.timeline import MAX_BLOCK_BYTES, MemoryEvent, MemoryTimeline
from deepseek_lab.views import _bundle, _page, _words
from deepseek_lab.views._timeline import folded_rows, packed_timeline, timeline_frame, timeline_text
from deepseek_lab.views._timeline_rows import Context, Rows, coarser, fold, rows_of
from deepseek_lab.views._timeline_svg import timeline_svg
from tests.views import training

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"'><svg onload=alert(1)>",
    "]]>",
    "\ud800\x00\u202e",
    "x" * 100_000,
)


def events_of(seed: int, count: int, places: int = 9) -> list[MemoryEvent]:
    """Events of any kind, frees of what was never allocated among them."""
    chance = random.Random(seed)
    events: list[MemoryEvent] = []
    alive: list[MemoryEvent] = []
    at = 0.0
    for block in range(count):
        at += chance.choice((0.0, 0.0, 1e-6, 3e-4))
        category = chance.choice(("parameters", "activations", "mine", ""))
        event = MemoryEvent(
            at, chance.randrange(10**6), block, category, f"net.{block % 5}", "mm", "c.py", block % places
        )
        if alive and chance.random() < 0.48:
            gone = alive.pop(chance.randrange(len(alive)))
            event = event._replace(bytes=-gone.bytes, block=gone.block) if gone.bytes else event
        elif chance.random() < 0.03:
            event = event._replace(bytes=-1 - event.bytes)
        if event.bytes >= 0:
            alive.append(event)
        events.append(event)
    return events


def unpacked(packed: str) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """The header of a packed table, and its columns of whole numbers and of references."""
    whole = zlib.decompress(base64.b64decode(packed))
    (length,) = struct.unpack_from("<I", whole)
    header = json.loads(whole[4 : 4 + length])
    at, columns = 4 + length, {}
    for column in header["columns"]:
        numbers, value, shift = [], 0, 0
        for byte in whole[at : at + column["bytes"]]:
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                numbers.append(value)
                value = shift = 0
        at += column["bytes"]
        signed = [number // 2 if number % 2 == 0 else -(number + 1) // 2 for number in numbers]
        if column["type"] == "int":
            total = 0
            columns[column["name"]] = [total := total + step for step in signed]
        else:
            steps = iter(signed[header["rows"] :])
            lengths = numbers[: header["rows"]]
            columns[column["name"]] = [row - next(steps) if many else -1 for row, many in enumerate(lengths)]
    return header, columns


def parts(rows: Rows) -> dict[int, dict[str, int]]:
    """Bytes by category after every instant, by a plain sum."""
    totals: dict[str, int] = collections.defaultdict(int)
    code = [context[0] for context in rows.contexts]
    for size, freed, context in zip(rows.bytes, rows.frees, rows.context, strict=True):
        if freed < 0 and size < 0:
            totals[code[context]] -= size
    found = {}
    for row, (size, freed) in enumerate(zip(rows.bytes, rows.frees, strict=True)):
        totals[code[rows.context[row if freed < 0 else freed]]] += size if freed < 0 else -rows.bytes[freed]
        if not rows.passing(row):
            found[row] = {name: size for name, size in totals.items() if size}
    return found


def there(rows: Rows) -> dict[Context, tuple[int, int]]:
    """What is alive at the peak."""
    return {rows.contexts[context]: held for context, held in rows.alive(rows.peak()[0]).items()}


@pytest.mark.parametrize("seed", range(4))
def test_what_is_packed_is_what_was_recorded(seed: int) -> None:
    events = events_of(seed, 2000)
    header, columns = unpacked(packed_timeline(MemoryTimeline.of(events, device="cpu")))
    meta = header["meta"]
    assert header["rows"] == meta["events"] == len(events)
    assert meta["device"] == "cpu"
    assert not meta["folded"]
    names = [meta["contexts"][name] for name in ("category", "module", "operator", "file")]
    for row, event in enumerate(events):
        context = columns["context"][row]
        words = tuple(meta["words"][column[context]] for column in names)
        assert (*words, meta["contexts"]["line"][context]) == event[3:]
        assert columns["at"][row] * meta["tick_s"] == pytest.approx(event.at_s - events[0].at_s, abs=1e-9)
        freed = columns["frees"][row]
        size = columns["bytes"][row] if freed < 0 else -columns["bytes"][freed]
        assert size == event.bytes
        assert freed < 0 or events[freed].block == event.block


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([MemoryEvent(1.0, 1, 1), MemoryEvent(0.5, 1, 2)], "row 1 is at 0.5 s, after one at 1.0 s"),
        ([MemoryEvent(math.nan, 1, 1)], "row 0 is at nan s"),
        ([MemoryEvent(math.inf, 1, 1)], "row 0 is at inf s"),
        ([MemoryEvent(0, 1, 1), MemoryEvent(0, 1, 1)], "row 1 allocates block 1, which is alive"),
        ([MemoryEvent(0, 4, 1), MemoryEvent(0, -3, 1)], "row 1 frees 3 bytes of block 1, which has 4"),
        ([MemoryEvent(0, MAX_BLOCK_BYTES, 1)], "more than a block can have"),
        ([MemoryEvent(0, 2**70, 1)], "more than 64 bits"),
        ([MemoryEvent(0, 1, 1, line=-1)], "a line is negative"),
    ],
)
def test_a_record_that_cannot_be_is_refused(events: list[MemoryEvent], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MemoryTimeline.of(events)


def test_a_record_has_columns_of_one_length_and_a_finite_end() -> None:
    good = MemoryTimeline.of([MemoryEvent(0, 1, 1)])
    with pytest.raises(ValueError, match="different lengths"):
        MemoryTimeline(
            good.at_s,
            good.bytes[:0],
            good.block,
            good.category,
            good.module,
            good.operator,
            good.file,
            good.line,
        )
    with pytest.raises(ValueError, match="not finite"):
        MemoryTimeline.of([], out_of_memory_at_s=math.nan)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("stretches", [1, 3, 40, 500])
def test_folding_keeps_the_peak_what_was_there_and_every_sum(seed: int, stretches: int) -> None:
    rows = rows_of(MemoryTimeline.of(events_of(seed, 4000)))
    folded = fold(rows, stretches)
    assert folded.peak()[1] == rows.peak()[1]
    assert there(folded) == there(rows)
    assert folded.base() == rows.base()
    assert folded.totals()[-1] == rows.totals()[-1]
    allocated = sum(size for row, size in enumerate(rows.bytes) if rows.allocates(row))
    assert allocated == sum(folded.churn_bytes) + sum(
        size for row, size in enumerate(folded.bytes) if folded.allocates(row)
    )
    assert sum(folded.count) + sum(folded.churn_events) == len(rows.at)
    before = list(parts(rows).values())
    at = -1
    for held in parts(folded).values():
        at = before.index(held, at + 1)  # the instants in their order, each as it was, by category
    assert len(parts(folded)) <= 2 * stretches


@pytest.mark.parametrize("seed", range(4))
def test_every_stretch_keeps_its_own_peak(seed: int) -> None:
    rows = rows_of(MemoryTimeline.of(events_of(seed, 4000)))
    stretches = 25
    width = (rows.at[-1] + 1) / stretches
    most: dict[int, int] = {}
    for row, total in enumerate(rows.totals()):
        here = int(rows.at[row] / width)
        most[here] = max(most.get(here, 0), total)
    folded = fold(rows, stretches)
    kept = [total for row, total in enumerate(folded.totals()) if not folded.passing(row)]
    at = -1
    for total in most.values():
        at = kept.index(total, at + 1)


def test_folding_in_steps_keeps_what_folding_at_once_keeps() -> None:
    rows = rows_of(MemoryTimeline.of(events_of(7, 6000)))
    twice, once = fold(fold(rows, 200), 50), fold(rows, 50)
    assert list(parts(twice).values()) == list(parts(once).values())
    assert sum(twice.churn_bytes) == sum(once.churn_bytes)
    assert sum(twice.churn_events) == sum(once.churn_events)


def test_folding_survives_what_is_at_one_time_or_holds_nothing() -> None:
    same = [MemoryEvent(0.0, 5, n) for n in range(50)] + [MemoryEvent(0.0, -5, n) for n in range(50)]
    folded = fold(rows_of(MemoryTimeline.of(same)), 10)
    assert folded.peak()[1] == 250
    assert folded.totals()[-1] == 0
    nothing = fold(rows_of(MemoryTimeline.of([MemoryEvent(0.0, 0, n) for n in range(9)])), 3)
    assert nothing.peak()[1] == 0
    assert fold(rows_of(MemoryTimeline.of([])), 3).at == []


@pytest.mark.parametrize("places", [1, 50, 60_000])
def test_a_notebook_keeps_at_most_200_kb(places: int) -> None:
    record = MemoryTimeline.of(events_of(1, 60_000, places))
    rows = rows_of(record)
    frame, svg, text = timeline_frame(record, "t"), timeline_svg(record, "t"), timeline_text(record)
    assert frame
    picture = base64.b64encode(svg.encode()).decode()
    assert _bundle.size({"text/html": frame + picture, "text/plain": text}) <= _bundle.LIMIT_BYTES
    kept = folded_rows(rows, 100_000)
    assert len(kept.packed()) <= 100_000
    assert kept.peak()[1] == rows.peak()[1]
    assert kept.events == len(record)
    if places <= 50:
        assert there(kept) == there(rows)
    assert sum(size for size, _ in there(kept).values()) == rows.peak()[1]


def test_a_small_timeline_keeps_every_event() -> None:
    header, _ = unpacked(packed_timeline(MemoryTimeline.of(events_of(2, 500)), 100_000))
    assert header["rows"] == 500
    assert not header["meta"]["folded"]


def test_too_many_contexts_lose_their_names_and_no_bytes() -> None:
    record = MemoryTimeline.of(
        [MemoryEvent(n * 1e-3, n + 1, n, f"c{n}", f"m{n}", f"o{n}", f"f{n}", n) for n in range(500)]
    )
    rows = rows_of(record)
    coarse = coarser(rows, 20)
    assert len(coarse.contexts) <= 40
    assert coarse.totals() == rows.totals()
    largest = sorted(there(rows).items(), key=lambda item: -item[1][0])[:20]
    assert all(there(coarse)[context] == held for context, held in largest)


def test_a_real_step_is_told_by_its_text() -> None:
    before, step = training.record(2)
    record = MemoryTimeline.of([*before, *step], device="cpu")
    totals, total = [], 0
    for event in (*before, *step):
        total += event.bytes
        totals.append(total)
    lines = timeline_text(record).splitlines()
    assert lines[0].startswith(f"memory on cpu: at most {_words.memory(max(totals))}, ")
    assert lines[0].endswith(f"; {len(totals):,} events")
    assert len(lines) == 2 + 12 + 1
    assert {event.category for event in step} >= {"activations", "gradients", "temporary"}
    assert "optimizer state" in "\n".join(lines)
    assert sum(event.bytes for event in step) == 0, "a step leaves nothing behind, so that it can be repeated"


def test_running_out_of_memory_is_told() -> None:
    record = MemoryTimeline.of([MemoryEvent(0, 5, 1)], out_of_memory_at_s=0.5)
    assert "out of memory" in timeline_text(record)
    assert "out of memory" in timeline_svg(record)
    header, _ = unpacked(packed_timeline(record))
    meta = header["meta"]
    assert meta["out_of_memory_at"] * meta["tick_s"] == pytest.approx(0.5)


def test_nothing_recorded_is_said() -> None:
    record = MemoryTimeline.of([])
    assert timeline_text(record) == "memory: nothing was recorded"
    assert "nothing was recorded" in timeline_svg(record)
    assert unpacked(packed_timeline(record))[0]["rows"] == 0


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_name_leaves_what_it_stands_in(hostile: str) -> None:
    record = MemoryTimeline.of(
        [MemoryEvent(0, 5, 1, hostile, hostile, hostile, hostile, 3)], device=hostile, out_of_memory_at_s=1.0
    )
    svg = timeline_svg(record, hostile)
    root = ET.fromstring(svg.encode())
    assert {element.tag.rpartition("}")[2] for element in root.iter()} == {
        "svg",
        "style",
        "rect",
        "path",
        "text",
    }
    assert all("\ud800" not in line for line in timeline_text(record).splitlines())
    assert len(timeline_text(record).splitlines()) == 3
    page = _page.page("timeline", hostile, packed_timeline(record))
    assert page is not None
    assert page.lower().count("<script") == 3


def test_a_picture_stays_small_and_is_well_formed() -> None:
    events = events_of(5, 30_000)
    many = [event._replace(category=f"c{event.line}") if event.bytes > 0 else event for event in events]
    for kept in (events, many):
        svg = timeline_svg(MemoryTimeline.of(kept), "random")
        assert len(svg) < 40_000
        ET.fromstring(svg)


def test_without_the_front_end_there_is_no_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_page, "script", lambda kind="": None)
    assert timeline_frame(MemoryTimeline.of([MemoryEvent(0, 5, 1)]), "t") == ""


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 B"), (999, "999 B"), (1536, "1.50 KiB"), (13 * 2**30, "13.0 GiB"), (2**40 - 1, "1.00 TiB")],
)
def test_bytes_in_words(size: int, words: str) -> None:
    assert _words.memory(size) == words
