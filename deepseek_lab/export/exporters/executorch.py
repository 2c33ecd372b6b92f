"""An ExecuTorch program with the XNNPACK delegate."""

from __future__ import annotations

from deepseek_lab.export.exporters import ChosenGraph, Exporter


class ExecuTorchExporter(Exporter):
    """Copies the program, which holds its weights."""

    candidate = "executorch"
    packages = ("executorch",)
    imports = ("from executorch.runtime import Runtime",)

    def code(self, graph: ChosenGraph) -> str:
        """The plan in ExecuTorch's words."""
        return (
            'program = Runtime.get().load_program(files / "model.pte")\n'
            'method = program.load_method("forward")\n\n'
            "def run(inputs):\n"
            "    outputs = method.execute([one.contiguous() for one in inputs])\n"
            "    return [one.clone() for one in outputs]  # the program writes over its own outputs\n\n"
            "return run\n"
        )


EXPORTER = ExecuTorchExporter()
