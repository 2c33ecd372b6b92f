"""An ONNX model with its weights beside it, run by ONNX Runtime."""

from __future__ import annotations

from deepseek_lab.export.exporters import ChosenGraph, Exporter

_STATIC = """
results = {results}
kinds = [torch.empty(0, dtype=dtype).numpy().dtype for _, dtype in results]

def run(inputs):
    binding = session.io_binding()
    inputs = [one.contiguous() for one in inputs]  # kept alive until the run is over
    for name, one in zip(names, inputs, strict=True):
        if name in taken:
            binding.bind_input(name, "cpu", 0, one.numpy().dtype, tuple(one.shape), one.data_ptr())
    outputs = [torch.empty(shape, dtype=dtype) for shape, dtype in results]
    for port, kind, one in zip(session.get_outputs(), kinds, outputs, strict=True):
        binding.bind_output(port.name, "cpu", 0, kind, tuple(one.shape), one.data_ptr())
    session.run_with_iobinding(binding)
    return outputs

return run
"""

_DYNAMIC = """
def run(inputs):
    feed = {{name: one.contiguous().numpy() for name, one in zip(names, inputs, strict=True) if name in taken}}
    return [torch.from_numpy(array) for array in session.run(None, feed)]

return run
"""


class OnnxRuntimeExporter(Exporter):
    """Copies the model; outputs are written into torch's own memory where their sizes are known."""

    candidate = "onnxruntime"
    packages = ("onnxruntime", "numpy")
    imports = ("import onnxruntime",)

    def code(self, graph: ChosenGraph) -> str:
        """The plan in ONNX Runtime's words."""
        import onnx

        model = onnx.load(graph.artifact / "model.onnx", load_external_data=False)
        names = [one.name for one in model.graph.input]
        dims = [dim for one in model.graph.output for dim in one.type.tensor_type.shape.dim]
        static = graph.static and all(dim.HasField("dim_value") for dim in dims)
        return (
            "options = onnxruntime.SessionOptions()\n"
            f"options.intra_op_num_threads = {graph.problem.spec.num_threads}\n"
            "session = onnxruntime.InferenceSession(\n"
            '    files / "model.onnx", options, providers=["CPUExecutionProvider"]\n'
            ")\n"
            f"names = {names!r}\n"
            "taken = {port.name for port in session.get_inputs()}\n"
            + (_STATIC if static else _DYNAMIC).format(results=graph.results)
        )


EXPORTER = OnnxRuntimeExporter()
