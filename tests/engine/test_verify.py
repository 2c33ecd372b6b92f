"""Verification: what counts as right, measured against float64, and planted deviations on either side of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from deepseek_lab.engine import verify
from deepseek_lab.engine.problem import ALLOWED_ERROR, Problem
from deepseek_lab.engine.verify import agreement, expectations, float64_reference, relative_error
from tests.engine.graphs import problem_of

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("value", "reference", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.2], [1.0, 2.0], 0.1),
        ([0.0, -2.2], [0.0, -2.0], 0.1),
        ([NAN, 1.0], [NAN, 1.0], 0.0),
        ([NAN, 1.0], [1.0, 1.0], INF),
        ([1.0, 1.0], [NAN, 1.0], INF),
        ([INF, 1.0], [INF, 1.0], 0.0),
        ([-INF, 1.0], [INF, 1.0], INF),
        ([NAN, 1.0], [INF, 1.0], INF),
        ([INF, 1.1], [INF, 1.0], 0.1),
        ([INF, INF], [1.0, 1.0], INF),
        ([NAN, NAN], [NAN, NAN], 0.0),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([0.5, 0.0], [0.0, 0.0], 0.5),
        ([], [], 0.0),
    ],
)
def test_relative_error(value: list[float], reference: list[float], expected: float) -> None:
    got = relative_error(torch.tensor(value), torch.tensor(reference, dtype=torch.float64))
    assert got == pytest.approx(expected, rel=1e-5)


def test_relative_error_of_whole_numbers_is_all_or_nothing() -> None:
    assert relative_error(torch.tensor([1, 2]), torch.tensor([1, 2])) == 0.0
    assert relative_error(torch.tensor([1, 2]), torch.tensor([1, 3])) == INF
    assert relative_error(torch.tensor([True]), torch.tensor([False])) == INF
    big = 2**53
    assert relative_error(torch.tensor([big + 1]), torch.tensor([big])) == INF


def test_relative_error_of_another_shape() -> None:
    assert relative_error(torch.zeros(2), torch.zeros(2, 1)) == INF


def test_relative_error_of_complex_numbers() -> None:
    value = torch.tensor([1 + 1j, 2 - 1j])
    assert relative_error(value, value) == 0.0
    assert relative_error(value, value.conj().resolve_conj()) > 0.1


def test_relative_error_does_not_depend_on_scale() -> None:
    value, reference = torch.rand(50) + 0.5, torch.rand(50).double() + 0.5
    error = relative_error(value.double(), reference)
    for scale in (1e-20, 1e-3, 1e6, 1e30):
        assert relative_error(value.double() * scale, reference * scale) == pytest.approx(error, rel=1e-9)


def _graph(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    h = torch.softmax(x @ w, -1) + torch.ones(5) * 0.1
    return h.to(torch.float32), (h > 0.2).sum(-1)


@pytest.fixture
def problem() -> Problem:
    return problem_of(_graph, torch.randn(4, 8), torch.randn(8, 5))


def test_reference_is_float64_throughout(problem: Problem) -> None:
    """Casts to float32 and constants made inside of the graph included."""
    reference = float64_reference(problem, problem.live)
    assert reference is not None
    assert reference[0].dtype == torch.float64
    x, w = (tensor.double() for tensor in problem.live)
    exact = torch.softmax(x @ w, -1) + torch.ones(5, dtype=torch.float64) * 0.1
    assert float((reference[0] - exact).abs().max()) < 1e-15
    assert torch.equal(reference[1], problem.eager()[1])
    assert torch.get_default_dtype() == torch.float32


def test_reference_leaves_the_inputs_alone() -> None:
    def update(x: Tensor) -> Tensor:
        return x.mul_(2.0) + 1.0

    problem = problem_of(update, torch.ones(3))
    before = problem.live[0].clone()
    float64_reference(problem, problem.live)
    expectations(problem)
    assert torch.equal(problem.live[0], before)


def test_eager_agrees_with_itself(problem: Problem) -> None:
    found = agreement(lambda live: problem.eager(live), expectations(problem, 3), "float32")
    assert found.ok
    assert found.max_rel_error == found.eager_rel_error < 1e-6


def _off_by(problem: Problem, share: float) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """Eager with one element of the first output moved by a share of the largest one."""

    def run(live: Sequence[Tensor]) -> list[Tensor]:
        first, second = problem.eager(live)
        first = first.double()
        first[0, 0] += share * float(first.abs().max())
        return [first.float(), second]

    return run


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16", "int8"])
def test_deviation_just_above_and_just_below_what_is_allowed(problem: Problem, precision: str) -> None:
    expected, allowed = expectations(problem), ALLOWED_ERROR[precision]
    below = agreement(_off_by(problem, 0.9 * allowed), expected, precision)
    above = agreement(_off_by(problem, 1.2 * allowed), expected, precision)
    assert (below.ok, above.ok) == (True, False)
    assert above.max_rel_error > allowed
    assert above.detail.startswith("differs at output 0 (max rel ")
    assert "the cell's inputs" in above.detail


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6])
def test_declared_tolerance_replaces_the_precisions_own(problem: Problem, tolerance: float) -> None:
    expected = expectations(problem)
    assert agreement(_off_by(problem, 0.8 * tolerance), expected, "float32", tolerance).ok
    assert not agreement(_off_by(problem, 1.5 * tolerance), expected, "float32", tolerance).ok


def test_deviation_on_one_element_of_an_integer_output(problem: Problem) -> None:
    def run(live: Sequence[Tensor]) -> list[Tensor]:
        first, second = problem.eager(live)
        return [first, second + torch.tensor([0, 0, 1, 0])]

    found = agreement(run, expectations(problem), "float32")
    assert (found.ok, found.max_rel_error) == (False, INF)
    assert "output 1" in found.detail


def test_deviation_on_the_random_inputs_only(problem: Problem) -> None:
    """Right on what the cell used and wrong elsewhere is wrong."""

    def run(live: Sequence[Tensor]) -> list[Tensor]:
        same = torch.equal(live[0], problem.live[0])
        first, second = problem.eager(live)
        return [first if same else first * 1.01, second]

    found = agreement(run, expectations(problem), "float32")
    assert not found.ok
    assert "random inputs 1" in found.detail


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a, b: [a], "1 outputs instead of 2"),
        (lambda a, b: [a, b, a.clone()], "3 outputs instead of 2"),
        (lambda a, b: [a.double(), b], "torch.float64"),
        (lambda a, b: [a[:2], b], "torch.float32[2, 5] instead of torch.float32[4, 5]"),
        (lambda a, b: [a * NAN, b], "differs at output 0"),
        (lambda a, b: [a, a], "output 1"),
        (lambda a, b: [a, b.int()], "torch.int32"),
    ],
)
def test_other_structure_is_refused(
    problem: Problem, change: Callable[[Tensor, Tensor], list[Tensor]], words: str
) -> None:
    found = agreement(lambda live: change(*problem.eager(live)), expectations(problem), "float32")
    assert not found.ok
    assert words in found.detail


def test_candidate_as_bad_as_eager_is_not_blamed() -> None:
    """Where eager itself is far from float64, four times its distance is allowed."""

    def cancelling(x: Tensor) -> Tensor:
        return (x + 1e4) - 1e4

    problem = problem_of(cancelling, torch.rand(1000))
    expected = expectations(problem)
    found = agreement(lambda live: problem.eager(live), expected, "float32")
    assert found.ok
    assert found.eager_rel_error > ALLOWED_ERROR["float32"]
    exact = agreement(lambda live: [live[0].clone()], expected, "float32")
    assert exact.ok
    assert not agreement(lambda live: [live[0] * 1.1], expected, "float32").ok


def test_graph_that_cannot_run_in_float64_is_compared_with_eager() -> None:
    def bits(x: Tensor) -> Tensor:
        return x.view(torch.int32) + 1

    problem = problem_of(bits, torch.rand(8))
    expected = expectations(problem)
    assert not any(case.has_reference for case in expected)
    assert agreement(lambda live: problem.eager(live), expected, "float32").ok
    assert not agreement(lambda live: [problem.eager(live)[0] + 1], expected, "float32").ok


def test_indices_stay_within_what_the_cell_used() -> None:
    def look(table: Tensor, index: Tensor) -> Tensor:
        return table[index]

    problem = problem_of(look, torch.randn(10, 3), torch.tensor([0, 3, 9, 9]))
    expected = expectations(problem, 5)
    assert len(expected) == 6
    assert all(int(case.live[1].max()) <= 9 for case in expected)


def test_empty_tensors() -> None:
    problem = problem_of(lambda x: (x * 2.0, x.sum()), torch.empty(0, 3))
    assert agreement(lambda live: problem.eager(live), expectations(problem), "float32").ok


def test_large_weights_are_widened_where_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference is the same as with weights that were widened before."""
    layers = torch.nn.Sequential(torch.nn.Embedding(30, 16), torch.nn.Linear(16, 8), torch.nn.LayerNorm(8))
    problem = problem_of(layers.eval(), torch.randint(0, 30, (2, 5)))
    before = expectations(problem, 2)
    monkeypatch.setattr(verify, "LARGE_BYTES", 0)
    for one, other in zip(before, expectations(problem, 2), strict=True):
        assert one.has_reference
        assert other.has_reference
        assert one.eager_errors == other.eager_errors
        assert torch.equal(one.reference[0], other.reference[0])
