"""Inductor's package with the weights beside it."""

from __future__ import annotations

from pathlib import Path

import torch

from deepseek_lab.export.exporters import ChosenGraph, Exporter

NOTE = "model.pt2 holds machine code for the processor and the operating system that it was compiled on"


class InductorExporter(Exporter):
    """Copies the package and saves the weights that are passed to it at every call."""

    candidate = "inductor"
    note = NOTE

    def write(self, graph: ChosenGraph, directory: Path) -> None:
        """Also save the weights; those that share memory still do after loading."""
        super().write(graph, directory)
        torch.save([weight.detach() for weight in graph.problem.weights], directory / "weights.pt")

    def code(self, graph: ChosenGraph) -> str:
        """The plan in Inductor's words."""
        flags = "".join("w" if weight else "i" for weight in graph.problem.spec.is_weight)
        return (
            'model = torch._inductor.aoti_load_package(str(files / "model.pt2"), run_single_threaded=True)\n'
            'weights = torch.load(files / "weights.pt", weights_only=True)\n'
            f'order = "{flags}"  # the package takes weights (w) and inputs (i) in this order\n\n'
            "def run(inputs):\n"
            "    own, rest = iter(weights), iter(inputs)\n"
            '    outputs = model(*[next(own if kind == "w" else rest) for kind in order])\n'
            "    return outputs if isinstance(outputs, list | tuple) else (outputs,)\n\n"
            "return run\n"
        )


EXPORTER = InductorExporter()
