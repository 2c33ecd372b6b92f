"""Eager execution in a lower precision."""

from __future__ import annotations

from deepseek_lab.export.exporters import ChosenGraph, Exporter


class EagerCastExporter(Exporter):
    """Copies the cast program, which PyTorch runs."""

    candidate = "eager-cast"

    def code(self, graph: ChosenGraph) -> str:
        """The plan in PyTorch's words."""
        return (
            f"# computes in {graph.problem.spec.precision}, returns the dtypes of the original\n"
            'program = torch.export.load(files / "program.pt2").module()\n\n'
            "def run(inputs):\n"
            "    return program(*inputs)\n\n"
            "return run\n"
        )


EXPORTER = EagerCastExporter()
