"""A training loop of the user's, kept within a limit.

Phases: ``waiting`` for a call that can be differentiated; ``careful``, the first step, with everything recomputed
that can be, which is how little the loop can take; ``timing``, the second, in which each operation's time is
measured; ``planning``, while a thread rehearses plans; then ``kept``, or ``careful`` for good where no rehearsal is
possible.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import inspect
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils._pytree import tree_leaves

from deepseek_lab.base import events as ev
from deepseek_lab.base.sizes import above, words
from deepseek_lab.engine import allocator
from deepseek_lab.engine.training.steps import FusedForm, steps
from deepseek_lab.engine.training.tape import Loss, LossTape
from deepseek_lab.measure.resident import PeakResident
from deepseek_lab.memory import words as say
from deepseek_lab.memory.limit import AUTO_SHARE, MemoryLimitError, available_bytes
from deepseek_lab.memory.logits import Deferred, Head, LinearCrossEntropy, find_heads
from deepseek_lab.memory.meter import Meter, unique_bytes
from deepseek_lab.memory.operations import Operations
from deepseek_lab.memory.patches import Patch
from deepseek_lab.memory.plan import MARGIN, Plan, Planner
from deepseek_lab.memory.recompute import ALL_AGAIN, Recomputed, foreign_states, random_states
from deepseek_lab.memory.rehearsal import Choice, Habits, NotRehearsed, Rehearsal, loss_among
from deepseek_lab.memory.units import find_units

LIBRARIES = 128 << 20
"""What PyTorch's libraries may take for themselves during a step, beside tensors."""
GROWTH = 1.02
"""A call whose inputs are larger than the largest planned ones by more than this needs another plan."""


class Training:
    """One model that trains within a limit.

    Args:
        name: What the user calls it.
        model: The model.
        limit_bytes: What the training may hold at most: parameters, gradients, optimiser state, activations and what
            else a step makes. None aims at what the device has.
        emit: Told what happens; the events want no run.
        dtype: A lower precision that the user allows, for autocast.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        limit_bytes: int | None,
        emit: Callable[..., None],
        *,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.name, self.model = name, model
        self.phase = "waiting"
        self.plan: Plan | None = None
        self.paused = False
        """Whether calls run as if there were no limit; to compare with."""
        self._limit, self._emit, self._dtype = limit_bytes, emit, dtype
        self._heads = find_heads(model)
        self._parts = [
            Recomputed(unit, lambda reason, path=unit.path: self._left_alone(path, reason))  # type: ignore[misc]
            for unit in find_units(model, [head.layer for head in self._heads])
        ]
        self._patches: list[Recomputed | Head] = [*self._parts, *self._heads]
        self._parameters = frozenset(map(id, model.parameters()))
        self._patch = Patch(model, self._forward)
        self._optimizers: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        """Those that have stepped, or that may."""
        self._steppers: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        """Those that have stepped."""
        self._inside = False
        self._calls = 0
        """Calls of the step under way."""
        self._differentiated = False
        self._many_calls = False
        self._draws = False
        """Whether a forward pass draws random numbers that are not PyTorch's."""
        self._largest = 0
        self._begun = self._step_s = 0.0
        self._old: list[weakref.ref[Any]] = []
        self._habits = Habits(autocast=dtype)
        self._tape: LossTape | None = None
        self._loss: Loss | None = None
        self._call: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._seconds: dict[str, list[tuple[str, float]]] = {}
        self._pending: Plan | None = None
        self._meter: Meter | None = None
        self._resident: PeakResident | None = None
        self._held = 0
        self._limit_planned = 0
        self._said = self._over = False
        self._at_once = False
        self._to_measure = False
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        self._fused = FusedForm()
        self._reasons: dict[str, str] = {}
        self._lowered = 0.0
        """Share that the limit was lowered by, since a step held more than was predicted."""

    def open(self) -> Training:
        """Watch the model's calls from now on."""
        self._patch.install()
        steps.listen(self)
        return self

    def close(self) -> None:
        """Leave the model and its optimisers as they were."""
        self._stopped.set()
        self.ended()
        for one in self._patches:
            one.remove()
        self._patch.remove()
        steps.leave(self)
        if self._at_once:
            self._at_once = False
            allocator.return_at_once(False)
        self.phase = "closed"

    def ended(self) -> None:
        """The cell has ended: nothing of ours stays on PyTorch's stacks."""
        self._stop_tape()
        self._stop_meter()
        self._fused.put_back()
        self._calls, self._differentiated = 0, False
        self._over = True
        if self._pending is not None:
            self._say(self._pending)

    def hurry(self) -> None:
        """Look for no better plan than the best one so far."""
        self._stopped.set()

    def pause(self) -> None:
        """Train as if there were no limit, until :meth:`go_on`."""
        self.paused = True
        for one in self._patches:
            one.remove()

    def go_on(self) -> None:
        """Train within the limit again."""
        self.paused = False
        if self.phase not in ("waiting", "closed"):
            for one in self._patches:
                one.install()

    @property
    def working(self) -> bool:
        """Whether a plan is being looked for."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self, timeout_s: float | None = None) -> None:
        """Until the plan that is looked for is found."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    @property
    def limit_bytes(self) -> int:
        """The limit; for ``auto``, what the device has now beside what the training holds already."""
        if self._limit is None:
            device = next((one.device for one in self.model.parameters()), torch.device("cpu"))
            room = available_bytes(device)
            if room is None:
                raise MemoryLimitError(
                    f"this system does not say how much memory {device} has", hint="--memory-limit 6GiB"
                )
            self._limit = int(AUTO_SHARE * (room + unique_bytes(self._lasting())))
        return int(self._limit * (1 - self._lowered))

    # -- a call -----------------------------------------------------------------------------------------

    def _forward(self, before: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if self._inside or self.paused or not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return before(*args, **kwargs)
        if self.phase == "waiting" and not self._trains():
            return before(*args, **kwargs)
        if not self._calls and not self._differentiated:
            self._step_begins()
        elif self._differentiated and not self._steppers:
            self._step_ends()  # a loop that updates its weights by hand: a step ends where the next one begins
            self._step_begins()
        kwargs = self._without_cache(args, kwargs)
        if self.phase == "waiting":
            self._first(args, kwargs)
        self._calls += 1
        self._observe()
        self._sized(args, kwargs)
        if self.phase == "timing":
            self._watch()
        self._stop_tape()
        self._inside = True
        numbers = foreign_states() if self.phase == "timing" else None
        try:
            with self._precision():
                results = before(*args, **kwargs)
        finally:
            self._inside = False
        if numbers is not None and numbers != foreign_states():
            self._draws = True
        self._returned(args, kwargs, results)
        return results

    def _trains(self) -> bool:
        return any(one.requires_grad for one in self.model.parameters())

    def _without_cache(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Keywords without transformers' key-value cache, which a training step fills and nobody reads.

        transformers itself turns it off where it recomputes (``gradient_checkpointing_enable``).
        """
        config = getattr(self.model, "config", None)
        if not getattr(config, "use_cache", False) or "use_cache" in kwargs or self._is_plain:
            return kwargs
        names = inspect.signature(type(self.model).forward).parameters
        if "use_cache" not in names or list(names).index("use_cache") <= len(args):
            return kwargs
        return {**kwargs, "use_cache": False}

    @property
    def _is_plain(self) -> bool:
        return self.phase == "kept" and self.plan is not None and self.plan.is_plain

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self._dtype is None:
            return contextlib.nullcontext()
        kind = next((one.device.type for one in self.model.parameters()), "cpu")
        return torch.autocast(kind, self._dtype)

    def _sized(self, args: Any, kwargs: Any) -> None:
        """A call larger than any that was planned for takes care, and another plan is made."""
        size = sum(one.numel() for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor))
        if self.phase == "kept" and size > GROWTH * self._largest:
            self._emit(ev.Noted, text=f"{self.name}: a larger batch than those planned for; planned anew")
            self._be_careful()
            self.phase = "timing"
        self._largest = max(self._largest, size)

    def _returned(self, args: Any, kwargs: Any, results: Any) -> None:
        tensors = [one for one in tree_leaves(results) if isinstance(one, Tensor)]
        self._old = [weakref.ref(one) for one in tensors if one.dim()]
        watched = next((one for one in tensors if one.requires_grad and type(one) is not Deferred), None)
        deferred = next((one for one in tensors if type(one) is Deferred), None)
        if watched is None and deferred is not None:
            watched = deferred._rows
        if watched is not None and watched.requires_grad:
            watched.register_hook(_telling(weakref.ref(self), self._calls))
        if self.phase != "timing":
            return
        self._call = args, kwargs
        if loss_among(tensors) is not None:
            return
        ends = {one._rows.grad_fn for one in tensors if type(one) is Deferred}
        self._tape = LossTape(tensors, self._loss_known, ends=ends, known=(LinearCrossEntropy,))
        if not self._tape.start():
            self._tape = None

    def _loss_known(self, loss: Loss | None) -> None:
        self._loss = loss

    def _stop_tape(self) -> None:
        if self._tape is not None:
            self._tape.stop()
            self._tape = None

    def backward_begins(self, call: int) -> None:
        """A gradient has come back to a call's results; ``call`` is its number in the step.

        Where another call was made since, both were held together. One that nobody differentiates, as of an evaluation
        that computes gradients for nothing, is none of the step's.
        """
        if call < self._calls:
            self._many_calls = True
        self._differentiated = True
        habits = self._habits
        self._habits = dataclasses.replace(
            habits,
            gradients_in_backward=habits.gradients_in_backward
            or any(one.grad is not None for one in self.model.parameters()),
            holds_results=habits.holds_results or any(one() is not None for one in self._old),
        )

    # -- the first step: carefully ------------------------------------------------------------------------

    def _first(self, args: Any, kwargs: Any) -> None:
        """Before anything has run: what even the most careful step holds must be within the limit."""
        limit = self.limit_bytes
        self._optimizers = weakref.WeakSet(_optimizers_of(self._parameters))
        own = unique_bytes(self._lasting())
        if own > limit:
            raise MemoryLimitError(
                f"{self.name}: parameters, gradients and optimiser state alone hold {words(own)}, "
                f"which is {words(own - limit)} more than the limit of {words(limit)}",
                hint=f"--memory-limit {above(own)}, or a smaller model",
            )
        self._be_careful()
        self.phase = "careful"
        try:
            with random_states():
                rehearsal = self._rehearsal(args, kwargs, trusting=True)
                plain = rehearsal.run(Choice(), look=True)
                for part in self._parts:
                    if any(one.written for one in plain.parts if one.path == part.unit.path):
                        part.leave_alone("what it is given is written to before the backward pass")
                found = rehearsal.run(self._careful_choice(defers=bool(self._heads)))
        except NotRehearsed:
            for part in self._parts:
                part.copies_inputs = True
            return
        if found.peak_bytes > limit:
            self._refuse(found.peak_bytes, found.phase, limit)

    def _refuse(self, peak: int, phase: str, limit: int) -> None:
        for one in self._patches:
            one.remove()
        self.phase = "waiting"
        raise MemoryLimitError(
            f"{self.name}: a step holds {words(peak)} with all of it recomputed, most of it in the {phase} pass: "
            f"{words(peak - limit)} more than the limit of {words(limit)}",
            hint=f"--memory-limit {above(peak)}, or a smaller batch",
        )

    def _lasting(self) -> Iterator[Tensor]:
        for one in self.model.parameters():
            yield one
            if one.grad is not None:
                yield one.grad
        yield from self.model.buffers()
        for optimizer in self._optimizers:
            for state in optimizer.state.values():
                yield from (one for one in tree_leaves(state) if isinstance(one, Tensor))

    @property
    def _stepped(self) -> list[torch.optim.Optimizer]:
        return list(self._steppers)

    def _unused_state(self) -> Iterator[Tensor]:
        """State of optimisers that are there and are not the ones that step."""
        used = set(map(id, self._stepped or _without_rivals(_optimizers_of(self._parameters))))
        for optimizer in self._optimizers:
            if id(optimizer) not in used:
                for state in optimizer.state.values():
                    yield from (one for one in tree_leaves(state) if isinstance(one, Tensor))

    def _be_careful(self) -> None:
        for part in self._parts:
            part.keep = ALL_AGAIN
            part.install()
        for head in self._heads:
            head.on = True
            head.install()

    def _careful_choice(self, *, defers: bool) -> Choice:
        return Choice({one.unit.path: ALL_AGAIN for one in self._parts if not one.reason}, defers=defers)

    def _rehearsal(self, args: Any, kwargs: Any, *, trusting: bool = False) -> Rehearsal:
        parts = [one for one in self._parts if one.usable or (trusting and not one.reason)]
        with self._unwatched():
            return Rehearsal(
                self.model,
                args,
                kwargs,
                loss=self._loss,
                optimizers=self._stepped or _without_rivals(_optimizers_of(self._parameters)),
                others_bytes=unique_bytes(self._unused_state()),
                habits=self._habits,
                recomputed=parts,
                heads=self._heads,
            )

    @contextlib.contextmanager
    def _unwatched(self) -> Iterator[None]:
        """The model is copied without what watches its parts."""
        watches = [one.watch for one in self._parts]
        for one in self._parts:
            one.watch = None
        try:
            yield
        finally:
            for one, watch in zip(self._parts, watches, strict=True):
                one.watch = watch

    def _left_alone(self, path: str, reason: str) -> None:
        self._reasons[path] = reason
        self._emit(ev.Noted, text=f"{self.name}.{path} is not recomputed: {reason}")

    # -- the second step: with each operation's time -------------------------------------------------------

    def _watch(self) -> None:
        for part in self._parts:
            if part.usable:
                part.watch = self._timing(part.unit.path)

    def _timing(self, path: str) -> Callable[..., Any]:
        def watch(before: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            with Operations(timed=True) as operations:
                result = before(*args, **kwargs)
            self._seconds[path] = [(one.name, one.seconds) for one in operations.found]
            return result

        return watch

    # -- steps ------------------------------------------------------------------------------------------

    def trains(self, parameters: frozenset[int]) -> bool:
        """Whether an optimiser of these parameters trains the model."""
        return not self._parameters.isdisjoint(parameters)

    def _step_begins(self) -> None:
        self._over = False
        if self._pending is not None:
            self._apply(self._pending)
            self._pending = None
        self._habits = Habits(autocast=self._dtype)
        self._many_calls = False
        self._begun = time.perf_counter()
        if self._to_measure and self._meter is None:
            self._start_meter()

    def _observe(self) -> None:
        """What is held when a call begins; gradients that are accumulated are there from the second call on."""
        habits = self._habits
        self._habits = dataclasses.replace(
            habits,
            gradients_in_forward=habits.gradients_in_forward
            or any(one.grad is not None for one in self.model.parameters()),
            keeps_results=habits.keeps_results or any(one() is not None for one in self._old),
        )

    def step_begins(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimiser is about to write to the weights."""
        self._stop_tape()
        for head in self._heads:
            head.before_update()
        self._fused.put_back()
        if self.plan is not None and self.plan.choice.fused and self.phase == "kept" and not self.paused:
            self._fused.take(optimizer)

    def step_ended(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimiser has written to the weights."""
        self._fused.put_back()
        self._optimizers.add(optimizer)
        self._steppers.add(optimizer)
        if self._calls:
            self._step_ends()

    def _step_ends(self) -> None:
        self._step_s = time.perf_counter() - self._begun
        self._calls, self._differentiated = 0, False
        self._measured()
        if self.phase == "careful":
            self.phase = "timing"
        elif self.phase == "timing" and self._call is not None:
            self.phase = "planning"
            self._begin_planning()

    # -- a plan -----------------------------------------------------------------------------------------

    def _begin_planning(self) -> None:
        assert self._call is not None
        (args, kwargs), self._call = self._call, None
        if self._draws:
            self._stay_careful("the model draws numbers from Python's or NumPy's random generator")
            return
        if self._many_calls:
            self._stay_careful("a step holds more than one call of the model at once")
            return
        try:
            rehearsal = self._rehearsal(args, kwargs)
        except NotRehearsed as error:
            self._stay_careful(str(error))
            return
        self._limit_planned = limit = self.limit_bytes
        planner = Planner(
            rehearsal,
            dict(self._seconds),
            # A loop that looks at its logits has them anyway.
            can_defer=any(head.num_rows and not head.num_asked for head in self._heads),
            can_fuse=any(_can_fuse(one) for one in self._steppers),
            stopped=self._stopped.is_set,
        )
        self._thread = threading.Thread(
            target=self._find, args=(planner, limit), name="deepseek_lab memory plan", daemon=True
        )
        self._thread.start()

    def _find(self, planner: Planner, limit: int) -> None:
        try:
            plan = planner.find(limit)
        except NotRehearsed as error:
            self._stay_careful(str(error))
            return
        except Exception as error:  # an error of ours: the loop goes on as carefully as it began
            self._stay_careful(f"{type(error).__name__}: {error}")
            return
        self._pending, self._said = plan, False
        if self._over:  # no step is under way that would say it
            self._say(plan)

    def _say(self, plan: Plan) -> None:
        if self._said:
            return
        self._said = True
        reason = "" if plan.fits else "no plan fits; this one takes least"
        self._emit(
            ev.MemoryPlanned,
            target=self.name,
            limit_bytes=self._limit_planned,
            plain_bytes=plan.plain.peak_bytes,
            predicted_bytes=plan.rehearsed.peak_bytes,
            lasting_bytes=plan.rehearsed.lasting_bytes,
            phase=plan.rehearsed.phase,
            fits=plan.fits,
            steps=say.steps_of(plan, self._labelled_share()),
            extra_ms=1e3 * plan.extra_s,
            code=say.code_of(plan, self.name, type(self.model).__name__),
            reason=reason,
        )

    def _labelled_share(self) -> float:
        rows = sum(head.num_rows for head in self._heads)
        return sum(head.most_labelled for head in self._heads) / rows if rows else 1.0

    def _stay_careful(self, reason: str) -> None:
        self.phase = "careful for good"
        self._to_measure = True
        self._emit(
            ev.Noted,
            text=f"{self.name}: everything stays recomputed, as no plan could be rehearsed ({reason})",
        )

    def _apply(self, plan: Plan) -> None:
        """Run by a plan from this step on."""
        self._say(plan)
        self.plan, self.phase = plan, "kept"
        for part in self._parts:
            part.keep = plan.choice.keeps.get(part.unit.path)
        for head in self._heads:
            head.on = plan.choice.defers
        self._to_measure = True

    # -- what a step really holds ---------------------------------------------------------------------------

    def _start_meter(self) -> None:
        self._to_measure = False
        meter = self._meter = Meter()
        meter.hold(self._lasting())
        self._held = meter.now_bytes
        for ref in self._old:
            one = ref()
            meter.hold(one.holds() if type(one) is Deferred else [one])
            del one
        allocator.trim()  # what is free but resident would hide what the step takes
        self._resident = PeakResident.begin()
        meter.__enter__()  # type: ignore[no-untyped-call]

    def _stop_meter(self) -> int | None:
        meter, self._meter = self._meter, None
        if meter is None:
            return None
        if _get_current_dispatch_mode() is meter:
            meter.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        peak = meter.peak_bytes
        meter.release()
        return peak

    def _measured(self) -> None:
        if self._meter is None:
            return
        peak = self._stop_meter()
        assert peak is not None
        grown = self._resident.bytes() if self._resident is not None else None
        process = None if grown is None else grown + self._held
        self._emit(
            ev.MemoryMeasured,
            target=self.name,
            peak_bytes=peak,
            process_bytes=process,
            step_ms=1e3 * self._step_s,
        )
        limit = self.limit_bytes
        holes = 0 if process is None else process - peak
        if process is not None and peak <= limit < process and holes > LIBRARIES and not self._at_once:
            # The heap's holes, not the tensors: the promise is the process's.
            self._at_once = True
            allocator.return_at_once(True)
            self._to_measure = True
            self._emit(
                ev.Noted,
                text=f"{self.name}: tensors held {words(peak)}, the process {words(process)}, as the heap has holes; "
                "large blocks now go back to the system at once, which takes time",
            )
        if self.phase == "kept" and self.plan is not None and self.plan.fits and peak > limit:
            self._lowered = min(0.5, self._lowered + (peak / self.plan.rehearsed.peak_bytes - 1 + MARGIN))
            self._emit(
                ev.Noted,
                text=f"{self.name}: a step held {words(peak)}, more than was predicted; planned anew",
            )
            self._be_careful()
            self.phase = "timing"


def _telling(training: weakref.ref[Training], call: int) -> Callable[[Tensor], None]:
    def tell(gradient: Tensor) -> None:
        one = training()
        if one is not None:
            one.backward_begins(call)

    return tell


def _optimizers_of(parameters: frozenset[int]) -> list[torch.optim.Optimizer]:
    """Optimisers that train these parameters, wherever they are; those first that have no state yet."""
    found: list[torch.optim.Optimizer] = []
    for one in gc.get_objects():
        # By type: a proxy answers for another object, with a warning.
        if issubclass(type(one), torch.optim.Optimizer) and any(
            id(weight) in parameters for group in one.param_groups for weight in group["params"]
        ):
            found.append(one)
    return sorted(found, key=lambda one: len(one.state))


def _without_rivals(optimizers: Sequence[torch.optim.Optimizer]) -> list[torch.optim.Optimizer]:
    """Of optimisers that train the same parameters, as an earlier run of a cell leaves them, the first."""
    taken: set[int] = set()
    found = []
    for one in optimizers:
        weights = {id(weight) for group in one.param_groups for weight in group["params"]}
        if taken.isdisjoint(weights):
            found.append(one)
            taken |= weights
    return found


def _can_fuse(optimizer: torch.optim.Optimizer) -> bool:
    weights: Sequence[Tensor] = [one for group in optimizer.param_groups for one in group["params"]]
    return (
        all("fused" in group and not group["fused"] for group in optimizer.param_groups)
        and not any(group.get("differentiable") for group in optimizer.param_groups)
        and all(one.is_floating_point() for one in weights)
    )
