"""Profiles as text, HTML and tables, from empty to hostile."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from deepseek_lab.base.costs import (
    CellCosts,
    CompileCost,
    Limits,
    LineCost,
    ModuleCost,
    OperatorCost,
    TriedFix,
)
from deepseek_lab.views import costs_bundle, costs_html, costs_line, costs_text, costs_views

CELL = "/tmp/ipykernel_1/2.py"
FULL = CellCosts(
    wall_s=2.0,
    lines=(
        LineCost(CELL, 2, "for x in loader:", True, 0.5, 0.5, 0.4, 1024, 0),
        LineCost(CELL, 3, "    loss = model(x)", True, 1.0, 1.4, 0.0, 2**20, -512),
        LineCost("/tmp/ipykernel_1/9.py", 7, "        return self.head(x)", False, 0.4, 0.4),
        LineCost("/home/me/tools.py", 4, "pass", False, 0.0, 0.0),
    ),
    modules=(ModuleCost("model", "Net", 10, 0.5, 0.4, 4 * 10**9, 2**20),),
    operators=(
        OperatorCost("addmm", 20, 0.4, 4 * 10**9, 10**8, 2**20),
        OperatorCost("copy_", 20, 0.1, 0, 10**9, 0),
        OperatorCost("relu", 20, 0.05, 0, 10**10, 0),
    ),
    phases={"forward": 1.2, "data loading": 0.5, "python": 0.3},
    waiting_s=0.4,
    num_samples=400,
    recorded_s=1.0,
    peak_bytes=2**30,
    start_bytes=2**29,
    limits=Limits(1e11, 2e10, 2),
)


def test_summary_says_what_was_measured_and_nothing_else() -> None:
    assert costs_line(FULL) == (
        "profile  2.00 s  forward 60 %, data loading 25 %, python 15 %  waiting 20 %  "
        "peak 1.00 GiB (+512 MiB)  4 GFLOP/s, 4.0 % of this machine's float32"
    )
    assert costs_line(CellCosts(0.0)) == "profile  0 s"
    assert costs_line(dataclasses.replace(FULL, error="ValueError")).endswith("ended by ValueError")


def test_limits_follow_the_roofline() -> None:
    limits = Limits(1e11, 2e10)
    assert limits.bound(FULL.operators[0]) == ("arithmetic", pytest.approx(0.1))
    assert limits.bound(FULL.operators[1]) == ("memory", pytest.approx(0.5))
    assert limits.bound(OperatorCost("view", 3)) is None
    text = costs_text(FULL)
    for words in ("10% of arithmetic", "50% of memory", "memory, from the cache", "10 GFLOP/s"):
        assert words in text


def test_lines_stand_in_the_order_of_the_program_with_their_indentation() -> None:
    lines = costs_text(FULL).splitlines()
    found = [line for line in lines if "loader" in line or "model(x)" in line or "self.head" in line]
    assert len(found) == 3
    assert found[1].index("loss") == found[0].index("for") + 2
    assert found[2].split()[0] == "other"
    assert not any("tools.py" in line for line in lines)


def test_long_cells_show_what_costs_most() -> None:
    many = tuple(LineCost(CELL, n, f"line_{n}", True, 0.001 * n, 0.001 * n) for n in range(1, 500))
    text = costs_text(CellCosts(125.0, lines=many))
    assert "line_499" in text
    assert "line_3 " not in text
    assert "more" in text


@pytest.mark.parametrize(
    "word",
    [
        "<script>alert(1)</script>",
        "\" onload='x",
        "a\ud800b",
        "\u202eevil",
        "x" * 10_000,
        "__proto__",
        "\x00",
    ],
)
def test_names_are_data(word: str) -> None:
    costs = dataclasses.replace(
        FULL,
        lines=(LineCost(word, 1, word, False, 1.0, 1.0),),
        modules=(ModuleCost(word, word, 1, 0.1, 0.1, 1, 1),),
        operators=(OperatorCost(word, 1, 0.1, 1, 1, 1),),
        compilations=(
            CompileCost(word, word, word, 1, word, False, 1, 0.1, word, TriedFix(word, True, word)),
        ),
        notes=(word,),
        error=word,
    )
    made = costs_bundle(costs)
    assert json.dumps(made, ensure_ascii=False).encode()
    assert len(json.dumps(made)) < 200_000
    for text in (made["text/html"], costs_html(costs, FULL)):
        assert "<script" not in text
        assert "onload='x" not in text
    assert "\u202e" not in made["text/plain"]


def test_compilations_have_causes_and_what_was_tried() -> None:
    fix = TriedFix("torch.compile(..., dynamic=True)", True, "it serves 3 of the 3 calls")
    useless = TriedFix(
        "torch._dynamo.config.capture_scalar_outputs = True", False, "the graph breaks all the same"
    )
    costs = dataclasses.replace(
        FULL,
        compilations=(
            CompileCost("compiled", "step", CELL, 1, "def step(x):", True, 1, 0.9),
            CompileCost("compiled again", "step", CELL, 1, "def step(x):", True, 2, 0.5, "size of 'x'", fix),
            CompileCost("graph break", "step", CELL, 4, "y.item()", True, 1, 0.1, "Tensor.item()", useless),
        ),
    )
    assert "compiled again 2 times (500 ms)  1 graph break" in costs_line(costs)
    lines = costs_text(costs).splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("by torch.compile"))
    assert [line.split()[:2] for line in lines[at + 2 : at + 5]] == [
        ["1", "compiled"],
        ["4", "graph"],
        ["1", "compiled"],
    ]
    assert "fix for 1: torch.compile(..., dynamic=True) (it serves 3 of the 3 calls)" in lines[at + 5]
    assert "fix for 4: does not help: torch._dynamo.config.capture_scalar_outputs = True" in lines[at + 6]
    html = costs_html(costs)
    assert "size of &#x27;x&#x27;" in html
    assert "does not help: torch._dynamo" in html
    table = costs_views(costs)["by torch.compile"]
    assert table.columns["what"] == ["compiled", "compiled again", "graph break"]
    assert table.columns["fix"][1].startswith("torch.compile(..., dynamic=True)")


def test_nothing_measured_is_no_table() -> None:
    empty = CellCosts(0.1, notes=("torch was not imported",))
    assert costs_views(empty) == {}
    assert set(costs_bundle(empty)) == {"text/plain", "text/html"}
    assert costs_text(empty) == "profile  100 ms\nnote: torch was not imported"


def test_tables_hold_every_row() -> None:
    views = costs_views(FULL)
    assert list(views) == ["by line", "by module", "by operator"]
    assert views["by line"].columns["line"] == ["2", "3", "other cell:7"]
    assert views["by operator"].columns["held back by"] == ["arithmetic", "memory", "memory"]
    assert math.isclose(views["by module"].columns["share"][0], 90.0)


def test_against_another_profile() -> None:
    faster = dataclasses.replace(
        FULL, wall_s=1.0, lines=(dataclasses.replace(FULL.lines[1], total_s=0.7), FULL.lines[2])
    )
    rows = [line.split() for line in costs_text(faster, FULL).splitlines()]
    assert ["whole", "cell", "2.00", "s", "1.00", "s", "2.00x"] in rows
    assert [row[-1] for row in rows if row[:1] == ["loss"]] == ["2.00x"]
    assert [row[-1] for row in rows if row[:1] == ["for"]] == ["gone"]
