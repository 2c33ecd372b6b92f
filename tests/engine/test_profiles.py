"""Profiles of what a run captured: on which inputs, what runs each operation, and through which names."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deepseek_lab
from deepseek_lab.base.errors import CaptureError, TargetError, UsageError
from deepseek_lab.base.profile import GraphProfile
from deepseek_lab.engine import runtime
from tests.engine.cases import Tower, decided, installed, rows
from tests.engine.graphs import capture


def _only(target: Any, **options: Any) -> GraphProfile:
    (profile,) = deepseek_lab.profile(target, budget_s=0.2, **options)
    return profile


def test_profile_of_what_optimize_returned() -> None:
    model = Tower()
    fast = deepseek_lab.optimize(model, backends=("eager",))
    fast(rows())
    assert deepseek_lab.wait(60)
    profile = _only(fast)
    record = fast.report.main_graph
    assert record is not None
    assert [one.name for one in profile.operations] == [node.name for node in record.nodes]
    assert [one.op for one in profile.operations] == [node.op for node in record.nodes]
    assert (profile.graph, profile.target) == (record.graph, record.target)
    ends = {"input", "parameter", "output"}
    assert {one.backend for one in profile.operations if one.op not in ends} == {"eager"}
    assert {one.backend for one in profile.operations if one.op in ends} == {""}
    data = json.loads(json.dumps(profile.to_dict(), allow_nan=False))
    assert data["operations"][0]["name"] == profile.operations[0].name
    assert {_only(one).graph for one in (None, fast.run, model)} == {profile.graph}


@pytest.mark.usefixtures("strangers")
def test_what_is_installed_is_named_and_stays() -> None:
    model, x = Tower(), rows()
    with torch.no_grad():
        expected = model(x)
    fast = installed(model, x)
    profile = _only(fast)
    operations = [one for one in profile.operations if one.backend]
    assert {one.backend for one in operations} == {"planted-fast"}
    calls = fast.run.dispatchers["Tower"].runners[0].num_calls
    with torch.no_grad():
        torch.testing.assert_close(fast(x), expected)
    assert fast.run.dispatchers["Tower"].runners[0].num_calls == calls + 1
    assert not fast.report.fallbacks


def test_small_inputs_are_those_of_the_captured_call_after_the_decision() -> None:
    x = rows()
    fast = decided(Tower(), x, backends=("eager",))
    values = x.clone()
    x.zero_()
    profile = _only(fast)
    assert profile.inputs == "the inputs of the call that was captured"
    (given,) = [one for one in profile.operations if one.op == "input"]
    assert given.values is not None
    assert given.values.mean == pytest.approx(float(values.double().mean()))


def test_large_inputs_are_used_while_they_are_held_and_random_ones_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtime, "KEPT_BYTES", 8)
    (runner,) = capture(Tower(), rows())
    assert "last call" in runner.repeat(0).inputs
    runner.release()
    first, second = runner.repeat(0), runner.repeat(0)
    assert "random inputs in the ranges that were seen" in first.inputs
    for one, other, weight in zip(first.arguments, second.arguments, first.is_weight, strict=True):
        assert torch.equal(one, other)
        assert weight == (one is other)
    changed = [
        not torch.equal(one, other)
        for one, other in zip(first.arguments, runner.repeat(1).arguments, strict=True)
    ]
    assert changed == [not weight for weight in first.is_weight]


@pytest.mark.parametrize("kept", [1 << 20, 0])
def test_sizes_that_vary_are_arguments_too(monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    monkeypatch.setattr(runtime, "KEPT_BYTES", kept)

    def scaled(x: Tensor) -> Tensor:
        return x.reshape(-1, x.shape[0]) * x.shape[0]

    (runner,) = capture(scaled, torch.randn(6, 4), dynamic=True)
    runner.release()
    repeat = runner.repeat(0)
    assert 6 in [one for one in repeat.arguments if not isinstance(one, Tensor)]
    (result,) = runner.graph_module.forward(*repeat.arguments)
    assert result.shape == (4, 6)


def test_a_graph_of_torch_compile_has_a_profile_too() -> None:
    model = nn.Linear(4, 4)
    compiled = torch.compile(model, backend="deepseek")
    with torch.no_grad():
        compiled(torch.randn(3, 4))
    assert _only(None).flops == 2 * 3 * 4 * 4
    torch._dynamo.reset()


def test_gradients_and_weights_reach_no_parameter_of_the_users() -> None:
    model = Tower()
    fast = decided(model, rows(), backends=("eager",))
    profile = _only(fast, gradients=True)
    parameters = [one for one in profile.operations if one.op == "parameter"]
    assert len(parameters) == 4
    assert all(one.gradient is not None for one in parameters)
    assert all(one.grad is None and one.requires_grad for one in model.parameters())


def test_each_graph_of_a_call_with_a_break_is_measured() -> None:
    def broken(x: Tensor) -> Tensor:
        y = torch.tanh(x @ x)
        torch._dynamo.graph_break()
        return torch.sin(y @ y)

    fast = deepseek_lab.optimize(broken, backends=("eager",))
    fast(torch.randn(4, 4))
    profiles = deepseek_lab.profile(fast, budget_s=0.2)
    assert [one.graph for one in profiles] == list(fast.report.graphs)
    assert [one.flops for one in profiles] == [2 * 4**3, 2 * 4**3]


def test_refusals_name_the_next_thing_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TargetError, match="no graph was captured") as caught:
        deepseek_lab.profile(nn.Linear(2, 2))
    assert caught.value.hint
    fast = decided(Tower(), rows(), backends=("eager",))
    for budget in (0.0, -1.0, float("nan")):
        with pytest.raises(UsageError, match="no time to measure in"):
            deepseek_lab.profile(fast, budget_s=budget)

    def refuse(self: runtime.GraphRunner, seed: int) -> None:
        raise CaptureError("planted", hint="planted hint")

    monkeypatch.setattr(runtime.GraphRunner, "repeat", refuse)
    with pytest.raises(TargetError, match="planted") as caught:
        deepseek_lab.profile(fast)
    assert caught.value.hint == "planted hint"
