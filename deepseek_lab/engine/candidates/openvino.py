"""OpenVINO's CPU plug-in."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from deepseek_lab.engine.candidates import Candidate, Program
from deepseek_lab.engine.lowering import export
from deepseek_lab.engine.problem import Problem, Spec
from deepseek_lab.measure import machine

_HINTS = {"float32": "f32", "bf16": "bf16", "fp16": "f16"}


@functools.cache
def _openvino() -> Any:
    """OpenVINO without its telemetry, which starts processes and reports to a server on import and conversion.

    Where the package cannot be imported, OpenVINO takes a stub of its own in its place, and keeps it.
    """
    name = "openvino_telemetry"
    known = name in sys.modules
    if not known:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        import openvino
    finally:
        if not known:
            del sys.modules[name]
    return openvino


def with_floor_division(program: ExportedProgram) -> ExportedProgram:
    """The program with ``x // y`` of whole numbers as ``(x - x % y) / y``, which divides without a rest.

    OpenVINO 2026.4 rounds such a quotient towards zero, so that -1 // 3 is 0, while its remainder is right.
    """
    aten, graph = torch.ops.aten, program.graph
    for node in list(graph.nodes):
        floors = node.target is aten.floor_divide.default or (
            node.target in (aten.div.Tensor_mode, aten.div.Scalar_mode)
            and node.kwargs.get("rounding_mode") == "floor"
        )
        value = node.meta.get("val")
        if not floors or value is None or value.dtype.is_floating_point:
            continue
        x, y = node.args
        by_tensor = isinstance(y, fx.Node)
        made = []
        with graph.inserting_before(node):
            if not isinstance(x, fx.Node):
                x = graph.call_function(aten.full_like.default, (y, x))
                made.append(x)
            made.append(
                graph.call_function(aten.remainder.Tensor if by_tensor else aten.remainder.Scalar, (x, y))
            )
            made.append(graph.call_function(aten.sub.Tensor, (x, made[-1])))
            made.append(graph.call_function(aten.div.Tensor_mode, (made[-1], y), {"rounding_mode": "trunc"}))
        for new in made:
            new.meta = dict(node.meta)
        node.replace_all_uses_with(made[-1])
        graph.erase_node(node)
        spec = program.graph_signature
        for output in spec.output_specs:
            if getattr(output.arg, "name", None) == node.name:
                output.arg = type(output.arg)(name=made[-1].name)
    program.graph_module.recompile()
    return program


class OpenVINOCandidate(Candidate):
    """Converts the exported graph to OpenVINO IR; weights are baked in."""

    name = "openvino"
    requires = ("openvino",)
    precisions = frozenset(_HINTS)
    order = 20
    long_to_build = True

    def refuse(self, spec: Spec) -> str | None:
        """Also refuses dtypes that NumPy cannot carry."""
        if any(one.dtype == "bfloat16" for one in spec.live):
            return "takes no bfloat16 inputs"
        return super().refuse(spec)

    def build(self, problem: Problem, directory: Path) -> None:
        """Convert and save as IR with float32 weights."""
        import dataclasses

        ov = _openvino()
        plain = dataclasses.replace(problem, spec=dataclasses.replace(problem.spec, precision="float32"))
        model = ov.convert_model(with_floor_division(export(plain)), share_weights=True)
        ov.save_model(model, directory / "model.xml", compress_to_fp16=False)

    def load(self, directory: Path, spec: Spec) -> Program:
        """Compile for latency on as many threads as torch uses."""
        ov = _openvino()
        options = {
            "INFERENCE_PRECISION_HINT": _HINTS[spec.precision],
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": spec.num_threads,
            "ENABLE_CPU_PINNING": False,
        }
        core = ov.Core()
        if spec.precision == "fp16" and "FP16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise RuntimeError(f"OpenVINO computes no float16 on {machine.processor()}")
        compiled = core.compile_model(directory / "model.xml", "CPU", options)
        requests: list[_Request] = []
        turn = threading.Lock()

        def program(live: Sequence[Tensor], weights: Sequence[Tensor]) -> Sequence[Tensor]:
            inputs = [tensor.detach().contiguous() for tensor in live]
            with turn:
                request = next((one for one in requests if one.free), None)
                if request is None:
                    request = _Request(compiled, lends=len(requests) < MAX_LENT)
                    if request.lends:
                        requests.append(request)
                return request.run(inputs)

        return program

    def plan(self, spec: Spec) -> str:
        """The plan in OpenVINO's words."""
        return (
            f"model = openvino.Core().compile_model('model.xml', 'CPU', {{'INFERENCE_PRECISION_HINT': "
            f"'{_HINTS[spec.precision]}', 'PERFORMANCE_HINT': 'LATENCY'}})\n"
            "outputs = model([tensor.numpy() for tensor in inputs])\n"
        )


MAX_LENT = 3
"""Results that may be in the user's hands at once before further ones are copied."""


class _Request:
    """One inference request, whose results are lent to the caller without a copy.

    OpenVINO writes results into memory of its own, and copying 25 MB of logits costs what the model won. The
    memory may be written again once nothing refers to the array over it any more: every tensor and view that the
    user keeps holds one reference.
    """

    def __init__(self, compiled: Any, *, lends: bool) -> None:
        self._request = compiled.create_infer_request()
        self._num_outputs = len(compiled.outputs)
        self._arrays: list[Any] = []
        self._idle: list[int] = []
        self.lends = lends

    @property
    def free(self) -> bool:
        """Whether the caller has let go of everything that was lent."""
        return [sys.getrefcount(self._arrays[i]) for i in range(len(self._arrays))] == self._idle

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Infer; the results belong to the caller for as long as it holds them."""
        ov = _openvino()
        self._arrays = []
        for index, tensor in enumerate(inputs):
            self._request.set_input_tensor(index, ov.Tensor(tensor.numpy(), shared_memory=True))
        self._request.start_async()  # on the stream's own threads: 2 % faster than infer(), which lends it this one
        self._request.wait()
        arrays = [self._request.get_output_tensor(index).data for index in range(self._num_outputs)]
        taken = [(tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes) for tensor in inputs]
        for index, array in enumerate(arrays):
            start = array.ctypes.data
            end = start + array.nbytes
            if not self.lends or any(start < other and begin < end for begin, other in taken):
                arrays[index] = array.copy()
            taken.append((start, end))
        self._arrays = arrays
        del arrays, array
        self._idle = [sys.getrefcount(self._arrays[i]) for i in range(len(self._arrays))]
        return [torch.from_numpy(array) for array in self._arrays]


CANDIDATE = OpenVINOCandidate()
