"""A run: the models of one region, or of one call of the public API, that train within a limit."""

from __future__ import annotations

import functools
import itertools
import time
import weakref
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import nn

from deepseek_lab.base import events as ev
from deepseek_lab.base.allowed import parse_allowed
from deepseek_lab.base.errors import TargetError
from deepseek_lab.base.memory import MemoryReport
from deepseek_lab.base.sizes import parse_limit
from deepseek_lab.capture.observe import ModuleObserver
from deepseek_lab.engine.dispatch import Dispatcher
from deepseek_lab.memory.training import Training

_numbers = itertools.count(1)
_trainings: weakref.WeakValueDictionary[int, Training] = weakref.WeakValueDictionary()
"""By the identity of the model; a model holds its own through its patch."""
_runs: weakref.WeakSet[MemoryRun] = weakref.WeakSet()
_DTYPES = {"bf16": torch.bfloat16}


class MemoryRun:
    """Keeps what a region trains within a limit, until :meth:`restore`.

    Args:
        limit: An amount such as ``6GiB``, or ``auto``.
        precision: ``bf16`` where a forward pass may run in it; None keeps the code's own.
        allow: What else is allowed, by the words of ``--allow``.
        cell: File name of the region's cell.

    Raises:
        UsageError: The limit is no amount, or a word of ``allow`` is not known.
        TargetError: The precision is none that a forward pass can be run in here.
    """

    def __init__(
        self, limit: str, *, precision: str | None = None, allow: Collection[str] = (), cell: str = ""
    ) -> None:
        self._allow = parse_allowed(allow)
        self.id = f"memory-{next(_numbers)}"
        self.limit_bytes = parse_limit(limit)
        if precision is not None and precision not in _DTYPES:
            raise TargetError(
                f"--memory-limit does not go together with --precision {precision}",
                hint="--precision bf16, or neither",
            )
        self._dtype = _DTYPES[precision] if precision is not None else None
        self._cell = cell
        _runs.add(self)
        self.log = ev.EventLog()
        self.report = MemoryReport()
        self.log.listen(self.report.add)
        self._trainings: dict[str, Training] = {}
        self._observer: ModuleObserver | None = None
        self._namespace: Mapping[str, Any] = {}

    def open(
        self,
        targets: Mapping[str, object],
        *,
        observe: bool = False,
        namespace: Mapping[str, Any] | None = None,
    ) -> MemoryRun:
        """Start: with the targets, or with what the cell calls and trains.

        Raises:
            TargetError: A target is no module.
        """
        flags = {"memory_limit_bytes": str(self.limit_bytes or 0)}
        self.log.emit(
            ev.RunStarted(run=self.id, verb="optimize", targets=tuple(targets), flags=flags, cell=self._cell)
        )
        self._namespace = namespace if namespace is not None else {}
        for name, target in targets.items():
            if not isinstance(target, nn.Module):
                raise TargetError(
                    f"{name} is a {type(target).__name__}; a module is trained within a memory limit",
                    hint="%%deepseek optimize NAME_OF_A_MODULE --memory-limit 6GiB",
                )
            self._attach(name, target)
        if observe and not targets:
            self._observer = ModuleObserver(self._called)
            self._observer.open()
        return self

    def _called(self, module: nn.Module) -> None:
        if not any(one.requires_grad for one in module.parameters()):
            return
        if any(one is module for training in self._trainings.values() for one in training.model.modules()):
            return  # a part that is called by itself, too
        name = next((n for n, v in self._namespace.items() if v is module and not n.startswith("_")), None)
        try:
            self._attach(name or type(module).__name__, module)
        except TargetError as error:  # the cell is the user's, and goes on
            self.log.emit(ev.Noted(run=self.id, text=str(error.message)))

    def _attach(self, name: str, module: nn.Module) -> None:
        if isinstance(engine := module._compiled_call_impl, Dispatcher):
            # What is captured runs as a whole, and holds what it holds.
            engine.stop()
            engine.close()
            module._compiled_call_impl = None
            self.log.emit(
                ev.Noted(run=self.id, text=f"{name} is no longer run by an optimised graph: a limit holds")
            )
        if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None:
            raise TargetError(
                f"{name} was given to torch.compile, which decides by itself what it saves",
                hint="train the plain module, or torch._functorch.config.activation_memory_budget = 0.5",
            )
        before = _trainings.get(id(module))
        if before is not None and before.model is module and before.phase != "closed":
            before.close()
        emit = functools.partial(_emit, weakref.ref(self), self.id)
        training = Training(name, module, self.limit_bytes, emit, dtype=self._dtype, allow=self._allow)
        training.open()
        _trainings[id(module)] = self._trainings[name] = training
        parameters = list(module.parameters())
        self.log.emit(
            ev.TargetFound(
                run=self.id,
                target=name,
                type_name=type(module).__name__,
                num_parameters=sum(one.numel() for one in parameters),
                parameter_bytes=sum(one.numel() * one.element_size() for one in parameters),
            )
        )

    @property
    def states(self) -> dict[str, str]:
        """Where each of its trainings stands, in words; those that have ended are left out."""
        return {name: one.state for name, one in self._trainings.items() if one.phase != "closed"}

    @property
    def working(self) -> bool:
        """Whether a plan is being looked for."""
        return any(one.working for one in self._trainings.values())

    def wait(self, timeout_s: float | None = None) -> bool:
        """Until every plan is found; False where the time ends first."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        for one in self._trainings.values():
            one.wait(None if end is None else max(end - time.monotonic(), 0.0))
        return not self.working

    def close(self, error: bool = False) -> None:
        """The cell has ended; plans stay, and a limit that was refused goes with the cell."""
        if self._observer is not None:
            self._observer.close()
            self._observer = None
        for one in self._trainings.values():
            one.ended()
            if error and one.phase == "waiting":
                one.close()

    def interrupt(self) -> None:
        """Look for no better plan."""
        for one in self._trainings.values():
            one.hurry()

    def restore(self) -> None:
        """Models as they were."""
        self.close()
        for one in self._trainings.values():
            one.close()
        self._trainings.clear()

    def paused(self) -> Paused:
        """``with run.paused():`` trains as if there were no limit, to compare with."""
        return Paused(list(self._trainings.values()))

    def __enter__(self) -> MemoryRun:
        return self

    def __exit__(self, *error: object) -> None:
        self.restore()


def runs() -> list[MemoryRun]:
    """Runs whose models train within a limit now, in the order in which they began."""
    return sorted((one for one in _runs if one.states), key=lambda one: int(one.id.rpartition("-")[2]))


class Paused:
    """While entered, trainings run as if there were no limit."""

    def __init__(self, trainings: list[Training]) -> None:
        self._trainings = trainings

    def __enter__(self) -> None:
        for one in self._trainings:
            one.pause()

    def __exit__(self, *error: object) -> None:
        for one in self._trainings:
            one.go_on()


def _emit(run: weakref.ref[MemoryRun], name: str, kind: Callable[..., ev.Event], **values: Any) -> None:
    one = run()
    if one is not None:
        one.log.emit(kind(run=name, **values))


def memory_limit(
    model: nn.Module, limit: str, *, precision: str | None = None, allow: Collection[str] = ()
) -> MemoryRun:
    """Train a model within a limit: your own loop, with what it holds planned and measured.

    From its next training steps on the model recomputes some of its activations in the backward pass and leaves out
    logits that only a cross entropy wants, as little of either as the limit asks for. Parameters, losses and random
    numbers are what they would be: recomputation is exact, a loss over chunks of logits adds up in another order.

    Args:
        model: The module that your loop calls.
        limit: What parameters, gradients, optimiser state, activations and the rest of a step may hold together, e.g.
            ``6GiB`` or ``512MB``; ``auto`` is 90 % of what the device has.
        precision: ``bf16`` runs the forward pass under autocast.
        allow: ``8bit-optimizer`` lets AdamW's moments take a byte a value where nothing exact keeps the limit;
            ``step-in-backward`` lets the optimiser step in the backward pass, parameter by parameter, in a loop that
            was seen to do nothing else with gradients. The latter is exact, but an error in the middle of a backward
            pass leaves half a step.

    Returns:
        The run: ``run.report`` says what was planned and measured; ``run.restore()``, or the end of a ``with`` block,
        leaves the model as it was.

    Raises:
        UsageError: The limit is no amount of memory, or nothing of that name can be allowed.
        MemoryLimitError: At the first training call: no plan keeps the training within the limit.

    Example:
        >>> with deepseek_lab.memory_limit(model, "6GiB") as run:
        ...     train(model)
    """
    run = MemoryRun(limit, precision=precision, allow=allow)
    return run.open({type(model).__name__: model})
