"""``optimize``: what the cell calls runs at the speed of the best candidate that agrees with eager."""

from __future__ import annotations

import sys
from typing import Any

from deepseek_lab.base.errors import TargetError, UsageError
from deepseek_lab.notebook import cells
from deepseek_lab.notebook.accumulated import Batches
from deepseek_lab.notebook.host import Cell, Host, bind, view_of, warn
from deepseek_lab.notebook.limited import LimitedRegion, limited, needs_limit
from deepseek_lab.notebook.live import Follower
from deepseek_lab.notebook.plan import Plan, checked, resolve
from deepseek_lab.notebook.ports import Run, engine, options, torch_loaded
from deepseek_lab.notebook.show import Shown, ShownRun

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
        self._batches = (
            Batches(plan.command, host, self._begin) if plan.command.has("effective-batch") else None
        )
        if self._batches is None and torch_loaded():
            self._begin()

    def _begin(self) -> None:
        self._run = self._open(dict(self._plan.objects), observe=not self._plan.objects)

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
        shown = ShownRun(run, view=view_of(command), reason=reason)
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
        follower = Follower(command, shown, self._host)
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
