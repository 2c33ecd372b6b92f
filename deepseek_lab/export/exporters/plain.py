"""The graph as PyTorch itself runs it: for candidates that have no runtime of their own outside of here."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from deepseek_lab.engine.lowering import export
from deepseek_lab.export.exporters import ChosenGraph, Exporter


def save_plain(graph: ChosenGraph, path: Path) -> None:
    """Save the graph with its weights, in the precision of the code, as an exported program."""
    spec = dataclasses.replace(graph.problem.spec, precision="float32")
    torch.export.save(export(dataclasses.replace(graph.problem, spec=spec)), path)


class PlainExporter(Exporter):
    """Writes the captured graph in PyTorch's own operators."""

    plain = "program.pt2"

    def __init__(self, candidate: str) -> None:
        self.candidate = candidate
        self.note = (
            f"{candidate} has no form outside of deepseek_lab: plain PyTorch runs here, at eager's speed"
        )

    @property
    def needs_artifact(self) -> bool:
        """The graph itself is all that is needed."""
        return False

    def write(self, graph: ChosenGraph, directory: Path) -> None:
        """Save the captured graph."""
        assert self.plain is not None
        save_plain(graph, directory / self.plain)

    def code(self, graph: ChosenGraph) -> str:
        """The plan in PyTorch's words."""
        return (
            'program = torch.export.load(files / "program.pt2").module()\n\n'
            "def run(inputs):\n"
            "    return program(*inputs)\n\n"
            "return run\n"
        )
