"""From a problem to what exporters take: precision given away, and ``torch.export``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from deepseek_lab.engine.problem import PRECISIONS, GraphWithWeights, Problem


class InPrecision(torch.nn.Module):
    """A graph that computes in another floating-point dtype and returns the dtypes it always did."""

    def __init__(self, module: GraphWithWeights, dtype: torch.dtype, results: Sequence[torch.dtype]) -> None:
        super().__init__()
        self.module = module.to(dtype)
        self.dtype = dtype
        self.results = tuple(results)

    def forward(self, *live: Tensor) -> tuple[Tensor, ...]:
        """Cast, run, cast back."""
        cast = [t.to(self.dtype) if t.dtype == torch.float32 else t for t in live]
        outputs = self.module(*cast)
        return tuple(out.to(dtype) for out, dtype in zip(outputs, self.results, strict=True))


def lowered(problem: Problem) -> torch.nn.Module:
    """The problem's module in the precision that was declared."""
    module = problem.module().eval()
    dtype = PRECISIONS[problem.spec.precision]
    if dtype == torch.float32:
        return module
    with torch.no_grad():
        results = [out.dtype for out in problem.eager()]
    return InPrecision(module, dtype, results).eval()


def export(problem: Problem) -> ExportedProgram:
    """``torch.export`` of the problem in its precision; dimensions that vary stay free."""
    shapes = None
    if problem.spec.dynamic:
        shapes = (tuple({dim: Dim.AUTO for dim in spec.dynamic} for spec in problem.spec.live),)
    with torch.no_grad():
        return torch.export.export(
            lowered(problem), tuple(problem.live), dynamic_shapes=shapes, strict=False, prefer_deferred_runtime_asserts_over_guards=True
        )
