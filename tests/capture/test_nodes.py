"""Captured graphs as records, and the observer that finds which modules a cell calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deepseek_lab.base import events as ev
from deepseek_lab.capture.nodes import graph_nodes
from deepseek_lab.capture.observe import ModuleObserver, called_names
from tests.engine.graphs import capture


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return torch.relu(x)


def test_nodes_know_operation_shape_module_and_line() -> None:
    (runner,) = capture(_Block(), torch.randn(3, 4))
    nodes = graph_nodes(runner.graph_module)
    linear = [node for node in nodes if node.op == "linear"]
    assert [node.module for node in linear] == ["layers.0", "layers.1"]
    assert {node.shape for node in linear} == {(3, 4)}
    assert {node.dtype for node in linear} == {"float32"}
    (relu,) = [node for node in nodes if node.op == "relu"]
    assert relu.file == __file__
    line = Path(__file__).read_text().splitlines()[relu.line - 1]
    assert "torch.relu(x)" in line
    assert relu.inputs == (linear[1].name,)


def test_ends_of_a_graph_are_named() -> None:
    (runner,) = capture(_Block(), torch.randn(3, 4))
    operations = [node.op for node in graph_nodes(runner.graph_module)]
    assert operations.count("input") == 1
    assert operations.count("parameter") == 4
    assert operations[-1] == "output"


def test_inputs_name_nodes_that_came_before() -> None:
    (runner,) = capture(_Block(), torch.randn(3, 4))
    seen: set[str] = set()
    for node in graph_nodes(runner.graph_module):
        assert set(node.inputs) <= seen
        seen.add(node.name)


def test_records_hold_no_tensor() -> None:
    (runner,) = capture(_Block(), torch.randn(3, 4), dynamic=True)
    event = ev.GraphCaptured(
        run="r", target="t", graph="g", nodes=graph_nodes(runner.graph_module), signature="", capture_s=0.0
    )
    assert ev.from_dict(json.loads(json.dumps(event.to_dict()))) == event


def test_size_that_varies_is_minus_one() -> None:
    (runner,) = capture(_Block(), torch.randn(3, 4), dynamic=True)
    (relu,) = [node for node in graph_nodes(runner.graph_module) if node.op == "relu"]
    assert relu.shape == (-1, 4)


def test_call_of_a_library_belongs_to_the_line_that_made_it() -> None:
    (runner,) = capture(nn.Linear(4, 4), torch.randn(3, 4))
    nodes = graph_nodes(runner.graph_module, ("<cell>", 12))
    (linear,) = [node for node in nodes if node.op == "linear"]
    assert (linear.file, linear.line) == ("<cell>", 12)


def test_observer_sees_outermost_modules_once_and_puts_everything_back() -> None:
    original = torch.nn.Module.__call__
    found: list[Any] = []
    block, other = _Block(), nn.Linear(4, 4)
    observer = ModuleObserver(found.append)
    observer.open()
    try:
        x = torch.randn(3, 4)
        block(x), block(x), other(x)
    finally:
        observer.close()
    assert found == [block, other]
    assert observer.num_calls == 3
    assert torch.nn.Module.__call__ is original
    block(x)
    assert observer.num_calls == 3


def test_observer_leaves_errors_and_results_alone() -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyError("mine")

    observer = ModuleObserver(lambda module: None)
    observer.open()
    try:
        with pytest.raises(KeyError, match="mine"):
            Fails()(torch.ones(1))
        linear = nn.Linear(2, 2)
        x = torch.ones(1, 2)
        assert torch.equal(linear(x), linear.forward(x))
    finally:
        observer.close()


def test_observer_under_a_later_patch_takes_away_nothing_of_anothers() -> None:
    original = torch.nn.Module.__call__
    observer = ModuleObserver(lambda module: None)
    observer.open()
    inner = torch.nn.Module.__call__
    try:

        def patched(module: nn.Module, *args: Any) -> Any:
            return inner(module, *args)

        torch.nn.Module.__call__ = patched  # type: ignore[method-assign]
        observer.close()
        assert torch.nn.Module.__call__ is patched
        nn.Linear(2, 2)(torch.ones(1, 2))
    finally:
        torch.nn.Module.__call__ = original  # type: ignore[method-assign]


def test_names_that_a_cell_calls() -> None:
    assert called_names("y = f(g(x)) + a.b(c)\nfor i in h(): pass") == {"f", "g", "h"}
    assert called_names("this is not python (") == set()
    assert called_names("") == set()
