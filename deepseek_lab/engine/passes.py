"""Rewrites of a captured graph that keep its meaning. Each returns how often it found something to do.

They work on graphs in PyTorch's own words, as Dynamo captures them, where no exporter has run: what they make is run
node by node, so fewer nodes and one operator in place of many are the gain.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.fx.subgraph_rewriter import replace_pattern

MAX_FOLDED_BYTES = 1 << 26
"""Constants larger than this are computed again at each call rather than held."""

_ADD_ONE = 0.044715
_ROOT = math.sqrt(2.0 / math.pi)


def drop_identities(graph: fx.GraphModule) -> int:
    """Take out dropout that is switched off: it returns its input itself."""
    found = 0
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or node.target is not F.dropout:
            continue
        given = {**dict(zip(("input", "p", "training", "inplace"), node.args, strict=False)), **node.kwargs}
        if given.get("training", True) or not isinstance(given["input"], fx.Node):
            continue
        node.replace_all_uses_with(given["input"])
        graph.graph.erase_node(node)
        found += 1
    return found


def recognise_gelu(graph: fx.GraphModule) -> int:
    """Put ``gelu`` in place of what models spell out in eight operations, each a pass over memory of its own.

    The spellings are those of Hugging Face's ``NewGELUActivation``, ``FastGELUActivation`` and ``GELUActivation``;
    Hendrycks and Gimpel, "Gaussian Error Linear Units", arXiv:1606.08415.
    """

    def new(x: Any) -> Any:
        return 0.5 * x * (1.0 + torch.tanh(_ROOT * (x + _ADD_ONE * torch.pow(x, 3.0))))

    def fast(x: Any) -> Any:
        return 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + _ADD_ONE * x * x)))

    def exact(x: Any) -> Any:
        return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))

    def by_tanh(x: Any) -> Any:
        return F.gelu(x, approximate="tanh")

    def by_erf(x: Any) -> Any:
        return F.gelu(x)

    spelt: Sequence[tuple[Callable[..., Any], Callable[..., Any]]] = (
        (new, by_tanh),
        (fast, by_tanh),
        (exact, by_erf),
    )
    return sum(len(replace_pattern(graph, pattern, made)) for pattern, made in spelt)


_IN_PLACE_OPERATORS = {
    operator.setitem,
    operator.delitem,
    *(
        getattr(operator, name)
        for name in dir(operator)
        if name.startswith("i") and (hasattr(operator, name[1:]) or hasattr(operator, f"{name[1:]}_"))
    ),
}


def changes_in_place(node: fx.Node) -> bool:
    """Whether a node may write to a tensor that it was given."""
    if node.op == "call_method":
        name = str(node.target)
        return name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
    if node.op != "call_function":
        return node.op == "call_module"
    target: Any = node.target
    if isinstance(target, torch._ops.OpOverload):
        return bool(target._schema.is_mutable)
    if isinstance(target, torch._ops.OpOverloadPacket):
        return any(getattr(target, name)._schema.is_mutable for name in target.overloads())
    if isinstance(target, torch._ops.HigherOrderOperator):
        return True
    name = getattr(target, "__name__", "")
    if getattr(operator, name, None) is target:
        return target in _IN_PLACE_OPERATORS
    if name.endswith("_") or node.kwargs.get("out") is not None:
        return True
    return bool(node.kwargs.get("inplace")) or _inplace_by_position(target, node.args)


def _inplace_by_position(target: Any, args: Sequence[Any]) -> bool:
    """Whether a function of ``torch.nn.functional`` is given ``inplace=True`` without its name."""
    try:
        names = list(inspect.signature(target).parameters)
    except (TypeError, ValueError):  # a builtin has no signature, and takes no such argument
        return False
    return "inplace" in names[: len(args)] and bool(args[names.index("inplace")])


def drop_dead(graph: fx.GraphModule) -> None:
    """Take out what nothing reads. What writes in place stays: ``fx`` by itself takes every method for pure."""
    graph.graph.eliminate_dead_code(is_impure_node=lambda node: node.is_impure() or changes_in_place(node))


def sets_a_mode(node: fx.Node) -> bool:
    """Whether a node switches something for those after it, as autocast and ``no_grad`` do."""
    return node.op == "call_function" and not node.all_input_nodes and node.is_impure()


def fold_constants(graph: fx.GraphModule) -> int:
    """Compute once what depends on no input: positions, masks and their views.

    Only where nothing in the graph writes in place or sets a mode, so that what is held is right and stays so. A
    result that is a constant stays computed, since a result shares memory with nothing.
    """
    nodes = list(graph.graph.nodes)
    if any(changes_in_place(node) or sets_a_mode(node) for node in nodes):
        return 0
    constant = _constants(graph)
    folded = 0
    for number, (node, value) in enumerate(constant.items()):
        users = {user for user in node.users if user not in constant and user.op != "output"}
        if node.op == "get_attr" or not users:
            continue
        with graph.graph.inserting_before(node):
            held: Any = value
            if isinstance(value, Tensor):
                name = f"_folded_{number}"
                graph.register_buffer(name, value.clone(), persistent=False)
                held = graph.graph.get_attr(name)
            node.replace_all_uses_with(held, delete_user_cb=users.__contains__)
        folded += 1
    drop_dead(graph)
    return folded


def _constants(graph: fx.GraphModule) -> dict[fx.Node, Any]:
    """What each node gives that depends on no input, in order."""
    found: dict[fx.Node, Any] = {}
    interpreter = fx.Interpreter(graph)
    random = torch.get_rng_state()
    with torch.no_grad():
        for node in graph.graph.nodes:
            if node.op not in ("call_function", "call_method", "get_attr"):
                continue
            if node.is_impure() or not all(one in found for one in node.all_input_nodes):
                continue
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), found.__getitem__)
            try:
                value = getattr(interpreter, node.op)(node.target, args, kwargs)
            except Exception:  # what it raises here it raises in the call, where the user sees it
                continue
            if not torch.equal(torch.get_rng_state(), random):
                torch.set_rng_state(random)
            elif isinstance(value, int | float | bool) or (
                isinstance(value, Tensor) and value.nbytes <= MAX_FOLDED_BYTES
            ):
                found[node] = value
    return found
