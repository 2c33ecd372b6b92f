"""Laws of a drawn graph: nothing lost, nothing twice, nothing on top of each other."""

from __future__ import annotations

import dataclasses
import doctest
import xml.etree.ElementTree as ET

import pytest

from deepseek_lab.base.events import GraphNode
from deepseek_lab.views import _diff, _svg, _text, _tree, graph_svg, graph_text
from deepseek_lab.views._layout import layout
from deepseek_lab.views._places import BOX, Box, Layout
from deepseek_lab.views._rows import rows
from deepseek_lab.views._tree import producers
from tests.views import samples

GRAPHS = {
    "mlp": samples.mlp(),
    "gpt2": samples.gpt2(),
    "odd block": samples.gpt2(wide_block=5),
    "chain": samples.chain(2_000),
    "periodic chain": samples.chain(2_000, ops=("relu",)),
    "one node": (GraphNode("x", "input"),),
    "deep modules": (GraphNode("x", "input", ".".join("abcdefghijklmnopqrstuvwxyz")),),
    **{f"random {seed}": samples.random_graph(seed) for seed in range(12)},
}

graphs = pytest.mark.parametrize("nodes", GRAPHS.values(), ids=GRAPHS)


def panes(record: Layout) -> list[list[Box]]:
    """Boxes of the captured graph, and of the plan where there is one."""
    if record.panes == 1:
        return [list(record.boxes)]
    return [[box for box in record.boxes if box.column == pane] for pane in (0, 1)]


def plan_of(nodes: tuple[GraphNode, ...]) -> tuple[GraphNode, ...]:
    return samples.random_plan(1, nodes)


@graphs
@pytest.mark.parametrize("max_boxes", [1, 2, 7, 30, 80])
def test_every_node_is_in_exactly_one_box(nodes: tuple[GraphNode, ...], max_boxes: int) -> None:
    plan = plan_of(nodes)
    for shown, record in (
        ([nodes], layout(nodes, max_boxes=max_boxes)),
        ([nodes, plan] if plan else [nodes], layout(nodes, plan_nodes=plan, max_boxes=max_boxes)),
    ):
        for graph, boxes in zip(shown, panes(record), strict=True):
            held = sorted(node for box in boxes for node in box.row.nodes)
            assert held == list(range(len(graph)))
            assert sum(box.row.size for box in boxes) == len(graph)
            assert len(boxes) <= max_boxes


@graphs
def test_counts_of_frames_add_up(nodes: tuple[GraphNode, ...]) -> None:
    open_frames: list[list[int]] = [[0, 0]]
    for row in rows(_tree.build(nodes), nodes, max_boxes=40):
        if row.kind == "open":
            open_frames.append([row.size, 0])
        elif row.kind == "close":
            size, inside = open_frames.pop()
            assert inside == size
            open_frames[-1][1] += size
        else:
            open_frames[-1][1] += row.size
    assert open_frames == [[0, len(nodes)]]


@graphs
def test_every_dependency_is_a_wire(nodes: tuple[GraphNode, ...]) -> None:
    record = layout(nodes, max_boxes=40)
    holder = {node: at for at, box in enumerate(record.boxes) for node in box.row.nodes}
    wanted = {
        (holder[source], holder[target])
        for target, reads in enumerate(producers(nodes))
        for source in reads
        if holder[source] < holder[target]
    }
    assert {(wire.source, wire.target) for wire in record.wires} == wanted
    for wire in record.wires:
        assert bool(wire.points) != bool(wire.number)
        if wire.points:
            assert wire.points[0][1] >= record.boxes[wire.source].y
            assert record.boxes[wire.target].y <= wire.points[-1][1] <= record.boxes[wire.target].y + BOX


@graphs
def test_boxes_and_frames_do_not_cross(nodes: tuple[GraphNode, ...]) -> None:
    plan = plan_of(nodes)
    for record in (layout(nodes), layout(nodes, plan_nodes=plan)):
        places = [(box.x, box.y, box.x + box.width, box.y + BOX) for box in record.boxes]
        for at, first in enumerate(places):
            assert first[0] >= 0
            assert first[2] <= record.width
            assert first[3] <= record.height
            assert not any(_meet(first, other) for other in places[at + 1 :])
        for frame in record.frames:
            around = (frame.x, frame.y, frame.x + frame.width, frame.y + frame.height)
            assert all(not _meet(around, place) or _within(place, around) for place in places)


def _meet(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _within(inner: tuple[float, ...], outer: tuple[float, ...]) -> bool:
    return outer[0] <= inner[0] and outer[1] <= inner[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


@graphs
@pytest.mark.parametrize("beside", [False, True])
def test_no_text_lies_on_another(nodes: tuple[GraphNode, ...], beside: bool) -> None:
    drawn = graph_svg(nodes, title="model " * 40, plan_nodes=plan_of(nodes) if beside else None)
    svg = ET.fromstring(drawn)
    width = float(svg.attrib["width"])
    assert width <= 700
    places = []
    for text in svg.iter("{http://www.w3.org/2000/svg}text"):
        style = text.get("class", "").split()
        length = len(text.text or "") * (6.93 if "t" in style else 5.42 if "c" in style else 6.33)
        x, y = float(text.attrib["x"]), float(text.attrib["y"])
        left = x - length if "e" in style else x - length / 2 if "c" in style else x
        places.append((left, y - 8, left + length, y + 1))
    for at, place in enumerate(places):
        assert place[0] >= 0
        assert place[2] <= width
        assert not any(_meet(place, other) for other in places[at + 1 :])


def test_equal_blocks_fold_and_a_different_one_stays_apart() -> None:
    def titles(nodes: tuple[GraphNode, ...]) -> list[str]:
        return [
            row.text for row in rows(_tree.build(nodes), nodes, max_boxes=80) if row.kind in {"open", "fold"}
        ]

    assert "h.0 … h.11 × 12" in titles(samples.gpt2())
    odd = titles(samples.gpt2(wide_block=5))
    assert "h.0 … h.4 × 5" in odd
    assert "h.5" in odd
    assert "h.6 … h.11 × 6" in odd


def test_blocks_of_another_wiring_are_not_equal() -> None:
    nodes = list(samples.gpt2())
    at = [position for position, node in enumerate(nodes) if node.op == "add"][7]
    nodes[at] = dataclasses.replace(nodes[at], inputs=(nodes[at].inputs[0], nodes[at].inputs[0]))
    opened = [row for row in rows(_tree.build(nodes), nodes, max_boxes=80) if row.repeat > 1]
    assert [row.repeat for row in opened] == [3, 8]


def test_a_periodic_chain_folds_into_its_period() -> None:
    nodes = [GraphNode("x", "input")]
    for i in range(1000):
        nodes.append(GraphNode(f"n{i}", ["linear", "relu"][i % 2], inputs=(nodes[-1].name,)))
    kinds = [(row.kind, row.text, row.size) for row in rows(_tree.build(nodes), nodes, max_boxes=10)]
    assert kinds[1:] == [
        ("open", "× 500", 1000),
        ("op", "linear", 500),
        ("op", "relu", 500),
        ("close", "× 500", 0),
    ]


def test_marks_say_what_became_of_each_node() -> None:
    nodes = samples.gpt2(2)
    diff = _diff.compare(nodes, samples.gpt2_plan(nodes))
    by_mark: dict[str, set[str]] = {}
    for node in nodes:
        by_mark.setdefault(diff.before.get(node.name, "kept"), set()).add(node.op)
    assert by_mark["removed"] == {"dropout"}
    assert by_mark["fused"] == {"linear", "gelu"}
    assert by_mark["changed"] == {"scaled_dot_product_attention"}
    assert {node.name for node in nodes if node.op == "gelu"} <= set(diff.fused_into)
    assert diff.fused_into["gelu"] == "fused_gelu"
    assert set(diff.after.values()) == {"fused", "changed"}


def test_what_stayed_stands_at_the_same_height() -> None:
    nodes = samples.gpt2(2)
    record = layout(nodes, plan_nodes=samples.gpt2_plan(nodes))
    heights = [
        {box.row.node.name: box.y for box in boxes if box.row.node is not None and not box.row.mark}
        for boxes in panes(record)
    ]
    shared = heights[0].keys() & heights[1].keys()
    assert len(shared) > 10
    assert all(heights[0][name] == heights[1][name] for name in shared)


def test_marks_are_told_by_letter_shape_and_colour() -> None:
    nodes = samples.gpt2(2)
    drawn = graph_svg(nodes, plan_nodes=samples.gpt2_plan(nodes))
    shapes = set()
    for mark, (letter, _) in _diff.MARKS.items():
        assert f'<g class="{mark}">' in drawn
        assert f">{letter}</text>" in drawn
        shapes.add(_svg._BADGE[mark])
    assert len(shapes) == 4


def test_names_are_data() -> None:
    bad = '<script>alert("1")</script>&amp;\x00\x1b[31m\ud800'
    nodes = (
        GraphNode(bad, "input" + bad, bad, (), (1,), bad, bad, 3),
        GraphNode("y", bad, "m", (bad,), (1,), "torch.float32", "f", 4),
        GraphNode("z", "relu", "m", ("y",)),
    )
    for drawn in (graph_svg(nodes, title=bad), graph_svg(nodes, title=bad, plan_nodes=nodes[:2])):
        ET.fromstring(drawn)
        assert "<script" not in drawn
        drawn.encode()
    printed = graph_text(nodes)
    printed.encode()
    assert "\x1b" not in printed
    assert len(printed.splitlines()) == 1 + len(nodes) + 1


@graphs
def test_printed_form_accounts_for_every_node(nodes: tuple[GraphNode, ...]) -> None:
    lines = graph_text(nodes, max_rows=50).splitlines()
    words = lines[0].replace(",", "").split()
    assert int(words[0]) == len(nodes)
    if "printed" in words:
        assert int(words[2]) + int(words[4]) == len(nodes)
    assert sum(" = " in line for line in lines) <= 50
    assert all(len(line) < 180 for line in lines)


def test_printed_form_shows_modules_and_cell_lines() -> None:
    printed = graph_text(samples.gpt2())
    assert "    h.0 … h.11 × 12  (276 nodes)" in printed
    assert any(
        "scaled_dot_product_attention" in line and line.endswith("line 33") for line in printed.splitlines()
    )


@pytest.mark.parametrize("module", [_svg, _text])
def test_examples_run(module: object) -> None:
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed
