"""What goes out for each target: the graphs that were won, or the user's own code."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import keyword
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepseek_lab.base.errors import BuildError, CaptureError
from deepseek_lab.base.settings import settings
from deepseek_lab.engine.builder import Builder
from deepseek_lab.engine.dispatch import Dispatcher
from deepseek_lab.engine.problem import ALLOWED_ERROR, Problem
from deepseek_lab.engine.runs import Run
from deepseek_lab.engine.runtime import GraphRunner
from deepseek_lab.engine.store import MANIFEST
from deepseek_lab.engine.verify import relative_error
from deepseek_lab.export import _call
from deepseek_lab.export.calls import Out, filled
from deepseek_lab.export.calls import tensors as tensors_of

_TAKEN = {"calls", "cells", "main", "test_export", "torch", "numpy", "onnxruntime", "openvino", "pytest"}
_SEEDS = 3


@dataclasses.dataclass(frozen=True)
class GraphPlan:
    """One captured graph that a candidate won, and how it is called."""

    name: str
    candidate: str
    runner: GraphRunner
    problem: Problem
    outputs: tuple[Tensor, ...]
    arguments: _call.Arguments
    args: list[Any]
    kwargs: dict[str, Any]
    fixed: dict[str, object]
    value: Any
    tolerance: float
    speedup: float | None


@dataclasses.dataclass(frozen=True)
class TargetPlan:
    """What goes out for one target; ``graphs`` is empty where eager mode was kept, for the ``reason``."""

    name: str
    module: str
    """Name of its file."""
    target: Any
    """The module, or the function whose meaning counts."""
    dispatcher: Dispatcher
    parameters: dict[str, Any]
    graphs: tuple[GraphPlan, ...]
    reason: str

    @property
    def is_module(self) -> bool:
        """Whether it is a module rather than a function."""
        return isinstance(self.target, torch.nn.Module)


def plan(run: Run, literals: Callable[[str], dict[str, object]]) -> list[TargetPlan]:
    """Decide for every target of a run. ``literals`` knows the plain keyword arguments of the cells' calls."""
    made: list[TargetPlan] = []
    for dispatcher in run.dispatchers.values():
        taken = {one.module for one in made}
        made.append(_target(run, dispatcher, literals(dispatcher.name), _file_name(dispatcher.name, taken)))
    return made


def _file_name(target: str, taken: set[str]) -> str:
    name = re.sub(r"\W+", "_", target).strip("_") or "target"
    if name in _TAKEN | set(sys.stdlib_module_names) or keyword.iskeyword(name) or not name.isidentifier():
        name = f"target_{name}"
    unique, count = name, 2
    while unique in taken:
        unique, count = f"{name}_{count}", count + 1
    return unique


def _target(run: Run, dispatcher: Dispatcher, literals: dict[str, object], module: str) -> TargetPlan:
    graphs: list[GraphPlan] = []
    reasons: list[str] = []
    parameters = _call.parameters(dispatcher.eager)
    lanes = list(dispatcher.lanes.values())
    num_graphs = max((len(lane.runners) for lane in lanes), default=0)
    runners = {id(one): one for lane in lanes if lane.state != "eager" for one in lane.runners}
    if num_graphs > 1 or any(lane.num_breaks for lane in lanes):
        reasons.append(
            f"a call falls into {max(num_graphs, 1)} graphs with Python between them, so no one program makes it"
        )
        runners = {}
    for runner in runners.values():
        try:
            if (made := _graph(run, dispatcher, runner, parameters, literals)) is not None:
                graphs.append(made)
        except CaptureError as error:
            reasons.append(error.message)
    if any(lane.training is not None and lane.state == "fast" for lane in lanes):
        reasons.append("it is trained, and a loop is no program; %deepseek why says how to write it by hand")
    for record in run.report.graphs.values():
        if record.target == dispatcher.name and record.reason:
            reasons.append(record.reason)
    target = dispatcher.module if dispatcher.module is not None else dispatcher.eager
    reason = "; ".join(dict.fromkeys(reasons)) or "nothing was faster"
    return TargetPlan(
        dispatcher.name, module, target, dispatcher, parameters, tuple(graphs), "" if graphs else reason
    )


def _graph(
    run: Run,
    dispatcher: Dispatcher,
    runner: GraphRunner,
    parameters: dict[str, Any],
    literals: dict[str, object],
) -> GraphPlan | None:
    """A graph that something faster than eager runs; None where eager does.

    Raises:
        CaptureError: the graph cannot be replayed from outside.
    """
    installed = runner.installed
    if installed is None:
        return None
    if installed.guard is not None and (changed := installed.guard.changed(runner.weights_now())) is not None:
        raise CaptureError(f"{changed} since {installed.name} was built")
    arguments = _call.arguments(runner.live_sources(), dispatcher.eager, list(parameters))
    problem, outputs, tolerance = _replayable(runner, arguments)
    args, kwargs = arguments.build(problem.live, list(parameters))
    places = _places(runner, len(outputs))
    results = [(place, filled(place, outputs)) for place in places]
    fixed, value, others = {}, None, False
    names = list(parameters)
    own = {
        names[at] if isinstance(at, int) else at: one
        for at, one in runner.literals.items()
        if not isinstance(at, int) or at < len(names)
    }
    for attempt in [one for one in (own, literals) if one] + [{}]:
        given = {name: item for name, item in attempt.items() if name not in kwargs}
        try:
            seen = _call.quiet_call(dispatcher.eager, args, {**kwargs, **given})
            others = others or _holds_others(seen, [*problem.live, *(output for _, output in results)])
            value = _call.structure(seen, results)
        except Exception:  # the call needs more than its tensors: its value's structure stays unknown
            continue
        fixed = {
            name: item
            for name, item in given.items()
            if parameters.get(name, inspect.Parameter.empty) != item
        }
        break
    else:
        if others:
            raise CaptureError(
                "a call with these tensors returns others than the graph does: it was captured with another argument "
                "that is no tensor, or what the code reads has changed since"
            )
    record = run.report.graphs.get(runner.graph_id)
    return GraphPlan(
        name=runner.graph_id,
        candidate=installed.name,
        runner=runner,
        problem=problem,
        outputs=outputs,
        arguments=arguments,
        args=args,
        kwargs={**kwargs, **fixed},
        fixed=fixed,
        value=value if value is not None else tuple(places),
        tolerance=tolerance,
        speedup=record.speedup if record is not None else None,
    )


def _holds_others(value: Any, known: Sequence[Tensor]) -> bool:
    """Whether a call's value holds a tensor that is none of these."""
    return any(
        all(
            one.shape != other.shape or one.dtype != other.dtype or relative_error(one, other) > _call.SAME
            for other in known
        )
        for one in tensors_of(value)
    )


def _places(runner: GraphRunner, num_outputs: int) -> list[Out]:
    """Where each result of the call comes from.

    Raises:
        CaptureError: one is a view of what the call brought.
    """
    if runner.results is None:
        return [Out(index) for index in range(num_outputs)]
    if any(result.of_arguments for result in runner.results):
        raise CaptureError("a result of the call shares memory with one of its inputs")
    return [
        Out(result.index, tuple((step.method, step.args, dict(step.kwargs)) for step in result.steps))
        for result in runner.results
    ]


def _replayable(runner: GraphRunner, arguments: _call.Arguments) -> tuple[Problem, tuple[Tensor, ...], float]:
    """Random inputs in the ranges that were seen, eager's outputs, and the difference that may be allowed."""
    assert runner.installed is not None
    found = "no random inputs could be made"
    for seed in range(_SEEDS):
        problem = runner.random_problem(seed)
        if problem is None:
            break
        live = tuple(
            own if constant is None else constant
            for own, constant in zip(problem.live, arguments.constants, strict=True)
        )
        problem = dataclasses.replace(problem, live=live)
        try:
            with torch.no_grad():
                outputs = tuple(one.clone() for one in problem.eager())
                fast = runner.installed.program(live, problem.weights)
        except Exception as error:  # values at random may be nothing that the graph can take
            found = f"random inputs cannot be replayed ({type(error).__name__})"
            continue
        measured = max(
            (relative_error(value, wanted) for value, wanted in zip(fast, outputs, strict=True)), default=0.0
        )
        spec = problem.spec
        floor = spec.tolerance if spec.tolerance is not None else ALLOWED_ERROR[spec.precision]
        if measured <= max(10 * floor, 1e-4):
            return problem, outputs, max(4 * measured, floor)
        found = f"{runner.installed.name} differs from eager on random inputs (max rel {measured:.0e})"
    raise CaptureError(found)


def artifact(graph: GraphPlan, scratch: Path) -> Path:
    """The folder of what the candidate built: the store's own, or built again into ``scratch``.

    Raises:
        BuildError: it cannot be built again.
    """
    kept = graph.runner.artifact
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        if kept is not None:
            manifest = json.loads((kept / MANIFEST).read_text(encoding="utf-8"))
            if manifest["record"]["chosen"] == graph.candidate:
                return kept
    directory = scratch / graph.name
    directory.mkdir(parents=True)
    builder = Builder()
    try:
        graph.problem.save(scratch / f"{graph.name}-problem")
        builder.ask("open", str(scratch / f"{graph.name}-problem"), budget_s=settings.build_budget_s)
        builder.ask("build", graph.candidate, str(directory), budget_s=settings.build_budget_s)
    except BuildError as error:
        raise BuildError(f"{graph.candidate} could not be built again: {error.message}") from error
    finally:
        builder.kill()
    return directory


def eager_sample(target: TargetPlan, literals: dict[str, object]) -> dict[str, Any] | None:
    """A call of a target that stays in eager mode, and its result; None where it cannot be made again."""
    for runner in target.dispatcher.runners[:1]:
        try:
            arguments = _call.arguments(
                runner.live_sources(), target.dispatcher.eager, list(target.parameters)
            )
            problem = runner.random_problem(0)
            if problem is None or arguments.flat:
                return None
            args, kwargs = arguments.build(problem.live, list(target.parameters))
            kwargs = {
                **{name: value for name, value in literals.items() if name in target.parameters},
                **kwargs,
            }
            values = [_call.quiet_call(target.dispatcher.eager, args, kwargs) for _ in range(2)]
        except Exception:  # the call needs more than its tensors
            return None
        first, second = (tensors_of(value) for value in values)
        if first and _agree(first, second):
            return {"args": args, "kwargs": kwargs, "expected": first, "tolerance": 1e-5}
    return None


def _agree(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    return len(first) == len(second) and all(
        relative_error(one, other) <= 1e-6 for one, other in zip(first, second, strict=True)
    )
