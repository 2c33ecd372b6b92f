"""Every exporter holds to its contract."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from deepseek_lab.engine.candidates import executorch, inductor_packed, onednn
from deepseek_lab.engine.dispatch import Dispatcher
from deepseek_lab.engine.runtime import GraphRunner
from tests.export.case import ExporterCase


def _patched(build: Callable[..., None], module: object, name: str, value: object) -> Callable[..., None]:
    """``build`` with another value of a constant."""

    def submit(dispatcher: Dispatcher | None, runner: GraphRunner) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, name, value)
            build(dispatcher, runner)

    return submit


class TestOpenVINO(ExporterCase):
    candidate = "openvino"
    packages = frozenset({"openvino"})


class TestOnnxRuntime(ExporterCase):
    candidate = "onnxruntime"
    packages = frozenset({"onnxruntime"})


class TestExecuTorch(ExporterCase):
    """Offers itself for graphs with a convolution alone; the model of these tests is as good for its file."""

    candidate = "executorch"
    packages = frozenset({"executorch"})

    @classmethod
    def submit(cls, directory: Path) -> Callable[..., None]:
        return _patched(super().submit(directory), executorch, "_CONVOLUTIONS", (torch._C._nn.linear,))


class TestOneDNN(ExporterCase):
    candidate = "onednn"

    @classmethod
    def submit(cls, directory: Path) -> Callable[..., None]:
        """The model of these tests is smaller than what packing pays for."""
        return _patched(super().submit(directory), onednn, "MIN_NUMEL", 1)


class TestInductor(ExporterCase):
    candidate = "inductor"


class TestFrozenInductor(ExporterCase):
    candidate = "inductor-frozen"


class TestPackedInductor(ExporterCase):
    candidate = "inductor-packed"

    @classmethod
    def submit(cls, directory: Path) -> Callable[..., None]:
        """The model of these tests is smaller than what packing pays for."""
        build = _patched(super().submit(directory), inductor_packed, "MIN_NUMEL", 1)
        return _patched(build, inductor_packed, "FAR_BEHIND", math.inf)


class TestCompactKernels(ExporterCase):
    """Needs weights of a narrower checkpoint; see the candidate's own suite. Goes out in plain PyTorch."""

    candidate = "kernels-compact"

    @classmethod
    def submit(cls, directory: Path) -> Callable[..., None]:
        build = super().submit(directory)

        def submit(dispatcher: Dispatcher | None, runner: GraphRunner) -> None:
            for weight in runner.weights_now():
                weight.data.copy_(weight.data.bfloat16())
            build(dispatcher, runner)

        return submit


class TestEagerCast(ExporterCase):
    candidate = "eager-cast"
    precision = "bf16"


class TestKernels(ExporterCase):
    candidate = "kernels"


class TestInt8Kernels(ExporterCase):
    """A candidate without an exporter of its own goes out in plain PyTorch."""

    candidate = "kernels-int8"
    precision = "int8"


class TestEager(ExporterCase):
    """Eager mode was kept: the cells' own code."""

    candidate = "eager"
    timed = False

    @classmethod
    def submit(cls, directory: Path) -> Callable[..., None]:
        def keep(dispatcher: Dispatcher | None, runner: GraphRunner) -> None:
            runner.decided = True

        return keep
