"""A run: one region, or one call of the public API; its targets, its events and its report."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import threading
import time
import types
import weakref
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from deepseek_lab.base import events as ev
from deepseek_lab.base.errors import ArtifactError, TargetError
from deepseek_lab.base.report import OptimizeReport
from deepseek_lab.base.settings import settings
from deepseek_lab.capture.observe import ModuleObserver, called_names
from deepseek_lab.engine import candidates as registry
from deepseek_lab.engine.dispatch import Dispatcher
from deepseek_lab.engine.functions import is_stub, reference_for, wrapping
from deepseek_lab.engine.runtime import GraphRunner
from deepseek_lab.engine.search import Job
from deepseek_lab.engine.training.lane import TrainingLane
from deepseek_lab.engine.training.search import TrainingJob
from deepseek_lab.engine.workshop import Workshop
from deepseek_lab.measure import machine
from deepseek_lab.measure.race import Ratio

_numbers = itertools.count(1)


@dataclasses.dataclass(frozen=True)
class Options:
    """What a user gave away or asked for.

    Attributes:
        precision: ``bf16``, ``fp16`` or ``int8``; None keeps the precision of the code.
        tolerance: Largest relative difference from float64 that is accepted; None is the precision's own.
        backends: Candidates that may take part; None means all.
        seed: Seed of the random inputs that results are verified with.
        device: Where to run; None is where the inputs are.
        like: Name of the reference of a stub.
    """

    precision: str | None = None
    tolerance: float | None = None
    backends: tuple[str, ...] | None = None
    seed: int | None = None
    device: str | None = None
    like: str | None = None


@functools.cache
def workshop() -> Workshop:
    """The one workshop of this process."""
    return Workshop()


def _runs_alone(module: torch.nn.Module) -> bool:
    """Whether something of ours stands in for the module's forward that no graph may run past."""
    return bool(getattr(module.__dict__.get("forward"), "runs_alone", False))


_BY_ID: weakref.WeakValueDictionary[str, Run] = weakref.WeakValueDictionary()


class Run:
    """One region or one call of the public API."""

    def __init__(self, verb: str, options: Options, *, source: str = "", cell: str = "") -> None:
        self.id = f"{verb}-{next(_numbers)}"
        self.verb, self.options, self.source, self.cell = verb, options, source, cell
        self.log = ev.EventLog()
        self.report = OptimizeReport()
        self.log.listen(self.report.add)
        self.dispatchers: dict[str, Dispatcher] = {}
        self._alone: weakref.WeakValueDictionary[str, GraphRunner] = weakref.WeakValueDictionary()
        self._restores: dict[str, Callable[[], None]] = {}
        self._observer: ModuleObserver | None = None
        self._stop = threading.Event()
        self._pending: set[str] = set()
        self._earlier: dict[str, Run] = {}
        _BY_ID[self.id] = self
        self._changed = threading.Condition()
        registry.select(options.backends)

    # -- life -------------------------------------------------------------------------------------

    def open(
        self,
        targets: Mapping[str, object],
        observe: bool,
        namespace: MutableMapping[str, Any],
    ) -> None:
        """Start: attach to the targets, or watch which ones the cell calls."""
        flags = {k: str(v) for k, v in dataclasses.asdict(self.options).items() if v is not None}
        self.emit(
            ev.RunStarted(
                run=self.id,
                verb=self.verb,
                targets=tuple(targets),
                flags=flags,
                source=self.source,
                cell=self.cell,
            )
        )
        self.emit(
            ev.MachineSeen(
                run=self.id,
                processor=machine.processor(),
                num_threads=torch.get_num_threads(),
                memory_bytes=machine.memory_bytes(),
                versions=machine.versions(),
            )
        )
        for name, target in targets.items():
            if isinstance(target, types.FunctionType) and is_stub(target):
                target = reference_for(target, self.options.like, namespace)
            attached = self.attach(name, target)
            if isinstance(target, types.FunctionType) and name in namespace:
                self._rebind(namespace, name, namespace[name], attached)
        if observe and not targets:
            self._observe(namespace)

    def _observe(self, namespace: MutableMapping[str, Any]) -> None:
        self._observer = ModuleObserver(functools.partial(self._module_called, namespace))
        self._observer.open()
        for name in sorted(called_names(self.source)):
            function = namespace.get(name)
            if isinstance(function, types.FunctionType) and function.__module__ == "__main__":
                if hasattr(function, "__wrapped__"):
                    continue
                self._rebind(namespace, name, function, self._watched_function(name, function))

    def _rebind(self, namespace: MutableMapping[str, Any], name: str, original: Any, wrapper: Any) -> None:
        namespace[name] = wrapper

        def put_back() -> None:
            if namespace.get(name) is wrapper:
                namespace[name] = original

        self._restores[f"name {name}"] = put_back

    def _watched_function(self, name: str, function: types.FunctionType) -> Callable[..., Any]:
        """A stand-in that becomes a target once the function was seen to compute on tensors by itself."""
        call: dict[str, Callable[..., Any]] = {}

        def first(*args: Any, **kwargs: Any) -> Any:
            if not any(isinstance(value, Tensor) for value in (*args, *kwargs.values())):
                return function(*args, **kwargs)
            observer = self._observer
            before = observer.num_calls if observer else 0
            value = function(*args, **kwargs)
            parts = value if isinstance(value, tuple | list) else (value,)
            called_modules = observer is not None and observer.num_calls != before
            if parts and all(isinstance(part, Tensor) for part in parts) and not called_modules:
                call["now"] = self.attach(name, function)
            else:
                call["now"] = function
            return value

        call["now"] = first
        return wrapping(function, lambda *args, **kwargs: call["now"](*args, **kwargs))

    def _module_called(self, namespace: Mapping[str, Any], module: torch.nn.Module) -> None:
        if next(module.parameters(), None) is None or _runs_alone(module):
            return
        previous = module._compiled_call_impl
        if isinstance(previous, Dispatcher):
            owner = _BY_ID.get(previous.run_id)
            if owner is self or (owner is not None and owner.options == self.options):
                self._earlier.setdefault(previous.run_id, owner)
                return
        elif previous is not None:
            return
        name = next((n for n, v in namespace.items() if v is module and not n.startswith("_")), None)
        self.attach(name or type(module).__name__, module)

    def close(self, error: bool = False) -> None:
        """The cell ended. Background work goes on."""
        for run in (self, *self._earlier.values()):
            for dispatcher in run.dispatchers.values():
                dispatcher.cell_ended()
        if self._observer is not None:
            self._observer.close()
            self._observer = None

    @property
    def runners(self) -> dict[str, GraphRunner]:
        """What stands in the process for each captured graph, by the graph's name."""
        found = [runner for dispatcher in self.dispatchers.values() for runner in dispatcher.runners]
        return {runner.graph_id: runner for runner in (*self._alone.values(), *found)}

    @property
    def serving(self) -> Run:
        """The run that serves what this one's cell called: itself, or where it found nothing new an earlier one."""
        return next(iter(self._earlier.values()), self) if not self.dispatchers else self

    # -- targets ----------------------------------------------------------------------------------

    def attach(self, name: str, target: object) -> Callable[..., Any]:
        """Put a dispatcher before a module (in place) or a function (the returned wrapper).

        Raises:
            TargetError: the target is neither.
        """
        if isinstance(target, torch.nn.Module):
            return self._attach_module(name, target)
        if callable(target):
            dispatcher = self._dispatcher(name, target, None)
            return wrapping(target, dispatcher)
        raise TargetError(
            f"{name} is a {type(target).__name__}; a module or a function can be optimised",
            hint="%%deepseek optimize NAME_OF_A_MODULE",
        )

    def _attach_module(self, name: str, module: torch.nn.Module) -> Callable[..., Any]:
        if _runs_alone(module):
            raise TargetError(
                f"{name} trains within a memory limit, which a captured graph would not keep",
                hint="restore() of the report that set the limit, then this again",
            )
        previous = module._compiled_call_impl
        if isinstance(previous, Dispatcher):
            previous = None
        elif previous is not None:
            raise TargetError(
                f"{name} was already given to torch.compile", hint=f"use the plain module in place of {name}"
            )
        dispatcher = self._dispatcher(name, module._call_impl, module)
        parameters = [one for one in module.parameters() if not is_lazy(one)]
        self.emit(
            ev.TargetFound(
                run=self.id,
                target=name,
                type_name=type(module).__name__,
                num_parameters=sum(p.numel() for p in parameters),
                parameter_bytes=sum(p.numel() * p.element_size() for p in parameters),
            )
        )
        module._compiled_call_impl = dispatcher

        def put_back() -> None:
            if module._compiled_call_impl is dispatcher:
                module._compiled_call_impl = None

        self._restores[f"module {name}"] = put_back
        return module

    def _dispatcher(self, name: str, call: Callable[..., Any], module: torch.nn.Module | None) -> Dispatcher:
        unique, count = name, 2
        while unique in self.dispatchers:
            unique, count = f"{name}_{count}", count + 1
        dispatcher = Dispatcher(
            unique,
            call,
            module,
            run=self.id,
            precision=self.options.precision or "float32",
            tolerance=self.options.tolerance,
            submit=self.submit,
            submit_training=self.submit_training,
            emit=self.emit,
            starving=lambda: workshop().starving,
            prepare=workshop().prepare,
            await_store=workshop().await_answer,
            verdict=self._remember,
            undisturbed=workshop().builder.held,
        )
        self.dispatchers[unique] = dispatcher
        return dispatcher

    def restore(self) -> None:
        """Take everything back: targets behave as if they had never been touched."""
        self.interrupt()
        for dispatcher in self.dispatchers.values():
            dispatcher.close()
        for put_back in self._restores.values():
            put_back()
        self._restores.clear()

    # -- work -------------------------------------------------------------------------------------

    def emit(self, event: ev.Event) -> None:
        """Take an event of this run."""
        self.log.emit(event)

    def submit(self, dispatcher: Dispatcher | None, runner: GraphRunner) -> None:
        """Hand a captured graph to the workshop."""
        if dispatcher is None:
            self._alone[runner.graph_id] = runner
        with self._changed:
            self._pending.add(runner.graph_id)

        def done(job: Job) -> None:
            if runner.trains:
                pass  # its training lane tells what becomes of it
            elif runner.installed is None or dispatcher is None:
                self.emit(
                    ev.Decided(
                        run=self.id,
                        target=job.target,
                        graph=runner.graph_id,
                        chosen=job.chosen,
                        reason=job.reason,
                    )
                )
                runner.refusal = runner.refusal or job.reason or None
            if job.ratio is not None and runner.installed is not None:
                ratio = job.ratio
                self.emit(
                    ev.LiveMeasured(
                        run=self.id,
                        target=job.target,
                        graph=runner.graph_id,
                        eager_ms=ratio.base_ms,
                        median_ms=ratio.median_ms,
                        speedup=ratio.speedup,
                        speedup_ci95=ratio.ci95,
                        num_rounds=ratio.num_rounds,
                    )
                )
            if dispatcher is not None:
                dispatcher.advance()
            with self._changed:
                self._pending.discard(runner.graph_id)
                self._changed.notify_all()

        workshop().submit(
            Job(
                run=self.id,
                target=dispatcher.name if dispatcher else "graph",
                runner=runner,
                names=self.options.backends or settings.backends or None,
                emit=self.emit,
                done=done,
                stop=self._stop,
                advanced=dispatcher.advance if dispatcher is not None else lambda: None,
                proven=lambda: dispatcher is not None and dispatcher.proven(runner),
                spent_s=lambda: dispatcher.spent_s(runner) if dispatcher is not None else 0.0,
            )
        )

    def submit_training(self, dispatcher: Dispatcher, lane: TrainingLane) -> None:
        """Hand the recorded steps of a training lane to the workshop."""
        pending = f"{lane.runner.graph_id} training"
        with self._changed:
            self._pending.add(pending)

        def done(job: Job) -> None:
            with self._changed:
                self._pending.discard(pending)
                self._changed.notify_all()
            # The verdict was told while the job was still under way: whoever follows the run sees its end with it.
            record = self.report.graphs[lane.runner.graph_id]
            self.emit(
                ev.Decided(
                    run=self.id,
                    target=dispatcher.name,
                    graph=record.graph,
                    chosen=record.chosen,
                    reason=record.reason,
                )
            )

        workshop().submit(
            TrainingJob(
                run=self.id,
                target=dispatcher.name,
                runner=lane.runner,
                names=None,
                emit=self.emit,
                done=done,
                stop=self._stop,
                lane=lane,
            )
        )

    def _remember(self, runner: GraphRunner, ratio: Ratio | None) -> None:
        """Have the store know what a program brought in the user's own calls; the next process begins with it."""
        if runner.artifact is None:
            return
        live = None
        if ratio is not None:
            live = {
                "speedup": ratio.speedup,
                "speedup_ci95": ratio.ci95,
                "eager_ms": ratio.base_ms,
                "median_ms": ratio.median_ms,
            }
        try:
            workshop().store.annotate(runner.artifact, live=live)
        except ArtifactError as error:
            self.emit(ev.Noted(run=self.id, text=f"not remembered for the next kernel: {error.message}"))

    @property
    def working(self) -> bool:
        """Whether the builder is busy for this run."""
        return bool(self._pending)

    @property
    def undecided(self) -> bool:
        """Whether anything is still to be found out."""
        return self.working or any(one.undecided for one in self.dispatchers.values())

    def wait(self, until_s: float) -> bool:
        """Capture what waits for it, let the builder finish, race on copies of the last calls.

        Args:
            until_s: Deadline on the ``time.monotonic`` clock.

        Returns:
            Whether everything is decided.
        """

        def over() -> bool:
            return time.monotonic() >= until_s or self._stop.is_set()

        while not over() and self.undecided:
            if sum(one.progress(over) for one in self.dispatchers.values()):
                continue
            with self._changed:
                if self.working:
                    self._changed.wait(min(0.1, max(0.0, until_s - time.monotonic())))
                elif not any(lane.sample for d in self.dispatchers.values() for lane in d.lanes.values()):
                    break
        return not self.undecided

    def interrupt(self) -> None:
        """End measuring and building; what was won so far stays."""
        self._stop.set()
        for dispatcher in self.dispatchers.values():
            dispatcher.stop()
        self.emit(ev.RunEnded(run=self.id, reason="stopped by the user"))

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        with contextlib.suppress(RuntimeError):
            self.close(error=kind is not None)
