"""Pages and frames in which a graph can be explored. What they do in a browser is tested in ``js/tests``."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from html.parser import HTMLParser
from typing import Any

import pytest

from deepseek_lab.base.events import GraphNode
from deepseek_lab.views import _bundle, _page, _words
from deepseek_lab.views._packed import Packer
from tests.views import samples

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"'><svg onload=alert(1)>",
    "<!--",
    "\ud800",
)


class _Reader(HTMLParser):
    """Elements of a page with their attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), []))

    def handle_data(self, data: str) -> None:
        if self.found:
            self.found[-1][2].append(data)

    def text(self, **wanted: str) -> str:
        """Text of the one element with these attributes."""
        (parts,) = (parts for _, attrs, parts in self.found if wanted.items() <= attrs.items())
        return "".join(parts)


def unpacked(packed: str) -> tuple[dict[str, Any], bytes]:
    """The header and the columns' bytes of a packed table."""
    whole = zlib.decompress(base64.b64decode(packed))
    (length,) = struct.unpack_from("<I", whole)
    return json.loads(whole[4 : 4 + length]), whole[4 + length :]


def test_the_front_end_was_built() -> None:
    """Without it every test here and every frame would be about nothing."""
    assert _page.script() is not None, "make setup"


def test_a_large_graph_is_small_when_packed() -> None:
    nodes = samples.gpt2(num_blocks=600)
    assert len(nodes) > 10_000
    assert len(_page.packed_graph(nodes)) < 5.5 * len(nodes)


def test_columns_of_different_lengths_are_refused() -> None:
    packer = Packer(2)
    with pytest.raises(ValueError, match="column op has 1 rows, the table 2"):
        packer.text("op", ["relu"])


def test_packed_graph_holds_every_node_and_its_wiring() -> None:
    nodes = samples.mlp()
    header, bodies = unpacked(_page.packed_graph(nodes, {"relu_0": "fused"}))
    assert header["rows"] == len(nodes)
    columns = {column["name"]: column for column in header["columns"]}
    assert set(columns) == {"name", "op", "module", "shape", "dtype", "file", "line", "inputs", "mark"}
    assert "linear_" in columns["name"]["words"]
    assert columns["dtype"]["words"] == ["float32", ""]
    assert columns["mark"]["words"] == ["", "fused"]
    assert len(bodies) == sum(column["bytes"] for column in header["columns"])


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_name_leaves_the_element_that_it_stands_in(hostile: str) -> None:
    nodes = (GraphNode(hostile, hostile, hostile, dtype=hostile, file=hostile),)
    page = _page.page("graph", hostile, _page.packed_graph(nodes))
    assert page is not None
    read = _Reader(page.encode("utf-8", "replace").decode())
    assert [tag for tag, _, _ in read.found].count("script") == 3
    assert not {tag for tag, _, _ in read.found} & {"img", "svg"}
    assert json.loads(read.text(id="data"))["kind"] == "graph"


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_frame_is_one_element_and_apart_from_the_notebook(hostile: str) -> None:
    frame = _page.frame("graph", hostile, _page.packed_graph(samples.mlp()))
    assert frame is not None
    (_, _, (tag, attributes, _)) = _Reader(frame).found
    assert tag == "iframe"
    assert attributes["title"] == _words.clean(hostile)
    assert "allow-same-origin" not in str(attributes["sandbox"])
    inner = attributes["srcdoc"]
    assert inner is not None
    assert inner == _page.page("graph", hostile, _page.packed_graph(samples.mlp()))


def test_a_bundle_has_a_frame_for_its_graph_within_its_limit() -> None:
    nodes = samples.gpt2(num_blocks=600)
    report = samples.report(nodes)
    made = _bundle.bundle(report)
    assert made["text/html"].count("<iframe") == 1
    assert _bundle.size(made) <= _bundle.LIMIT_BYTES


def test_a_graph_too_large_for_a_notebook_has_no_frame_there() -> None:
    nodes = tuple(
        GraphNode(
            f"n{index * 7919 % 1_000_003}_{index}", f"op{index % 997}", f"m{index % 4999}.x", file=f"f{index}"
        )
        for index in range(40_000)
    )
    made = _bundle.bundle(samples.report(nodes))
    assert "<iframe" not in made["text/html"]
    assert _bundle.size(made) <= _bundle.LIMIT_BYTES


def test_without_the_front_end_the_pictures_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_page, "script", lambda kind="": None)
    made = _bundle.bundle(samples.report(samples.mlp()))
    assert "<iframe" not in made["text/html"]
    assert "<img" in made["text/html"]


def test_what_a_plan_changed_is_marked() -> None:
    nodes = samples.gpt2(2)
    report = samples.report(nodes, samples.gpt2_plan(nodes))
    elements = _Reader(_bundle.bundle(report)["text/html"]).found
    frame = next(attributes["srcdoc"] for tag, attributes, _ in elements if tag == "iframe")
    data = json.loads(_Reader(str(frame)).text(id="data"))
    header, _ = unpacked(data["packed"])
    (mark,) = (column for column in header["columns"] if column["name"] == "mark")
    assert {"fused", "removed", "changed"} <= set(mark["words"])
