"""Inductor with weights frozen: constants folded, weights packed for this processor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepseek_lab.engine.candidates import Candidate, Program
from deepseek_lab.engine.candidates.inductor import open_package, outputs_of
from deepseek_lab.engine.lowering import export
from deepseek_lab.engine.problem import Problem, Spec


class FrozenInductorCandidate(Candidate):
    """Inductor with constants folded and weights packed for this processor, tuned by its own benchmarks."""

    name = "inductor-frozen"
    precisions = frozenset({"float32", "bf16", "fp16"})
    order = 40
    long_to_build = True

    def build(self, problem: Problem, directory: Path) -> None:
        """Compile with weights frozen into the package."""
        options: dict[str, Any] = {"freezing": True, "max_autotune": True}
        with torch.no_grad():
            torch._inductor.aoti_compile_and_package(
                export(problem), package_path=str(directory / "model.pt2"), inductor_configs=options
            )

    def load(self, directory: Path, spec: Spec) -> Program:
        """Load the package in this process."""
        loaded = open_package(directory / "model.pt2")

        def program(live: Sequence[Tensor], weights: Sequence[Tensor]) -> Sequence[Tensor]:
            with torch.no_grad():
                return outputs_of(loaded(*[tensor.detach() for tensor in live]))

        return program

    def plan(self, spec: Spec) -> str:
        """The plan in Inductor's words."""
        return (
            "model = torch._inductor.aoti_load_package('model.pt2')  # weights frozen inside\n"
            "outputs = model(*inputs)\n"
        )


CANDIDATE = FrozenInductorCandidate()
