"""Every candidate of ours meets the contract, as a stranger's has to."""

from __future__ import annotations

from typing import ClassVar

import pytest

from tests.engine.candidate_case import GRAPHS, CandidateCase


class TestOpenVINO(CandidateCase):
    candidate = "openvino"


class TestOnnxRuntime(CandidateCase):
    candidate = "onnxruntime"


class TestKernels(CandidateCase):
    candidate = "kernels"
    graphs: ClassVar[tuple[str, ...]] = ("mlp", "attention", "embedding", "length that varies")
    offers_nothing: ClassVar[tuple[str, ...]] = ("convolution", "several outputs")


class TestEagerCast(CandidateCase):
    candidate = "eager-cast"
    precision = "bf16"
    graphs: ClassVar[tuple[str, ...]] = ("mlp", "attention", "convolution", "several outputs")


class TestInductor(CandidateCase):
    """One graph with several kinds of operation: each takes the C++ compiler many seconds."""

    candidate = "inductor"
    any_layout = False
    graphs: ClassVar[tuple[str, ...]] = ("embedding",)


@pytest.mark.usefixtures("strangers")
class TestStranger(CandidateCase):
    candidate = "planted-fast"


def test_every_graph_is_run_by_somebody() -> None:
    assert set(GRAPHS) == set(TestOpenVINO.graphs)
