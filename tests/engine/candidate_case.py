"""The contract of a candidate as a suite: inherit it, name the candidate, and these tests are yours."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from deepseek_lab.engine import candidates, verify
from deepseek_lab.engine.candidates import Candidate, NotApplicable, Program
from deepseek_lab.engine.problem import Problem
from tests.engine.graphs import problem_of, sent


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(32)
        self.qkv = nn.Linear(32, 96)
        self.out = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        heads = [t.unflatten(-1, (4, 8)).transpose(1, 2) for t in (q, k, v)]
        mixed = torch.nn.functional.scaled_dot_product_attention(*heads, is_causal=True)
        return x + self.out(mixed.transpose(1, 2).flatten(2))


class _Language(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        self.head = nn.Linear(32, 50)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.head(torch.relu(self.embed(tokens)))
        return logits, logits.argmax(-1)


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 8))


class _Transposed(nn.Module):
    """A layer that keeps its weight the other way round, as GPT-2 does, beside one that shares an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(128, 256) * 0.1)
        self.bias = nn.Parameter(torch.randn(256))
        self.head = nn.Linear(256, 200, bias=False)
        self.again = nn.Linear(256, 200, bias=False)
        self.again.weight = self.head.weight

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.nn.functional.gelu(torch.addmm(self.bias, x, self.weight))
        return self.head(hidden) + self.again(hidden.relu())


def _convolution() -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
    )
    return net.eval()


def _several(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    total = x @ y
    return total.t().contiguous(), total > 0, torch.softmax(total, -1)


class _Projections(nn.Module):
    """Three layers over one input, returned as they are: a candidate may compute them in one product."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, size, bias=False) for size in (64, 32, 32))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(layer(x) for layer in self.layers)


def _half_checkpoint(make: Any) -> Any:
    """A module as it is when a checkpoint in bfloat16 was loaded into float32."""
    return make().bfloat16().float().eval()


GRAPHS: dict[str, Any] = {
    "mlp": lambda: problem_of(_mlp(), torch.randn(4, 16)),
    "attention": lambda: problem_of(_Attention(), torch.randn(2, 10, 32)),
    "convolution": lambda: problem_of(_convolution(), torch.randn(2, 3, 8, 8)),
    "embedding": lambda: problem_of(_Language().eval(), torch.randint(0, 50, (2, 7))),
    "several outputs": lambda: problem_of(_several, torch.randn(5, 6), torch.randn(6, 5)),
    "length that varies": lambda: problem_of(_Attention(), torch.randn(2, 10, 32), dynamic=True),
    "bfloat16 checkpoint": lambda: problem_of(_half_checkpoint(_Attention), torch.randn(1, 5, 32)),
    "projections, one row": lambda: problem_of(_half_checkpoint(_Projections), torch.randn(1, 64)),
    "projections, some rows": lambda: problem_of(_half_checkpoint(_Projections), torch.randn(3, 64)),
    "bfloat16 checkpoint, length that varies": lambda: problem_of(
        _half_checkpoint(_Attention), torch.randn(2, 10, 32), dynamic=True
    ),
    "wide layers": lambda: problem_of(_Transposed().eval(), torch.randn(12, 128)),
}


class CandidateCase:
    """What every candidate promises.

    Attributes:
        candidate: Its name, as it is registered.
        graphs: Those of :data:`GRAPHS` that it can run.
        offers_nothing: Those in which it finds nothing to do and says so.
        precision: The declared precision that it is asked for.
        any_layout: Whether it takes inputs laid out in memory otherwise than those it was built with. Dynamo guards
            the layout, so that a candidate need not.
    """

    candidate: ClassVar[str]
    graphs: ClassVar[tuple[str, ...]] = tuple(GRAPHS)
    offers_nothing: ClassVar[tuple[str, ...]] = ()
    precision: ClassVar[str] = "float32"
    any_layout: ClassVar[bool] = True

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Every test that takes a graph runs once for each."""
        if "graph" in metafunc.fixturenames:
            metafunc.parametrize("graph", self.graphs, scope="class")

    def _problem(self, graph: str, folder: Path) -> Problem:
        problem: Problem = GRAPHS[graph]()
        problem.spec = dataclasses.replace(problem.spec, precision=self.precision)
        return sent(problem, folder / "problem")

    @pytest.fixture(scope="class")
    def made(self, graph: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Problem, Program]:
        """A problem as the builder sees it, and its program, built once for all tests of a graph."""
        folder = tmp_path_factory.mktemp("candidate")
        problem, artefact = self._problem(graph, folder), folder / "artefact"
        one = candidates.registered()[self.candidate]
        assert one.refuse(problem.spec) is None
        artefact.mkdir()
        one.build(problem, artefact)
        return problem, one.load(artefact, problem.spec)

    def test_is_registered(self) -> None:
        one = candidates.registered()[self.candidate]
        assert isinstance(one, Candidate)
        assert one.name == self.candidate
        assert one.missing() is None
        assert self.precision in one.precisions

    def test_refuses_a_precision_that_it_does_not_offer(self) -> None:
        one = candidates.registered()[self.candidate]
        spec = GRAPHS["mlp"]().spec
        for precision in ("float32", "bf16", "fp16", "int8"):
            said = one.refuse(dataclasses.replace(spec, precision=precision))
            if precision not in one.precisions:
                assert said is not None
                assert precision in said

    def test_results_agree_with_the_reference(self, made: tuple[Problem, Program]) -> None:
        problem, program = made
        expected = verify.expectations(problem, 3)
        found = verify.agreement(lambda live: program(live, problem.weights), expected, self.precision)
        assert found.ok, found.detail

    def test_inputs_and_weights_are_untouched(self, made: tuple[Problem, Program]) -> None:
        problem, program = made
        before = [tensor.clone() for tensor in (*problem.live, *problem.weights)]
        versions = [tensor._version for tensor in problem.live]
        program(problem.live, problem.weights)
        for old, new in zip(before, (*problem.live, *problem.weights), strict=True):
            assert torch.equal(old, new)
        assert [tensor._version for tensor in problem.live] == versions

    def test_results_share_memory_with_nothing(self, made: tuple[Problem, Program]) -> None:
        problem, program = made
        first, second = program(problem.live, problem.weights), program(problem.live, problem.weights)
        tensors = [*problem.live, *problem.weights, *first, *second]
        owners = [tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()]
        weights_and_inputs = len(problem.live) + len(problem.weights)
        outputs = owners[weights_and_inputs:]
        assert len(set(outputs)) == len(outputs)
        assert not set(outputs) & set(owners[:weights_and_inputs])

    def test_later_calls_leave_earlier_results_alone(self, made: tuple[Problem, Program]) -> None:
        problem, program = made
        (_, fresh) = verify.expectations(problem, 1)
        first = program(problem.live, problem.weights)
        kept = [tensor.clone() for tensor in first]
        for tensor in program(fresh.live, problem.weights):
            tensor.zero_()
        for old, new in zip(kept, first, strict=True):
            assert torch.equal(old, new)

    def test_layout_of_the_inputs_does_not_matter(self, made: tuple[Problem, Program]) -> None:
        problem, program = made
        odd = []
        for tensor in problem.live if self.any_layout else ():
            wide = torch.empty(*tensor.shape[:-1], tensor.shape[-1] * 2, dtype=tensor.dtype)
            wide[..., ::2] = tensor
            odd.append(wide[..., ::2])
        wanted = program(problem.live, problem.weights)
        for got, want in zip(program(odd or problem.live, problem.weights), wanted, strict=True):
            torch.testing.assert_close(got, want)

    def test_no_gradient_is_recorded(self, made: tuple[Problem, Program]) -> None:
        problem, program = made
        live = [t.clone().requires_grad_() if t.is_floating_point() else t for t in problem.live]
        with torch.enable_grad():
            assert not any(out.requires_grad for out in program(live, problem.weights))

    def test_other_sizes(self, made: tuple[Problem, Program]) -> None:
        """Where a graph was captured for sizes that vary, any size is right."""
        problem, program = made
        for longer in (1, 3, 30) if problem.spec.dynamic else ():
            live = [
                torch.randn([size + longer * (dim in spec.dynamic) for dim, size in enumerate(spec.shape)])
                for spec in problem.spec.live
            ]
            for got, want in zip(program(live, problem.weights), problem.eager(live), strict=True):
                assert verify.relative_error(got, want) <= verify.ALLOWED_ERROR[self.precision]

    def test_says_when_a_graph_offers_it_nothing(self, tmp_path: Path) -> None:
        for graph in self.offers_nothing:
            with pytest.raises(NotApplicable):
                candidates.registered()[self.candidate].build(
                    self._problem(graph, tmp_path / graph), tmp_path
                )

    def test_plan_is_python(self) -> None:
        one = candidates.registered()[self.candidate]
        compile(one.plan(GRAPHS["mlp"]().spec), "plan", "exec")
