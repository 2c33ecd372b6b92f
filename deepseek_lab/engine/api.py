"""The public names of the engine: ``optimize``, ``wait``, and what the notebook asks for."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import torch

from deepseek_lab.base.errors import TargetError, UsageError, nearest
from deepseek_lab.base.report import OptimizeReport
from deepseek_lab.base.settings import settings
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

    def __init__(self, run: Run, name: str, original: Any, call: Callable[..., Any]) -> None:
        self.run = run
        self._name, self._original, self._call = name, original, call
        if not isinstance(original, torch.nn.Module):
            self.__wrapped__ = original
            self.__name__ = getattr(original, "__name__", name)
            self.__doc__ = getattr(original, "__doc__", None)

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

    def __repr__(self) -> str:
        return f"<optimized {self._name}: {self.report.summary()}>"

    def __reduce__(self) -> Any:
        return (_identity, (self._original,))

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


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the doctor."""

    check: str
    ok: bool
    detail: str
    hint: str = ""


def doctor() -> list[Finding]:
    """What works here and what does not: versions, candidates, kernels, store, builder."""
    from deepseek_lab.engine import candidates as registry
    from deepseek_lab.measure import machine

    found = [Finding(name, True, version) for name, version in machine.versions().items()]
    found.append(Finding("processor", True, f"{machine.processor()}, {torch.get_num_threads()} threads"))
    for name, candidate in registry.registered().items():
        absent = candidate.missing()
        found.append(
            Finding(
                f"candidate {name}",
                absent is None,
                "ready" if absent is None else f"the package {absent} is not installed",
                "" if absent is None else f"pip install {absent}",
            )
        )
    try:
        from deepseek_lab import _kernels

        library = _kernels.load()
        hint = "" if library.available else "python -m deepseek_lab._kernels.build"
        detail = f"{library.isa}" if library.available else library.reason
        found.append(Finding("kernels", library.available, str(detail), hint))
    except ImportError as error:
        found.append(Finding("kernels", False, str(error), "pip install deepseek_lab"))
    store = workshop().store
    try:
        store.root.mkdir(parents=True, exist_ok=True)
        count, size = store.usage()
        found.append(Finding("store", True, f"{store.root}: {count} entries, {size / 2**20:.0f} MiB"))
    except OSError as error:
        found.append(
            Finding("store", False, f"{store.root}: {error.strerror}", "%deepseek config cache_dir PATH")
        )
    return found


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
