"""Graphs as bytes, node by node, for the way to the builder process.

Pickling a ``torch.fx.GraphModule`` writes its code and traces it again on loading, which runs whatever
does not depend on an input once and freezes it, random numbers included. Here the nodes themselves
travel, so that the graph arrives as it left.
"""

from __future__ import annotations

import importlib
import io
import pickle
import sys
import types
from typing import Any

import torch
from torch import fx

from deepseek_lab.base.errors import CaptureError


def _home(name: str) -> str:
    """The module whose import registers a custom operator; empty for PyTorch's own.

    Raises:
        CaptureError: the operator was defined in the notebook, where no other process can import it from.
    """
    definition = torch._library.custom_ops.OPDEFS.get(name)
    if definition is None:
        return ""
    module = definition._init_fn.__module__
    if module == "__main__":
        raise CaptureError(f"the operator {name} is defined in the notebook, so the builder does not know it")
    return str(module)


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        """Replace what plain pickle cannot name."""
        if isinstance(value, fx.Node):
            return ("node", value.name)
        if isinstance(value, torch._ops.OpOverload):
            return ("op", value._schema.name, value._overloadname, _home(value._schema.name))
        if isinstance(value, torch._ops.OpOverloadPacket):
            return ("packet", value._qualified_op_name, "", _home(value._qualified_op_name))
        if isinstance(value, torch._ops.HigherOrderOperator):
            return ("higher_order", value._name)
        if isinstance(value, fx.GraphModule):
            return ("graph", to_bytes(value))
        if isinstance(value, types.FunctionType) and "<locals>" in value.__qualname__:
            return _public_name(value)
        return None


def _public_name(function: types.FunctionType) -> tuple[str, str, str] | None:
    """Where a closure can be imported from: torch.nn.functional.max_pool2d and its like are closures."""
    module, name = function.__module__, function.__name__
    return ("function", module, name) if vars(sys.modules[module]).get(name) is function else None


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, nodes: dict[str, fx.Node]) -> None:
        super().__init__(stream)
        self._nodes = nodes

    def persistent_load(self, pid: Any) -> Any:
        """Look up what :class:`_Pickler` named."""
        kind, name, *rest = pid
        if kind == "node":
            return self._nodes[name]
        if kind == "graph":
            return from_bytes(name)
        if kind == "function":
            return getattr(importlib.import_module(name), rest[0])
        if kind == "higher_order":
            return getattr(torch.ops.higher_order, name)
        if rest[1]:
            importlib.import_module(rest[1])
        namespace, _, operator = name.partition("::")
        packet = getattr(getattr(torch.ops, namespace), operator)
        return getattr(packet, rest[0] or "default") if kind == "op" else packet


def _pack(value: Any) -> bytes:
    stream = io.BytesIO()
    _Pickler(stream).dump(value)
    return stream.getvalue()


def _attribute(module: torch.nn.Module, path: str) -> Any:
    value: Any = module
    for part in path.split("."):
        value = getattr(value, part)
    return value


def to_bytes(module: fx.GraphModule) -> bytes:
    """Serialise a graph module's nodes and the attributes that they use.

    Raises:
        CaptureError: a node holds something that cannot be sent to another process.
    """
    nodes, attributes = [], {}
    try:
        for node in module.graph.nodes:
            if node.op in ("get_attr", "call_module"):
                attributes[str(node.target)] = _pack(_attribute(module, str(node.target)))
            nodes.append((node.op, node.name, _pack((node.target, node.args, node.kwargs))))
        return pickle.dumps((nodes, attributes))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise CaptureError(f"the graph cannot be sent to the builder: {error}") from error


def from_bytes(data: bytes) -> fx.GraphModule:
    """Rebuild what :func:`to_bytes` serialised; nodes carry no metadata."""
    nodes, attributes = pickle.loads(data)
    root = torch.nn.Module()
    for path, packed in attributes.items():
        value = _Unpickler(io.BytesIO(packed), {}).load()
        owner, _, name = path.rpartition(".")
        holder = root
        for part in owner.split(".") if owner else ():
            if not hasattr(holder, part):
                holder.add_module(part, torch.nn.Module())
            holder = getattr(holder, part)
        if isinstance(value, torch.Tensor):
            holder.register_buffer(name, value.detach(), persistent=True)
        else:
            setattr(holder, name, value)
    graph = fx.Graph()
    made: dict[str, fx.Node] = {}
    for op, name, packed in nodes:
        target, args, kwargs = _Unpickler(io.BytesIO(packed), made).load()
        made[name] = graph.create_node(op, target, args, kwargs, name)
    graph.lint()
    return fx.GraphModule(root, graph)
