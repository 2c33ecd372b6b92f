"""Laws of a shown report: it is static, escaped, small enough, and says what it left out."""

from __future__ import annotations

import base64
import doctest
import os
import random
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from deepseek_lab.base import events as ev
from deepseek_lab.base.report import OptimizeReport
from deepseek_lab.views import _bundle, _html, _svg, bundle, graph_text
from tests.views import samples

HOSTILE = '<script>alert(1)</script>" onload="x" \'</details></div><img src=http://x.y/z>\x1b[31m\u202e\ud800'
ALLOWED = {
    "div",
    "style",
    "p",
    "details",
    "summary",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "span",
    "i",
    "b",
}
ALLOWED |= {"ul", "li", "pre", "code", "img", "iframe"}
VOID = {"img"}


class _Reader(HTMLParser):
    """Collects tags and checks that they nest."""

    def __init__(self, allowed: set[str]) -> None:
        super().__init__(convert_charrefs=True)
        self.allowed, self.open, self.sources, self.words = allowed, list[str](), list[str](), list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in self.allowed
        if tag == "iframe":  # what is inside of it: test_page.py
            assert {name for name, _ in attrs} == {"sandbox", "title", "loading", "srcdoc"}
            attrs = []
        for name, value in attrs:
            assert name in {"class", "style", "colspan", "alt", "src"}, name
            if name == "src":
                assert value is not None
                assert value.startswith("data:image/svg+xml;base64,")
                self.sources.append(base64.b64decode(value.split(",", 1)[1]).decode())
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(html: str) -> _Reader:
    reader = _Reader(ALLOWED)
    reader.feed(html)
    reader.close()
    assert not reader.open
    return reader


@pytest.mark.parametrize("hostile", ["", HOSTILE])
def test_html_is_static_and_escaped(hostile: str) -> None:
    nodes = samples.gpt2()
    shown = bundle(samples.report(nodes, samples.gpt2_plan(nodes), hostile=hostile))
    html = shown["text/html"]
    reader = read(html)
    assert len(reader.sources) == 1
    outside = re.sub(r'srcdoc="[^"]*"', "", html)
    for text in (outside, *reader.sources):
        assert "<script" not in html + text
        assert not re.search(
            r"(?:src|href)\s*=\s*[\"']?http|url\(|@import", text.replace("&lt;img src=http", "")
        )
        text.encode()
    if not hostile:
        assert "http" not in re.sub(r"base64,[^\"]*", "", html)
    assert "\x1b" not in html + shown["text/plain"]
    assert "\u202e" not in html + shown["text/plain"]


def test_summary_comes_first_then_folded_detail() -> None:
    report = samples.report(samples.mlp())
    shown = bundle(report)
    assert shown["text/plain"].splitlines()[0] == report.summary()
    reader = read(shown["text/html"])
    words = [word for word in reader.words if word.strip() and "{" not in word]
    assert words[0] == report.summary()
    assert words[1] == "candidates"
    assert "<details open" not in shown["text/html"]


def test_every_status_is_shown_with_its_reason() -> None:
    shown = bundle(samples.report(samples.mlp()))
    for text in shown.values():
        for status in ("won", "lost", "refused", "failed", "skipped"):
            assert status in text
        for reason in ("differs at output 0", "ran out of time after 120 s", "pip install executorch"):
            assert reason in text
        for remark in ("print() was called (2.py:7)", "parameter weight changed (× 2)", "bf16: 2.9x at 1e-2"):
            assert remark in text
    assert shown["text/html"].count('class="bar"') == 3
    assert "def run(x):" in shown["text/html"]


def test_follows_the_theme_of_the_page() -> None:
    html = bundle(samples.report(samples.mlp()))["text/html"]
    assert "var(--jp-content-font-color1," in html
    assert "prefers-color-scheme:dark" in html
    (drawing,) = read(html).sources
    assert "prefers-color-scheme:dark" in drawing


def many_graphs(count: int) -> OptimizeReport:
    nodes = samples.gpt2(2)
    report = samples.report(nodes, samples.gpt2_plan(nodes))
    for i in range(count):
        report.add(
            ev.GraphCaptured(
                run="r",
                target="model",
                graph=f"x{i}",
                nodes=nodes,
                signature="s" * 500,
                capture_s=0.1,
            )
        )
    return report


def huge_strings() -> OptimizeReport:
    rng = random.Random(0)
    text = "".join(rng.choice("\"'&<>\\\n界\u0301a") for _ in range(50_000))
    events = samples.report_events(
        samples.random_graph(0, 2_000), samples.random_graph(1, 2_000), hostile=text
    )
    events += [ev.Noted(run="r", text=f"{i}{text}") for i in range(200)]
    events += [
        ev.CandidateEnded(run="r", graph="g0" + text, candidate=f"{i}{text}", status=text, reason=text)
        for i in range(200)
    ]
    return OptimizeReport.fold(events)


def chains() -> OptimizeReport:
    nodes = samples.chain(20_000)
    return samples.report(nodes, samples.random_plan(3, nodes))


@pytest.mark.parametrize(
    "make", [chains, lambda: many_graphs(500), huge_strings], ids=["chain", "graphs", "strings"]
)
def test_a_bundle_stays_under_its_limit(make: object) -> None:
    assert callable(make)
    shown = bundle(make())
    assert _bundle.size(shown) <= _bundle.LIMIT_BYTES == 200_000
    read(shown["text/html"])
    assert "left out" in shown["text/html"] or "folded" in shown["text/html"]


def test_20_000_nodes_are_drawn_folded_and_counted() -> None:
    shown = bundle(samples.report(samples.chain(20_000)))
    assert _bundle.size(shown) <= 200_000
    (drawing,) = read(shown["text/html"]).sources
    assert "20,000 nodes in 80 boxes" in drawing
    assert "19,921 nodes" in drawing


def test_graphs_left_out_are_counted() -> None:
    html = bundle(many_graphs(100))["text/html"]
    sections = len(re.findall(r"<summary>\S+ of model: ", html))
    left = re.search(r"… ([\d,]+) more graphs? left out", html)
    assert left
    assert 1 <= sections <= _bundle.MAX_SECTIONS
    assert int(left[1]) + sections == 101


def test_a_report_of_nothing_can_be_shown() -> None:
    shown = bundle(OptimizeReport())
    assert shown["text/plain"] == "optimize  nothing captured yet"
    read(shown["text/html"])


def test_undecided_and_eager_graphs_say_so() -> None:
    events = samples.report_events(samples.mlp())
    undecided = OptimizeReport.fold(event for event in events if not isinstance(event, ev.Decided))
    assert "undecided, eager meanwhile" in bundle(undecided)["text/html"]
    kept = OptimizeReport.fold(
        [*events, ev.Decided(run="r", target="model", graph="g0", chosen="eager", reason="none was faster")]
    )
    assert "kept eager: none was faster" in bundle(kept)["text/html"]


@pytest.mark.parametrize("name", ["mlp", "gpt2"])
def test_printed_report_is_as_recorded(name: str) -> None:
    """``DEEPSEEK_LAB_GOLDEN=1`` writes the recorded text anew."""
    nodes = {"mlp": samples.mlp, "gpt2": samples.gpt2}[name]()
    text = bundle(samples.report(nodes))["text/plain"] + "\n\n" + graph_text(nodes) + "\n"
    golden = Path(__file__).parent / "golden" / f"{name}.txt"
    if os.environ.get("DEEPSEEK_LAB_GOLDEN"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


def test_examples_run() -> None:
    result = doctest.testmod(_bundle)
    assert result.attempted
    assert not result.failed


def test_styles_of_the_page_do_not_reach_into_a_drawing() -> None:
    drawn = re.findall(
        r'class="([^"]*)"', _svg.draw(samples.gpt2(2), plan_nodes=samples.gpt2_plan(samples.gpt2(2)))
    )
    used = {name for names in drawn for name in names.split()}
    assert "m" in used
    assert not used & set(re.findall(r"\.dsl \.([a-z]+)", _html.STYLE))


def test_bars_share_one_scale() -> None:
    html = _html.body(samples.report(samples.mlp()), [], _html.Detail())
    places = re.findall(r'<i style="left:([\d.]+)%;width:([\d.]+)%"></i><b style="left:([\d.]+)%">', html)
    assert len(places) == 3
    assert len({eager for _, _, eager in places}) == 1
    assert max(float(left) + float(width) for left, width, _ in places) <= 100
