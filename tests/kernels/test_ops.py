"""The registered operators as PyTorch sees them: schemas, fake tensors, gradients, compilers, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from deepseek_lab import _kernels

_kernels.load()
EVERY_CONTRACT = pytest.mark.parametrize("name", sorted(_kernels.CONTRACTS))


def arguments(name: str, *, rows: int = 3, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    return list(_kernels.CONTRACTS[name].sample(rows, 31, 7, dtype, generator))


def with_gradients(args: list[Any]) -> list[Any]:
    return [
        arg.clone().requires_grad_() if isinstance(arg, Tensor) and arg.is_floating_point() else arg
        for arg in args
    ]


@EVERY_CONTRACT
@pytest.mark.parametrize("rows", [1, 12])
def test_opcheck(name: str, rows: int) -> None:
    outcome = torch.library.opcheck(
        _kernels.CONTRACTS[name].op, tuple(with_gradients(arguments(name, rows=rows)))
    )
    assert set(outcome.values()) == {"SUCCESS"}


@EVERY_CONTRACT
def test_opcheck_without_gradients_and_strided(name: str) -> None:
    samples = [s for s in _kernels.CONTRACTS[name].samples(torch.bfloat16) if "3 rows" in s.label]
    assert len(samples) >= 3
    for sample in samples:
        torch.library.opcheck(
            _kernels.CONTRACTS[name].op, sample.args, test_utils=("test_schema", "test_faketensor")
        )


@EVERY_CONTRACT
def test_gradients_are_those_of_the_meaning(name: str) -> None:
    contract = _kernels.CONTRACTS[name]
    gradients = []
    for function in (contract.op, contract.meaning):
        args = with_gradients(arguments(name))
        result = function(*args)
        result.backward(torch.linspace(-1, 1, result.numel()).view_as(result))
        gradients.append([arg.grad for arg in args if isinstance(arg, Tensor) and arg.requires_grad])
    assert gradients[0]
    for ours, meant in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, meant)


@EVERY_CONTRACT
def test_second_derivatives_are_those_of_the_meaning(name: str) -> None:
    contract = _kernels.CONTRACTS[name]
    seconds = []
    for function in (contract.op, contract.meaning):
        args = with_gradients(arguments(name))
        (first,) = torch.autograd.grad(function(*args).square().sum(), args[0], create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), args[0])
        seconds.append(second)
    torch.testing.assert_close(*seconds, rtol=1e-4, atol=1e-4)


@EVERY_CONTRACT
def test_compilers_see_one_operator(name: str) -> None:
    contract = _kernels.CONTRACTS[name]
    seen: list[str] = []

    def backend(graph: Any, inputs: list[Tensor]) -> Any:
        seen.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph

    args = arguments(name)
    compiled = torch.compile(contract.op, backend=backend, fullgraph=True)
    assert contract.error(compiled(*args), contract.reference(*args)) <= contract.tolerance(torch.float32)
    assert seen == [f"deepseek.{name}.default"]


@EVERY_CONTRACT
def test_other_dtypes_run_the_meaning(name: str) -> None:
    contract = _kernels.CONTRACTS[name]
    args = [a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in arguments(name)]
    got = contract.op(*args)
    assert got.dtype == torch.float64
    assert contract.error(got, contract.meaning(*args)) < 1e-12


@EVERY_CONTRACT
def test_direct_call_gives_the_same(name: str) -> None:
    args = arguments(name)
    assert torch.equal(_kernels.direct(name)(*args), _kernels.CONTRACTS[name].op(*args))


def test_a_tolerance_can_be_exceeded() -> None:
    """The comparison that every suite relies on does see a wrong result."""
    contract = _kernels.CONTRACTS["linear"]
    args = arguments("linear")
    reference = contract.reference(*args)
    assert contract.error(contract.op(*args), reference) <= contract.tolerance(torch.float32)
    args[1][2, 5] += 0.1
    assert contract.error(contract.op(*args), reference) > contract.tolerance(torch.float32)
    with pytest.raises(ValueError, match="result has shape"):
        contract.error(reference[:1], reference)


@pytest.mark.parametrize(
    ("name", "position", "value", "message"),
    [
        ("linear", 1, torch.zeros(31, 7), r"For a weight stored \[k, n\] pass weight\.t\(\)"),
        ("linear", 2, torch.zeros(6), r"bias has shape \(6,\); expected \(7,\)"),
        ("layer_norm", 1, torch.zeros(30), r"gamma has shape \(30,\); expected \(31,\)"),
        ("layer_norm_linear", 2, torch.zeros(31, 1), r"beta has shape \(31, 1\); expected \(31,\)"),
        ("gelu_linear", 4, "sigmoid", r"approximate is 'sigmoid'; expected 'none' or 'tanh'"),
        ("int8_linear", 1, torch.zeros(7, 31), r"quantize_weight\(weight\) makes it int8"),
        ("int8_linear", 2, torch.zeros(8), r"scale has shape \(8,\); expected \(7,\)"),
    ],
)
def test_refusals_show_the_evidence(name: str, position: int, value: Any, message: str) -> None:
    args = arguments(name)
    args[position] = value
    with pytest.raises(ValueError, match=message):
        _kernels.CONTRACTS[name].op(*args)


def test_quantize_weight_is_within_half_a_step() -> None:
    weight = torch.randn(9, 50, generator=torch.Generator().manual_seed(7)).bfloat16()
    weight[4] = 0
    weight_q, scale = _kernels.quantize_weight(weight)
    assert weight_q.dtype == torch.int8
    assert scale.dtype == torch.float32
    assert scale[4] == 1
    assert int(weight_q.min()) >= -127
    off = (weight_q * scale[:, None] - weight.float()).abs()
    assert bool((off <= scale[:, None] * 0.5001).all())
    again, _ = _kernels.quantize_weight(weight_q * scale[:, None])
    assert torch.equal(again, weight_q)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.zeros(3), "expected a floating-point matrix"),
        (torch.zeros(3, 3, dtype=torch.int32), "expected a floating-point matrix"),
        (torch.full((2, 2), torch.inf), "infinite or NaN"),
    ],
)
def test_quantize_weight_refuses(weight: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _kernels.quantize_weight(weight)
