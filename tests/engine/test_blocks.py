"""The block that a deep model repeats is found, means what it means in the graph, and spares what loses on it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from deepseek_lab.base.settings import settings
from deepseek_lab.engine import blocks
from deepseek_lab.engine.builder_process import analyse
from tests.engine.cases import decided, tower
from tests.engine.graphs import problem_of


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.qkv = nn.Linear(16, 48)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        heads = [t.unflatten(-1, (2, 8)).transpose(1, 2) for t in self.qkv(self.norm(x)).chunk(3, -1)]
        mixed = torch.nn.functional.scaled_dot_product_attention(*heads, attn_mask=mask)
        x = x + mixed.transpose(1, 2).flatten(2)
        return x + self.down(torch.tanh(self.up(x)) * 0.5)


class _Stack(nn.Module):
    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 16), nn.Linear(16, 20)
        self.layers = nn.ModuleList(_Layer() for _ in range(num_layers))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        mask = torch.ones(tokens.shape[-1], tokens.shape[-1], dtype=torch.bool).tril()
        for layer in self.layers:
            x = layer(x, mask)
        return self.head(x)


def test_block_of_a_stack_is_one_layer() -> None:
    stack = _Stack(7).eval()
    found = blocks.block_of(problem_of(stack, torch.randint(0, 20, (2, 5))))
    assert found is not None
    assert found.count >= 6
    problem = found.problem
    per_layer = sum(1 for _ in stack.layers[0].parameters())
    assert len(problem.weights) == per_layer
    assert sum(weight.numel() for weight in problem.weights) == sum(
        parameter.numel() for parameter in stack.layers[0].parameters()
    )
    assert analyse(problem).refusal is None


def test_block_computes_what_it_computes_in_the_graph() -> None:
    """Blocks that follow each other, each fed with what the one before gives, are the stack."""
    stack = _Stack(6).eval()
    whole = problem_of(stack, torch.randint(0, 20, (2, 5)))
    nodes = [node for node in whole.graph.graph.nodes if node.op not in ("placeholder", "output")]
    repeat = blocks.find(nodes)
    assert repeat is not None
    values = blocks._values(whole, nodes)
    found = blocks.block_of(whole)
    assert found is not None
    (placeholders, outputs) = (
        [node.name for node in found.problem.graph.graph.nodes if node.op == "placeholder"],
        found.problem.eager(),
    )
    by_name = {node.name: node for node in whole.graph.graph.nodes}
    live = [n for n, w in zip(placeholders, found.problem.spec.is_weight, strict=True) if not w]
    for name, tensor in zip(live, found.problem.live, strict=True):
        assert torch.equal(tensor, values[by_name[name]])
    (result,) = next(n for n in found.problem.graph.graph.nodes if n.op == "output").args
    for node, tensor in zip(result, outputs, strict=True):
        torch.testing.assert_close(tensor, values[by_name[node.name]])


@pytest.mark.parametrize("num_layers", [1, 3])
def test_few_layers_are_no_repetition(num_layers: int) -> None:
    assert blocks.block_of(problem_of(_Stack(num_layers).eval(), torch.randint(0, 20, (2, 5)))) is None


def test_sizes_that_vary_are_left_alone() -> None:
    assert blocks.block_of(problem_of(_Stack(7).eval(), torch.randint(0, 20, (2, 5)), dynamic=True)) is None


class _Towers(nn.Module):
    """A stack of towers, so that a planted candidate is much faster on each of them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(8))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(tower(layer(x)))
        return x


@pytest.mark.usefixtures("strangers", "own_store")
def test_what_loses_on_the_block_is_not_built_on_the_whole() -> None:
    settings.block_bytes = 1
    fast = decided(_Towers(), torch.randn(64, 64), backends=("planted-fast", "planted-long"))
    found = {row.name: row for row in fast.report.candidates}
    assert fast.report.chosen == "planted-fast"
    assert found["planted-long"].status == "skipped"
    assert "on the block that the graph repeats" in found["planted-long"].reason


@pytest.mark.usefixtures("strangers", "own_store")
def test_small_graphs_are_tried_as_they_are() -> None:
    fast = decided(_Towers(), torch.randn(64, 64), backends=("planted-fast", "planted-long"))
    found = {row.name: row for row in fast.report.candidates}
    assert found["planted-long"].status == "lost"
