"""A problem: one captured graph, the inputs it was called with, and what is asked of a candidate.

The graph that Dynamo hands over takes sizes as extra integer inputs when shapes vary. Here it is
brought to one form: tensors in, tensors out, inputs split into *weights* (parameters and buffers of the
target, the same objects at every call) and *live* inputs (what differs from call to call).
"""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from deepseek_lab.base.errors import CaptureError
from deepseek_lab.engine import wire
from deepseek_lab.engine.tensors import load_tensors, save_tensors

PRECISIONS: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": torch.float32,
}
"""Declared precision to the dtype that floating-point inputs and weights take inside a candidate."""

ALLOWED_ERROR: dict[str, float] = {"float32": 1e-5, "bf16": 5e-2, "fp16": 1e-2, "int8": 1e-1}
"""Largest relative difference from the float64 reference that each declared precision allows."""


PLAIN = (Tensor, torch.nn.Parameter, torch.nn.Buffer)
"""Classes of tensors that are their memory and nothing else."""


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """Shape, strides and dtype of one graph input.

    ``dynamic`` lists the dimensions that vary and ``symbols`` what Dynamo calls their sizes: dimensions of one
    symbol always have one size.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str
    dynamic: tuple[int, ...] = ()
    symbols: tuple[str, ...] = ()

    @classmethod
    def of(cls, tensor: Tensor, symbols: Mapping[int, str] | None = None) -> TensorSpec:
        """The spec of a real tensor."""
        varying = symbols or {}
        dtype = str(tensor.dtype).removeprefix("torch.")
        return cls(
            tuple(tensor.shape), tuple(tensor.stride()), dtype, tuple(varying), tuple(varying.values())
        )

    def __str__(self) -> str:
        dims = ",".join("*" if i in self.dynamic else str(n) for i, n in enumerate(self.shape))
        return f"{self.dtype}[{dims}]"


@dataclasses.dataclass(frozen=True)
class Spec:
    """What is known of a problem without its weights; small and picklable."""

    inputs: tuple[TensorSpec, ...]
    is_weight: tuple[bool, ...]
    precision: str = "float32"
    tolerance: float | None = None
    num_threads: int = 1
    graph_key: str = ""
    """Digest of the graph's code, the inputs' specs and the precision; the weights' values are not in it."""

    @property
    def dynamic(self) -> bool:
        """Whether any input dimension varies from call to call."""
        return any(spec.dynamic for spec in self.inputs)

    @property
    def live(self) -> tuple[TensorSpec, ...]:
        """The specs of the inputs that differ from call to call."""
        return tuple(spec for spec, weight in zip(self.inputs, self.is_weight, strict=True) if not weight)

    @property
    def signature(self) -> str:
        """The live inputs in words, e.g. ``int64[1,128]``."""
        return ", ".join(str(spec) for spec in self.live) or "no tensors"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Spec:
        """What :meth:`to_dict` wrote, after JSON made lists of tuples."""
        inputs = tuple(
            TensorSpec(
                tuple(one["shape"]),
                tuple(one["stride"]),
                one["dtype"],
                tuple(one["dynamic"]),
                tuple(one["symbols"]),
            )
            for one in data["inputs"]
        )
        return cls(**{**data, "inputs": inputs, "is_weight": tuple(data["is_weight"])})


def _is_size(node: fx.Node) -> bool:
    value = node.meta.get("example_value")
    return isinstance(value, torch.SymInt | int) and not isinstance(value, bool)


def _dynamic_dims(node: fx.Node) -> dict[int, Any]:
    """Dimensions of a placeholder whose size is a symbol, with the symbolic expression."""
    value = node.meta.get("example_value")
    if not isinstance(value, Tensor):
        return {}
    sizes: Sequence[Any] = tuple(value.shape)
    return {
        dim: size.node.expr
        for dim, size in enumerate(sizes)
        if isinstance(size, torch.SymInt) and not size.node.expr.is_number
    }


def normalise(
    graph_module: fx.GraphModule,
) -> tuple[fx.GraphModule, tuple[int, ...], tuple[dict[int, str], ...]]:
    """Rewrite a Dynamo graph so that every input is a tensor.

    Returns:
        The rewritten copy; the positions of Dynamo's arguments that it takes, in order; and for each of
        them the dimensions that vary with their symbols.

    Raises:
        CaptureError: an input or output is neither a tensor nor a size that a tensor input carries.
    """
    graph = fx.Graph()
    val_map: dict[fx.Node, fx.Node] = {}
    output = graph.graph_copy(graph_module.graph, val_map)
    graph.output(output)
    for old, new in val_map.items():
        new.meta = old.meta
    module = fx.GraphModule(graph_module, graph)
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    tensors = [node for node in placeholders if isinstance(node.meta.get("example_value"), Tensor)]
    carriers: dict[Any, tuple[fx.Node, int]] = {}
    for node in tensors:
        for dim, expr in _dynamic_dims(node).items():
            carriers.setdefault(expr, (node, dim))
    last = placeholders[-1] if placeholders else None
    for node in placeholders:
        if node in tensors:
            continue
        value = node.meta.get("example_value")
        if not _is_size(node):
            raise CaptureError(f"input {node.name} of the graph is a {type(value).__name__}, not a tensor")
        if node.users:
            expr = value.node.expr if isinstance(value, torch.SymInt) else None
            if expr is None or expr.is_number:
                replacement: Any = int(value)
            elif expr in carriers:
                source, dim = carriers[expr]
                assert last is not None
                with graph.inserting_after(last):
                    replacement = graph.call_function(torch.ops.aten.sym_size.int, (source, dim))
            else:
                raise CaptureError(
                    f"the graph depends on the number {node.name}, which no tensor input carries"
                )
            node.replace_all_uses_with(replacement)
        if node is last:
            last = None
    for node in placeholders:
        if node not in tensors:
            graph.erase_node(node)
    result = next(node for node in graph.nodes if node.op == "output").args[0]
    for item in result if isinstance(result, tuple | list) else (result,):
        if not isinstance(item, fx.Node) or not isinstance(item.meta.get("example_value"), Tensor):
            raise CaptureError("the graph returns something that is not a tensor")
    graph.lint()
    module.recompile()
    positions = tuple(index for index, node in enumerate(placeholders) if node in tensors)
    varying = tuple({dim: str(expr) for dim, expr in _dynamic_dims(node).items()} for node in tensors)
    return module, positions, varying


def graph_key(
    module: fx.GraphModule,
    inputs: Sequence[TensorSpec],
    is_weight: Sequence[bool],
    precision: str,
    tolerance: float | None,
) -> str:
    """Digest of a normalised graph's meaning: its operations, the specs of its inputs and which of them are weights."""
    digest = hashlib.sha256()
    numbers = {node: index for index, node in enumerate(module.graph.nodes)}

    def word(value: Any) -> str:
        if isinstance(value, fx.Node):
            return f"%{numbers[value]}"
        if isinstance(value, tuple | list):
            return "(" + ",".join(word(item) for item in value) + ")"
        if isinstance(value, slice):
            return f"slice({word(value.start)},{word(value.stop)},{word(value.step)})"
        if callable(value):
            # A closure under a public name, such as max_pool2d, has its name for itself and shares its qualified one.
            names = [str(getattr(value, part, "")) for part in ("__module__", "__qualname__", "__name__")]
            return ".".join(names) if any(names[1:]) else str(value)
        return repr(value)

    for node in module.graph.nodes:
        target = "" if node.op == "placeholder" else word(node.target)
        kwargs = ",".join(f"{key}={word(value)}" for key, value in sorted(node.kwargs.items()))
        digest.update(
            f"{node.op} {target} {word(node.args) if node.op != 'placeholder' else ''} {kwargs}\n".encode()
        )
        if node.op == "get_attr":
            digest.update(_attribute_bytes(module, str(node.target)))
    digest.update("\n".join(map(str, inputs)).encode())
    digest.update("\n".join(str(spec.stride) for spec in inputs if not spec.dynamic).encode())
    digest.update(f"{precision} {tolerance} {tuple(is_weight)}".encode())
    return digest.hexdigest()[:32]


def _attribute_bytes(module: fx.GraphModule, path: str) -> bytes:
    value: Any = module
    for part in path.split("."):
        value = getattr(value, part)
    if isinstance(value, Tensor):
        return value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    if isinstance(value, fx.GraphModule):
        return value.code.encode()
    return repr(type(value)).encode()


class GraphWithWeights(torch.nn.Module):
    """A normalised graph that owns its weights and is called with the live inputs only."""

    def __init__(self, graph: fx.GraphModule, weights: Sequence[Tensor], is_weight: Sequence[bool]) -> None:
        super().__init__()
        self.graph = graph
        self.is_weight = tuple(is_weight)
        for index, weight in enumerate(weights):
            self.register_buffer(f"weight_{index}", weight.detach())
        self.num_weights = len(weights)

    def forward(self, *live: Tensor) -> tuple[Tensor, ...]:
        """Run the graph on the live inputs."""
        weights = iter([getattr(self, f"weight_{index}") for index in range(self.num_weights)])
        rest = iter(live)
        result = self.graph(*[next(weights) if weight else next(rest) for weight in self.is_weight])
        return tuple(result) if isinstance(result, tuple | list) else (result,)


@dataclasses.dataclass
class Problem:
    """A spec with its graph, its weights and one set of live inputs."""

    spec: Spec
    graph: fx.GraphModule
    weights: tuple[Tensor, ...]
    live: tuple[Tensor, ...]

    def module(self) -> GraphWithWeights:
        """The graph with its weights inside; what exporters take."""
        return GraphWithWeights(self.graph, self.weights, self.spec.is_weight)

    def arguments(self, live: Sequence[Tensor] | None = None) -> list[Tensor]:
        """The graph's own arguments in order."""
        weights, rest = iter(self.weights), iter(self.live if live is None else live)
        return [next(weights) if weight else next(rest) for weight in self.spec.is_weight]

    def eager(self, live: Sequence[Tensor] | None = None) -> tuple[Tensor, ...]:
        """Run the graph as PyTorch runs it."""
        result = self.graph(*self.arguments(live))
        return tuple(result) if isinstance(result, tuple | list) else (result,)

    def save(self, directory: Path, weights_at: Sequence[int] | None = None) -> None:
        """Write the problem for the builder process. Tensors that share storage still do after loading.

        ``weights_at`` says which tensors of the file ``weights.bin``, which is in the folder then, the weights are.
        """
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "problem.pickle").write_bytes(
            pickle.dumps((self.spec, wire.to_bytes(self.graph), weights_at))
        )
        save_tensors(directory / "tensors.bin", (*(self.weights if weights_at is None else ()), *self.live))

    @classmethod
    def load(cls, directory: Path) -> Problem:
        """Read what :meth:`save` wrote."""
        spec, graph, weights_at = pickle.loads((directory / "problem.pickle").read_bytes())
        tensors, num_weights = load_tensors(directory / "tensors.bin"), sum(spec.is_weight)
        if weights_at is not None:
            known = load_tensors(directory / "weights.bin")
            tensors = [*(known[index] for index in weights_at), *tensors]
        return cls(spec, wire.from_bytes(graph), tuple(tensors[:num_weights]), tuple(tensors[num_weights:]))
