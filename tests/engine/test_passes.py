"""Rewrites keep what a graph means, find what they are for, and leave alone what they must."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from deepseek_lab.engine import passes, wire
from tests.engine.graphs import capture, problem_of
from tests.fuzz import graphs


class _Spelt(nn.Module):
    """GELU as models spell it out."""

    def __init__(self, spelling: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.spelling = spelling

    def forward(self, x: Tensor) -> Tensor:
        return self.spelling(x) + 1


def _new(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * torch.pow(x, 3.0))))


def _fast(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x)))


def _exact(x: Tensor) -> Tensor:
    return x * 0.5 * (1.0 + torch.erf(x / 2.0**0.5))


def _other(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(0.79 * (x + 0.044715 * torch.pow(x, 3.0))))


def _graph(target: Callable[..., object], *inputs: Tensor) -> fx.GraphModule:
    return wire.from_bytes(wire.to_bytes(problem_of(target, *inputs).graph))


def _targets(graph: fx.GraphModule) -> list[object]:
    return [node.target for node in graph.graph.nodes]


@pytest.mark.parametrize("spelling", [_new, _fast, _exact])
def test_gelu_is_recognised_in_each_spelling(spelling: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(5, 7)
    graph = _graph(_Spelt(spelling), x)
    assert passes.recognise_gelu(graph) == 1
    assert F.gelu in _targets(graph)
    assert torch.tanh not in _targets(graph)
    torch.testing.assert_close(graph(x)[0], spelling(x) + 1)


def test_what_is_no_gelu_stays() -> None:
    graph = _graph(_Spelt(_other), torch.randn(3))
    assert passes.recognise_gelu(graph) == 0


def test_dropout_that_is_off_goes_and_dropout_that_is_on_stays() -> None:
    x = torch.randn(4)
    off = _graph(lambda x: F.dropout(x * 2, 0.5, False) + 1, x)
    on = _graph(lambda x: F.dropout(x * 2, 0.5, True) + 1, x)
    assert passes.drop_identities(off) == 1
    assert passes.drop_identities(on) == 0
    off.recompile()
    assert torch.equal(off(x)[0], x * 2 + 1)


def _masked(x: Tensor) -> Tensor:
    size = x.shape[0]
    mask = torch.arange(size)[:, None] >= torch.arange(size)
    return x.masked_fill(~mask, 0.0) * torch.tensor(2.0)


def test_masks_and_positions_are_computed_once() -> None:
    x = torch.randn(6, 6)
    graph = _graph(_masked, x)
    before = len(list(graph.graph.nodes))
    assert passes.fold_constants(graph) > 0
    graph.recompile()
    assert torch.arange not in _targets(graph)
    assert len(list(graph.graph.nodes)) < before
    for _ in range(2):
        assert torch.equal(graph(x)[0], _masked(x))


def _written(x: Tensor) -> Tensor:
    made = torch.zeros(4)
    made[0] = x.sum()
    return made * 2


def _written_by_method(x: Tensor) -> Tensor:
    return torch.zeros(4).add_(x)


def _written_by_flag(x: Tensor) -> Tensor:
    return F.relu(torch.full((4,), -1.0), True) + x


@pytest.mark.parametrize("function", [_written, _written_by_method, _written_by_flag])
def test_nothing_is_held_where_the_graph_writes(function: Callable[[Tensor], Tensor]) -> None:
    graph = _graph(function, torch.randn(4))
    assert passes.fold_constants(graph) == 0
    for seed in range(3):
        x = torch.full((4,), float(seed))
        assert torch.equal(graph(x)[0], function(x))


def test_random_numbers_are_drawn_at_each_call() -> None:
    x = torch.zeros(100)
    graph = _graph(lambda x: x + torch.rand(100), x)
    state = torch.get_rng_state()
    passes.fold_constants(graph)
    graph.recompile()
    assert torch.equal(state, torch.get_rng_state()), "a pass draws nothing of the user's"
    assert not torch.equal(graph(x)[0], graph(x)[0])


def test_results_that_are_constant_belong_to_the_caller() -> None:
    x = torch.randn(3)
    graph = _graph(lambda x: (x + torch.arange(3), torch.arange(3), torch.arange(6).view(2, 3)), x)
    passes.fold_constants(graph)
    graph.recompile()
    first = graph(x)
    for tensor in first:
        tensor.zero_()
    assert torch.equal(graph(x)[1], torch.arange(3))
    assert torch.equal(graph(x)[2], torch.arange(6).view(2, 3))


@pytest.mark.parametrize("seed", range(60))
def test_random_graphs_keep_their_meaning(seed: int) -> None:
    recipe = graphs.random_recipe(seed)
    inputs = graphs.inputs_for(recipe, seed)
    runners = [one for one in capture(graphs.Graph(recipe), *inputs) if one.refusal is None]
    for problem in [runner.problem() for runner in runners]:
        graph = wire.from_bytes(wire.to_bytes(problem.graph))
        random = torch.get_rng_state()
        with torch.no_grad():
            wanted = [one.clone() for one in _outputs(graph(*problem.arguments()))]
            torch.set_rng_state(random)
            passes.drop_identities(graph)
            passes.recognise_gelu(graph)
            passes.fold_constants(graph)
            graph.recompile()
            for _ in range(2):
                torch.set_rng_state(random)
                for got, want in zip(_outputs(graph(*problem.arguments())), wanted, strict=True):
                    torch.testing.assert_close(got, want, equal_nan=True)


def _outputs(result: object) -> tuple[Tensor, ...]:
    return tuple(result) if isinstance(result, tuple | list) else (result,)  # type: ignore[arg-type]
