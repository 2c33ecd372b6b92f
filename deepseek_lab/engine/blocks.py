"""The block that a deep model repeats, as a problem of its own: to be tried on a fraction of the model.

Compilers take time in proportion to the graph, and a stack of equal blocks tells them nothing that one block does not.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from deepseek_lab.engine.problem import Problem, TensorSpec

MIN_NODES = 8
MIN_REPEATS = 4


@dataclasses.dataclass(frozen=True)
class Repeat:
    """Nodes ``start`` to ``start + period`` of a graph, which follow each other ``count`` times."""

    start: int
    period: int
    count: int


def _token(node: fx.Node) -> int:
    """What a node does, apart from which values it reads."""
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda one: None)
    text = f"{node.op} {node.target} {args} {kwargs} {[type(a).__name__ for a in node.args]}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def find(nodes: Sequence[fx.Node]) -> Repeat | None:
    """The repetition that covers most of a sequence of nodes, with the shortest period; None where there is none."""
    tokens = np.array([_token(node) for node in nodes], dtype=np.int64)
    best: Repeat | None = None
    for period in range(MIN_NODES, len(nodes) // MIN_REPEATS + 1):
        same = np.flatnonzero(np.diff(np.concatenate(([0], tokens[:-period] == tokens[period:], [0]))))
        for first, last in zip(same[::2], same[1::2], strict=True):
            count = int(last - first) // period + 1
            if count >= MIN_REPEATS and (best is None or count * period > best.count * best.period):
                best = Repeat(int(first), period, count)
    return best


@dataclasses.dataclass(frozen=True)
class Block:
    """A repeated block as a problem, and how often it stands in the graph."""

    problem: Problem
    count: int


def block_of(problem: Problem) -> Block | None:
    """The block that a problem's graph repeats, with the values that reach it.

    None where nothing is repeated often enough, or where more than tensors cross the block's border.
    """
    nodes = [node for node in problem.graph.graph.nodes if node.op not in ("placeholder", "output")]
    repeat = find(nodes)
    if repeat is None or problem.spec.dynamic:
        return None
    placeholders = [node for node in problem.graph.graph.nodes if node.op == "placeholder"]
    weights = {n for n, weight in zip(placeholders, problem.spec.is_weight, strict=True) if weight}
    values = _values(problem, nodes[: repeat.start + 2 * repeat.period])
    best: tuple[int, list[fx.Node], list[fx.Node], list[fx.Node]] | None = None
    for offset in range(repeat.period):
        inside = nodes[repeat.start + offset : repeat.start + offset + repeat.period]
        reads, gives = _border(inside)
        if not all(isinstance(values.get(node), Tensor) for node in (*reads, *gives)):
            continue
        width = sum(node not in weights for node in reads) + len(gives)
        if gives and (best is None or width < best[0]):
            best = (width, inside, reads, gives)
    if best is None:
        return None
    _, inside, reads, gives = best
    return Block(_problem(problem, inside, reads, gives, weights, values), repeat.count)


def _border(inside: Sequence[fx.Node]) -> tuple[list[fx.Node], list[fx.Node]]:
    """What some nodes read from outside, and which of them are read outside."""
    own = set(inside)
    reads = dict.fromkeys(one for node in inside for one in node.all_input_nodes if one not in own)
    return list(reads), [node for node in inside if any(user not in own for user in node.users)]


def _values(problem: Problem, wanted: Sequence[fx.Node]) -> dict[fx.Node, Any]:
    """The values of the graph's inputs and of its first nodes."""
    last = wanted[-1]
    found: dict[fx.Node, Any] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            found[n] = None if last in found else super().run_node(n)
            return found[n]

    with torch.no_grad():
        Recorder(problem.graph, garbage_collect_values=False).run(*problem.arguments())
    return found


def _problem(
    whole: Problem,
    inside: Sequence[fx.Node],
    reads: Sequence[fx.Node],
    gives: Sequence[fx.Node],
    weights: set[fx.Node],
    values: dict[fx.Node, Any],
) -> Problem:
    graph = fx.Graph()
    made = {node: graph.placeholder(node.name) for node in reads}
    for node in inside:
        made[node] = graph.node_copy(node, made.__getitem__)
    graph.output(tuple(made[node] for node in gives))
    is_weight = tuple(node in weights for node in reads)
    tensors = [values[node].detach() for node in reads]
    spec = dataclasses.replace(
        whole.spec, inputs=tuple(map(TensorSpec.of, tensors)), is_weight=is_weight, graph_key=""
    )
    return Problem(
        spec,
        fx.GraphModule(whole.graph, graph),
        tuple(t for t, weight in zip(tensors, is_weight, strict=True) if weight),
        tuple(t.clone() for t, weight in zip(tensors, is_weight, strict=True) if not weight),
    )
