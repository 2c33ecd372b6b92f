"""A training loop of the user's, kept within a limit.

Phases: ``waiting`` for a call that can be differentiated; ``careful``, the first step, with everything recomputed
that can be, which is how little the loop can take; ``timing``, the second, in which each operation's time is
measured; ``planning``, while a thread rehearses plans; then ``kept``, or ``careful`` for good where no rehearsal is
possible.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from deepseek_lab.base import events as ev
from deepseek_lab.base.sizes import above, words
from deepseek_lab.engine.training.steps import steps
from deepseek_lab.memory.calls import Calls, without_cache
from deepseek_lab.memory.careful import Case, most_careful, refusal
from deepseek_lab.memory.choice import Choice, NotRehearsed
from deepseek_lab.memory.limit import MemoryLimitError, share_of_device
from deepseek_lab.memory.measuring import Measuring
from deepseek_lab.memory.meter import unique_bytes
from deepseek_lab.memory.parts import Parts
from deepseek_lab.memory.patches import Patch
from deepseek_lab.memory.plan import MARGIN, Plan, Planner
from deepseek_lab.memory.planning import Planning
from deepseek_lab.memory.recompute import foreign_states, random_states
from deepseek_lab.memory.rehearsal import Rehearsal
from deepseek_lab.memory.stepping import Stepping

GROWTH = 1.02
"""A call whose inputs are larger than the largest planned ones by more than this needs another plan."""

_STATES = {
    "waiting": "no training call yet",
    "careful": "the first step: everything is recomputed",
    "timing": "its operations are timed; everything is recomputed",
    "planning": "a plan is looked for; everything is recomputed",
    "kept": "trains by its plan",
    "careful for good": "everything stays recomputed, as no plan could be rehearsed",
}


class Training:
    """One model that trains within a limit.

    Args:
        name: What the user calls it.
        model: The model.
        limit_bytes: What the training may hold at most: parameters, gradients, optimiser state, activations and what
            else a step makes. None aims at what the device has.
        emit: Told what happens; the events want no run.
        dtype: A lower precision that the user allows, for autocast.
        allow: What else the user allows, by the words of ``--allow``.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        limit_bytes: int | None,
        emit: Callable[..., None],
        *,
        dtype: torch.dtype | None = None,
        allow: Collection[str] = (),
    ) -> None:
        self.name, self.model = name, model
        self.phase = "waiting"
        self.plan: Plan | None = None
        self.paused = False
        """Whether calls run as if there were no limit; to compare with."""
        self._limit, self._emit, self._dtype, self._allow = limit_bytes, emit, dtype, allow
        self._parts = Parts(model, self._left_alone)
        self._heads = self._parts.heads
        self._patch = Patch(model, self._forward)
        self._stepping = Stepping(
            model,
            self._note,
            self._plan_anew,
            self._before_update,
            observes="step-in-backward" in allow,
        )
        self._calls = Calls(model, dtype)
        self._measuring = Measuring()
        self._careful = Choice()
        self._planning = Planning(name, type(model).__name__, emit, self._parts.labelled_share)
        self._inside = False
        self._largest = 0
        self._begun = self._step_s = 0.0
        self._lowered = 0.0
        """Share that the limit was lowered by, since a step held more than was predicted."""

    def open(self) -> Training:
        """Watch the model's calls from now on."""
        self._patch.install()
        steps.listen(self)
        return self

    def close(self) -> None:
        """Leave the model and its optimisers as they were."""
        self._planning.hurry()
        self.ended()
        self._stepping.close()
        self._parts.remove()
        self._patch.remove()
        steps.leave(self)
        self._measuring.close()
        self.phase = "closed"

    def ended(self) -> None:
        """The cell has ended: nothing of ours stays on PyTorch's stacks."""
        self._calls.end()
        self._measuring.stop()
        self._stepping.ended()
        self._planning.between_cells = True
        if self._planning.found is not None:
            self._planning.say(self._planning.found)

    def hurry(self) -> None:
        """Look for no better plan than the best one so far."""
        self._planning.hurry()

    def pause(self) -> None:
        """Train as if there were no limit, until :meth:`go_on`."""
        self.paused = True
        self._stepping.pause(True)
        self._parts.remove()

    def go_on(self) -> None:
        """Train within the limit again."""
        self.paused = False
        self._stepping.pause(False)
        if self.phase not in ("waiting", "closed"):
            self._parts.install()

    @property
    def state(self) -> str:
        """Where it stands, in words."""
        return "paused" if self.paused else _STATES.get(self.phase, self.phase)

    @property
    def working(self) -> bool:
        """Whether a plan is being looked for."""
        return self._planning.working

    def wait(self, timeout_s: float | None = None) -> None:
        """Until the plan that is looked for is found."""
        self._planning.wait(timeout_s)

    @property
    def limit_bytes(self) -> int:
        """The limit; for ``auto``, what the device has now beside what the training holds already."""
        if self._limit is None:
            self._limit = share_of_device(self.model, unique_bytes(self._lasting()))
        return int(self._limit * (1 - self._lowered))

    # -- a call -----------------------------------------------------------------------------------------

    def _forward(self, before: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if self._inside or self.paused or not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return before(*args, **kwargs)
        if self.phase == "waiting" and not any(one.requires_grad for one in self.model.parameters()):
            return before(*args, **kwargs)
        calls = self._calls
        by_hand = calls.differentiated and not self._stepping.steppers
        if by_hand:
            self._step_ends()  # a loop that updates its weights by hand: a step ends where the next one begins
        begins = by_hand or not (calls.count or calls.differentiated)
        self._stepping.forward(begins=begins)
        if begins:
            self._step_begins()
        plain = self.phase == "kept" and self.plan is not None and self.plan.is_plain
        kwargs = kwargs if plain else without_cache(self.model, args, kwargs)
        if self.phase == "waiting":
            self._first(args, kwargs)
        calls.begin()
        self._sized(args, kwargs)
        if self.phase == "timing":
            self._parts.watch()
        self._inside = True
        numbers = foreign_states() if self.phase == "timing" else None
        try:
            with self._precision():
                results = before(*args, **kwargs)
        finally:
            self._inside = False
        if numbers is not None and numbers != foreign_states():
            calls.draws = True
        calls.returned(args, kwargs, results, look=self.phase == "timing")
        return results

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self._dtype is None:
            return contextlib.nullcontext()
        kind = next((one.device.type for one in self.model.parameters()), "cpu")
        return torch.autocast(kind, self._dtype)

    def _sized(self, args: Any, kwargs: Any) -> None:
        """A call larger than any that was planned for takes care, and another plan is made."""
        size = sum(one.numel() for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor))
        if self.phase == "kept" and size > GROWTH * self._largest:
            self._note("a larger batch than those planned for; planned anew")
            self._plan_anew()
        self._largest = max(self._largest, size)

    # -- the first step: carefully ------------------------------------------------------------------------

    def _first(self, args: Any, kwargs: Any) -> None:
        """Before anything has run: what even the most careful step holds must be within the limit."""
        limit = self.limit_bytes
        self._stepping.find()
        can_eight_bit = not self._stepping.not_eight_bit()
        eight_bit = can_eight_bit and "8bit-optimizer" in self._allow
        own = unique_bytes(self._calls.lasting() if can_eight_bit else self._lasting())
        if own > limit:
            raise MemoryLimitError(
                f"{self.name}: parameters, gradients and optimiser state alone hold {words(own)}, "
                f"which is {words(own - limit)} more than the limit of {words(limit)}",
                hint=f"--memory-limit {above(own)}, or a smaller model",
            )
        self._be_careful((0,))
        self.phase = "careful"
        base = Choice(defers=bool(self._heads))
        try:
            with random_states():
                rehearsal = self._rehearsal(args, kwargs, trusting=True)
                for part in rehearsal.run(Choice(), look=True).parts:
                    if part.written:
                        self._parts.leave_alone(
                            part.path, "what it is given is written to before the backward pass"
                        )
                found = most_careful(rehearsal, base, self._parts.divided, limit, eight_bit=eight_bit)
                if found.rehearsed.peak_bytes > limit:
                    case = Case(
                        limit,
                        found,
                        args,
                        kwargs,
                        self._rehearsal_of_another,
                        can_eight_bit=can_eight_bit and not eight_bit,
                        can_bf16=self._dtype is None,
                    )
                    self._parts.remove()
                    self.phase = "waiting"
                    raise refusal(self.name, case)
        except NotRehearsed:
            self._parts.copy_inputs()
            return
        self._careful = found.choice
        self._stepping.choose(found.choice)
        self._parts.choose(found.choice)

    def _rehearsal_of_another(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], dtype: torch.dtype | None
    ) -> Rehearsal:
        before, self._calls.autocast = self._calls.autocast, dtype or self._calls.autocast
        try:
            return self._rehearsal(args, kwargs, trusting=True)
        finally:
            self._calls.autocast = before

    def _lasting(self) -> Iterator[Tensor]:
        yield from self._calls.lasting()
        yield from self._stepping.state()

    def _be_careful(self, levels: tuple[int, ...] | None = None) -> None:
        """Hold as little as can be, from the next call on; ``levels`` where nothing was rehearsed yet."""
        if levels is not None:
            keeps = {one.path: frozenset[int]() for one in self._parts.divided(levels)}
            self._careful = Choice(keeps, defers=bool(self._heads))
        self._parts.choose(self._careful)

    def _plan_anew(self) -> None:
        """Look for another plan, and be careful meanwhile."""
        if self.phase in ("kept", "planning"):
            self._planning.drop()
            self._be_careful()
            self.phase = "timing"

    def _rehearsal(self, args: Any, kwargs: Any, *, trusting: bool = False) -> Rehearsal:
        with self._parts.unwatched():
            return Rehearsal(
                self.model,
                args,
                kwargs,
                loss=self._calls.loss,
                optimizers=self._stepping.likely,
                others_bytes=unique_bytes(self._stepping.unused_state()),
                habits=self._calls.habits,
                recomputed=self._parts.usable(trusting=trusting),
                heads=self._heads,
            )

    def _left_alone(self, path: str, reason: str) -> None:
        self._emit(ev.Noted, text=f"{self.name}.{path} is not recomputed: {reason}")

    def _note(self, text: str) -> None:
        self._emit(ev.Noted, text=f"{self.name}: {text}")

    # -- steps ------------------------------------------------------------------------------------------

    def trains(self, parameters: frozenset[int]) -> bool:
        """Whether an optimiser of these parameters trains the model."""
        return not self._stepping.parameters.isdisjoint(parameters)

    def _step_begins(self) -> None:
        self._planning.between_cells = False
        if self._planning.found is not None:
            plan, self._planning.found = self._planning.found, None
            self._apply(plan)
        self._calls.begin_step()
        self._begun = time.perf_counter()
        if self._measuring.asked and not self._measuring.under_way:
            self._measuring.begin(self._lasting(), self._calls.old)

    def _before_update(self) -> None:
        """Weights are about to change."""
        self._calls.stop_tape()
        for head in self._heads:
            head.before_update()

    def step_begins(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimiser is about to write to the weights."""
        self._before_update()
        self._stepping.step_begins(optimizer)

    def step_ended(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimiser has written to the weights."""
        self._stepping.step_ended(optimizer)
        if self._calls.count:
            self._step_ends()
        if not self.paused:
            self._stepping.settle()

    def _step_ends(self) -> None:
        self._step_s = time.perf_counter() - self._begun
        self._calls.end_step()
        self._measured()
        if self.phase == "careful":
            self.phase = "timing"
        elif self.phase == "timing" and self._calls.call is not None:
            self.phase = "planning"
            self._begin_planning()

    # -- a plan -----------------------------------------------------------------------------------------

    def _begin_planning(self) -> None:
        args, kwargs = self._calls.take()
        if self._calls.reason:
            self._stay_careful(self._calls.reason)
            return
        try:
            rehearsal = self._rehearsal(args, kwargs)
        except NotRehearsed as error:
            self._stay_careful(str(error))
            return
        planner = Planner(
            rehearsal,
            dict(self._parts.seconds),
            units=self._parts.units,
            # A loop that looks at its logits has them anyway.
            can_defer=any(head.num_rows and not head.num_asked for head in self._heads),
            can_fuse=self._stepping.can_fuse(),
            in_backward=self._may_step_in_backward(),
            eight_bit="8bit-optimizer" in self._allow and not self._stepping.not_eight_bit(),
            base=self._stepping.base,
            stopped=self._planning.stopped,
        )
        self._planning.begin(planner, self.limit_bytes, self._stay_careful)

    def _may_step_in_backward(self) -> bool:
        if "step-in-backward" not in self._allow:
            return False
        stay = self._calls.habits.gradients_in_backward
        reason = self._stepping.not_in_backward(self, gradients_stay=stay)
        if reason:
            self._note(f"step-in-backward is allowed, and this loop does not permit it: {reason}")
        return not reason

    def _stay_careful(self, reason: str) -> None:
        self.phase = "careful for good"
        self._measuring.asked = True
        self._note(f"everything stays recomputed, as no plan could be rehearsed ({reason})")

    def _apply(self, plan: Plan) -> None:
        """Run by a plan from this step on."""
        if (
            plan.choice.in_backward
            and not self._stepping.base.in_backward
            and not self._may_step_in_backward()
        ):
            self._plan_anew()  # what the loop did since it was planned
            return
        self._planning.say(plan)
        self.plan, self.phase = plan, "kept"
        self._stepping.choose(plan.choice)
        self._parts.choose(plan.choice)
        self._measuring.asked = True

    def _measured(self) -> None:
        """What a step really held, where that was asked for."""
        held = self._measuring.end()
        if held is None:
            return
        peak = held.peak_bytes
        self._emit(
            ev.MemoryMeasured,
            target=self.name,
            peak_bytes=peak,
            process_bytes=held.process_bytes,
            step_ms=1e3 * self._step_s,
        )
        limit = self.limit_bytes
        if self._measuring.give_back_at_once(held, limit):
            self._note(
                f"tensors held {words(peak)}, the process {words(held.process_bytes or 0)}, as the heap has holes; "
                "large blocks now go back to the system at once, which takes time"
            )
        if self.phase == "kept" and self.plan is not None and self.plan.fits and peak > limit:
            self._lowered = min(0.5, self._lowered + (peak / self.plan.rehearsed.peak_bytes - 1 + MARGIN))
            self._note(f"a step held {words(peak)}, more than was predicted; planned anew")
            self._plan_anew()
