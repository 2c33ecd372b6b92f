"""One verb, one file. Each file meets one contract.

``run(plan, host) -> Shown``
    the line form: does the work and returns the object that shows itself;
``region(plan, cell, host) -> Region``
    the cell form, for verbs that have one: called when the cell is about to run. Must not import torch.

``elsewhere(plan, cell, body, host) -> Shown``
    the cell form of verbs that run the cell in other processes: runs it, shows what comes of it, and returns that.

``--to``, ``--save``, ``--quiet`` and ``--dry-run`` of the line form are done by the caller. Errors that a user
can mend are ``UsageError`` or ``TargetError``. A file is imported when its verb is first used.
"""

from __future__ import annotations

import importlib
from typing import Protocol, cast

from deepseek_lab.base.errors import TargetError
from deepseek_lab.notebook.host import Cell, Host, bind, save
from deepseek_lab.notebook.plan import Plan
from deepseek_lab.notebook.ports import Run, loaded_engine
from deepseek_lab.notebook.show import Shown


class Region(Protocol):
    """A cell that is under way."""

    def close(self, error: bool) -> None:
        """The cell ended, with an error or without."""


class VerbModule(Protocol):
    """What a file of this folder provides."""

    def run(self, plan: Plan, host: Host) -> Shown: ...

    def region(self, plan: Plan, cell: Cell, host: Host) -> Region: ...

    def elsewhere(self, plan: Plan, cell: Cell, body: str, host: Host) -> Shown: ...


def load(name: str) -> VerbModule:
    """The module of a verb."""
    return cast(VerbModule, importlib.import_module(f"{__name__}.{name}"))


def open_region(plan: Plan, cell: Cell, host: Host) -> Region:
    """Open the region of a plan around a cell."""
    return load(plan.command.verb).region(plan, cell, host)


def run(plan: Plan, host: Host) -> Shown | None:
    """Do what a plan says; returns what is to be shown."""
    if plan.command.has("dry-run"):
        return Shown(str(plan))
    shown = load(plan.command.verb).run(plan, host)
    bind(plan.command, shown, host)
    save(plan.command, shown)
    return None if plan.command.has("quiet") else shown


def run_elsewhere(plan: Plan, cell: Cell, body: str, host: Host) -> None:
    """Run a cell in other processes; the verb itself shows what comes of it."""
    shown = load(plan.command.verb).elsewhere(plan, cell, body, host)
    bind(plan.command, shown, host)
    save(plan.command, shown)


def chosen_run(plan: Plan) -> Run:
    """The run of the report that was named, else the last one.

    Raises:
        TargetError: there is none yet.
    """
    for value in plan.reports.values():
        named: Run = value.run
        return named
    engine = loaded_engine()
    last = engine.last_run() if engine is not None else None
    if last is None:
        raise TargetError(
            "nothing has been optimised in this session yet", hint="%%deepseek optimize above a cell"
        )
    return last
