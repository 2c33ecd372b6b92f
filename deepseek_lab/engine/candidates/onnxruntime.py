"""ONNX Runtime's CPU provider."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from deepseek_lab.engine.candidates import Candidate, Program
from deepseek_lab.engine.lowering import export
from deepseek_lab.engine.problem import Problem, Spec

_DTYPES = {
    "tensor(float)": torch.float32,
    "tensor(double)": torch.float64,
    "tensor(float16)": torch.float16,
    "tensor(int64)": torch.int64,
    "tensor(int32)": torch.int32,
    "tensor(int16)": torch.int16,
    "tensor(int8)": torch.int8,
    "tensor(uint8)": torch.uint8,
    "tensor(bool)": torch.bool,
}


class OnnxRuntimeCandidate(Candidate):
    """Exports the graph to ONNX with its weights as external data."""

    name = "onnxruntime"
    requires = ("onnxruntime", "onnxscript")
    order = 30
    long_to_build = True

    def refuse(self, spec: Spec) -> str | None:
        """Also refuses dtypes that NumPy cannot carry."""
        if any(one.dtype == "bfloat16" for one in spec.live):
            return "takes no bfloat16 inputs"
        return super().refuse(spec)

    def build(self, problem: Problem, directory: Path) -> None:
        """Translate the exported program."""
        for name in ("torch.onnx", "onnxscript", "onnx_ir"):
            logging.getLogger(name).setLevel(logging.ERROR)
        program = torch.onnx.export(export(problem), dynamo=True, verbose=False, optimize=True)
        assert program is not None
        program.save(directory / "model.onnx", external_data=True)

    def load(self, directory: Path, spec: Spec) -> Program:
        """Open a session on as many threads as torch uses; outputs are written into torch's memory."""
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = spec.num_threads
        options.log_severity_level = 3
        session = ort.InferenceSession(directory / "model.onnx", options, providers=["CPUExecutionProvider"])
        names = [one.name for one in session.get_inputs()]
        results = session.get_outputs()
        dtypes = [_DTYPES[one.type] for one in results]
        shapes = [one.shape for one in results]
        static = all(isinstance(size, int) for shape in shapes for size in shape)
        numpy_types = {dtype: torch.empty(0, dtype=dtype).numpy().dtype for dtype in _DTYPES.values()}

        def program(live: Sequence[Tensor], weights: Sequence[Tensor]) -> Sequence[Tensor]:
            by_position = dict(zip(all_names, live, strict=True))
            inputs = {name: by_position[name].detach().contiguous() for name in names}
            if not static:
                arrays = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
                return [torch.from_numpy(array) for array in arrays]
            binding = session.io_binding()
            for name, tensor in inputs.items():
                kind = numpy_types[tensor.dtype]
                binding.bind_input(name, "cpu", 0, kind, tuple(tensor.shape), tensor.data_ptr())
            outputs = [torch.empty(shape, dtype=dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
            for one, tensor in zip(results, outputs, strict=True):
                kind = numpy_types[tensor.dtype]
                binding.bind_output(one.name, "cpu", 0, kind, tuple(tensor.shape), tensor.data_ptr())
            session.run_with_iobinding(binding)
            return outputs

        all_names = names if len(names) == len(spec.live) else _all_names(directory)
        return program

    def plan(self, spec: Spec) -> str:
        """The plan in ONNX Runtime's words."""
        return (
            "session = onnxruntime.InferenceSession('model.onnx', providers=['CPUExecutionProvider'])\n"
            "names = [one.name for one in session.get_inputs()]\n"
            "outputs = session.run(None, dict(zip(names, [tensor.numpy() for tensor in inputs])))\n"
        )


def _all_names(directory: Path) -> list[str]:
    """Input names in the model's own order, unused ones included."""
    import onnx

    model = onnx.load(directory / "model.onnx", load_external_data=False)
    return [one.name for one in model.graph.input]


CANDIDATE = OnnxRuntimeCandidate()
