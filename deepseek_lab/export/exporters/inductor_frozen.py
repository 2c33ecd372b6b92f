"""Inductor's package with the weights frozen inside."""

from __future__ import annotations

from deepseek_lab.export.exporters import ChosenGraph, Exporter
from deepseek_lab.export.exporters.inductor import NOTE


class FrozenInductorExporter(Exporter):
    """Copies the package, which holds everything."""

    candidate = "inductor-frozen"
    note = NOTE

    def code(self, graph: ChosenGraph) -> str:
        """The plan in Inductor's words."""
        return (
            "# the weights are frozen inside of the package\n"
            'model = torch._inductor.aoti_load_package(str(files / "model.pt2"), run_single_threaded=True)\n\n'
            "def run(inputs):\n"
            "    outputs = model(*inputs)\n"
            "    return outputs if isinstance(outputs, list | tuple) else (outputs,)\n\n"
            "return run\n"
        )


EXPORTER = FrozenInductorExporter()
