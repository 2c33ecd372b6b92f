"""How a call's results are had from a program's outputs, which are contiguous and share memory with nothing.

In eager mode a result may be a view of another one or of an input, ``(scores, scores.t())``, or be laid out in memory
in another order than its dimensions', as keys and values of attention are. Such views are cut off a captured graph and
taken anew of what the program computed or the call brought: nothing is copied, and gradients flow through them.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from deepseek_lab.engine.passes import sets_a_mode

_IDENTITIES = frozenset(["contiguous", "float", "to"])
"""Methods that return the tensor itself where they do not copy it."""
_VIEWS = """
    __getitem__ chunk detach expand flatten movedim narrow permute reshape select split squeeze swapaxes swapdims t
    transpose unbind unflatten unsqueeze view
"""
_METHODS = _IDENTITIES | frozenset(_VIEWS.split())
"""Methods that return views of a tensor where they do not copy it."""
_FUNCTIONS: Mapping[Any, str] = {
    operator.getitem: "__getitem__",
    **{getattr(torch, name): name for name in _METHODS if hasattr(torch, name)},
}


@dataclasses.dataclass(frozen=True)
class Step:
    """One method of a tensor with its constant arguments."""

    method: str
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()


@dataclasses.dataclass(frozen=True)
class Result:
    """Where a result comes from: an output of a program or an argument of the graph, and the views taken of it."""

    index: int
    of_arguments: bool = False
    steps: tuple[Step, ...] = ()

    def of(self, outputs: Sequence[Any], arguments: Sequence[Any]) -> Any:
        """The result itself, where these are the program's outputs and the graph's arguments."""
        value = (arguments if self.of_arguments else outputs)[self.index]
        for step in self.steps:
            value = getattr(value, step.method)(*step.args, **dict(step.kwargs))
        return value


def memory_order(tensor: Tensor) -> tuple[int, ...] | None:
    """A tensor's dimensions as they follow each other in memory, outermost first; None when it is contiguous."""
    if tensor.is_contiguous():
        return None
    strides = tensor.stride()
    return tuple(sorted(range(tensor.dim()), key=lambda dim: (-strides[dim], dim)))


def inverse(order: Sequence[int]) -> tuple[int, ...]:
    """The permutation that undoes another one."""
    return tuple(sorted(range(len(order)), key=order.__getitem__))


def computing(graph_module: fx.GraphModule) -> tuple[fx.GraphModule, tuple[Result, ...] | None]:
    """A copy of a captured graph whose results are plain, and how the call's own results are had from them.

    Returns:
        The graph itself and None where its results are plain already, or where they share memory in a way that no
        views explain.
    """
    output = next(node for node in graph_module.graph.nodes if node.op == "output")
    given = output.args[0] if isinstance(output.args[0], tuple | list) else (output.args[0],)
    if not all(isinstance(node, fx.Node) and isinstance(_value(node), Tensor) for node in given):
        return graph_module, None
    nodes: list[fx.Node] = list(given)
    placeholders = [node for node in graph_module.graph.nodes if node.op == "placeholder"]
    chains = _chains(nodes, placeholders)
    if chains is None:
        return graph_module, None
    sources = list(dict.fromkeys(source for source, _ in chains if source.op != "placeholder"))
    orders = [_fixed_order(_value(source)) for source in sources]
    if not any(orders) and sources == nodes:
        return graph_module, None
    results = []
    for source, views in chains:
        steps = tuple(
            step for view in views if (step := _step(view)) is not None and step.method not in _IDENTITIES
        )
        if source.op == "placeholder":
            results.append(Result(placeholders.index(source), True, steps))
            continue
        index = sources.index(source)
        if (order := orders[index]) is not None:
            steps = (Step("permute", inverse(order)), *steps)
        results.append(Result(index, False, steps))
    idle = {view for _, views in chains for view in views}
    return _returning(graph_module, sources, orders, idle), tuple(results)


def _value(node: fx.Node) -> Any:
    return node.meta.get("example_value")


def _storage(value: Tensor) -> int:
    return int(value.untyped_storage()._cdata) if value.layout == torch.strided else id(value)


Chain = tuple[fx.Node, tuple[fx.Node, ...]]
"""A node that has memory of its own or is an input, and the views of it that lead to a result."""


def _chains(nodes: Sequence[fx.Node], placeholders: Sequence[fx.Node]) -> list[Chain] | None:
    """Where each result comes from; None where the same memory has two names that no view explains."""
    owners = {_storage(_value(node)) for node in placeholders if isinstance(_value(node), Tensor)}
    storages = [_storage(_value(node)) for node in nodes]
    shared = {*owners, *(one for one in storages if storages.count(one) > 1)}
    chains = [
        _chain(node) if _storage(_value(node)) in shared or _is_expanded(_value(node)) else (node, ())
        for node in nodes
    ]
    sources = {source for source, _ in chains if source.op != "placeholder"}
    own = {_storage(_value(source)) for source in sources}
    if not sources or len(own) < len(sources) or own & owners:
        return None
    if any(_value(node).requires_grad for node in nodes) and any(map(sets_a_mode, nodes[0].graph.nodes)):
        return None  # a view that was taken without gradients is not what it would be if it were taken again
    for node, (source, views) in zip(nodes, chains, strict=True):
        detached = any((step := _step(view)) is not None and step.method == "detach" for view in views)
        if _value(node).requires_grad != (_value(source).requires_grad and not detached):
            return None
    return chains


def _is_expanded(value: Tensor) -> bool:
    """Whether elements of the tensor share memory with each other."""
    if value.layout != torch.strided:
        return False
    return any(
        isinstance(size, int) and size > 1 and stride == 0
        for size, stride in zip(value.shape, value.stride(), strict=True)
    )


def _chain(node: fx.Node) -> Chain:
    storage, views = _storage(_value(node)), list[fx.Node]()
    while _step(node) is not None:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        value = _value(source)
        parts = value if isinstance(value, tuple | list) else (value,)
        if not all(isinstance(part, Tensor) and _storage(part) == storage for part in parts):
            break
        views.insert(0, node)
        node = source
    return node, tuple(views)


def _step(node: fx.Node) -> Step | None:
    """The node as a view with constant arguments, or None."""
    if node.op == "call_method" and node.target in _METHODS:
        method = str(node.target)
    elif node.op == "call_function" and node.target in _FUNCTIONS:
        method = _FUNCTIONS[node.target]
    else:
        return None
    source, *rest = node.args or (None,)
    inputs: list[fx.Node] = []
    fx.node.map_arg((rest, node.kwargs), inputs.append)
    if inputs or not isinstance(source, fx.Node):
        return None
    if method == "view" and any(isinstance(one, torch.dtype) for one in (*rest, *node.kwargs.values())):
        return None  # the bits of a result are its own only where it is the same to the last one
    return Step(method, tuple(rest), tuple(node.kwargs.items()))


def _fixed_order(value: Tensor) -> tuple[int, ...] | None:
    """The order in memory of a dense tensor that is not contiguous and whose sizes do not vary."""
    if value.layout != torch.strided or not all(type(one) is int for one in (*value.shape, *value.stride())):
        return None
    order = memory_order(value)
    return order if order is not None and value.permute(order).is_contiguous() else None


def _returning(
    graph_module: fx.GraphModule,
    nodes: Sequence[fx.Node],
    orders: Sequence[tuple[int, ...] | None],
    views: Collection[fx.Node],
) -> fx.GraphModule:
    """A copy that returns these nodes, contiguous, without those of the views that nothing else needs."""
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    graph.graph_copy(graph_module.graph, copies)
    for old, new in copies.items():
        new.meta = old.meta
    made = []
    for node, order in zip(nodes, orders, strict=True):
        plain = copies[node]
        if order is not None:
            plain = graph.call_method("permute", (plain, *order))
            plain.meta = {**node.meta, "example_value": _value(node).permute(order)}
        made.append(plain)
    graph.output(tuple(made))
    idle = {copies[view] for view in views}
    for node in reversed(list(graph.nodes)):
        if node in idle and not node.users:
            graph.erase_node(node)
    return fx.GraphModule(graph_module, graph)
