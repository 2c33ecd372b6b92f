"""A graph run one node after the other, as its own code runs it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from torch import fx
from torch.amp.autocast_mode import _enter_autocast, _exit_autocast

Execute = Callable[[fx.Node, Callable[..., Any], Sequence[Any], dict[str, Any]], Any]
"""Runs one node: given the node, what it calls and with what."""


class NodeByNode:
    """Runs a graph as its own code does, one node after the other, values dropped after their last use."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        self.at = ""
        """The node that was run last, in words."""
        self.nodes: list[fx.Node] = list(module.graph.nodes)
        self._dropped: dict[fx.Node, list[fx.Node]] = {node: [] for node in self.nodes}
        seen: set[fx.Node] = set()
        for node in reversed(self.nodes):
            for source in (node, *node.all_input_nodes):
                if source not in seen and node.op != "output":
                    self._dropped[node].append(source)
                seen.add(source)

    def run(
        self,
        arguments: Sequence[Any],
        execute: Execute,
        given: Callable[[fx.Node, Any], None] = lambda node, value: None,
    ) -> Any:
        """Run it; ``given`` is told every argument. Returns what the graph returns."""
        values: dict[fx.Node, Any] = {}
        rest = iter(arguments)
        entered: list[Any] = []
        try:
            for node in self.nodes:
                if node.op == "placeholder":
                    values[node] = next(rest)
                    given(node, values[node])
                elif node.op == "get_attr":
                    values[node] = self._attribute(str(node.target))
                else:
                    args: Any
                    kwargs: Any
                    args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
                    if node.op == "output":
                        return args[0]
                    self.at = f"{node.name} ({getattr(node.target, '__name__', node.target)})"
                    values[node] = execute(node, *self._callable(node, args), kwargs)
                    if node.target is _enter_autocast:
                        entered.append(values[node])
                    elif node.target is _exit_autocast:
                        entered.pop()
                for dropped in self._dropped[node]:
                    del values[dropped]
            return None
        finally:
            for mode in reversed(entered):  # left in the middle
                _exit_autocast(mode)

    def _attribute(self, path: str) -> Any:
        return functools.reduce(getattr, path.split("."), self.module)

    def _callable(self, node: fx.Node, args: Sequence[Any]) -> tuple[Callable[..., Any], Sequence[Any]]:
        if node.op == "call_method":
            return getattr(args[0], str(node.target)), args[1:]
        if node.op == "call_module":
            return self._attribute(str(node.target)), args
        assert callable(node.target)
        return node.target, args
