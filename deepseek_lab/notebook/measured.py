"""Cells and statements that run as they are while something is measured: what their verbs share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeAlias

from deepseek_lab.measure.profiler import Session
from deepseek_lab.notebook.host import Cell, Host, bind, save
from deepseek_lab.notebook.plan import Plan
from deepseek_lab.notebook.show import Shown

Make: TypeAlias = Callable[[Session, str], Shown]
"""From what was measured, and the name of the error that ended it (empty without one), to what is shown."""


class MeasuredRegion:
    """A cell that is being measured."""

    def __init__(self, plan: Plan, cell: Cell, host: Host, make: Make, *, memory: bool = False) -> None:
        self._command, self._host, self._make = plan.command, host, make
        self._session = Session(cell.name, host.namespace, memory=memory).open()

    def close(self, error: bool) -> None:
        """Stop measuring, then show it."""
        self._session.stop()
        shown = self._make(self._session, _last_error() if error else "")
        bind(self._command, shown, self._host)
        save(self._command, shown)
        if not self._command.has("quiet"):
            self._host.display(shown)


def measure(statement: str, host: Host, make: Make, *, memory: bool = False) -> Shown:
    """Run a statement; what was measured is shown when it fails too."""
    __tracebackhide__ = True
    name, body = host.prepare(statement)
    session = Session(name, host.namespace, memory=memory)
    try:
        with session:
            body()
    except BaseException as error:
        host.display(make(session, type(error).__name__))
        raise
    return make(session, "")


def _last_error() -> str:
    kind = getattr(sys, "last_type", None)
    return kind.__name__ if isinstance(kind, type) else "an error"
