"""Inductor around MKL's packed matrix products.

``torch.compile`` with frozen weights packs them for MKL, but what it makes cannot leave its process; ahead of time
Inductor packs for oneDNN instead, because MKL's packed format holds addresses (``pack_linear_weight`` in PyTorch's
``mkldnn_fusion.py``). Here the packed weights are inputs of the compiled graph, made where it is loaded.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.passes.shape_prop import ShapeProp

from deepseek_lab.engine.background import helpers
from deepseek_lab.engine.candidates import Candidate, NotApplicable, Program
from deepseek_lab.engine.candidates.inductor import Flat, open_package, outputs_of
from deepseek_lab.engine.lowering import exported
from deepseek_lab.engine.problem import Problem, Spec, TensorSpec
from deepseek_lab.measure.race import race

_LINEAR = torch._C._nn.linear
_ADDMM = torch.addmm
MIN_NUMEL = 1 << 14
"""Weights smaller than this are not worth a packed product."""
MAX_TRIED = 4096
"""Rows of a weight that are enough to see whose product is faster."""
FAR_BEHIND = 1.15


def packed_linear(x: Tensor, packed: Tensor, weight: Tensor, rows: int) -> Tensor:
    """``x @ weight.T`` by MKL with a weight that :func:`pack` packed for ``rows`` rows of ``x``.

    Args:
        x: float32[..., in_features] with ``rows`` rows.
        packed: What :func:`pack` made.
        weight: float32[out_features, in_features], read for its shape alone.
        rows: Rows that the weight was packed for.
    """
    result: Tensor = torch.ops.mkl._mkl_linear(x, packed, weight, None, rows)
    return result


def _fake(x: Tensor, packed: Tensor, weight: Tensor, rows: int) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


_LIBRARY: Any = torch.library.Library("deepseek_lab", "FRAGMENT")
_LIBRARY.define("packed_linear(Tensor x, Tensor packed, Tensor weight, int rows) -> Tensor")
for _key in ("CPU", "MkldnnCPU"):  # a packed weight is a tensor of oneDNN's
    _LIBRARY.impl("packed_linear", packed_linear, _key)
torch.library.register_fake("deepseek_lab::packed_linear", _fake, lib=_LIBRARY)


def pack(weight: Tensor, rows: int) -> Tensor:
    """A float32[out_features, in_features] weight in MKL's own layout for products with ``rows`` rows."""
    packed: Tensor = torch.ops.mkl._mkl_reorder_linear_weight(weight.detach().contiguous(), rows)
    return packed


def pack_all(weights: Sequence[Tensor], packings: Sequence[Packing], num_threads: int) -> list[Tensor]:
    """Pack several weights, ``num_threads`` at a time: MKL packs each in one thread."""

    def packed(one: Packing) -> Tensor:
        with torch.no_grad():
            return pack(weights[one.weight].t() if one.transposed else weights[one.weight], one.rows)

    with helpers(num_threads) as pool:
        return list(pool.map(packed, packings))


@dataclasses.dataclass(frozen=True)
class Packing:
    """One packed weight: which of the problem's weights, as it is or transposed, for how many rows."""

    weight: int
    transposed: bool
    rows: int


def rewrite(problem: Problem) -> tuple[fx.GraphModule, list[Packing]]:
    """A copy of the graph in which linear layers take packed weights, as further inputs at the end."""
    graph = copy.deepcopy(problem.graph)
    with torch.no_grad():
        ShapeProp(graph).propagate(*problem.arguments())
    placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    weights = [node for node, weight in zip(placeholders, problem.spec.is_weight, strict=True) if weight]
    number = {node: index for index, node in enumerate(weights)}
    packings: dict[Packing, fx.Node] = {}
    last = placeholders[-1]
    for node in list(graph.graph.nodes):
        found = _product(node, number)
        if found is None:
            continue
        x, weight, bias, transposed = found
        packing = Packing(number[weight], transposed, _num_rows(x))
        if packing not in packings:
            with graph.graph.inserting_after(last):
                last = packings[packing] = graph.graph.placeholder(f"packed_{len(packings)}")
        with graph.graph.inserting_before(node):
            plain = graph.graph.call_method("t", (weight,)) if transposed else weight
            new = graph.graph.call_function(
                torch.ops.deepseek_lab.packed_linear.default, (x, packings[packing], plain, packing.rows)
            )
            if bias is not None:
                new = graph.graph.call_function(torch.add, (new, bias))
        node.replace_all_uses_with(new)
        graph.graph.erase_node(node)
    graph.graph.lint()
    graph.recompile()
    return graph, list(packings)


def _product(node: fx.Node, weights: dict[fx.Node, int]) -> tuple[fx.Node, fx.Node, Any, bool] | None:
    """Input, weight, bias and whether the weight is transposed, of a float32 product that MKL can take."""
    if node.op != "call_function":
        return None
    x: Any
    weight: Any
    bias: Any
    if node.target is _LINEAR:
        given = {**dict(zip(("input", "weight", "bias"), node.args, strict=False)), **node.kwargs}
        x, weight, bias, transposed = given["input"], given["weight"], given.get("bias"), False
    elif node.target is _ADDMM and len(node.args) == 3 and not node.kwargs:
        (bias, x, weight), transposed = node.args, True
    else:
        return None
    if weight not in weights or not isinstance(x, fx.Node):
        return None
    for one in (x, weight):
        if one.meta["tensor_meta"].dtype != torch.float32:
            return None
    shape = weight.meta["tensor_meta"].shape
    if len(shape) != 2 or shape.numel() < MIN_NUMEL or not _num_rows(x):
        return None
    return x, weight, bias, transposed


def _num_rows(x: fx.Node) -> int:
    shape = x.meta["tensor_meta"].shape
    return int(shape[:-1].numel())


def mkl_behind(weight: Tensor, packing: Packing) -> float:
    """How many times faster oneDNN's packed product is than MKL's, for one layer; 0 without oneDNN."""
    if not torch.backends.mkldnn.is_available():
        return 0.0
    plain = (weight.t() if packing.transposed else weight).detach().contiguous()[:MAX_TRIED]
    x, rows = torch.randn(packing.rows, plain.shape[1]), packing.rows
    by_mkl, by_onednn = pack(plain, rows), torch.ops.mkldnn._reorder_linear_weight(plain, rows)
    calls: dict[str, Callable[[], object]] = {
        "mkl": lambda: packed_linear(x, by_mkl, plain, rows),
        "onednn": lambda: torch.ops.mkldnn._linear_pointwise(x, by_onednn, None, "none", [], ""),
    }
    with torch.no_grad():
        return race(calls, "mkl", budget_s=0.5, min_rounds=3, max_rounds=5)["onednn"].speedup


class PackedInductorCandidate(Candidate):
    """Inductor for everything but the linear layers, whose weights MKL keeps packed."""

    name = "inductor-packed"
    runs_dynamic = False
    order = 35
    long_to_build = True

    def missing(self) -> str | None:
        """MKL comes with PyTorch or not at all."""
        return None if torch._C.has_mkl else "mkl"

    def build(self, problem: Problem, directory: Path) -> None:
        """Compile with g++ into a package.

        Raises:
            NotApplicable: the graph has no linear layer with a weight of its own.
        """
        graph, packings = rewrite(problem)
        if not packings:
            raise NotApplicable("the graph has no Linear layer whose weight could be packed")
        largest = max(packings, key=lambda one: problem.weights[one.weight].numel() * one.rows)
        if (behind := mkl_behind(problem.weights[largest.weight], largest)) > FAR_BEHIND:
            raise NotApplicable(f"oneDNN's product is {behind:.1f} times as fast as MKL's on this processor")
        # Only a product reads a packed weight, so memory of the same size that nobody touches stands for it here.
        shapes = [problem.weights[one.weight].shape for one in packings]
        stand_ins = [
            torch.empty(shape[::-1] if one.transposed else shape)
            for shape, one in zip(shapes, packings, strict=True)
        ]
        specs = [*problem.spec.inputs, *(TensorSpec.of(tensor) for tensor in stand_ins)]
        program = exported(Flat(graph), [*problem.arguments(), *stand_ins], specs)
        with torch.no_grad():
            torch._inductor.aoti_compile_and_package(program, package_path=str(directory / "model.pt2"))
        (directory / "packings.json").write_text(json.dumps([dataclasses.asdict(one) for one in packings]))

    def load(self, directory: Path, spec: Spec) -> Program:
        """Load the package in this process; the weights are packed at the first call."""
        packings = [Packing(**one) for one in json.loads((directory / "packings.json").read_text())]
        loaded = open_package(directory / "model.pt2")
        is_weight, num_threads = spec.is_weight, spec.num_threads
        packed: list[Tensor] = []

        def program(live: Sequence[Tensor], weights: Sequence[Tensor]) -> Sequence[Tensor]:
            own, rest = iter(weights), iter(live)
            with torch.no_grad():
                if not packed:
                    packed.extend(pack_all(weights, packings, num_threads))
                arguments = [(next(own) if weight else next(rest)).detach() for weight in is_weight]
                return outputs_of(loaded(*arguments, *packed))

        return program

    def plan(self, spec: Spec) -> str:
        """The plan in Inductor's words."""
        return (
            "packed = [torch.ops.mkl._mkl_reorder_linear_weight(weight, rows) for weight in weights]\n"
            "model = torch._inductor.aoti_load_package('model.pt2')\n"
            "outputs = model(*inputs_and_weights, *packed)\n"
        )


CANDIDATE = PackedInductorCandidate()
