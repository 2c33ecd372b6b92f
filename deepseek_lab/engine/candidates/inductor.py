"""Inductor, compiled ahead of time: the artefact is a library that is loaded, not traced again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export.pt2_archive._package import AOTICompiledModel

from deepseek_lab.engine.candidates import Candidate, Program
from deepseek_lab.engine.lowering import exported
from deepseek_lab.engine.problem import Problem, Spec


class Flat(torch.nn.Module):
    """The graph with weights as inputs, returning a tuple."""

    def __init__(self, graph: torch.nn.Module) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        result = self.graph(*arguments)
        return tuple(result) if isinstance(result, tuple | list) else (result,)


class InductorCandidate(Candidate):
    """Default Inductor; weights stay the user's own tensors, so training them is harmless."""

    name = "inductor"
    bakes_weights = False
    order = 45
    long_to_build = True
    outdone_by = "inductor-frozen"

    def build(self, problem: Problem, directory: Path) -> None:
        """Compile with g++ into a package."""
        program = exported(Flat(problem.graph), problem.arguments(), problem.spec.inputs)
        with torch.no_grad():
            torch._inductor.aoti_compile_and_package(program, package_path=str(directory / "model.pt2"))

    def load(self, directory: Path, spec: Spec) -> Program:
        """Load the package in this process."""
        loaded = open_package(directory / "model.pt2")
        is_weight = spec.is_weight

        def program(live: Sequence[Tensor], weights: Sequence[Tensor]) -> Sequence[Tensor]:
            own, rest = iter(weights), iter(live)
            with torch.no_grad():
                return outputs_of(
                    loaded(*[(next(own) if weight else next(rest)).detach() for weight in is_weight])
                )

        return program

    def plan(self, spec: Spec) -> str:
        """The plan in Inductor's words."""
        return (
            "model = torch._inductor.aoti_load_package('model.pt2')\noutputs = model(*inputs_and_weights)\n"
        )


def open_package(path: Path) -> Callable[..., Any]:
    """Load a package without asking the C++ compiler first what this processor can do.

    ``torch._inductor.aoti_load_package`` takes a second for that, to warn of a package from another processor, which
    the store's key rules out.
    """
    loader = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", True, 1, -1)
    return AOTICompiledModel(loader)


def outputs_of(result: Any) -> Sequence[Tensor]:
    """A package's result as a tuple."""
    return tuple(result) if isinstance(result, tuple | list) else (result,)


CANDIDATE = InductorCandidate()
