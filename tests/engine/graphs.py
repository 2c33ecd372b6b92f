"""From a module or function to a problem, by the way that every call takes: Dynamo, a runner, the wire."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx

from deepseek_lab.engine.problem import Problem
from deepseek_lab.engine.runtime import GraphRunner
from deepseek_lab.engine.tracing import Tracer


def capture(
    target: Callable[..., Any], *args: Any, dynamic: bool = False, **kwargs: Any
) -> list[GraphRunner]:
    """The runners of the graphs that one call of ``target`` is captured as."""
    runners: list[GraphRunner] = []

    def backend(graph: fx.GraphModule, inputs: Sequence[Any]) -> GraphRunner:
        runners.append(GraphRunner(graph, inputs))
        return runners[-1]

    with torch.no_grad():
        Tracer(target, backend).capture(args, kwargs, dynamic=dynamic)
    return runners


def problem_of(target: Callable[..., Any], *args: Any, dynamic: bool = False) -> Problem:
    """The one problem that a call of ``target`` poses."""
    (runner,) = capture(target, *args, dynamic=dynamic)
    return runner.problem()


def sent(problem: Problem, folder: Path) -> Problem:
    """A problem as the builder process receives it."""
    problem.save(folder)
    return Problem.load(folder)
