"""A graph node by node: laws of what is measured, on a clock that the test turns, and of what is left alone."""

from __future__ import annotations

import gc
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch._dynamo.utils import counters
from torch.utils.checkpoint import checkpoint

from deepseek_lab.base.errors import CaptureError
from deepseek_lab.base.profile import GraphProfile, OperationProfile
from deepseek_lab.engine.runtime import GraphRunner
from deepseek_lab.engine.tracing import Tracer
from deepseek_lab.measure import operations
from deepseek_lab.measure.operations import measure
from deepseek_lab.measure.values import statistics_of
from tests.engine.graphs import capture


def profile_of(target: Callable[..., Any], *args: Any, **options: Any) -> GraphProfile:
    """The profile of the one graph of a call."""
    (runner,) = capture(target, *args)
    repeat = runner.repeat(0)
    wants = repeat.wants_gradient if options.pop("gradients", False) else None
    made, interrupted = measure(
        runner.graph_module,
        repeat.arguments,
        is_weight=repeat.is_weight,
        wants_gradient=wants,
        **{"max_rounds": 2, **options},
    )
    assert not interrupted
    return made


def of_kind(profile: GraphProfile, *kinds: str) -> list[OperationProfile]:
    return [one for one in profile.operations if any(one.name.startswith(kind) for kind in kinds)]


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.gelu(self.first(x)))


class CNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, padding=1, groups=3), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(torch.relu(self.norm(self.conv(x))), 2).flatten(1)


# -- work and memory --------------------------------------------------------------------------------


def test_every_node_has_a_record_in_order() -> None:
    for target, inputs in ((MLP(), torch.randn(2, 8)), (CNN(), torch.randn(2, 3, 8, 8))):
        (runner,) = capture(target, inputs)
        profile = profile_of(target, inputs)
        assert [one.name for one in profile.operations] == [n.name for n in runner.graph_module.graph.nodes]
        for one, node in zip(profile.operations, runner.graph_module.graph.nodes, strict=True):
            assert (one.time_s is not None) == node.op.startswith("call")
            assert one.num_times == (2 if node.op.startswith("call") else 0)


def test_flop_of_linear_layers() -> None:
    profile = profile_of(MLP(), torch.randn(5, 8))
    assert [one.flops for one in of_kind(profile, "linear")] == [2 * 5 * 8 * 16, 2 * 5 * 16 * 4]
    assert profile.flops == 2 * 5 * (8 * 16 + 16 * 4)


def test_flop_of_a_grouped_convolution() -> None:
    profile = profile_of(CNN(), torch.randn(2, 3, 8, 8))
    (conv,) = of_kind(profile, "conv")
    assert conv.flops == 2 * (2 * 6 * 8 * 8) * (1 * 3 * 3)


def test_flop_of_attention() -> None:
    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    q, k, v = torch.randn(2, 3, 7, 16), torch.randn(2, 3, 9, 16), torch.randn(2, 3, 9, 16)
    assert profile_of(attention, q, k, v).flops == 2 * (2 * 3) * 7 * 9 * (16 + 16)


def test_flop_of_products_of_matrices() -> None:
    def products(x: Tensor, y: Tensor) -> Tensor:
        return torch.einsum("bij,bjk->bik", x, y) + x @ y

    assert profile_of(products, torch.randn(3, 4, 5), torch.randn(3, 5, 6)).flops == 2 * (2 * 3 * 4 * 5 * 6)


def test_what_has_no_formula_is_not_zero() -> None:
    profile = profile_of(MLP(), torch.randn(5, 8))
    (gelu,) = of_kind(profile, "gelu")
    assert (gelu.flops, gelu.flops_per_s) == (None, None)
    assert profile_of(torch.tanh, torch.randn(3)).flops is None


def test_bytes_that_are_read_and_returned() -> None:
    def work(x: Tensor, table: Tensor, at: Tensor) -> Tensor:
        return F.embedding(at, table) + x.view(3, 4).t().t()

    profile = profile_of(work, torch.randn(12), torch.randn(1000, 4), torch.tensor([5, 7, 9]))
    (embedding,) = of_kind(profile, "embedding")
    assert (embedding.read_bytes, embedding.result_bytes) == (3 * 8 + 3 * 4 * 4, 3 * 4 * 4)
    assert [one.read_bytes for one in of_kind(profile, "view")] == [0]
    (add,) = of_kind(profile, "add")
    assert (add.read_bytes, add.result_bytes) == (2 * 3 * 4 * 4, 3 * 4 * 4)


def test_values_are_those_of_the_call() -> None:
    model, x = MLP(), torch.randn(5, 8)
    profile = profile_of(model, x)
    with torch.no_grad():
        first, result = model.first(x), model(x)
    linear = of_kind(profile, "linear")
    assert [one.values for one in linear] == [statistics_of(first), statistics_of(result)]
    assert [one.values for one in profile.operations if one.values == statistics_of(x)]


def test_gradients_are_those_of_the_sum_of_the_outputs() -> None:
    model, x = MLP(), torch.randn(5, 8)
    profile = profile_of(model, x, gradients=True)
    first = model.first(x).detach().requires_grad_()
    model.second(F.gelu(first)).sum().backward()
    wanted = [first.grad, model.second.weight.grad, model.second.bias.grad]
    model.zero_grad()
    found = [one.gradient for one in profile.operations if one.gradient is not None]
    for gradient in wanted:
        assert gradient is not None
        statistics = statistics_of(gradient)
        assert statistics is not None
        assert any(
            (one.mean, one.std, one.largest)
            == pytest.approx((statistics.mean, statistics.std, statistics.largest))
            for one in found
        )
    assert profile.gradient_of == "the sum of the outputs"


def test_gradients_are_measured_only_on_request_and_where_there_are_any() -> None:
    plain = profile_of(MLP(), torch.randn(5, 8))
    assert (plain.gradient_of, [one.gradient for one in plain.operations if one.gradient]) == ("", [])
    frozen = MLP().requires_grad_(False)
    profile = profile_of(frozen, torch.randn(5, 8), gradients=True)
    assert any("no gradient" in note for note in profile.notes)
    assert profile.sum_s is not None


# -- time, on a clock of the test's -----------------------------------------------------------------


class Clock:
    """Stands still but for the operations, each of which takes what it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        self.num_calls = 0
        self.interrupt_at = -1
        monkeypatch.setattr(operations, "time", types.SimpleNamespace(perf_counter=lambda: self.now_s))

    def operation(self, seconds: float) -> Callable[[Tensor], Tensor]:
        def work(x: Tensor) -> Tensor:
            self.num_calls += 1
            if self.num_calls == self.interrupt_at:
                raise KeyboardInterrupt
            self.now_s += seconds
            return x + 1

        work.__name__ = work.__qualname__ = f"takes_{int(seconds * 1000)}_ms"
        return work

    def graph(self, *seconds: float) -> fx.GraphModule:
        graph = fx.Graph()
        node = graph.placeholder("x")
        for one in seconds:
            node = graph.call_function(self.operation(one), (node,))
        graph.output((node,))
        return fx.GraphModule(nn.Module(), graph)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_the_nodes_account_for_the_whole(clock: Clock) -> None:
    profile, _ = measure(clock.graph(0.01, 0.03, 0.02), [torch.ones(2)], is_weight=[False])
    assert profile.whole_s == pytest.approx(0.06)
    assert profile.sum_s == pytest.approx(0.06)
    assert profile.accounted == pytest.approx(1.0)
    assert profile.num_rounds == operations.MAX_ROUNDS
    assert [one.time_s for one in profile.most_expensive(2)] == pytest.approx([0.03, 0.02])


def test_time_is_bounded_and_one_round_is_made_in_any_case(clock: Clock) -> None:
    profile, _ = measure(clock.graph(1.0, 2.0), [torch.ones(2)], is_weight=[False], budget_s=0.5)
    assert (profile.num_rounds, profile.sum_s) == (1, pytest.approx(3.0))
    assert profile.accounted == pytest.approx(1.0)
    start = clock.now_s
    profile, _ = measure(clock.graph(1.0, 2.0), [torch.ones(2)], is_weight=[False], budget_s=20.0)
    assert clock.now_s - start <= 20.0 + 3.0
    assert profile.num_rounds >= 2


def test_an_interrupt_keeps_what_was_measured(clock: Clock) -> None:
    module = clock.graph(0.01, 0.03, 0.02)
    # The first look makes three calls, then the whole three, then the nodes: this is the second node's.
    clock.interrupt_at = 8
    profile, interrupted = measure(module, [torch.ones(2)], is_weight=[False])
    assert interrupted
    assert [one.time_s for one in profile.operations[1:4]] == [pytest.approx(0.01), None, None]
    assert profile.whole_s == pytest.approx(0.06)
    assert all(one.result_bytes is not None for one in profile.operations[:4])
    assert (profile.num_rounds, profile.accounted) == (0, None)
    assert any("interrupted" in note for note in profile.notes)


def test_values_that_there_was_no_time_for_are_said(clock: Clock) -> None:
    module = clock.graph(0.01, 0.03, 0.02)
    profile, _ = measure(module, [torch.ones(2)], is_weight=[False], budget_s=0.01)
    assert [one.values for one in profile.operations] == [None] * 5
    assert any("before values were looked at" in note for note in profile.notes)
    # A first look and one round take 0.18 s, and the values are looked at until the second node has ended.
    profile, _ = measure(module, [torch.ones(2)], is_weight=[False], budget_s=0.21)
    assert [one.values is not None for one in profile.operations] == [True, True, False, False, False]
    assert any("the values of 2 results" in note for note in profile.notes)


@pytest.mark.parametrize("at", range(1, 22))
def test_an_interrupt_anywhere_leaves_one_record_a_node(clock: Clock, at: int) -> None:
    module = clock.graph(0.01, 0.03, 0.02)
    clock.interrupt_at = at
    profile, interrupted = measure(module, [torch.ones(2)], is_weight=[False])
    assert interrupted
    assert len(profile.operations) == 5
    assert profile.num_rounds == max(at - 4, 0) // 6


def test_the_cost_of_measuring_is_said() -> None:
    assert 0.0 < profile_of(MLP(), torch.randn(2, 8)).overhead_s < 1e-3


# -- what is left alone -----------------------------------------------------------------------------


def _state(*tensors: Tensor) -> list[Any]:
    return [(one.detach().clone(), one._version, one.grad, one.requires_grad) for one in tensors]


def _unchanged(before: list[Any], *tensors: Tensor) -> None:
    for (value, version, grad, requires), now in zip(before, tensors, strict=True):
        assert torch.equal(value, now.detach())
        assert (version, requires) == (now._version, now.requires_grad)
        assert grad is now.grad


@pytest.mark.parametrize("gradients", [False, True])
def test_running_statistics_and_gradients_of_a_model_in_training_stay(gradients: bool) -> None:
    model, x = CNN().train(), torch.randn(2, 3, 8, 8)
    (runner,) = capture(model, x)
    tensors = [x, *model.parameters(), *model.buffers()]
    before, repeat = _state(*tensors), runner.repeat(0)
    wants = repeat.wants_gradient if gradients else None
    profile, _ = measure(
        runner.graph_module, repeat.arguments, is_weight=repeat.is_weight, wants_gradient=wants, max_rounds=2
    )
    _unchanged(before, *tensors)
    assert model.training
    assert any(one.gradient for one in profile.operations) == gradients


class Writes(nn.Module):
    """Writes to a parameter, to a buffer and to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(5, 4) * 10)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor, at: Tensor) -> Tensor:
        self.count += 1
        x.mul_(2)
        return F.embedding(at, self.table, max_norm=1.0) + x + self.count


def test_what_a_graph_writes_to_is_written_to_copies() -> None:
    model, x, at = Writes(), torch.randn(3, 4), torch.tensor([0, 2, 4])
    (runner,) = capture(model, x, at)
    repeat = runner.repeat(0)
    tensors = [one for one in repeat.arguments if isinstance(one, Tensor)]
    before = _state(*tensors, x, *model.parameters(), *model.buffers())
    profile, _ = measure(runner.graph_module, repeat.arguments, is_weight=repeat.is_weight, max_rounds=3)
    _unchanged(before, *tensors, x, *model.parameters(), *model.buffers())
    assert profile.sum_s is not None


def test_a_block_that_is_computed_again_for_its_gradient() -> None:
    """Such a higher-order operator is one node, which has what the operators inside of it count and read."""

    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(4, 4), nn.Tanh())

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.inner, x, use_reentrant=False) * 2

    model, x = Again(), torch.randn(3, 4)
    runners: list[GraphRunner] = []
    Tracer(model, lambda graph, inputs: runners.append(GraphRunner(graph, inputs)) or runners[-1]).capture(
        (x,), {}, dynamic=False
    )
    (runner,) = runners
    tensors = [x, *model.parameters()]
    before, repeat = _state(*tensors), runner.repeat(0)
    profile, _ = measure(
        runner.graph_module,
        repeat.arguments,
        is_weight=repeat.is_weight,
        wants_gradient=repeat.wants_gradient,
        max_rounds=1,
    )
    _unchanged(before, *tensors)
    higher = [
        one
        for one, node in zip(profile.operations, runner.graph_module.graph.nodes, strict=True)
        if isinstance(node.target, torch._ops.HigherOrderOperator)
    ]
    inside = 4 * (3 * 4 + 4 * 4 + 4) + 4 * 3 * 4
    assert [(one.read_bytes, one.flops) for one in higher] == [(inside, 2 * 3 * 4 * 4)]
    assert higher[0].time_s is not None


def test_random_numbers_and_modes_are_as_before() -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).train(), torch.randn(2, 4)
    (runner,) = capture(model, x)
    repeat, random = runner.repeat(0), torch.get_rng_state()
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            measure(runner.graph_module, repeat.arguments, is_weight=repeat.is_weight, max_rounds=1)
            assert torch.is_grad_enabled() == grad
    assert torch.equal(torch.get_rng_state(), random)


def test_autocast_is_left_where_a_graph_ends_in_the_middle_of_it() -> None:
    def fails(x: Tensor) -> Tensor:
        raise ValueError("planted\nsecond line")

    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.call_function(torch.amp.autocast_mode._enter_autocast, ("cpu", torch.bfloat16, True, None))
    graph.output((graph.call_function(fails, (x,)),))
    with pytest.raises(CaptureError) as caught:
        measure(fx.GraphModule(nn.Module(), graph), [torch.ones(2)], is_weight=[False])
    assert not torch.is_autocast_enabled("cpu")
    assert "at fails (fails): ValueError: planted" in caught.value.message
    assert "second line" not in caught.value.message
    assert caught.value.hint


def test_memory_is_given_back_and_nothing_is_captured() -> None:
    def held() -> int:
        gc.collect()
        return sum(issubclass(type(one), Tensor) for one in gc.get_objects())

    model, x = MLP(), torch.randn(5, 8)
    (runner,) = capture(model, x)
    repeat = runner.repeat(0)

    def run() -> None:
        measure(
            runner.graph_module,
            repeat.arguments,
            is_weight=repeat.is_weight,
            wants_gradient=repeat.wants_gradient,
            max_rounds=2,
        )

    run()
    before, frames = held(), counters["frames"].copy()
    run()
    assert held() <= before  # what an earlier test left may go meanwhile
    assert counters["frames"] == frames


def test_inputs_from_inference_mode_can_be_measured() -> None:
    with torch.inference_mode():
        x = torch.randn(5, 8)
    assert profile_of(MLP(), x).flops == 2 * 5 * (8 * 16 + 16 * 4)
