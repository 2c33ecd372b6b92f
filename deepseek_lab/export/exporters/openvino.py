"""OpenVINO's intermediate representation, compiled for the processor when it is loaded."""

from __future__ import annotations

from deepseek_lab.export.exporters import ChosenGraph, Exporter

_HINTS = {"float32": "f32", "bf16": "bf16", "fp16": "f16"}

_STATIC = """
results = {results}

def run(inputs):
    bound = [openvino.Tensor(one.contiguous().numpy(), shared_memory=True) for one in inputs]
    for index, one in enumerate(bound):
        request.set_input_tensor(index, one)
    outputs = [torch.empty(shape, dtype=dtype) for shape, dtype in results]
    for index, one in enumerate(outputs):
        request.set_output_tensor(index, openvino.Tensor(one.numpy(), shared_memory=True))
    request.infer()
    return outputs

return run
"""

_DYNAMIC = """
def run(inputs):
    bound = [openvino.Tensor(one.contiguous().numpy(), shared_memory=True) for one in inputs]
    for index, one in enumerate(bound):
        request.set_input_tensor(index, one)
    request.infer()
    ports = range(len(model.outputs))
    return [torch.from_numpy(request.get_output_tensor(index).data).clone() for index in ports]

return run
"""


class OpenVINOExporter(Exporter):
    """Copies the representation; outputs are written into torch's own memory where their sizes are known."""

    candidate = "openvino"
    packages = ("openvino", "numpy")
    imports = ("import openvino",)

    def code(self, graph: ChosenGraph) -> str:
        """The plan in OpenVINO's words."""
        import openvino

        spec = graph.problem.spec
        ports = openvino.Core().read_model(graph.artifact / "model.xml").outputs
        static = graph.static and all(port.get_partial_shape().is_static for port in ports)
        return (
            "options = {\n"
            f'    "INFERENCE_PRECISION_HINT": "{_HINTS[spec.precision]}",\n'
            '    "PERFORMANCE_HINT": "LATENCY",\n'
            f'    "INFERENCE_NUM_THREADS": {spec.num_threads},\n'
            '    "ENABLE_CPU_PINNING": False,\n'
            "}\n"
            'model = openvino.Core().compile_model(files / "model.xml", "CPU", options)\n'
            "request = model.create_infer_request()\n"
            + (_STATIC if static else _DYNAMIC).format(results=graph.results)
        )


EXPORTER = OpenVINOExporter()
