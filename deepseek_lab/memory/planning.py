"""The search for a plan in a thread of its own, while the loop goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable

from deepseek_lab.base import events as ev
from deepseek_lab.memory import words as say
from deepseek_lab.memory.choice import NotRehearsed
from deepseek_lab.memory.plan import Plan, Planner


class Planning:
    """Finds plans for one model, one at a time.

    Args:
        name: What the user calls the model.
        type_name: Its class.
        emit: Told of the plan; the events want no run.
        labelled: Share of the tokens that have a label.
    """

    def __init__(
        self, name: str, type_name: str, emit: Callable[..., None], labelled: Callable[[], float]
    ) -> None:
        self._name, self._type_name, self._emit, self._labelled = name, type_name, emit, labelled
        self.between_cells = False
        """Whether no step is under way that would say what was found."""
        self.found: Plan | None = None
        """What the next step is to run by."""
        self._limit = 0
        self._said = False
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()

    @property
    def working(self) -> bool:
        """Whether a plan is being looked for."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self, timeout_s: float | None = None) -> None:
        """Until the plan that is looked for is found."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def hurry(self) -> None:
        """Look for no better plan than the best one so far."""
        self._stopped.set()

    def stopped(self) -> bool:
        """Whether to look for nothing better."""
        return self._stopped.is_set()

    def drop(self) -> None:
        """What is looked for is not wanted any more."""
        self.hurry()
        self.wait()
        self._stopped.clear()
        self.found = None

    def begin(self, planner: Planner, limit: int, failed: Callable[[str], None]) -> None:
        """Look for the plan for a limit; ``failed`` is told why there can't be one."""
        self._limit = limit
        self._thread = threading.Thread(
            target=self._find, args=(planner, failed), name="deepseek_lab memory plan", daemon=True
        )
        self._thread.start()

    def _find(self, planner: Planner, failed: Callable[[str], None]) -> None:
        try:
            plan = planner.find(self._limit)
        except NotRehearsed as error:
            failed(str(error))
            return
        except Exception as error:  # an error of ours: the loop goes on as carefully as it began
            failed(f"{type(error).__name__}: {error}")
            return
        if planner.declined:
            self._emit(
                ev.Noted,
                text=f"{self._name}: step-in-backward is allowed, and this model does not permit it: "
                f"{planner.declined}",
            )
        self.found, self._said = plan, False
        if self.between_cells:
            self.say(plan)

    def say(self, plan: Plan) -> None:
        """Tell of a plan, once."""
        if self._said:
            return
        self._said = True
        self._emit(
            ev.MemoryPlanned,
            target=self._name,
            limit_bytes=self._limit,
            plain_bytes=plan.plain.peak_bytes,
            predicted_bytes=plan.rehearsed.peak_bytes,
            lasting_bytes=plan.rehearsed.lasting_bytes,
            phase=plan.rehearsed.phase,
            fits=plan.fits,
            steps=say.steps_of(plan, self._labelled()),
            extra_ms=1e3 * plan.extra_s,
            code=say.code_of(plan, self._name, self._type_name),
            reason="" if plan.fits else "no plan fits; this one takes least",
        )
