"""The graph as PyTorch runs it, in the declared precision, with weights cast once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from deepseek_lab.engine.candidates import Candidate, Program
from deepseek_lab.engine.lowering import export
from deepseek_lab.engine.problem import Problem, Spec


class EagerCandidate(Candidate):
    """Eager execution in a lower precision; in float32 it is the base of every race, not a candidate."""

    name = "eager-cast"
    precisions = frozenset({"bf16", "fp16"})
    order = 10

    def build(self, problem: Problem, directory: Path) -> None:
        """Save the cast graph as an exported program."""
        torch.export.save(export(problem), directory / "program.pt2")

    def load(self, directory: Path, spec: Spec) -> Program:
        """Run the exported program's own graph module."""
        module = torch.export.load(directory / "program.pt2").module()

        def program(live: Sequence[Tensor], weights: Sequence[Tensor]) -> Sequence[Tensor]:
            with torch.no_grad():
                outputs: Sequence[Tensor] = module(*live)
            return outputs

        return program

    def plan(self, spec: Spec) -> str:
        """The plan in PyTorch's words."""
        return (
            f"program = torch.export.load('program.pt2').module()  # computes in {spec.precision}\n"
            "outputs = program(*inputs)\n"
        )


CANDIDATE = EagerCandidate()
