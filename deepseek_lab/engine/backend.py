"""``torch.compile(model, backend="deepseek")``: the engine without a notebook."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import fx

from deepseek_lab.base import events as ev
from deepseek_lab.capture.nodes import graph_nodes
from deepseek_lab.engine import api
from deepseek_lab.engine.runs import Options, Run
from deepseek_lab.engine.runtime import GraphRunner


def deepseek(
    graph_module: fx.GraphModule, example_inputs: Sequence[Any], **options: Any
) -> Callable[..., Any]:
    """The Dynamo backend. ``options`` are those of :class:`~deepseek_lab.engine.runs.Options`."""
    run = Run("optimize", Options(**options))
    run.open({}, False, {})
    runner = GraphRunner(
        graph_module,
        example_inputs,
        precision=run.options.precision or "float32",
        tolerance=run.options.tolerance,
        on_fallback=lambda runner, reason: run.emit(ev.FellBack(run=run.id, target="graph", reason=reason)),
        on_stale=lambda runner: run.submit(None, runner),
    )
    run.emit(
        ev.GraphCaptured(
            run=run.id,
            target="graph",
            graph=runner.graph_id,
            nodes=graph_nodes(graph_module),
            signature=runner.spec.signature if runner.spec else "",
            capture_s=0.0,
        )
    )
    api.register(run)
    run.submit(None, runner)
    return runner.__call__
