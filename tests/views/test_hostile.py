"""Hostile names through everything that Python writes: none becomes an element, an attribute, a link or a colour code.

The words, and the payloads that a browser is shown in ``js/tests/hostile.browser.test.ts``, are those of
:mod:`tests.views.hostile`.
"""

from __future__ import annotations

import base64
import json
import math
import re
import warnings
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from deepseek_lab import views
from deepseek_lab.base import events as ev
from deepseek_lab.base.events import GraphNode
from deepseek_lab.base.report import OptimizeReport
from deepseek_lab.views import (
    HeatmapView,
    LinesView,
    ScatterView,
    TableView,
    _bundle,
    _page,
    _run,
    _search_packed,
)
from tests.views import hostile, samples
from tests.views.searches import Made
from tests.views.test_page import unpacked

HTML = frozenset(
    {
        "b",
        "code",
        "details",
        "div",
        "i",
        "iframe",
        "img",
        "li",
        "p",
        "pre",
        "span",
        "style",
        "summary",
        "table",
    }
    | {"tbody", "td", "th", "thead", "tr", "ul"}
)
"""Elements of an output."""
PAGE = HTML | {"body", "head", "html", "main", "meta", "script", "title"}
SVG = {"circle", "g", "image", "line", "path", "polygon", "polyline", "rect", "svg", "text", "style", "title"}
ATTRIBUTES = {
    "details": {"open"},
    "iframe": {"sandbox", "title", "loading", "srcdoc"},
    "img": {"alt", "src", "style"},
    "script": {"type", "id"},
    "meta": {"charset", "name", "content"},
}
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff]")
"""What moves a terminal's cursor, turns text around, hides in it, or is no text at all."""
MOST = 2_000_000
"""Characters of any output, whatever its names are."""
WIDE = (0.0, -1.7e308, 1.7e308, 5e-324, math.inf, -math.inf, math.nan, 2.0**60)


class _Reader(HTMLParser):
    """Refuses every element and attribute that our own code does not write; follows frames and pictures."""

    def __init__(self, allowed: frozenset[str]) -> None:
        super().__init__(convert_charrefs=True)
        self.allowed = allowed
        self.scripts: list[str] = []
        self._script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in self.allowed, tag
        known = ATTRIBUTES.get(tag, {"class", "style", "colspan", "lang", "id"})
        for name, value in attrs:
            assert name in known, (tag, name)
            assert name != "style" or not re.search(r"url\(|expression|@import", value or ""), value
            if name == "src":
                _is_picture(value or "")
            if name == "srcdoc":
                assert dict(attrs)["sandbox"] == "allow-scripts allow-downloads"
                _is_page(value or "")
        self._script = tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self._script = False

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts.append(data)

    def handle_decl(self, decl: str) -> None:
        assert decl == "DOCTYPE html"

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    def handle_pi(self, data: str) -> None:
        raise AssertionError(data)

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(data)


def _is_html(text: str, allowed: frozenset[str] = HTML) -> _Reader:
    assert len(text) < MOST
    assert not CONTROL.search(text)
    reader = _Reader(allowed)
    reader.feed(text)
    reader.close()
    return reader


def _is_page(text: str) -> None:
    """A page of a view holds its data, its code and what starts it, and these are scripts of ours."""
    reader = _is_html(text, PAGE)
    assert len(reader.scripts) == 3
    _is_content(json.loads(reader.scripts[0]))
    assert reader.scripts[1] == _page.script(json.loads(reader.scripts[0])["kind"])
    assert reader.scripts[2] == _page._START


def _is_picture(source: str) -> None:
    assert source.startswith(("data:image/svg+xml;base64,", "data:image/png;base64,")), source[:60]
    data = base64.b64decode(source.split(",", 1)[1], validate=True)
    if source.startswith("data:image/png"):
        assert data.startswith(b"\x89PNG")
    else:
        _is_svg(data.decode())


def _is_svg(text: str) -> None:
    assert len(text) < MOST
    assert not CONTROL.search(text)
    for one in ET.fromstring(text).iter():
        assert one.tag.removeprefix("{http://www.w3.org/2000/svg}") in SVG, one.tag
        for name, value in one.attrib.items():
            assert not name.lower().startswith("on"), name
            if "href" in name:
                assert one.tag.endswith("image")
                _is_picture(value)
            elif name not in {"aria-label", "class", "style", "font-family"}:
                assert not re.search(r"\b(nan|inf)\b|url\(", value), (name, value[:60])


def _is_text(text: str) -> None:
    assert len(text) < MOST
    assert not CONTROL.search(text)


def _is_content(content: dict[str, str]) -> None:
    """Data of a view: its title is clean, and what is packed is JSON that every parser takes."""
    assert set(content) == {"kind", "title", "packed"}
    _is_text(content["title"])
    header, _ = unpacked(content["packed"])
    json.dumps(header, allow_nan=False)


def _is_bundle(made: dict[str, Any]) -> None:
    text = json.dumps(made, ensure_ascii=False, allow_nan=False)
    assert len(text.encode()) < MOST
    _is_text(made["text/plain"])
    _is_html(made["text/html"])
    for content in made.get(_page.MIME, {"views": []})["views"]:
        _is_content(content)


def _nodes(word: str) -> tuple[GraphNode, ...]:
    made = [GraphNode(word, "input", word, (), (2, 3), word, word, 1)]
    for at in range(3):
        made.append(GraphNode(f"{word}_{at}", word, f"{word}.{at}", (made[-1].name,), (2, 3), word, word, 3))
    return tuple(made)


def _charts(word: str) -> Iterator[views.TableView | views.ScatterView | views.LinesView | views.HeatmapView]:
    numbers, words = [1.0, None, 2.5], [word, None, "other"]
    names = {word or "a": words, f"{word} 1": numbers, f"{word} 2": [3, 2, 1]}
    roles: Any = {"units": {f"{word} 1": word}, "better": {f"{word} 1": "lower", f"{word} 2": "higher"}}
    yield TableView(names, bars=[f"{word} 2"], **roles)
    yield ScatterView(names, x=f"{word} 1", y=f"{word} 2", colour=word or "a", **roles)
    yield LinesView(None, {word: numbers}, x_label=word, y_label=word, units={word: word})
    yield HeatmapView([[1, -2], [None, 4]], rows=[word] * 2, columns=[word, "b"], label=word)


def _log(word: str) -> ev.EventLog:
    log = ev.EventLog()
    for event in samples.report_events(_nodes(word), hostile=word):
        log.emit(event)
    log.emit(ev.Progressed(run="run-1", done=1, total=2, unit=word))
    for step, value in enumerate(WIDE):
        log.emit(ev.Measured(run="run-1", step=step, values={word: value, f"{word}2": float(step)}))
    return log


def _graph(word: str) -> None:
    nodes, plan = _nodes(word), samples.mlp()
    _is_html(views.graph_frame(nodes, word, plan))
    _is_svg(views.graph_svg(nodes, title=word, plan_nodes=plan))
    _is_text(views.graph_text(nodes))


def _report(word: str) -> None:
    log = _log(word)
    report = OptimizeReport.fold(log.since())
    for live in (False, True):
        _is_bundle(_bundle.bundle(report, log, live=live, run="run"))


def _watched(word: str) -> None:
    for live in (False, True):
        _is_bundle(views.run_bundle("run", _log(word), f"{word} 1 of 2", title=word, live=live))
    _is_content(_page.text_content(word, word))
    unpacked(_run.packed_log(_log(word), done=1, state=word))


def _memory(word: str) -> None:
    record = hostile.timeline(word)
    _is_text(views.timeline_text(record))
    _is_svg(views.timeline_svg(record, word))
    _is_html(views.timeline_frame(record, word))
    _is_page(views.timeline_page(record, word))
    unpacked(views.packed_timeline(record, 20_000))


def _results(word: str) -> None:
    for chart in _charts(word):
        _is_bundle(chart.bundle(word))
        _is_html(chart.frame(word))
        page = chart.page(word)
        assert page is not None
        _is_page(page)
        if not isinstance(chart, TableView):
            _is_svg(chart.svg(word))


def _searched(word: str) -> None:
    made = Made(word=word).begin().search(24).running().compare().end(word)
    for live in (False, True):
        _is_bundle(views.search_bundle("run", made.log, title=word, live=live))
    unpacked(_search_packed.SearchPacking().packed(made.log.since(), state=word))


PRODUCERS = {
    one.__name__.strip("_"): one for one in (_graph, _report, _watched, _memory, _results, _searched)
}


def test_there_are_a_hundred_payloads_and_each_is_another() -> None:
    texts, names = set[str](), set[str]()
    for payload in hostile.payloads(bombs=False):
        texts.add(payload.text)
        names.add(payload.name)
    assert len(texts) == len(names) >= 100


@pytest.mark.parametrize("producer", PRODUCERS)
@pytest.mark.parametrize("what", hostile.WORDS)
def test_a_word_stays_a_word(what: str, producer: str) -> None:
    PRODUCERS[producer](hostile.WORDS[what])


@pytest.mark.parametrize("low", WIDE)
@pytest.mark.parametrize("high", WIDE)
def test_numbers_of_any_size_are_drawn_or_left_out(low: float, high: float) -> None:
    values = [low, high, 1.0] * 60
    views_of: list[Callable[[], Any]] = [
        lambda: TableView({"a": values}, better={"a": "lower"}, bars=["a"]),
        lambda: ScatterView({"a": values, "b": values}, colour="a"),
        lambda: LinesView(None, {"a": values}),
        lambda: HeatmapView([values] * 120),
        lambda: HeatmapView([values] * 120, pool="max"),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for make in views_of:
            _is_bundle(make().bundle("numbers"))
    log = ev.EventLog()
    for step, value in enumerate(values * 2):
        log.emit(ev.Measured(run="r", step=step, values={"loss": value}))
    _is_bundle(views.run_bundle("r", log, "run", title="run"))


def test_the_check_itself_sees_markup_and_escapes(tmp_path: Path) -> None:
    """A reader that takes everything would prove nothing."""
    for bad in (
        "<script>x</script>",
        "<p onclick=x>",
        "<img src=javascript:x>",
        "<!-- x -->",
        "<b style='a:url(x)'>",
    ):
        with pytest.raises(AssertionError):
            _is_html(bad)
    with pytest.raises(AssertionError):
        _is_svg('<svg xmlns="http://www.w3.org/2000/svg"><rect x="nan"/></svg>')
    with pytest.raises(AssertionError):
        _is_text("\x1b[31m")
