"""``profile``: where a cell's time and memory go, while it runs as it is."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from deepseek_lab.base.costs import CellCosts
from deepseek_lab.base.errors import TargetError
from deepseek_lab.base.events import CellProfiled, Event, EventLog, RunEnded, RunStarted
from deepseek_lab.measure.profiler import Session
from deepseek_lab.notebook.host import Cell, Host, view_of, warn
from deepseek_lab.notebook.measured import Make, MeasuredRegion, measure
from deepseek_lab.notebook.parse import Command
from deepseek_lab.notebook.plan import Plan
from deepseek_lab.notebook.show import Shown

_last: list[ShownCosts] = []


class ShownCosts(Shown):
    """A profile: ``costs`` are the records, and their fields are this object's own too.

    ``log`` holds it as events; saved and read again it gives the same report: ``ShownCosts.of(EventLog.load(path))``.
    """

    def __init__(self, costs: CellCosts, *, view: str = "auto", against: CellCosts | None = None) -> None:
        from deepseek_lab import views

        super().__init__(views.costs_text(costs, against), data=costs.to_dict())
        self.costs = costs
        self.log = EventLog()
        run = f"profile-{uuid.uuid4().hex[:8]}"
        self.log.emit(RunStarted(run=run, verb="profile"))
        self.log.emit(CellProfiled(run=run, costs=costs))
        self.log.emit(RunEnded(run=run, reason=costs.error))
        self._view, self._against = view, against

    @classmethod
    def of(cls, events: Iterable[Event], *, view: str = "auto") -> ShownCosts:
        """The last profile among events.

        Raises:
            TargetError: there is none.
        """
        found = [event for event in events if isinstance(event, CellProfiled)]
        if not found:
            raise TargetError(
                "no cell was profiled in these events",
                hint="%%deepseek profile --to r, then r.log.save(path)",
            )
        return cls(found[-1].costs, view=view)

    def bundle(self) -> dict[str, Any]:
        """Text alone for ``--view text``; without the tables that can be sorted for ``static``."""
        made = super().bundle()
        if self._view == "text":
            return made
        from deepseek_lab import views

        whole = views.costs_bundle(self.costs, self._against)
        if self._view == "static":
            whole = {key: value for key, value in whole.items() if key.startswith("text/")}
        return whole | made

    def save(self, path: Path) -> None:
        """Write .json data, an .html page or .md text."""
        from deepseek_lab import views

        self._html = views.costs_html(self.costs, self._against)
        super().save(path)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "costs":
            raise AttributeError(name)
        return getattr(self.costs, name)


def region(plan: Plan, cell: Cell, host: Host) -> MeasuredRegion:
    """Surround a cell."""
    return MeasuredRegion(plan, cell, host, _maker(plan.command, host))


def run(plan: Plan, host: Host) -> Shown:
    """Run a statement and show where its time went; without one, the last profile again."""
    __tracebackhide__ = True
    command = plan.command
    if command.operands:
        return measure(" ".join(command.operands), host, _maker(command, host))
    if not _last:
        raise TargetError(
            "nothing has been profiled in this session yet", hint="%%deepseek profile above a cell"
        )
    return ShownCosts(_last[-1].costs, view=view_of(command), against=_other(command, host))


def _maker(command: Command, host: Host) -> Make:
    against = _other(command, host)

    def make(session: Session, error: str) -> ShownCosts:
        shown = ShownCosts(session.costs(error=error), view=view_of(command), against=against)
        _last[:] = [shown]
        if path := command.text("trace"):
            try:
                session.save_trace(Path(path).expanduser())
            except OSError as failure:
                warn(f"--trace: {path} cannot be written ({failure.strerror}); the profile is not affected")
        return shown

    return make


def _other(command: Command, host: Host) -> CellCosts | None:
    """The profile that ``--against`` names.

    Raises:
        TargetError: the name is no profile.
    """
    name = command.text("against")
    if name is None:
        return None
    found = host.namespace.get(name)
    if not isinstance(found, ShownCosts):
        what = (
            f"{name} is a {type(found).__name__}, not a profile"
            if name in host.namespace
            else f"there is no {name!r}"
        )
        raise TargetError(
            what, hint=f"%%deepseek profile --to {name} above the cell to compare with, then this"
        )
    return found.costs
