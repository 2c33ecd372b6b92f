"""Weights kept, without loss, in the fewer bits that their checkpoint had."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from deepseek_lab.engine import wire
from deepseek_lab.engine.candidates import Candidate, NotApplicable, Program
from deepseek_lab.engine.candidates.kernels import FEW_ROWS, eager_program
from deepseek_lab.engine.problem import Problem, Spec

if TYPE_CHECKING:
    from deepseek_lab._kernels import CompactWeight

_LINEAR = torch._C._nn.linear


class CompactKernelsCandidate(Candidate):
    """Linear layers whose weights are kept, without loss, in the fewest bits that hold them.

    A step of a generation costs what reading the weights costs, and a checkpoint in bfloat16 or in blocks of 4 or
    8 bits fills float32 with zeros. See the contract ``compact_linear``; nothing is rounded.
    """

    name = "kernels-compact"
    order = 8

    def build(self, problem: Problem, directory: Path) -> None:
        """Find the weights that fit fewer bits, and keep them so.

        Raises:
            NotApplicable: no linear layer has such a weight, or too few have to matter.
        """
        from deepseek_lab import _kernels

        graph = wire.from_bytes(data := wire.to_bytes(problem.graph))
        used = set(linear_layers(graph, problem.spec).values())
        kept: dict[int, tuple[Tensor, Tensor | None, Tensor | None]] = {}
        for index in sorted(used):
            made = _kernels.compact_weight(problem.weights[index])
            if made is not None:
                kept[index] = (made.codes, made.scale, made.minimum)
        total = sum(problem.weights[index].nbytes for index in used)
        if 2 * sum(problem.weights[index].nbytes for index in kept) <= total:
            raise NotApplicable("the weights of its linear layers need all their 32 bits")
        (directory / "graph.bin").write_bytes(data)
        torch.save(kept, directory / "weights.pt")

    def load(self, directory: Path, spec: Spec) -> Program:
        """Put the kept weights into the graph, in this process."""
        from deepseek_lab import _kernels

        _kernels.load()
        graph = wire.from_bytes((directory / "graph.bin").read_bytes())
        stored = torch.load(directory / "weights.pt", mmap=True, weights_only=True)
        kept = {index: _kernels.CompactWeight(*parts) for index, parts in stored.items()}
        for layers in side_by_side(graph, linear_layers(graph, spec), kept):
            _replace(graph, layers, kept)
        graph.recompile()
        run = eager_program(graph, spec)
        return lambda live, weights: _unshared(run(live, weights))

    def plan(self, spec: Spec) -> str:
        """The plan in the operators' names."""
        return "# the captured graph, its linear layers as torch.ops.deepseek.compact_linear\n"


def linear_layers(graph: fx.GraphModule, spec: Spec) -> dict[fx.Node, int]:
    """The graph's linear layers over a weight of its own, each with that weight's number."""
    placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    weights = [node for node, weight in zip(placeholders, spec.is_weight, strict=True) if weight]
    number = {node: index for index, node in enumerate(weights)}
    return {
        node: number[node.args[1]]
        for node in graph.graph.nodes
        if node.op == "call_function"
        and node.target is _LINEAR
        and len(node.args) == 3
        and not node.kwargs
        and node.args[1] in number
    }


def side_by_side(
    graph: fx.GraphModule, layers: dict[fx.Node, int], kept: dict[int, CompactWeight]
) -> list[list[tuple[fx.Node, int]]]:
    """Kept layers in groups that read the same input and are kept in the same form: queries, keys and values."""
    groups: dict[Any, list[tuple[fx.Node, int]]] = {}
    for node, index in layers.items():
        if index in kept:
            has_bias = node.args[2] is not None
            key = (
                node.args[0],
                kept[index].codes.dtype,
                kept[index].codes.shape[1],
                node if has_bias else None,
            )
            groups.setdefault(key, []).append((node, index))
    return list(groups.values())


def _replace(
    graph: fx.GraphModule, layers: list[tuple[fx.Node, int]], kept: dict[int, CompactWeight]
) -> None:
    """One product for layers that share an input, at the place of the first of them."""
    weights = [kept[index] for _, index in layers]
    first, sizes = layers[0][0], [one.codes.shape[0] for one in weights]
    call = _product(weights, sizes)
    x, _, bias = first.args
    with graph.graph.inserting_before(first):
        originals = tuple(node.args[1] for node, _ in layers)
        made = graph.graph.call_function(call, (x, bias, *originals))
        parts = (
            [made]
            if len(layers) == 1
            else [graph.graph.call_function(operator.getitem, (made, i)) for i in range(len(layers))]
        )
    for (node, _), part in zip(layers, parts, strict=True):
        node.replace_all_uses_with(part)
        graph.graph.erase_node(node)


def _product(weights: Sequence[CompactWeight], sizes: list[int]) -> Callable[..., Any]:
    """A product that reads the kept weights for a few rows and the float32 ones for many."""
    from deepseek_lab import _kernels

    joined = _kernels.side_by_side(weights)
    few = _kernels.bound_compact_linear(joined)
    alone = len(sizes) == 1

    def compact_linear(x: Tensor, bias: Tensor | None, *originals: Tensor) -> Any:
        if x.dtype == torch.float32 and x.numel() <= FEW_ROWS * x.shape[-1]:
            made = few(x, bias)
            if alone:
                return made
            parts = made.split(sizes, -1)
            return parts if x.numel() == x.shape[-1] else [part.contiguous() for part in parts]
        linear = torch.nn.functional.linear
        return linear(x, originals[0], bias) if alone else [linear(x, one, None) for one in originals]

    return compact_linear


def _unshared(outputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """The outputs, with copies of those whose memory an earlier one holds: parts of one product do."""
    seen: set[int] = set()
    own = []
    for tensor in outputs:
        at = tensor.untyped_storage().data_ptr()
        own.append(tensor.clone() if at in seen else tensor)
        seen.add(at)
    return own


CANDIDATE = CompactKernelsCandidate()
