"""``optimize``: what the cell calls runs at the speed of the best candidate that agrees with eager."""

from __future__ import annotations

import sys
import threading
from typing import Any

from deepseek_lab.base import events as ev
from deepseek_lab.base.errors import TargetError, UsageError
from deepseek_lab.notebook import cells
from deepseek_lab.notebook.accumulated import Batches
from deepseek_lab.notebook.host import Cell, Host, bind, view_of, warn
from deepseek_lab.notebook.limited import LimitedRegion, limited, needs_limit
from deepseek_lab.notebook.live import Follower
from deepseek_lab.notebook.plan import Plan, checked, resolve
from deepseek_lab.notebook.ports import Run, engine, options, torch_loaded
from deepseek_lab.notebook.show import Shown, ShownRun

LIVE_AFTER_S = 3.0
"""A cell that runs for longer, from the first graph on, shows its report while it runs."""
_NOTHING = "nothing in this cell calls a torch module or function that could be optimised"
_AS_IT_IS = "each step runs as it is; only how many make an update is another number"


class OptimizeRegion:
    """A cell that is being optimised.

    Where torch is not imported yet the cell runs as it is, and what its text calls is looked up when it has
    ended; so a region around a cell without torch costs nothing.
    """

    def __init__(self, plan: Plan, cell: Cell, host: Host) -> None:
        self._plan = plan
        self._cell = cell
        self._host = host
        self._run: Run | None = None
        self._follower: Follower | None = None
        self._showing = threading.Lock()
        self._timer: threading.Timer | None = None
        self._closed = False
        self._batches = (
            Batches(plan.command, host, self._begin) if plan.command.has("effective-batch") else None
        )
        if self._batches is None and torch_loaded():
            self._begin()

    def _begin(self) -> None:
        self._run = self._open(dict(self._plan.objects), observe=not self._plan.objects)
        self._run.log.listen(self._heard)

    def _heard(self, event: ev.Event) -> None:
        if isinstance(event, ev.GraphCaptured) and self._timer is None and not self._closed:
            self._timer = threading.Timer(LIVE_AFTER_S, self._show)
            self._timer.daemon = True
            self._timer.start()

    def _show(self) -> None:
        """Show the report while the cell runs, from where it follows what is found."""
        with self._showing:
            run = self._run
            if self._closed or run is None or not self._host.updates:
                return
            try:
                shown = ShownRun(run, view=view_of(self._plan.command))
                self._follower = Follower(self._plan.command, shown, self._host)
            except Exception as error:
                warn(f"the report could not be shown while the cell runs ({type(error).__name__}: {error})")

    def _open(self, targets: dict[str, Any], *, observe: bool) -> Run:
        command, cell = self._plan.command, self._cell
        run = engine().open_run(
            command.verb,
            targets=targets,
            observe=observe,
            namespace=self._host.namespace,
            source=cells.plain(cell.source),
            cell=cell.name,
            options=options(command),
        )
        if cell.number is not None:
            self._host.run_cells[run.id] = cell.number
        return run

    def _open_late(self) -> Run | None:
        torch = sys.modules.get("torch")
        if torch is None:
            return None
        targets = dict(self._plan.objects)
        for path in self._plan.later:
            try:
                targets[path] = checked(path, resolve(path, self._host.namespace))
            except TargetError as error:
                warn(f"optimize: {error}")
        if not (self._plan.objects or self._plan.later):
            targets = cells.called_modules(self._cell.source, self._host.namespace, torch.nn.Module)
        return self._open(targets, observe=False) if targets else None

    def close(self, error: bool) -> None:
        """Let background work go on, and show the report below the cell."""
        with self._showing:
            self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._batches is not None:
            self._batches.end()
        if self._run is None and not error and (self._batches is None or self._batches.optimizes):
            self._run = self._open_late()
        run, command = self._run, self._plan.command
        if run is not None:
            if self._batches is not None:
                run.log.emit(self._batches.event(run.id))
            run.close(error)
            run = run.serving
        reason = _NOTHING if self._batches is None else _AS_IT_IS
        follower = self._follower
        shown = (
            follower.shown if follower is not None else ShownRun(run, view=view_of(command), reason=reason)
        )
        bind(command, shown, self._host)
        if run is None and self._batches is not None:
            shown.report.add(self._batches.event(""))
            self._batches.show()
            return
        if not shown.report.graphs and not shown.report.targets and (error or self._host.always is command):
            return
        if not shown.report.graphs and not shown.report.targets and not command.has("save"):
            # One word that nothing will follow needs no place of its own; a display waits for the front end's queues.
            if not command.has("quiet"):
                self._host.say(f"{command.verb}  {_NOTHING}")
            return
        if follower is None:
            follower = Follower(command, shown, self._host)
        else:
            follower.refresh()
        if run is not None and (seconds := command.number("wait")):
            _wait(run, seconds)
            follower.refresh()


def _wait(run: Run, seconds: float) -> None:
    try:
        engine().wait(seconds)
    except KeyboardInterrupt:
        run.interrupt()
        warn("measuring and building ended; what was won so far stays")


def region(plan: Plan, cell: Cell, host: Host) -> OptimizeRegion | LimitedRegion:
    """Surround a cell."""
    needs_limit(plan.command)
    if plan.command.has("memory-limit") and not plan.command.has("effective-batch"):
        return LimitedRegion(plan, cell, host)
    return OptimizeRegion(plan, cell, host)


def run(plan: Plan, host: Host) -> Shown:
    """Optimise the objects that were named; they are faster from their next calls on."""
    needs_limit(plan.command)
    if plan.command.has("effective-batch"):
        raise UsageError(
            "gradients are accumulated in a loop, which is a cell's",
            hint=f"%%deepseek optimize --effective-batch {plan.command.get('effective-batch')}",
        )
    if plan.command.has("memory-limit"):
        return limited(plan, host)
    command, chosen = plan.command, options(plan.command)
    run = engine().open_run(
        command.verb,
        targets=dict(plan.objects),
        observe=False,
        namespace=host.namespace,
        source="",
        cell="",
        options=chosen,
    )
    run.close()
    if seconds := command.number("wait"):
        _wait(run, seconds)
    return ShownRun(run, view=view_of(command))
