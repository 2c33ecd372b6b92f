"""Every candidate of ours meets the contract, as a stranger's has to."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepseek_lab.engine import candidates
from deepseek_lab.engine.candidates import NotApplicable, inductor_packed
from tests.engine.candidate_case import GRAPHS, CandidateCase
from tests.engine.graphs import problem_of


class TestOpenVINO(CandidateCase):
    candidate = "openvino"


class TestOnnxRuntime(CandidateCase):
    candidate = "onnxruntime"


class TestOneDNN(CandidateCase):
    candidate = "onednn"
    graphs: ClassVar[tuple[str, ...]] = tuple(
        name for name in GRAPHS if name not in ("convolution", "several outputs", "mlp")
    )
    offers_nothing: ClassVar[tuple[str, ...]] = ("convolution", "several outputs", "mlp")


def test_product_to_which_a_matrix_is_added_is_left_alone(tmp_path: Path) -> None:
    """oneDNN adds a vector."""

    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.matrix = (nn.Parameter(torch.randn(size)) for size in ((64, 64), (8, 64)))

        def forward(self, x: Tensor) -> Tensor:
            return torch.addmm(self.matrix, x, self.weight)

    with pytest.raises(NotApplicable):
        candidates.registered()["onednn"].build(problem_of(Added(), torch.randn(8, 64)), tmp_path)


def _updates_result(linear: nn.Linear, x: Tensor) -> Tensor:
    result = F.gelu(linear(x)) + 1.0
    result.mul_(2.0)
    return result


def _updates_input(linear: nn.Linear, x: Tensor) -> Tensor:
    hidden = x + 1.0
    product = linear(hidden)
    hidden.zero_()
    return F.relu(product) + hidden


def _updates_view_of_input(linear: nn.Linear, x: Tensor) -> Tensor:
    hidden = x + 1.0
    part = hidden[:1]
    product = torch.tanh(linear(hidden))
    part.add_(3.0)
    return product + linear(hidden)


@pytest.mark.parametrize("function", [_updates_result, _updates_input, _updates_view_of_input])
def test_updates_in_place_stay_where_they_are(
    function: Callable[[nn.Linear, Tensor], Tensor], tmp_path: Path
) -> None:
    """A method that nothing reads the value of is no dead code."""

    class Updating(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 64)

        def forward(self, x: Tensor) -> Tensor:
            return function(self.linear, x)

    problem = problem_of(Updating(), torch.randn(8, 64))
    candidate = candidates.registered()["onednn"]
    candidate.build(problem, tmp_path)
    program = candidate.load(tmp_path, problem.spec)
    fresh = torch.randn(8, 64)
    with torch.no_grad():
        torch.testing.assert_close(program([fresh], problem.weights)[0], problem.eager([fresh])[0])


class TestOneDNNInBfloat16(CandidateCase):
    candidate = "onednn"
    precision = "bf16"
    graphs: ClassVar[tuple[str, ...]] = ("attention", "length that varies", "wide layers")


class TestExecuTorch(CandidateCase):
    candidate = "executorch"
    graphs: ClassVar[tuple[str, ...]] = ("convolution",)
    offers_nothing: ClassVar[tuple[str, ...]] = ("mlp", "embedding")


class TestKernels(CandidateCase):
    candidate = "kernels"
    graphs: ClassVar[tuple[str, ...]] = ("mlp", "attention", "embedding", "length that varies")
    offers_nothing: ClassVar[tuple[str, ...]] = ("convolution", "several outputs")


class TestCompactKernels(CandidateCase):
    candidate = "kernels-compact"
    graphs: ClassVar[tuple[str, ...]] = (
        "bfloat16 checkpoint",
        "bfloat16 checkpoint, length that varies",
        "projections, one row",
        "projections, some rows",
    )
    offers_nothing: ClassVar[tuple[str, ...]] = ("mlp", "convolution", "several outputs")


class TestPackedInductor(CandidateCase):
    """Takes the C++ compiler many seconds a graph."""

    candidate = "inductor-packed"
    any_layout = False

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def on_every_processor(cls) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(inductor_packed, "FAR_BEHIND", math.inf)
            yield

    graphs: ClassVar[tuple[str, ...]] = ("wide layers",)
    offers_nothing: ClassVar[tuple[str, ...]] = ("convolution", "mlp")


def test_packing_for_mkl_is_left_out_where_onednn_is_far_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = GRAPHS["wide layers"]()
    monkeypatch.setattr(inductor_packed, "FAR_BEHIND", 0.0)
    with pytest.raises(NotApplicable, match=r"oneDNN's product is \d+\.\d times as fast as MKL's"):
        candidates.registered()["inductor-packed"].build(problem, tmp_path)


class TestEagerCast(CandidateCase):
    candidate = "eager-cast"
    precision = "bf16"
    graphs: ClassVar[tuple[str, ...]] = ("mlp", "attention", "convolution", "several outputs")


class TestInductor(CandidateCase):
    """One graph with several kinds of operation: each takes the C++ compiler many seconds."""

    candidate = "inductor"
    any_layout = False
    graphs: ClassVar[tuple[str, ...]] = ("embedding",)


def test_openvino_reports_to_nobody(repository: Path) -> None:
    """In a process of its own: its telemetry is neither imported by us nor kept from anybody else."""
    code = """
import sys, tempfile, threading, pathlib, torch
from deepseek_lab.engine import candidates
from tests.engine.graphs import problem_of
problem = problem_of(lambda x: torch.relu(x) * 2, torch.randn(3))
one, folder = candidates.registered()["openvino"], pathlib.Path(tempfile.mkdtemp())
one.build(problem, folder)
one.load(folder, problem.spec)(problem.live, problem.weights)
assert "openvino" in sys.modules
assert not [name for name in sys.modules if name.startswith("openvino_telemetry")]
assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("ThreadPool")]
import openvino_telemetry
"""
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.usefixtures("strangers")
class TestStranger(CandidateCase):
    candidate = "planted-fast"


def test_every_graph_is_run_by_somebody() -> None:
    assert set(GRAPHS) == set(TestOpenVINO.graphs)
