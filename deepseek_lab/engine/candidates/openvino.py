"""OpenVINO's CPU plug-in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepseek_lab.engine.candidates import Candidate, Program
from deepseek_lab.engine.lowering import export
from deepseek_lab.engine.problem import Problem, Spec
from deepseek_lab.measure import machine

_HINTS = {"float32": "f32", "bf16": "bf16", "fp16": "f16"}


class OpenVINOCandidate(Candidate):
    """Converts the exported graph to OpenVINO IR; weights are baked in."""

    name = "openvino"
    requires = ("openvino",)
    precisions = frozenset(_HINTS)
    order = 20

    def refuse(self, spec: Spec) -> str | None:
        """Also refuses dtypes that NumPy cannot carry."""
        if any(one.dtype == "bfloat16" for one in spec.live):
            return "takes no bfloat16 inputs"
        return super().refuse(spec)

    def build(self, problem: Problem, directory: Path) -> None:
        """Convert and save as IR with float32 weights."""
        import dataclasses

        import openvino as ov

        plain = dataclasses.replace(problem, spec=dataclasses.replace(problem.spec, precision="float32"))
        model = ov.convert_model(export(plain), share_weights=True)
        ov.save_model(model, directory / "model.xml", compress_to_fp16=False)

    def load(self, directory: Path, spec: Spec) -> Program:
        """Compile for latency on as many threads as torch uses."""
        import openvino as ov

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
        request = compiled.create_infer_request()
        static = all(port.get_partial_shape().is_static for port in compiled.outputs)
        shapes = [tuple(port.get_shape()) if static else () for port in compiled.outputs]
        dtypes = [_TORCH[port.get_element_type().get_type_name()] for port in compiled.outputs]

        def bind(tensor: Tensor) -> Any:
            return ov.Tensor(tensor.numpy(), shared_memory=True)

        def program(live: Sequence[Tensor], weights: Sequence[Tensor]) -> Sequence[Tensor]:
            # Held until the request is done: it reads this memory and owns none of it.
            inputs = [tensor.detach().contiguous() for tensor in live]
            for index, tensor in enumerate(inputs):
                request.set_input_tensor(index, bind(tensor))
            if static:
                outputs = [
                    torch.empty(shape, dtype=dtype) for shape, dtype in zip(shapes, dtypes, strict=True)
                ]
                for index, tensor in enumerate(outputs):
                    request.set_output_tensor(index, bind(tensor))
                request.infer()
                return outputs
            request.infer()
            return [
                torch.from_numpy(request.get_output_tensor(index).data).clone()
                for index in range(len(dtypes))
            ]

        return program

    def plan(self, spec: Spec) -> str:
        """The plan in OpenVINO's words."""
        return (
            f"model = openvino.Core().compile_model('model.xml', 'CPU', {{'INFERENCE_PRECISION_HINT': "
            f"'{_HINTS[spec.precision]}', 'PERFORMANCE_HINT': 'LATENCY'}})\n"
            "outputs = model([tensor.numpy() for tensor in inputs])\n"
        )


_TORCH = {
    "f32": torch.float32,
    "f64": torch.float64,
    "f16": torch.float16,
    "i64": torch.int64,
    "i32": torch.int32,
    "i16": torch.int16,
    "i8": torch.int8,
    "u8": torch.uint8,
    "boolean": torch.bool,
}

CANDIDATE = OpenVINOCandidate()
