"""Every exporter holds to its contract."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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
