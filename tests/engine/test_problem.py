"""Graphs in one form: tensors in and tensors out, a key that is their meaning, and bytes that bring them whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepseek_lab.engine import wire
from deepseek_lab.engine.digests import weights_digest
from deepseek_lab.engine.problem import Problem, Spec, graph_key
from tests.engine.graphs import capture, problem_of, sent


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)
        self.register_buffer("shift", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.linear(x)) + self.shift


def _key(target: Any, *args: Any, **kwargs: Any) -> str:
    return problem_of(target, *args, **kwargs).spec.graph_key


def test_parameters_and_buffers_are_weights_and_the_rest_is_live() -> None:
    net, x = _Net(), torch.randn(3, 6)
    problem = problem_of(net, x)
    assert len(problem.weights) == 3
    assert {tuple(weight.shape) for weight in problem.weights} == {(4, 6), (4,)}
    assert [tuple(tensor.shape) for tensor in problem.live] == [(3, 6)]
    assert problem.spec.signature == "float32[3,6]"
    torch.testing.assert_close(problem.eager()[0], net(x).detach())
    torch.testing.assert_close(problem.module()(x)[0], net(x).detach())


def test_sizes_that_vary_become_reads_of_a_tensor() -> None:
    def scaled(x: Tensor, y: Tensor) -> Tensor:
        return x.reshape(-1, 2) * x.shape[0] + y.sum() / y.shape[1]

    problem = problem_of(scaled, torch.randn(4, 6), torch.randn(2, 5), dynamic=True)
    assert all(isinstance(tensor, Tensor) for tensor in problem.arguments())
    assert problem.spec.dynamic
    assert "*" in problem.spec.signature
    for rows, columns in ((4, 5), (6, 3), (10, 9)):
        live = [torch.randn(rows, 6), torch.randn(2, columns)]
        torch.testing.assert_close(problem.eager(live)[0], scaled(*live))


def test_dimensions_of_one_size_share_a_symbol() -> None:
    problem = problem_of(lambda x, y: x + y, torch.randn(4, 6), torch.randn(4, 6), dynamic=True)
    first, second = problem.spec.live
    assert (first.dynamic, first.symbols) == (second.dynamic, second.symbols)
    assert len(set(first.symbols)) == 2


def test_number_that_no_tensor_carries_is_refused() -> None:
    (runner,) = capture(lambda x, n: x * n, torch.randn(3), 7, dynamic=True)
    assert runner.refusal is not None
    assert "which no tensor input carries" in runner.refusal
    torch.testing.assert_close(runner(*runner._last or ()) if runner.spec else torch.ones(1), torch.ones(1))


GRAPHS: dict[str, Any] = {
    "net": lambda: problem_of(_Net(), torch.randn(3, 6)),
    "net of varying size": lambda: problem_of(_Net(), torch.randn(3, 6), dynamic=True),
    "slices and ellipses": lambda: problem_of(lambda x: x[..., 1:3, None].flip(0), torch.randn(4, 5)),
    "dtypes and devices": lambda: problem_of(
        lambda x: x.to(torch.float64) + torch.zeros(3, dtype=torch.int32, device="cpu"), torch.randn(3)
    ),
    "closures of torch": lambda: problem_of(lambda x: F.max_pool2d(x, 2), torch.randn(1, 1, 4, 4)),
    "no gradient inside": lambda: problem_of(_quietly, torch.randn(3)),
    "several outputs": lambda: problem_of(lambda x: (x + 1, [x * 2, {"k": x.sum()}]), torch.randn(3)),
    "constants": lambda: problem_of(lambda x: x + torch.tensor([1.0, 2.0, 3.0]), torch.randn(3)),
    "attention": lambda: problem_of(
        lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True), torch.randn(1, 2, 4, 8)
    ),
    "in place": lambda: problem_of(lambda x: x.clone().mul_(2).add_(1), torch.randn(3)),
    "autocast": lambda: problem_of(_autocast, torch.randn(3, 6)),
}


def _quietly(x: Tensor) -> Tensor:
    with torch.no_grad():
        y = x * 2
    return y + 1


def _autocast(x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return (x @ x.t()).float()


@pytest.mark.parametrize("name", GRAPHS)
def test_graph_survives_the_wire(name: str, tmp_path: Path) -> None:
    problem = GRAPHS[name]()
    again = sent(problem, tmp_path)
    assert again.spec == problem.spec
    assert [node.name for node in again.graph.graph.nodes] == [
        node.name for node in problem.graph.graph.nodes
    ]
    for got, want in zip(again.eager(), problem.eager(), strict=True):
        assert torch.equal(got, want)
    assert wire.to_bytes(wire.from_bytes(wire.to_bytes(problem.graph))) == wire.to_bytes(problem.graph)


@pytest.mark.parametrize("name", GRAPHS)
def test_key_survives_the_wire(name: str, tmp_path: Path) -> None:
    problem = GRAPHS[name]()
    again = sent(problem, tmp_path)
    keys = [graph_key(p.graph, p.spec.inputs, p.spec.is_weight, "float32", None) for p in (again, problem)]
    assert keys[0] == keys[1]


def test_key_knows_which_inputs_are_weights() -> None:
    """``f(weight, x)`` and ``f(x, weight)`` are one graph of equal inputs; a program for one is wrong for the other."""

    def difference(a: Tensor, b: Tensor) -> Tensor:
        return a - b

    weight, x = nn.Parameter(torch.ones(2, 3)), torch.zeros(2, 3)
    one, other = problem_of(difference, weight, x), problem_of(difference, x, weight)
    assert one.spec.is_weight != other.spec.is_weight
    assert one.spec.graph_key != other.spec.graph_key


def test_random_operations_are_not_frozen_on_the_way(tmp_path: Path) -> None:
    problem = sent(problem_of(lambda x: x + torch.rand(3), torch.zeros(3)), tmp_path)
    assert not torch.equal(problem.eager()[0], problem.eager()[0])
    state = torch.get_rng_state()
    first = problem.eager()[0]
    torch.set_rng_state(state)
    assert torch.equal(problem.eager()[0], first)


def test_strides_and_shared_memory_survive_the_way(tmp_path: Path) -> None:
    base = torch.randn(8, 6)
    problem = problem_of(lambda x, y: x.t() @ y, base[::2], base[1::2])
    again = sent(problem, tmp_path)
    assert [tensor.stride() for tensor in again.live] == [tensor.stride() for tensor in problem.live]
    assert torch.equal(again.eager()[0], problem.eager()[0])


def test_key_is_the_same_for_the_same_meaning() -> None:
    assert _key(_Net(), torch.randn(3, 6)) == _key(_Net(), torch.randn(3, 6))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x: x + 1, lambda x: x + 2),
        (lambda x: x + 1, lambda x: x - 1),
        (lambda x: x + 1, lambda x: x + 1.0),
        (lambda x: x.sum(0), lambda x: x.sum(1)),
        (lambda x: F.max_pool2d(x, 2), lambda x: F.adaptive_max_pool2d(x, 2)),
        (lambda x: F.gelu(x), lambda x: F.gelu(x, approximate="tanh")),
        (lambda x: torch.relu(x), lambda x: torch.sigmoid(x)),
        (lambda x: x.relu(), lambda x: x.sigmoid()),
        (lambda x: x[..., 1:], lambda x: x[..., :-1]),
        (lambda x: (x + 1, x * 2), lambda x: (x * 2, x + 1)),
        (lambda x: x + torch.tensor([1.0, 2, 3, 4]), lambda x: x + torch.tensor([1.0, 2, 3, 5])),
        (lambda x: x.to(torch.float64), lambda x: x.to(torch.float16)),
    ],
)
def test_key_differs_for_another_meaning(one: Any, other: Any) -> None:
    x = torch.randn(1, 1, 4, 4)
    assert _key(one, x) != _key(other, x)


def test_key_differs_for_other_inputs() -> None:
    def twice(x: Tensor) -> Tensor:
        return x * 2

    inputs = [torch.randn(4, 6), torch.randn(6, 4), torch.randn(4, 6).double(), torch.randn(6, 4).t()]
    assert len({_key(twice, x) for x in inputs}) == 4
    assert _key(twice, inputs[0]) != _key(twice, inputs[0], dynamic=True)


def test_digest_of_weights_is_their_values() -> None:
    weight = torch.randn(4, 6)
    assert weights_digest([weight]) == weights_digest([weight.clone()])
    assert weights_digest([weight]) == weights_digest([weight.t().contiguous().t()])
    others = [weight + 1e-6, weight.view(6, 4), weight.double(), weight[:3], -weight]
    assert len({weights_digest([one]) for one in (weight, *others)}) == 6
    assert weights_digest([weight, others[0]]) != weights_digest([others[0], weight])
    assert weights_digest([torch.ones((), dtype=torch.bfloat16)]) != weights_digest([torch.empty(0)])


def test_input_that_is_no_plain_tensor_is_refused() -> None:
    sparse = torch.eye(3).to_sparse()
    runners = capture(lambda x: x * 2, sparse)
    assert all(runner.refusal for runner in runners)


def test_problem_holds_nothing_of_the_users_autograd() -> None:
    problem: Problem = problem_of(_Net(), torch.randn(3, 6).requires_grad_())
    assert not any(tensor.requires_grad for tensor in (*problem.weights, *problem.live))


@pytest.mark.parametrize("dynamic", [False, True])
def test_spec_comes_back_from_json(dynamic: bool) -> None:
    spec = problem_of(torch.nn.Linear(4, 3), torch.randn(5, 4), dynamic=dynamic).spec
    assert Spec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
