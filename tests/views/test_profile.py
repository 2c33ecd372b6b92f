"""Profiles as text and as overlays, and overlays in a packed graph."""

from __future__ import annotations

import array
import json
import math

import pytest

from deepseek_lab import views
from deepseek_lab.base.events import GraphNode
from deepseek_lab.base.profile import GraphProfile, OperationProfile, Statistics
from deepseek_lab.views import Overlay, _page, _profile
from tests.views import samples
from tests.views.test_page import HOSTILE, unpacked


def sample(nodes: tuple[GraphNode, ...], **changes: object) -> GraphProfile:
    """A profile in which later nodes take longer and linear layers have work."""
    operations = []
    for index, node in enumerate(nodes):
        if node.op in ("input", "parameter", "output"):
            operations.append(OperationProfile(node.name, node.op, result_bytes=4))
            continue
        statistics = Statistics(0.5, 1.0, 3.0, 0.25)
        flops = 2_000_000 if node.op == "linear" else None
        operations.append(
            OperationProfile(
                node.name, node.op, (index + 1) * 1e-3, 3, flops, 2048, 1024, statistics, backend="eager"
            )
        )
    made = GraphProfile("g0", "model", tuple(operations), "the inputs", 0.1, 2e-7, 3)
    return GraphProfile(**{**vars(made), **changes})  # type: ignore[arg-type]


def test_text_ranks_operations_with_shares_rates_and_lines() -> None:
    nodes = samples.mlp()
    profile = sample(nodes)
    text = views.profile_text(profile, nodes, count=3)
    rows = text.splitlines()[-3:]
    ranked = profile.most_expensive(3)
    assert [row.split()[0] for row in rows] == [one.name for one in ranked]
    total = sum(one.time_s or 0.0 for one in profile.operations)
    assert f"{(ranked[0].time_s or 0) / total:.1%}" in rows[0]
    assert "6 MFLOP in products" in text
    assert "medians of 3 rounds" in text
    assert "on the inputs" in text
    assert "by kind: linear" in text
    assert all("line " in row for row in rows)


def test_text_says_what_is_missing() -> None:
    nodes = samples.mlp()
    empty = GraphProfile(
        "g0", "model", tuple(OperationProfile(n.name, n.op) for n in nodes), notes=("why not",)
    )
    assert views.profile_text(empty, nodes) == "note: why not"
    partial = sample(nodes, num_rounds=0, whole_s=None, notes=("interrupted",))
    text = views.profile_text(partial, nodes)
    assert "a part of a round" in text
    assert "note: interrupted" in text
    assert "together" not in text


def test_where_backends_differ_they_are_a_column() -> None:
    nodes = samples.mlp()
    profile = sample(nodes)
    assert "runs in" not in views.profile_text(profile, nodes)
    mixed = [
        OperationProfile(**{**vars(one), "backend": "onednn"}) if one.op == "linear" else one
        for one in profile.operations
    ]
    assert "runs in" in views.profile_text(sample(nodes, operations=tuple(mixed)), nodes)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_names_stay_text(hostile: str) -> None:
    nodes = (GraphNode(hostile + "\n\x1b[31m", hostile, hostile, file=hostile, line=3),)
    profile = GraphProfile(
        hostile, hostile, (OperationProfile(nodes[0].name, hostile, 1.0, backend=hostile),), notes=(hostile,)
    )
    text = views.profile_text(profile, nodes)
    assert "\x1b" not in text
    assert "\ud800" not in text
    assert len([line for line in text.splitlines() if line.startswith(hostile[:3])]) <= 1
    packed = _page.packed_graph(nodes, overlays=views.profile_overlays(profile))
    page = _page.page("graph", "title", packed)
    assert page is not None
    assert page.count("<script") == 3
    assert "<img" not in page


def test_overlays_are_what_was_measured() -> None:
    nodes = samples.mlp()
    overlays = {one.name: one for one in views.profile_overlays(sample(nodes))}
    assert {
        "time",
        "flops",
        "flop_rate",
        "read",
        "result",
        "backend",
        "value_mean",
        "value_nonfinite",
    } <= set(overlays)
    assert not any(name.startswith("gradient") for name in overlays)
    assert all(len(one.values) == len(nodes) for one in overlays.values())
    assert [one.name for one in overlays.values() if one.sum] == ["time", "flops", "read", "result"]
    kept = {
        node.op for node, value in zip(nodes, overlays["result"].values, strict=True) if value is not None
    }
    assert kept == {"input", "linear", "relu", "output"}
    at = [node.op for node in nodes].index("relu")
    assert overlays["flops"].values[at] is None
    assert overlays["time"].values[at] == pytest.approx((at + 1), rel=2**-11)
    assert (overlays["time"].unit, overlays["backend"].kind) == ("ms", "text")


def test_a_gradient_is_labelled_with_what_was_differentiated() -> None:
    nodes = samples.mlp()
    profile = sample(nodes, gradient_of="the sum of the outputs")
    assert not any(one.name.startswith("gradient") for one in views.profile_overlays(profile))
    operations = [
        OperationProfile(**{**vars(one), "gradient": Statistics(0.0, 1.0, 2.0, 0.0)})
        for one in profile.operations
    ]
    labels = [
        one.label
        for one in views.profile_overlays(sample(nodes, **{**vars(profile), "operations": tuple(operations)}))
        if one.name.startswith("gradient")
    ]
    assert labels
    assert all(label.startswith("gradient of the sum of the outputs: ") for label in labels)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.14159, 1e-30, 5e-324, 1.7e308, 6.02e23])
def test_numbers_are_kept_to_one_part_in_four_thousand(value: float) -> None:
    short = _profile._short(value)
    assert short is not None
    assert abs(short - value) <= abs(value) / 2**12 or value < 1e-300
    assert _profile._short(math.nan) is None


def test_packed_overlays_have_a_column_and_a_description_each() -> None:
    nodes = samples.mlp()
    numbers = [None if node.op == "parameter" else float(at) for at, node in enumerate(nodes)]
    overlays = (
        Overlay("time", "time <b>", "ms", numbers, sum=True),
        Overlay("backend", "runs in", "", [f"b\u202e{at % 2}" for at in range(len(nodes))]),
    )
    header, bodies = unpacked(_page.packed_graph(nodes, overlays=overlays))
    assert header["meta"]["overlays"] == [
        {"name": "time", "label": "time <b>", "unit": "ms", "kind": "number", "sum": True},
        {"name": "backend", "label": "runs in", "kind": "text"},
    ]
    columns = {column["name"]: column for column in header["columns"]}
    assert columns["backend"]["words"] == ["b\ufffd0", "b\ufffd1"]
    start = 0
    for column in header["columns"]:
        if column["name"] == "time":
            found = array.array("f", bodies[start : start + column["bytes"]])
            assert [None if math.isnan(one) else one for one in found] == numbers
        start += column["bytes"]


def test_a_graph_without_overlays_is_packed_as_before() -> None:
    header, _ = unpacked(_page.packed_graph(samples.mlp()))
    assert "meta" not in header


@pytest.mark.parametrize("name", ["op", "mark", "time"])
def test_two_columns_of_one_name_are_refused(name: str) -> None:
    nodes = samples.mlp()
    numbers = [0.0] * len(nodes)
    overlays = (Overlay("time", "", "", numbers), Overlay(name, "", "", numbers))
    with pytest.raises(ValueError, match=f"has a column {name!r} already"):
        _page.packed_graph(nodes, overlays=overlays)
    with pytest.raises(ValueError, match="has 1 rows"):
        _page.packed_graph(nodes, overlays=(Overlay("time", "", "", [1.0]),))


def test_a_profile_is_plain_data() -> None:
    nodes = samples.mlp()
    bad = OperationProfile("x", "relu", values=Statistics(math.nan, math.nan, math.nan, 1.0))
    data = json.loads(json.dumps(sample(nodes, operations=(bad,)).to_dict(), allow_nan=False))
    assert data["operations"][0]["values"] == {"mean": None, "std": None, "largest": None, "nonfinite": 1.0}
