"""The other tools, used as their own documentation says, each as a call to be raced."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.benchmarks.models import Case

Call = Callable[[], object]


class _FirstTensor(torch.nn.Module):
    """A model that returns its first output as a plain tensor, which exporters by hand ask for."""

    def __init__(self, model: torch.nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *tensors: Tensor) -> Tensor:
        result: Any = self.model(**dict(zip(self.names, tensors, strict=True)))
        first: Tensor = result[0] if not isinstance(result, Tensor) else result
        return first


def torch_compile(case: Case) -> Call:
    """``torch.compile(model)``."""
    compiled = torch.compile(case.model._call_impl)
    return lambda: compiled(**case.inputs)


def torch_compile_frozen(case: Case) -> Call:
    """``torch.compile`` with frozen weights and max-autotune."""
    import torch._inductor.config as inductor

    compiled = torch.compile(
        lambda **inputs: case.model._call_impl(**inputs), mode="max-autotune-no-cudagraphs"
    )
    with inductor.patch(freezing=True):
        compiled(**case.inputs)
    return lambda: compiled(**case.inputs)


def _exported(case: Case) -> torch.export.ExportedProgram:
    wrapper = _FirstTensor(case.model, tuple(case.inputs)).eval()
    return torch.export.export(wrapper, tuple(case.inputs.values()), strict=False)


def onnxruntime(case: Case) -> Call:
    """Exported to ONNX and run by ONNX Runtime on as many threads as torch uses."""
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        program = torch.onnx.export(_exported(case), dynamo=True, verbose=False)
        assert program is not None
        program.save(path, external_data=True)
        options = ort.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    arrays = [tensor.numpy() for tensor in case.inputs.values()]
    feeds = {one.name: array for one, array in zip(session.get_inputs(), arrays, strict=True)}
    return lambda: session.run(None, feeds)


def openvino(case: Case, precision: str = "f32") -> Call:
    """Converted to OpenVINO and compiled for latency on as many threads as torch uses."""
    import openvino as ov

    model = ov.convert_model(_exported(case))
    options = {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    request = ov.Core().compile_model(model, "CPU", options).create_infer_request()
    arrays = [tensor.numpy() for tensor in case.inputs.values()]
    return lambda: request.infer(arrays, share_inputs=True, share_outputs=True)


def eager_bf16(case: Case) -> Call:
    """A copy of the model in bfloat16."""
    import copy

    model = copy.deepcopy(case.model).bfloat16()
    return lambda: model._call_impl(**case.inputs)


FLOAT32: dict[str, Callable[[Case], Call]] = {
    "torch.compile": torch_compile,
    "torch.compile frozen": torch_compile_frozen,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
}
BF16: dict[str, Callable[[Case], Call]] = {
    "eager bf16": eager_bf16,
    "openvino bf16": lambda case: openvino(case, "bf16"),
}


@contextlib.contextmanager
def without_engine(model: torch.nn.Module) -> Iterator[None]:
    """The plain model, while a peer captures it."""
    saved = model._compiled_call_impl
    model._compiled_call_impl = None
    try:
        yield
    finally:
        model._compiled_call_impl = saved
