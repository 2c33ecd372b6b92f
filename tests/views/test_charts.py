"""Tables, points, lines and matrices as records. What they do in a browser is tested in ``js/tests``."""

from __future__ import annotations

import base64
import json
import math
import random
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from deepseek_lab.base.errors import UsageError
from deepseek_lab.views import HeatmapView, LinesView, ScatterView, TableView, _bundle, _columns, _plane
from deepseek_lab.views._chart import Chart, Drawn
from tests.views.test_page import HOSTILE, unpacked

_RANDOM = random.Random(0)


def read(packed: str) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The meta data and the columns of a packed table, by the same rules as ``js/src/core/packed.ts``."""
    header, body = unpacked(packed)
    made: dict[str, list[Any]] = {}
    for column in header["columns"]:
        part, body = body[: column["bytes"]], body[column["bytes"] :]
        if column["type"] == "float":
            offset = (
                header["meta"]["columns"].get(column["name"], {}).get("offset", 0)
                if "columns" in header["meta"]
                else 0
            )
            made[column["name"]] = [value + offset for value in struct.unpack(f"<{len(part) // 4}f", part)]
        else:
            numbers = list(_varints(part))
            if column["type"] == "text":
                made[column["name"]] = [column["words"][code] for code in numbers]
            else:
                last, values = 0, []
                for step in numbers:
                    last += step // 2 if step % 2 == 0 else -(step + 1) // 2
                    values.append(last)
                made[column["name"]] = values
    assert not body
    return header["meta"], made


def _varints(data: bytes) -> list[int]:
    found, value, shift = [], 0, 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            found.append(value)
            value, shift = 0, 0
    return found


def trials(count: int) -> dict[str, list[Any]]:
    return {
        "trial": [f"trial {at}" for at in range(count)],
        "ms": [_RANDOM.lognormvariate(1, 1) for _ in range(count)],
        "error": [None if at % 17 == 3 else _RANDOM.random() for at in range(count)],
        "layers": [_RANDOM.randrange(48) for _ in range(count)],
    }


SMALL: dict[str, Callable[[], Chart]] = {
    "table": lambda: TableView(trials(30), units={"ms": "ms"}, better={"error": "lower"}, bars=["ms"]),
    "scatter": lambda: ScatterView(trials(30), x="ms", y="error", colour="layers"),
    "lines": lambda: LinesView(None, {"loss": [3.0, None, 2.0], "val": [1, 2, 3]}, x_label="step"),
    "heatmap": lambda: HeatmapView([[1, -2], [None, 0.5]], rows=["a", "b"], label="weight"),
}
EMPTY: dict[str, Callable[[], Chart]] = {
    "table": lambda: TableView({"a": []}),
    "scatter": lambda: ScatterView({"a": [], "b": []}),
    "missing": lambda: ScatterView({"a": [None, math.inf], "b": [1, 2]}),
    "lines": lambda: LinesView([], {"a": []}),
    "gaps": lambda: LinesView(None, {"a": [None, None]}),
    "heatmap": lambda: HeatmapView([]),
    "holes": lambda: HeatmapView([[None, math.nan]]),
}


def test_a_table_is_packed_as_it_was() -> None:
    values = trials(100)
    meta, columns = read(
        TableView(values, units={"ms": "ms"}, better={"error": "lower"}, bars=["ms"]).packed()
    )
    assert columns["trial"] == values["trial"]
    assert columns["layers"] == values["layers"]
    assert columns["ms"] == pytest.approx(values["ms"], rel=1e-6)
    expected = [math.nan if value is None else value for value in values["error"]]
    assert columns["error"] == pytest.approx(expected, rel=1e-6, nan_ok=True)
    assert meta == {"columns": {"ms": {"unit": "ms", "bar": True}, "error": {"better": "lower"}}}


def test_numpy_and_torch_are_columns() -> None:
    torch = pytest.importorskip("torch")
    _, columns = read(
        TableView(
            {
                "a": np.arange(3),
                "b": np.float32([1, 2, np.nan]),
                "c": torch.ones(3),
                "d": np.array(["x", "y", "z"]),
            }
        ).packed()
    )
    assert columns["a"] == [0, 1, 2]
    assert columns["b"] == pytest.approx([1, 2, math.nan], nan_ok=True)
    assert columns["c"] == [1, 1, 1]
    assert columns["d"] == ["x", "y", "z"]


def test_numbers_far_from_zero_keep_what_tells_them_apart() -> None:
    times = [1.7e9 + 0.01 * at for at in range(1000)]
    _, columns = read(LinesView(times, {"loss": [0.5] * 1000}).packed())
    assert columns["x"] == pytest.approx(times, abs=1e-5, rel=0)


def test_what_a_record_was_given_may_change_afterwards() -> None:
    values = {"loss": [3.0, 2.0]}
    view = LinesView(None, values)
    before = view.packed()
    values["loss"][0] = 99.0
    assert view.packed() == before


def test_a_matrix_is_packed_as_it_was() -> None:
    values = [[_RANDOM.random() - 0.5 for _ in range(7)] for _ in range(5)]
    meta, columns = read(HeatmapView(values, columns=[*"abcdefg"], label="w").packed())
    assert meta["shape"] == [5, 7]
    assert meta["labels"] == {"columns": [*"abcdefg"]}
    (flat,) = columns.values()
    assert flat == pytest.approx([value for row in values for value in row], rel=1e-6)


def test_a_matrix_beyond_the_rows_of_a_page_is_packed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_columns, "MAX_ROWS", 10)
    meta, columns = read(HeatmapView([[4 * row + at for at in range(4)] for row in range(6)]).packed())
    assert [len(piece) for piece in columns.values()] == [8, 8, 8]
    assert [value for piece in columns.values() for value in piece] == list(range(24))
    assert meta["shape"] == [6, 4]


LARGE: dict[str, Callable[[], Chart]] = {
    "table": lambda: TableView(trials(60_000)),
    "scatter": lambda: ScatterView(
        trials(60_000), x="ms", y="error", better={"ms": "lower", "error": "lower"}
    ),
    "lines": lambda: LinesView(None, {"a": [_RANDOM.gauss(0, 1) for _ in range(120_000)]}),
    "many": lambda: LinesView(None, {f"s{at}": [_RANDOM.random() for _ in range(500)] for at in range(250)}),
    "heatmap": lambda: HeatmapView([[_RANDOM.random() for _ in range(500)] for _ in range(400)]),
}


@pytest.mark.parametrize("name", LARGE)
def test_what_a_notebook_keeps_is_within_its_limit_and_says_so(name: str) -> None:
    view = LARGE[name]()
    made = view.bundle(name)
    assert _bundle.size(made) <= _bundle.LIMIT_BYTES
    assert "<iframe" in made["text/html"]
    meta, columns = read(view.packed(60_000))
    cut = meta["cut"]
    assert 0 < cut["shown"] < cut["total"]
    if name != "heatmap":
        assert {len(values) for values in columns.values()} == {cut["shown"]}
    assert "cut" not in read(view.packed())[0]


def test_a_table_that_is_cut_keeps_its_first_rows() -> None:
    values = trials(20_000)
    _, columns = read(TableView(values).packed(20_000))
    assert columns["trial"] == values["trial"][: len(columns["trial"])]


def test_lines_that_are_cut_keep_their_extremes_and_gaps() -> None:
    values: list[float | None] = [math.sin(at / 500) for at in range(50_000)]
    values[12_345], values[23_456] = 7.0, -8.0
    values[30_000:31_000] = [None] * 1000
    _, columns = read(LinesView(None, {"a": values}).packed(20_000))
    assert columns["x"] == sorted(columns["x"])
    assert {7.0, -8.0} <= set(columns["a"])
    assert any(math.isnan(value) for value in columns["a"])


def test_points_that_are_cut_keep_the_front() -> None:
    values = trials(30_000)
    view = ScatterView(values, x="ms", y="error", better={"ms": "lower", "error": "lower"})
    _, columns = read(view.packed(20_000))
    assert {values["trial"][row] for row in view.front()} <= set(columns["trial"])


def test_the_front_is_what_no_row_beats() -> None:
    values = {
        "a": [_RANDOM.randrange(12) for _ in range(150)],
        "b": [_RANDOM.randrange(12) for _ in range(150)],
    }
    view = ScatterView(values, better={"a": "lower", "b": "higher"})
    expected = [
        row
        for row, (a, b) in enumerate(zip(values["a"], values["b"], strict=True))
        if not any(
            x <= a and y >= b and (x, y) != (a, b) for x, y in zip(values["a"], values["b"], strict=True)
        )
    ]
    assert sorted(view.front()) == expected


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_pooled_cells_stand_for_all_in_their_block(pool: Any) -> None:
    values = np.random.default_rng(0).normal(size=(12, 8))
    small = HeatmapView(values, rows=[*"abcdefghijkl"], pool=pool).pooled(3, 4)
    blocks = values.reshape(3, 4, 4, 2).transpose(0, 2, 1, 3).reshape(3, 4, 8)
    expected = (
        blocks.mean(-1)
        if pool == "mean"
        else np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1)[..., 0]
    )
    assert np.allclose(np.array(small._cells), expected)
    assert small.rows == ("a … d", "e … h", "i … l")


class _Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_name_becomes_markup(hostile: str) -> None:
    columns = {hostile: [1.0, 2.0], f"{hostile}2": [2.0, 1.0], f"{hostile} text": [hostile, "x"]}
    views: list[Chart] = [
        TableView(columns, units={hostile: hostile}, better={hostile: "lower"}),
        ScatterView(columns, colour=f"{hostile} text", units={hostile: hostile}),
        LinesView(None, {hostile: [1, 2]}, x_label=hostile, y_label=hostile, units={hostile: hostile}),
        HeatmapView([[1, 2]], rows=[hostile], columns=[hostile, hostile], label=hostile),
    ]
    for view in views:
        static = _Tags(view.html(hostile))
        assert static.tags <= {"div", "style", "p", "table", "thead", "tbody", "tr", "th", "td", "img"}
        assert static.attributes <= {"class", "alt", "style", "src"}
        made = view.bundle(hostile)
        assert _Tags(made["text/html"]).tags <= static.tags | {"div", "style", "iframe", "p"}
        json.dumps(made, ensure_ascii=False).encode()
        if isinstance(view, Drawn):
            tree = ET.fromstring(view.svg(hostile))
            names = {element.tag.rpartition("}")[2] for element in tree.iter()}
            assert names <= {"svg", "style", "rect", "path", "text", "circle", "image"}
            assert not {name for element in tree.iter() for name in element.attrib if name.startswith("on")}
            json.dumps(view.figure().to_plotly_json(), default=str).encode()


@pytest.mark.parametrize("name", [*SMALL])
def test_a_view_is_shown_everywhere(name: str) -> None:
    view = SMALL[name]()
    made = view.bundle("the title")
    assert made["text/plain"] == view.text()
    assert "<iframe" in made["text/html"]
    assert "http" not in re.sub(r'xmlns="[^"]*"', "", view.svg() if isinstance(view, Drawn) else view.html())
    page = view.page("the title")
    assert page is not None
    assert view.packed() in page


@pytest.mark.parametrize("name", [*EMPTY])
def test_an_empty_view_is_shown_as_such(name: str) -> None:
    view = EMPTY[name]()
    assert view.text()
    assert view.frame("empty")
    if isinstance(view, Drawn):
        ET.fromstring(view.svg())
        assert view.figure() is not None


def test_a_picture_of_a_matrix_has_a_pixel_for_each_cell() -> None:
    view = HeatmapView([[0, 1, None], [0.5, 0.25, 1]])
    found = re.search(r"data:image/png;base64,([A-Za-z0-9+/=]+)", view.svg())
    assert found is not None
    file = base64.b64decode(found[1])
    assert struct.unpack(">II", file[16:24]) == (3, 2)
    body = file[file.index(b"IDAT") + 4 : -16]
    assert list(zlib.decompress(body)) == [0, 0, 254, 255, 0, 127, 64, 254]


def test_a_figure_has_the_data() -> None:
    values = trials(40)
    placed = [row for row in range(40) if values["error"][row] is not None]
    scatter = ScatterView(values, x="ms", y="error", better={"ms": "lower", "error": "lower"}).figure()
    assert list(scatter.data[0].x) == [values["ms"][row] for row in placed]
    assert list(scatter.data[0].customdata) == placed
    assert len(scatter.data) == 2
    kinds = ScatterView({"a": [1, 2, 3], "b": [1, 2, 3], "kind": ["x", "y", "x"]}, colour="kind").figure()
    assert [(trace.name, list(trace.x)) for trace in kinds.data] == [("x", [1, 3]), ("y", [2])]
    lines = LinesView([5, 6, 7], {"loss": [1.0, None, 3.0]}, x_label="step").figure()
    assert list(lines.data[0].x) == [5, 6, 7]
    assert list(lines.data[0].y) == [1.0, None, 3.0]
    heatmap = HeatmapView([[1, -2], [None, 4]], rows=["a", "b"]).figure()
    assert [list(row) for row in heatmap.data[0].z] == [[1, -2], [None, 4]]
    assert list(heatmap.data[0].y) == ["a", "b"]
    assert heatmap.data[0].zmid == 0


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "no columns": (lambda: TableView({}), "there are no columns"),
    "lengths": (lambda: TableView({"a": [1], "b": [1, 2]}), "column 'b' has 2 rows, column 'a' 1 row"),
    "a cell": (lambda: TableView({"a": [1, [2]]}), "column 'a' holds a list in row 1"),
    "one text": (lambda: TableView({"a": "text"}), "column 'a' is no sequence"),
    "a name": (lambda: TableView({1: [1]}), "which is no text"),  # type: ignore[dict-item]
    "many": (lambda: TableView({str(at): [1] for at in range(300)}), "300 columns are more than 256"),
    "a unit": (
        lambda: TableView({"loss": [1]}, units={"los": "ms"}),
        "units names a column 'los'.*\n.*'loss'",
    ),
    "a way": (lambda: TableView({"a": [1]}, better={"a": "up"}), "is 'up', not 'lower' or 'higher'"),  # type: ignore[dict-item]
    "text is better": (
        lambda: TableView({"a": ["x"]}, better={"a": "lower"}),
        "column 'a', which holds text",
    ),
    "bars": (lambda: TableView({"a": [1]}, bars="a"), "bars is one text"),
    "no numbers": (lambda: ScatterView({"a": ["x"]}), "no column holds numbers"),
    "an axis": (lambda: ScatterView({"ms": [1]}, x="m"), "x names a column 'm'"),
    "text axis": (lambda: ScatterView({"a": [1], "b": ["x"]}, y="b"), "y names column 'b', which holds text"),
    "backwards": (lambda: LinesView([1, 0], {"a": [1, 2]}), "x goes backwards at row 1\n  try: sort"),
    "no x": (lambda: LinesView([1, None], {"a": [1, 2]}), "x is nan in row 1"),  # type: ignore[list-item]
    "lengths of x": (lambda: LinesView([1], {"a": [1, 2]}), "x has 1 value, series 'a' 2"),
    "text lines": (lambda: LinesView(None, {"a": ["x"]}), "column 'a', which holds text"),
    "ragged": (lambda: HeatmapView([[1, 2], [1]]), "row 1 of values has 1 cell, row 0 2"),
    "labels": (lambda: HeatmapView([[1, 2]], columns=["a"]), "columns has 1 label, values 2 columns"),
    "text cells": (lambda: HeatmapView([["x"]]), "row 0 of values holds text"),
    "a pool": (lambda: HeatmapView([[1]], pool="sum"), "pool is 'sum'"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_shown_is_told_with_the_next_thing_to_do(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(UsageError, match=message) as caught:
        make()
    assert caught.value.hint


@pytest.mark.parametrize("value", [10**400, -(10**400), 1e308, -1e308, 5e-324, math.inf])
def test_numbers_of_any_size_are_survived(value: float) -> None:
    for view in (
        TableView({"a": [value, 1, 0]}, better={"a": "lower"}),
        ScatterView({"a": [value, 1, 0], "b": [1, 2, 3]}),
        LinesView(None, {"a": [value, 1, 0]}),
        HeatmapView([[value, 1, 0]]),
    ):
        made = view.bundle("huge")
        assert "<iframe" in made["text/html"]
        if isinstance(view, Drawn):
            assert "nan" not in view.svg().lower().replace("nanum", "")


def test_marks_of_an_axis_are_round_and_within() -> None:
    for _ in range(300):
        low = _RANDOM.uniform(-1, 1) * 10 ** _RANDOM.randint(-30, 30)
        high = low + _RANDOM.random() * 10 ** _RANDOM.randint(-30, 30)
        found = _plane.ticks(low, high, 5)
        assert len(found) <= 7
        assert all(
            low - (high - low) * 1e-6 <= value <= high + (high - low) * 1e-6
            for value in found
            if high - low > abs(low) * 1e-9
        )


def test_records_need_nothing_but_the_standard_library() -> None:
    code = (
        "import sys; from deepseek_lab.views import HeatmapView, LinesView, ScatterView, TableView;"
        "HeatmapView([[1]]).bundle('x'); LinesView(None, {'a': [1]}).svg(); ScatterView({'a': [1]}).text();"
        "TableView({'a': [1]}).html();"
        "assert not {'numpy', 'plotly', 'torch', 'IPython', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
