"""The graphs of a run measured node by node, on the inputs of the call that was captured where they are held."""

from __future__ import annotations

import dataclasses

from deepseek_lab.base.profile import GraphProfile, OperationProfile
from deepseek_lab.base.report import GraphRecord
from deepseek_lab.engine.runtime import GraphRunner
from deepseek_lab.measure import operations

_ENDS = frozenset(["input", "parameter", "constant", "output"])


def profiled(
    runner: GraphRunner, record: GraphRecord, *, gradients: bool, budget_s: float, seed: int
) -> tuple[GraphProfile, bool]:
    """Measure one graph; returns its profile, and whether that was interrupted.

    Raises:
        CaptureError: the graph cannot be run once more.
    """
    repeat = runner.repeat(seed)
    made, interrupted = operations.measure(
        runner.graph_module,
        repeat.arguments,
        is_weight=repeat.is_weight,
        wants_gradient=repeat.wants_gradient if gradients else None,
        budget_s=budget_s,
    )
    kinds = {node.name: node.op for node in record.nodes}
    backends = running(runner, record)
    return (
        dataclasses.replace(
            made,
            graph=record.graph,
            target=record.target,
            inputs=repeat.inputs,
            operations=tuple(
                dataclasses.replace(one, op=kinds.get(one.name, ""), backend=backends.get(one.name, ""))
                for one in made.operations
            ),
        ),
        interrupted,
    )


def unmeasured(record: GraphRecord, reason: str) -> GraphProfile:
    """The profile of a graph of which nothing could be measured."""
    nodes = tuple(OperationProfile(node.name, node.op) for node in record.nodes)
    return GraphProfile(record.graph, record.target, nodes, notes=(reason,))


def running(runner: GraphRunner, record: GraphRecord) -> dict[str, str]:
    """What runs each operation now, by its name: what is installed, as far as that says what it runs."""
    operations = [node.name for node in record.nodes if node.op not in _ENDS]
    installed = runner.installed
    if installed is None:
        return dict.fromkeys(operations, "eager")
    own = {node.name for node in runner.graph.graph.nodes}
    planned = {node.name for node in record.plan_nodes}
    share = f", which runs {record.coverage:.0%} of the graph" if 0.0 < record.coverage < 1.0 else ""
    found = {}
    for name in operations:
        if name not in own:
            found[name] = "eager: a view of a result"
        elif planned and name not in planned:
            found[name] = f"{installed.name}: fused or removed"
        else:
            found[name] = installed.name + ("" if planned else share)
    return found
