"""The captured graph with oneDNN's products over weights that it keeps packed, and our own for one or two rows.

PyTorch carries oneDNN and its own compiler packs weights for it, but eager mode hands float32 products to MKL, which
is slow on processors other than Intel's: half of oneDNN's speed on a Zen 4. Nothing is compiled here, so this is what
can be had within seconds.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.fx.passes.shape_prop import ShapeProp

from deepseek_lab.engine import passes, wire
from deepseek_lab.engine.background import helpers
from deepseek_lab.engine.candidates import Candidate, NotApplicable, Program
from deepseek_lab.engine.candidates.kernels import eager_program
from deepseek_lab.engine.problem import PRECISIONS, Problem, Spec

MIN_NUMEL = 1 << 10
"""Weights smaller than this are not worth a packed product."""
PRODUCTS = "products.json"
OWN_ROWS = 2
"""Up to this many rows reading the weight is all that counts, and our own product reads it faster than oneDNN's:
24-31 GB/s beside 17-25 on two cores of a Zen 4 (tests/benchmarks/kernels.py)."""
_ACTIVATIONS: dict[tuple[str, str], Callable[[Tensor], Tensor]] = {
    ("none", ""): lambda x: x,
    ("gelu", "none"): F.gelu,
    ("gelu", "tanh"): lambda x: F.gelu(x, approximate="tanh"),
    ("swish", ""): F.silu,
    ("relu", ""): torch.relu,
    ("tanh", ""): torch.tanh,
}
"""What can be done to a product's result in the same pass, by oneDNN's word and algorithm."""


@dataclasses.dataclass(frozen=True)
class Product:
    """One node that becomes a packed product, with what oneDNN does to its result in the same pass.

    Attributes:
        node: Its name in the graph after the passes.
        weight: Number of the weight among the problem's.
        transposed: Whether the weight is kept [in, out], as ``addmm`` takes it.
        rows: Rows of the input that the weight is packed for; None where they vary.
        activation: oneDNN's word for the function of the result, ``none`` where there is none.
        algorithm: ``tanh`` for GELU's approximation.
        last: Name of the node whose value the product gives.
        takes: Name of the node that it reads.
    """

    node: str
    weight: int
    transposed: bool
    rows: int | None
    activation: str
    algorithm: str
    last: str
    takes: str


def prepared(graph: fx.GraphModule) -> None:
    """Bring a graph to the form in which products are looked for."""
    passes.drop_identities(graph)
    passes.recognise_gelu(graph)
    passes.fold_constants(graph)
    graph.recompile()


def products(graph: fx.GraphModule, problem: Problem) -> list[Product]:
    """The products of a prepared graph over a weight of its own."""
    with torch.no_grad():
        ShapeProp(graph).propagate(*problem.arguments())
    placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    weights = [node for node, weight in zip(placeholders, problem.spec.is_weight, strict=True) if weight]
    number = {node: index for index, node in enumerate(weights)}
    found = []
    for node in graph.graph.nodes:
        if node.op != "call_function":
            continue
        if node.target is F.linear and len(node.args) == 3:
            x, weight, _ = node.args
            transposed = False
        elif node.target is torch.addmm and len(node.args) == 3 and not node.kwargs:
            (_, x, weight), transposed = node.args, True
        else:
            continue
        if weight not in number or not _is_float32(x) or not _is_float32(weight):
            continue
        shape = weight.meta["tensor_meta"].shape
        if len(shape) != 2 or shape.numel() < MIN_NUMEL or not x.meta["tensor_meta"].shape.numel():
            continue
        if transposed and node.args[0].meta["tensor_meta"].shape != shape[1:]:
            continue  # what is added is a matrix, or is stretched
        last = node
        if transposed and not problem.spec.dynamic:
            x, last = _without_views(x, node)
        activation, algorithm, last = _activation(last)
        rows = None if problem.spec.dynamic else int(x.meta["tensor_meta"].shape[:-1].numel())
        found.append(
            Product(node.name, number[weight], transposed, rows, activation, algorithm, last.name, x.name)
        )
    return found


def _is_float32(node: Any) -> bool:
    meta = node.meta.get("tensor_meta") if isinstance(node, fx.Node) else None
    return getattr(meta, "dtype", None) == torch.float32


def _without_views(x: fx.Node, node: fx.Node) -> tuple[fx.Node, fx.Node]:
    """Past the views by which a product of matrices is made one of a batch: its input and its result.

    A packed product takes any number of dimensions.
    """
    users = list(node.users)
    if not (_is_view(x) and len(users) == 1 and _is_view(users[0])):
        return x, node
    source, view = x.args[0], users[0]
    assert isinstance(source, fx.Node)
    before, after = source.meta["tensor_meta"].shape, view.meta["tensor_meta"].shape
    width = node.meta["tensor_meta"].shape[-1]
    return (source, view) if after == (*before[:-1], width) else (x, node)


def _is_view(node: fx.Node) -> bool:
    return node.op == "call_method" and node.target in ("view", "reshape")


def _activation(node: fx.Node) -> tuple[str, str, fx.Node]:
    """The function of a product's result that oneDNN applies in the same pass, and the node that has its value."""
    users = list(node.users)
    if len(users) == 1 and users[0].op == "call_function" and users[0].args[0] is node:
        user = users[0]
        if user.target is F.gelu and len(user.args) == 1:
            return "gelu", str(user.kwargs.get("approximate", "none")), user
        if user.target is F.silu and not passes.changes_in_place(user):
            return "swish", "", user
        if user.target in (F.relu, torch.relu) and not passes.changes_in_place(user):
            return "relu", "", user
        if user.target is torch.tanh:
            return "tanh", "", user
    return "none", "", node


def read(directory: Path) -> tuple[fx.GraphModule, list[Product]]:
    """What ``build`` left: the prepared graph and its products."""
    graph = wire.from_bytes((directory / "graph.bin").read_bytes())
    return graph, [Product(**one) for one in json.loads((directory / PRODUCTS).read_text())]


def put(
    graph: fx.GraphModule,
    found: Sequence[Product],
    call: Callable[[int, fx.Node, fx.Node | None, fx.Node], fx.Node],
) -> None:
    """Put packed products in the places of the plain ones.

    ``call`` makes the node of a product from its number, its input, its bias and its weight.
    """
    nodes = {node.name: node for node in graph.graph.nodes}
    for number, product in enumerate(found):
        node, last = nodes[product.node], nodes[product.last]
        bias, weight = (node.args[0], node.args[2]) if product.transposed else (node.args[2], node.args[1])
        assert isinstance(weight, fx.Node)
        # Where the product stood and not where its function is applied: its input may be written to in between.
        with graph.graph.inserting_before(node):
            new = call(number, nodes[product.takes], bias, weight)
        last.replace_all_uses_with(new)
        nodes[product.last] = new
    passes.drop_dead(graph)
    graph.recompile()


class OneDNNCandidate(Candidate):
    """The graph in eager mode, its linear layers by oneDNN over packed weights, what is constant computed once."""

    name = "onednn"
    precisions = frozenset({"float32", "bf16"})
    order = 4

    def missing(self) -> str | None:
        """OneDNN comes with PyTorch or not at all."""
        return None if torch.backends.mkldnn.is_available() else "mkldnn"

    def build(self, problem: Problem, directory: Path) -> None:
        """Find the products; nothing is compiled.

        Raises:
            NotApplicable: the graph has no linear layer with a weight of its own.
        """
        graph = wire.from_bytes(wire.to_bytes(problem.graph))
        prepared(graph)
        found = products(graph, problem)
        if not found:
            raise NotApplicable("the graph has no Linear layer whose weight could be packed")
        (directory / "graph.bin").write_bytes(wire.to_bytes(graph))
        (directory / PRODUCTS).write_text(json.dumps([dataclasses.asdict(one) for one in found]))

    def load(self, directory: Path, spec: Spec) -> Program:
        """Put the products into the graph; weights are packed at the first call."""
        graph, found = read(directory)
        packed = Packed(found, PRECISIONS[spec.precision])

        def call(number: int, x: fx.Node, bias: Any, weight: fx.Node) -> fx.Node:
            return graph.graph.call_function(packed.call(number), (x, bias, weight))

        put(graph, found, call)
        return PackedProgram(eager_program(graph, spec), packed, spec.num_threads)

    def warm(self, program: Program, problem: Problem) -> None:
        """Pack the weights."""
        assert isinstance(program, PackedProgram)
        program.pack(problem.weights)

    def plan(self, spec: Spec) -> str:
        """The plan in the operators' names."""
        return (
            "# the captured graph, its linear layers as\n"
            "# torch.ops.mkldnn._linear_pointwise(x, packed_weight, bias, activation, [], algorithm)\n"
        )


class PackedProgram:
    """The rewritten graph with its packed weights."""

    def __init__(self, run: Program, packed: Packed, num_threads: int) -> None:
        self._run, self._packed, self._num_threads = run, packed, num_threads

    def pack(self, weights: Sequence[Tensor]) -> None:
        """Pack the weights, unless that was done."""
        self._packed.fill(weights, self._num_threads)

    def __call__(self, live: Sequence[Tensor], weights: Sequence[Tensor]) -> Sequence[Tensor]:
        """Run the graph."""
        self.pack(weights)
        return self._run(live, weights)


class Packed:
    """Weights as oneDNN keeps them, made at the first call from those that the call brings."""

    def __init__(self, wanted: Sequence[Product], dtype: torch.dtype) -> None:
        self._wanted, self._dtype = wanted, dtype
        self._tensors: list[Tensor] = []
        self._own = _own_product() if dtype == torch.float32 else None

    def _is_ours(self, one: Product) -> bool:
        """Whether our own product reads the weight: where it is, or row by row if it is kept the other way round."""
        return self._own is not None and one.rows is not None and one.rows <= OWN_ROWS

    def fill(self, weights: Sequence[Tensor], num_threads: int) -> None:
        """Pack, unless that was done; ``num_threads`` weights at a time, each in one thread."""
        if self._tensors:
            return
        distinct = {(one.weight, one.transposed, one.rows): one for one in self._wanted}

        def packed(one: Product) -> Tensor:
            weight = weights[one.weight].detach()
            plain = (weight.t() if one.transposed else weight).to(self._dtype).contiguous()
            if self._is_ours(one):
                return plain
            made: Tensor = torch.ops.mkldnn._reorder_linear_weight(plain, one.rows)
            return made

        with helpers(num_threads) as pool:
            made = dict(zip(distinct, pool.map(packed, distinct.values()), strict=True))
        self._tensors = [made[one.weight, one.transposed, one.rows] for one in self._wanted]

    def call(self, number: int) -> Callable[[Tensor, Tensor | None, Tensor], Tensor]:
        """The product of one layer as a function of its input, its bias and its weight as it was."""
        one, product, held = self._wanted[number], torch.ops.mkldnn._linear_pointwise.default, self
        own, dtype, activation, algorithm = self._own, self._dtype, one.activation, one.algorithm
        after = _ACTIVATIONS[activation, algorithm]

        def packed_linear(x: Tensor, bias: Tensor | None, weight: Tensor) -> Tensor:
            if bias is not None and not bias.is_contiguous():
                bias = bias.contiguous()
            made: Tensor = product(x, held._tensors[number], bias, activation, [], algorithm)
            return made

        def narrow_linear(x: Tensor, bias: Tensor | None, weight: Tensor) -> Tensor:
            narrow = bias.to(dtype) if bias is not None else None
            made: Tensor = product(x.to(dtype), held._tensors[number], narrow, activation, [], algorithm)
            return made.to(x.dtype)

        if own is None:
            return packed_linear if dtype == torch.float32 else narrow_linear
        few: Callable[..., Tensor] = own

        def own_linear(x: Tensor, bias: Tensor | None, weight: Tensor) -> Tensor:
            return after(few(x, held._tensors[number], bias))

        def either_linear(x: Tensor, bias: Tensor | None, weight: Tensor) -> Tensor:
            if x.numel() > OWN_ROWS * x.shape[-1]:
                return packed_linear(x, bias, weight)
            return after(few(x, weight.t() if one.transposed else weight, bias))

        return own_linear if self._is_ours(one) else either_linear if one.rows is None else packed_linear


def _own_product() -> Callable[..., Tensor] | None:
    """Our product of a few rows, where the library was compiled."""
    from deepseek_lab import _kernels

    return _kernels.few_rows_linear if _kernels.load().available else None


CANDIDATE = OneDNNCandidate()
