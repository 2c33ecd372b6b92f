"""Our own kernels, put into the captured graph where their patterns stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from deepseek_lab.engine import wire
from deepseek_lab.engine.candidates import Candidate, NotApplicable, Program
from deepseek_lab.engine.problem import Problem, Spec

FEW_ROWS = 8
WIDE = 16384
"""From this many outputs on, one row against a weight reads faster with our own product."""

_LINEAR = torch._C._nn.linear
_LAYER_NORM = torch.nn.functional.layer_norm
_GELU = torch._C._nn.gelu


def _arguments(node: fx.Node, names: Sequence[str]) -> dict[str, Any]:
    """A node's arguments by name."""
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def _only_user(node: Any) -> bool:
    return isinstance(node, fx.Node) and len(node.users) == 1


def rewrite(graph: fx.GraphModule, kernels: dict[str, Callable[..., Tensor]]) -> int:
    """Replace LayerNorm + Linear, GELU + Linear and Linear by our operators. Returns how many were replaced."""
    replaced = 0
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or node.target is not _LINEAR:
            continue
        given = _arguments(node, ("input", "weight", "bias"))
        x, weight, bias = given["input"], given["weight"], given.get("bias")
        target = "linear"
        arguments: tuple[Any, ...] = (x, weight, bias)
        if _only_user(x) and x.target is _LAYER_NORM:
            norm = _arguments(x, ("input", "normalized_shape", "weight", "bias", "eps"))
            if len(norm["normalized_shape"]) == 1:
                target = "layer_norm_linear"
                scale, shift = norm.get("weight"), norm.get("bias")
                arguments = (norm["input"], scale, shift, weight, bias, norm.get("eps", 1e-5))
        elif _only_user(x) and x.target is _GELU:
            gelu = _arguments(x, ("input",))
            target = "gelu_linear"
            arguments = (gelu["input"], None, weight, bias, gelu.get("approximate", "none"))
        with graph.graph.inserting_before(node):
            new = graph.graph.call_function(kernels[target], arguments)
        node.replace_all_uses_with(new)
        graph.graph.erase_node(node)
        if target != "linear":
            graph.graph.erase_node(x)
        replaced += 1
    graph.recompile()
    return replaced


def _float_kernels() -> dict[str, Callable[..., Tensor]]:
    """Our operators where measurement says that they pay, PyTorch's elsewhere."""
    from deepseek_lab import _kernels

    _kernels.load()
    own_linear = _kernels.direct("linear")
    own_norm_linear = _kernels.direct("layer_norm_linear")
    own_gelu_linear = _kernels.direct("gelu_linear")

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows = x.numel() // max(x.shape[-1], 1)
        if 2 <= rows <= FEW_ROWS or (rows == 1 and weight.shape[0] >= WIDE):
            return own_linear(x, weight, bias)
        return torch.nn.functional.linear(x, weight, bias)

    def layer_norm_linear(
        x: Tensor, gamma: Tensor | None, beta: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float
    ) -> Tensor:
        if 2 <= x.numel() // max(x.shape[-1], 1) <= FEW_ROWS:
            return own_norm_linear(x, gamma, beta, weight, bias, eps)
        normed = torch.nn.functional.layer_norm(x, x.shape[-1:], gamma, beta, eps)
        return linear(normed, weight, bias)

    def gelu_linear(
        x: Tensor, bias_in: Tensor | None, weight: Tensor, bias: Tensor | None, approximate: str
    ) -> Tensor:
        if x.numel() // max(x.shape[-1], 1) > 1:
            return own_gelu_linear(x, bias_in, weight, bias, approximate)
        return linear(torch.nn.functional.gelu(x, approximate=approximate), weight, bias)

    return {"linear": linear, "layer_norm_linear": layer_norm_linear, "gelu_linear": gelu_linear}


def _int8_kernels() -> dict[str, Callable[..., Tensor]]:
    """Linear layers with weights quantised once, at the first call, one scale a row."""
    from deepseek_lab import _kernels

    _kernels.load()
    product = _kernels.direct("int8_linear")
    quantised: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        known = quantised.get(id(weight))
        if known is None or known[0] is not weight:
            known = quantised[id(weight)] = (weight, *_kernels.quantize_weight(weight))
        return product(x, known[1], known[2], bias)

    def layer_norm_linear(
        x: Tensor, gamma: Tensor | None, beta: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float
    ) -> Tensor:
        return linear(torch.nn.functional.layer_norm(x, x.shape[-1:], gamma, beta, eps), weight, bias)

    def gelu_linear(
        x: Tensor, bias_in: Tensor | None, weight: Tensor, bias: Tensor | None, approximate: str
    ) -> Tensor:
        return linear(torch.nn.functional.gelu(x, approximate=approximate), weight, bias)

    return {"linear": linear, "layer_norm_linear": layer_norm_linear, "gelu_linear": gelu_linear}


def eager_program(graph: fx.GraphModule, spec: Spec) -> Program:
    """A graph run node by node."""
    is_weight, forward = spec.is_weight, graph.forward

    def program(live: Sequence[Tensor], weights: Sequence[Tensor]) -> Sequence[Tensor]:
        own, rest = iter(weights), iter(live)
        with torch.no_grad():
            result = forward(*[next(own) if weight else next(rest) for weight in is_weight])
        return tuple(result) if isinstance(result, tuple | list) else (result,)

    return program


class KernelsCandidate(Candidate):
    """The graph in eager mode with our fused operators; weights stay the user's own tensors."""

    name = "kernels"
    bakes_weights = False
    order = 30
    make_kernels = staticmethod(_float_kernels)

    def build(self, problem: Problem, directory: Path) -> None:
        """Check that a pattern is there; keep the graph.

        Raises:
            NotApplicable: the graph has none.
        """
        data = wire.to_bytes(problem.graph)
        if not rewrite(wire.from_bytes(data), self.make_kernels()):
            raise NotApplicable("the graph has no Linear layer that a kernel could take")
        (directory / "graph.bin").write_bytes(data)

    def load(self, directory: Path, spec: Spec) -> Program:
        """Rewrite the graph in this process."""
        graph = wire.from_bytes((directory / "graph.bin").read_bytes())
        rewrite(graph, self.make_kernels())
        return eager_program(graph, spec)

    def plan(self, spec: Spec) -> str:
        """The plan in the operators' names."""
        return (
            "# the captured graph, with torch.ops.deepseek.{linear, layer_norm_linear, gelu_linear} in it\n"
        )


class Int8KernelsCandidate(KernelsCandidate):
    """Linear layers with int8 weights and float32 arithmetic; only where int8 was given away."""

    name = "kernels-int8"
    precisions = frozenset({"int8"})
    bakes_weights = True
    make_kernels = staticmethod(_int8_kernels)

    def plan(self, spec: Spec) -> str:
        """The plan in the operators' names."""
        return "# the captured graph, its linear layers as torch.ops.deepseek.int8_linear\n"


CANDIDATE = KernelsCandidate()
INT8 = Int8KernelsCandidate()
