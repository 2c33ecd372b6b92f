"""What a graph carries beside its operations: measurements, the graph as it runs, and where capture stopped.

That a page reads it as it was written is tested in ``js/tests/graph.test.ts``.
"""

from __future__ import annotations

import dataclasses
import doctest
import math
import struct
from typing import Any

import pytest

from deepseek_lab.base.events import EventLog, GraphBreak, GraphNode
from deepseek_lab.base.report import OptimizeReport
from deepseek_lab.views import Overlay, _after, _bundle, _diff, _overlays, _page, graph_frame
from deepseek_lab.views._breaks import MAX_BREAKS, placed
from tests.views import samples
from tests.views.test_page import HOSTILE, unpacked

NODES = samples.mlp()


def column(packed: str, name: str) -> tuple[dict[str, Any], bytes]:
    """Header and body of a column."""
    header, bodies = unpacked(packed)
    at = 0
    for one in header["columns"]:
        if one["name"] == name:
            return one, bodies[at : at + one["bytes"]]
        at += one["bytes"]
    raise AssertionError(f"no column {name}")


def numbers(packed: str, name: str) -> list[float]:
    header, body = column(packed, name)
    assert header["type"] == "float"
    return [value for (value,) in struct.iter_unpack("<f", body)]


def test_measured_numbers_travel_with_three_digits_and_what_was_not_measured_as_nan() -> None:
    values = [None, math.nan, math.inf, 0.0, -1.5, 1234.567, 1e-30, 3e38, 3.0 * 2**40, 1e300]
    values += [10**power * 1.2345 for power in range(len(NODES) - len(values))]
    packed = _page.packed_graph(NODES, overlays=[Overlay("time", "time", "us", values, sum=True)])
    for given, kept in zip(values, numbers(packed, "time"), strict=True):
        if given is None or not math.isfinite(given) or given > 3.5e38:
            assert math.isnan(kept)
        else:
            assert kept == pytest.approx(given, rel=2.0**-12)
    (told,) = unpacked(packed)[0]["meta"]["overlays"]
    assert told == {"name": "time", "label": "time", "kind": "number", "unit": "us", "sum": True}


def test_words_are_a_category() -> None:
    words: list[str | None] = ["oneDNN", None, ""] + ["eager"] * (len(NODES) - 3)
    packed = _page.packed_graph(NODES, overlays=[Overlay("backend", "runs in", "", words)])
    assert column(packed, "backend")[0]["words"] == ["oneDNN", "", "eager"]
    assert unpacked(packed)[0]["meta"]["overlays"][0]["kind"] == "text"


def test_nothing_measured_is_a_number_nowhere() -> None:
    packed = _page.packed_graph(NODES, overlays=[Overlay("time", "time", "us", [None] * len(NODES))])
    assert all(map(math.isnan, numbers(packed, "time")))


@pytest.mark.parametrize("name", ["op", "inputs", "time"])
def test_a_name_that_is_taken_is_refused(name: str) -> None:
    values = [0.0] * len(NODES)
    with pytest.raises(ValueError, match="already"):
        _page.packed_graph(NODES, overlays=[Overlay("time", "", "", values), Overlay(name, "", "", values)])


def test_values_for_other_operations_are_refused() -> None:
    with pytest.raises(ValueError, match=f"column time has 1 rows, the table {len(NODES)}"):
        _page.packed_graph(NODES, overlays=[Overlay("time", "time", "us", [1.0])])


@pytest.mark.parametrize("hostile", HOSTILE)
def test_whatever_they_are_called_the_page_has_one_script_more_than_none(hostile: str) -> None:
    overlays = [Overlay(hostile, hostile, hostile, [hostile] * len(NODES))]
    breaks = [GraphBreak(run="r", target="m", reason=hostile, file=hostile, line=3)]
    content = _page.graph_content(NODES, hostile, NODES, overlays=overlays, breaks=breaks)
    page = _page.page(**content)
    assert page is not None
    assert page.count("<script") == 3
    page.encode()


def test_a_plan_that_changed_little_takes_little() -> None:
    nodes = samples.gpt2(num_blocks=435)
    assert len(nodes) > 10_000
    alone = _page.graph_content(nodes, "g", samples.gpt2_plan(nodes), beside=False)["packed"]
    beside = _page.graph_content(nodes, "g", samples.gpt2_plan(nodes))["packed"]
    assert len(beside) < 1.3 * len(alone)


def test_what_was_fused_becomes_the_node_that_computes_it_now() -> None:
    nodes = samples.gpt2(2)
    plan = samples.gpt2_plan(nodes)
    rows = _after.becomes(nodes, plan, _diff.compare(nodes, plan))
    now = {node.name: plan[row - 1].name if row else "" for node, row in zip(nodes, rows, strict=True)}
    assert now["gelu_1"] == "fused_gelu_1"
    assert now["dropout_1"] == ""
    assert now["scaled_dot_product_attention"] == "scaled_dot_product_attention"
    (before,) = (node for node in nodes if node.name == "gelu_1")
    assert now[before.inputs[0]] == "fused_gelu_1"


def test_an_output_of_10_000_operations_shows_both_graphs_within_its_limit() -> None:
    nodes = samples.gpt2(num_blocks=435)
    log = EventLog()
    for event in samples.report_events(nodes, samples.gpt2_plan(nodes)):
        log.emit(event)
    made = _bundle.bundle(OptimizeReport.fold(log), log)
    assert _bundle.size(made) <= _bundle.LIMIT_BYTES == 200_000
    (graph,) = (view for view in made[_page.MIME]["views"] if view["kind"] == "graph")
    header, _ = unpacked(graph["packed"])
    assert header["rows"] == len(nodes)
    assert unpacked(header["meta"]["after"])[0]["rows"] == len(samples.gpt2_plan(nodes))
    assert made["text/html"].count("<iframe") == 1


def test_where_both_do_not_fit_the_captured_graph_is_shown_with_its_marks() -> None:
    nodes = samples.gpt2(30)
    plan = samples.gpt2_plan(nodes)
    whole = graph_frame(nodes, "g", plan)
    lean = graph_frame(nodes, "g", plan, max_bytes=len(whole) - 1)
    assert 0 < len(lean) < len(whole)
    assert graph_frame(nodes, "g", plan, max_bytes=1000) == ""


def test_without_a_plan_nothing_of_it_travels() -> None:
    header, _ = unpacked(_page.graph_content(NODES, "g")["packed"])
    assert "meta" not in header
    assert {one["name"] for one in header["columns"]}.isdisjoint({"mark", "becomes"})


def stopped(line: int, file: str = "cell.py") -> GraphBreak:
    return GraphBreak(run="r", target="m", reason=f"break {line}", file=file, line=line)


STEPS = (
    GraphNode("x", "input", file="cell.py", line=1),
    GraphNode("a", "relu", inputs=("x",), file="cell.py", line=3),
    GraphNode("b", "add", inputs=("a",), file="cell.py", line=5),
    GraphNode("output", "output", inputs=("b",), file="cell.py", line=1),
)


@pytest.mark.parametrize(
    ("breaks", "wanted"),
    [
        ([stopped(7)], [(7, 2)]),
        ([stopped(9), stopped(7), stopped(8)], [(7, 2)]),  # the nearest ended the graph
        ([stopped(1), stopped(2)], [(2, -1)]),  # the nearest began it
        ([stopped(2), stopped(7)], [(7, 2), (2, -1)]),
        ([stopped(4)], [(4, 2)]),  # a loop
        ([stopped(0), stopped(3, "other.py")], [(0, 2), (3, 2)]),
        ([], []),
    ],
)
def test_a_break_ends_the_graph_before_it_and_begins_the_one_after(
    breaks: list[GraphBreak], wanted: list[tuple[int, int]]
) -> None:
    assert [(one["line"], one["after"]) for one in placed(STEPS, breaks)] == wanted


def test_breaks_of_nothing_and_many_of_them() -> None:
    assert placed([], [stopped(3)])[0]["after"] == -1
    many = placed(STEPS, [stopped(0, f"f{number}") for number in range(1000)])
    assert len(many) == MAX_BREAKS
    (long,) = placed(STEPS, [dataclasses.replace(stopped(7), reason="x" * 10_000)])
    assert len(long["reason"]) <= 300


def test_a_report_shows_only_the_breaks_of_the_graphs_own_target() -> None:
    report = samples.report(NODES)
    report.add(dataclasses.replace(report.breaks[0], target="another", reason="elsewhere"))
    log = EventLog()
    made = _bundle.bundle(report, log)
    (graph,) = (view for view in made[_page.MIME]["views"] if view["kind"] == "graph")
    (only,) = unpacked(graph["packed"])[0]["meta"]["breaks"]
    assert only == {"reason": "print() was called", "file": samples.CELL, "line": 7, "after": 11}


def test_examples_run() -> None:
    result = doctest.testmod(_overlays)
    assert result.attempted
    assert not result.failed
