"""Every exporter holds to its contract."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from deepseek_lab.engine.candidates import inductor_packed
from deepseek_lab.engine.dispatch import Dispatcher
from deepseek_lab.engine.runtime import GraphRunner
from tests.export.case import ExporterCase


class TestOpenVINO(ExporterCase):
    candidate = "openvino"
    packages = frozenset({"openvino"})


class TestOnnxRuntime(ExporterCase):
    candidate = "onnxruntime"
    packages = frozenset({"onnxruntime"})


class TestExecuTorch(ExporterCase):
    candidate = "executorch"
    packages = frozenset({"executorch"})


class TestInductor(ExporterCase):
    candidate = "inductor"


class TestFrozenInductor(ExporterCase):
    candidate = "inductor-frozen"


class TestPackedInductor(ExporterCase):
    candidate = "inductor-packed"

    @classmethod
    def submit(cls, directory: Path) -> Callable[..., None]:
        """The model of these tests is smaller than what packing pays for."""
        build = super().submit(directory)

        def submit(dispatcher: Dispatcher | None, runner: GraphRunner) -> None:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(inductor_packed, "MIN_NUMEL", 1)
                build(dispatcher, runner)

        return submit


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
