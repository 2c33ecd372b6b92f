"""The public names of the engine: ``optimize``, ``wait``, and what the notebook asks for."""

from __future__ import annotations

import dataclasses
import sys
import time
import types
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import torch

from deepseek_lab.base.errors import CaptureError, TargetError, UsageError, nearest
from deepseek_lab.base.profile import GraphProfile
from deepseek_lab.base.report import OptimizeReport
from deepseek_lab.base.settings import settings
from deepseek_lab.engine.doctor import Finding
from deepseek_lab.engine.doctor import doctor as _doctor
from deepseek_lab.engine.functions import is_stub, reference_for
from deepseek_lab.engine.problem import PRECISIONS
from deepseek_lab.engine.runs import Options, Run, workshop

__all__ = [
    "Optimized",
    "Options",
    "Run",
    "doctor",
    "free",
    "last_run",
    "open_run",
    "optimize",
    "profile",
    "runs",
    "status",
    "verify",
    "wait",
]

_RUNS: list[Run] = []


def runs() -> list[Run]:
    """Every run of this process, newest last."""
    return list(_RUNS)


def register(run: Run) -> None:
    """Make a run known to :func:`wait` and :func:`status`."""
    _RUNS.append(run)


def last_run() -> Run | None:
    """The newest run that has a target, else the newest, or None."""
    serving = (run.serving for run in reversed(_RUNS))
    return next((run for run in serving if run.dispatchers), _RUNS[-1] if _RUNS else None)


def open_run(
    verb: str,
    *,
    targets: Mapping[str, object],
    observe: bool,
    namespace: MutableMapping[str, Any],
    source: str = "",
    cell: str = "",
    options: Options | None = None,
) -> Run:
    """Open a region.

    Args:
        verb: What the region is for.
        targets: Modules and functions by name; empty with ``observe`` finds them from the cell's calls.
        observe: Watch which modules and functions the cell itself calls.
        namespace: The notebook's names.
        source: The cell's text.
        cell: The cell's file name.
        options: What the user gave away or asked for.

    Raises:
        TargetError: a target is neither a module nor a function.
        UsageError: an option has no such value.
    """
    run = Run(verb, _checked(options or Options()), source=source, cell=cell)
    run.open(targets, observe, namespace)
    _RUNS.append(run)
    return run


def _checked(options: Options) -> Options:
    if options.precision is not None and options.precision not in PRECISIONS:
        near = nearest(options.precision, PRECISIONS)
        raise UsageError(f"there is no precision {options.precision!r}", hint=f"--precision {near or 'bf16'}")
    if options.device is not None and options.device not in ("cpu", *_accelerators()):
        raise UsageError(
            f"there is no device {options.device!r} here; there is {', '.join(('cpu', *_accelerators()))}",
            hint="--device cpu",
        )
    if options.tolerance is not None and not options.tolerance >= 0.0:
        raise UsageError(f"a tolerance of {options.tolerance} accepts nothing", hint="--tolerance 1e-4")
    return options


def _accelerators() -> tuple[str, ...]:
    return ("cuda",) if torch.cuda.is_available() else ()


class Optimized:
    """A target with the engine before it. Called like the target; other attributes are the target's own.

    A module is changed in place, so ``model(...)`` and ``model.generate(...)`` are fast too.
    """

    run: Run
    _name: str
    _original: Any
    _call: Callable[..., Any]

    def __init__(self, run: Run, name: str, original: Any, call: Callable[..., Any]) -> None:
        own = {"run": run, "_name": name, "_original": original, "_call": call}
        if not isinstance(original, torch.nn.Module):
            own["__wrapped__"] = original
            own["__name__"] = getattr(original, "__name__", name)
            own["__doc__"] = getattr(original, "__doc__", None)
            own["__module__"] = getattr(original, "__module__", None)
        self.__dict__.update(own)

    @property
    def report(self) -> OptimizeReport:
        """What was tried, measured and chosen; it grows while the builder works."""
        return self.run.report

    def restore(self) -> Any:
        """Take the engine away and return the original."""
        self.run.restore()
        return self._original

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the target."""
        return self._call(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_original"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._original, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._original, name)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """A decorated method is bound as any function is; a module is no method."""
        bound = instance is not None and hasattr(self._original, "__get__")
        return types.MethodType(self, instance) if bound else self

    def __repr__(self) -> str:
        return f"<optimized {self._name}: {self.report.summary()}>"

    def __reduce__(self) -> Any:
        qualified = getattr(self._original, "__qualname__", "")
        found: Any = sys.modules.get(self.__module__)
        for part in qualified.split("."):
            found = getattr(found, part, None)
        # What was decorated stands under the original's name, as functions are found again by theirs.
        return qualified if found is self else (_identity, (self._original,))

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        import copy

        return copy.deepcopy(self._original, memo)


def _identity(value: Any) -> Any:
    return value


class Region:
    """What ``optimize()`` without a target is: a ``with`` block, or a decorator with options."""

    def __init__(self, options: Options, like: Callable[..., Any] | str | None) -> None:
        self._options, self._like = options, like
        self.run: Run | None = None

    def __call__(self, target: Any) -> Any:
        """Decorate."""
        return _optimized(target, None, self._options, self._like)

    def __enter__(self) -> Run:
        frame = sys._getframe(1)
        self.run = open_run(
            "optimize", targets={}, observe=True, namespace=frame.f_globals, options=self._options
        )
        return self.run

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        assert self.run is not None
        self.run.close(error=kind is not None)


def optimize(
    target: Any = None,
    *,
    name: str | None = None,
    like: Callable[..., Any] | str | None = None,
    precision: str | None = None,
    tolerance: float | None = None,
    backends: tuple[str, ...] | list[str] | None = None,
    seed: int | None = None,
) -> Any:
    """Make a module or function as fast as the best verified backend, never slower, with the same results.

    The first call runs at eager speed and captures the graph; candidates are built in another process,
    compared with a float64 reference, raced, and swapped in between two calls.

    Args:
        target: ``torch.nn.Module`` (changed in place) or a function of tensors. A function with an empty body
            gets the meaning of ``like``. None makes a ``with`` block or a decorator with options.
        name: What reports call it.
        like: The reference of a function with an empty body, or its name.
        precision: ``"bf16"``, ``"fp16"`` or ``"int8"`` give precision away; None keeps it.
        tolerance: Largest difference from float64, relative to the largest value of each output.
        backends: Names of the candidates that may take part.
        seed: Seed of the random inputs used for verification.

    Returns:
        A callable with ``.report`` and ``.restore()``.

    Raises:
        TargetError: the target cannot be optimised, or a stub's reference was not found.
        UsageError: an option has no such value.

    Example:
        >>> fast = deepseek_lab.optimize(model)
        >>> logits = fast(tokens)
        >>> deepseek_lab.wait(120)
        >>> fast.report.speedup
    """
    options = _checked(
        Options(
            precision=precision,
            tolerance=tolerance,
            backends=tuple(backends) if backends else None,
            seed=seed,
        )
    )
    if target is None:
        return Region(options, like)
    return _optimized(target, name, options, like)


def _optimized(
    target: Any, name: str | None, options: Options, like: Callable[..., Any] | str | None
) -> Optimized:
    if isinstance(target, Optimized):
        target = target.restore()
    original = target
    if callable(target) and not isinstance(target, torch.nn.Module) and is_stub(target):
        target = reference_for(target, like)
    elif like is not None:
        raise TargetError(
            f"{getattr(target, '__name__', 'the target')} has a body of its own, so like= means nothing",
            hint="leave like= out, or empty the body",
        )
    label = name or getattr(original, "__name__", None) or type(original).__name__
    run = Run("optimize", options)
    run.open({}, False, {})
    call = run.attach(label, target)
    _RUNS.append(run)
    return Optimized(run, label, original, call)


def wait(timeout_s: float | None = None) -> bool:
    """Block until everything under way is decided, doing in the meantime what needs the user's process.

    Args:
        timeout_s: Seconds to wait at most; None waits as long as it takes.

    Returns:
        Whether everything is decided.
    """
    until = time.monotonic() + (timeout_s if timeout_s is not None else 1e9)
    decided = [run.wait(until) for run in _RUNS if run.undecided]
    return all(decided)


@dataclasses.dataclass(frozen=True)
class Checked:
    """One graph that was verified again."""

    target: str
    graph: str
    candidate: str
    max_rel_error: float
    eager_rel_error: float
    ok: bool
    detail: str


def verify(run: Run, fresh_inputs: int = 3) -> list[Checked]:
    """Compare what runs now with float64 on fresh random inputs.

    Args:
        run: The run whose graphs are checked.
        fresh_inputs: Number of random input sets a graph.
    """
    from deepseek_lab.engine import verify as checks

    made = []
    for dispatcher in run.dispatchers.values():
        for runner in dispatcher.runners:
            installed, problem = runner.installed, runner.random_problem(run.options.seed or 0)
            if installed is None or problem is None:
                made.append(
                    Checked(dispatcher.name, runner.graph_id, "eager", 0.0, 0.0, True, "eager itself")
                )
                continue
            expected = checks.expectations(problem, fresh_inputs, run.options.seed or 0)
            with torch.no_grad():
                found = checks.agreement(
                    lambda live, i=installed, p=problem: i.program(live, p.weights),  # type: ignore[misc]
                    expected,
                    problem.spec.precision,
                    problem.spec.tolerance,
                )
            made.append(
                Checked(
                    dispatcher.name,
                    runner.graph_id,
                    installed.name,
                    found.max_rel_error,
                    found.eager_rel_error,
                    found.ok,
                    found.detail,
                )
            )
    return made


def profile(
    target: Any = None, *, gradients: bool = False, budget_s: float = 5.0, seed: int | None = None
) -> list[GraphProfile]:
    """Measure every operation of what was captured: time in eager mode, FLOP, bytes, values, and what runs it now.

    Each graph is run node by node, on the inputs of the call that was captured where they are held (to 16 MiB) and
    else on random ones; the record says which. Times are seconds in eager mode without gradients, medians over the
    rounds. Models, their buffers and gradients, random numbers and modes are afterwards as before. An interrupt ends
    the measuring and keeps what there is.

    Args:
        target: What :func:`optimize` took or returned, a report, or a run; None is the last run.
        gradients: Also differentiate the sum of the outputs once and look at the gradient of every result and
            parameter. That sum stands for no loss of yours: compare operations with each other, not with training.
        budget_s: Seconds for all graphs together, gradients not counted. Each is run three times in any case.
        seed: Seed of random inputs.

    Returns:
        One record for each captured graph, in the order of capture.

    Raises:
        TargetError: nothing was captured yet, or none of the graphs can be run once more.
        UsageError: ``budget_s`` is not above zero.

    Example:
        >>> fast = deepseek_lab.optimize(model)
        >>> logits = fast(tokens)
        >>> (profile,) = deepseek_lab.profile(fast)
        >>> [(one.name, one.time_s) for one in profile.most_expensive(10)]
    """
    from deepseek_lab.engine import profiles

    if not budget_s > 0.0:
        raise UsageError(f"{budget_s:g} seconds are no time to measure in", hint="5 seconds, or leave it out")
    run = _run_of(target)
    if run is None or not run.report.graphs:
        raise TargetError(
            "no graph was captured that could be measured", hint="call what was optimised, then ask again"
        )
    records, runners = list(run.report.graphs.values()), run.runners
    made: list[GraphProfile] = []
    interrupted = failed = 0
    with workshop().builder.held():
        for record in records:
            runner = runners.get(record.graph)
            try:
                if runner is None:
                    raise CaptureError("the graph is no longer held", hint="call what was optimised again")
                if interrupted:
                    made.append(profiles.unmeasured(record, "interrupted before it was measured"))
                    continue
                found, interrupted = profiles.profiled(
                    runner,
                    record,
                    gradients=gradients,
                    budget_s=budget_s / len(records),
                    seed=seed if seed is not None else run.options.seed or 0,
                )
                made.append(found)
            except CaptureError as error:
                failed += 1
                if failed == len(records):
                    raise TargetError(error.message, hint=error.hint) from None
                made.append(profiles.unmeasured(record, error.message))
    return made


def _run_of(target: Any) -> Run | None:
    """The run that is meant: by itself, by what it returned or is shown as, or by the module that it is about."""
    found = (
        last_run() if target is None else target if isinstance(target, Run) else getattr(target, "run", None)
    )
    if isinstance(found, Run):
        return found.serving
    about = (run for run in reversed(_RUNS) for one in run.dispatchers.values() if one.module is target)
    return next(about, None) if target is not None else None


def doctor() -> list[Finding]:
    """What works here and what does not: versions, candidates, kernels, store, builder."""
    return _doctor(workshop().store)


def free() -> list[tuple[str, int]]:
    """Let go of everything the engine holds: programs, builder, decided runs. Returns what and how many bytes."""
    freed = []
    for run in list(_RUNS):
        held = sum(
            tensor.numel() * tensor.element_size()
            for dispatcher in run.dispatchers.values()
            for runner in dispatcher.runners
            if runner.installed is not None
            for tensor in runner.weights_now()
        )
        run.restore()
        for dispatcher in run.dispatchers.values():
            for runner in dispatcher.runners:
                runner.let_go()
        freed.append((f"run {run.id}", held))
        _RUNS.remove(run)
    workshop().builder.kill()
    return freed


def status() -> dict[str, Any]:
    """What is active, as plain data."""
    return {
        "runs": [
            {
                "id": run.id,
                "working": run.working,
                "summary": run.report.summary(),
                "targets": {
                    name: {lane.name: lane.state for lane in dispatcher.lanes.values()}
                    for name, dispatcher in run.dispatchers.items()
                },
            }
            for run in _RUNS
        ],
        "builder_pid": workshop().builder.pid,
        "cache_dir": str(settings.cache_dir),
    }
