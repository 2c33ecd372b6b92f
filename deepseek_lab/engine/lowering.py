"""From a problem to what exporters take: precision given away, and ``torch.export``."""

from __future__ import annotations

import copy
import dataclasses
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._dynamo.exc import UserError
from torch.export import Dim, ExportedProgram

from deepseek_lab.engine.problem import PRECISIONS, GraphWithWeights, Problem, TensorSpec


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


def without_grouped_attention(graph: fx.GraphModule) -> fx.GraphModule:
    """A copy in which grouped-query attention repeats its keys and values instead of being asked to.

    OpenVINO 2026.4 takes ``enable_gqa`` for ordinary attention and fails when it runs.
    """
    copied = copy.deepcopy(graph)
    for node in list(copied.graph.nodes):
        if node.target is not torch.nn.functional.scaled_dot_product_attention:
            continue
        if not node.kwargs.get("enable_gqa"):
            continue
        positional: list[Any] = [*node.args, *([None] * (3 - len(node.args)))]
        query, key, value, *rest = positional
        query, key, value = (
            node.kwargs.get(name, given)
            for name, given in zip(("query", "key", "value"), (query, key, value), strict=True)
        )
        with copied.graph.inserting_before(node):
            groups = copied.graph.call_function(
                operator.floordiv,
                (
                    copied.graph.call_method("size", (query, -3)),
                    copied.graph.call_method("size", (key, -3)),
                ),
            )
            key = copied.graph.call_method("repeat_interleave", (key, groups, -3))
            value = copied.graph.call_method("repeat_interleave", (value, groups, -3))
        node.args = (query, key, value, *rest)
        node.kwargs = {
            name: given
            for name, given in node.kwargs.items()
            if name not in ("enable_gqa", "query", "key", "value")
        }
    copied.recompile()
    return copied


def lowered(problem: Problem) -> torch.nn.Module:
    """The problem's module in the precision that was declared."""
    problem = dataclasses.replace(problem, graph=without_grouped_attention(problem.graph))
    module = problem.module().eval()
    dtype = PRECISIONS[problem.spec.precision]
    if dtype == torch.float32:
        return module
    with torch.no_grad():
        results = [out.dtype for out in problem.eager()]
    return InPrecision(module, dtype, results).eval()


def dynamic_shapes(specs: Sequence[TensorSpec], *, named: bool) -> Any:
    """What ``torch.export`` is told about sizes that vary.

    Named dimensions say which sizes are equal, which keeps the symbolic arithmetic small; they are too
    strict for graphs in which one size determines another.
    """
    made: dict[str, Any] = {}

    def dim(symbol: str) -> Any:
        if not named or not symbol.isidentifier():
            return Dim.AUTO
        return made.setdefault(symbol, Dim(symbol, min=2))

    return (tuple({d: dim(s) for d, s in zip(spec.dynamic, spec.symbols, strict=True)} for spec in specs),)


def exported(
    module: torch.nn.Module, inputs: Sequence[Tensor], specs: Sequence[TensorSpec]
) -> ExportedProgram:
    """``torch.export`` of a module; dimensions that vary stay free."""
    with torch.no_grad():
        if not any(spec.dynamic for spec in specs):
            return torch.export.export(module, tuple(inputs), strict=False)
        try:
            shapes = dynamic_shapes(specs, named=True)
            return torch.export.export(module, tuple(inputs), dynamic_shapes=shapes, strict=False)
        except (UserError, ValueError, RuntimeError):
            return torch.export.export(
                module,
                tuple(inputs),
                dynamic_shapes=dynamic_shapes(specs, named=False),
                strict=False,
                prefer_deferred_runtime_asserts_over_guards=True,
            )


def export(problem: Problem) -> ExportedProgram:
    """``torch.export`` of the problem in its precision, weights inside."""
    return exported(lowered(problem), problem.live, problem.spec.live)
