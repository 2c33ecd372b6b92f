"""``optimize --memory-limit``: a cell whose training is kept within a limit, and the report that follows it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek_lab.base import events as ev
from deepseek_lab.base.allowed import parse_allowed
from deepseek_lab.base.errors import TargetError, UsageError
from deepseek_lab.base.memory import MemoryReport
from deepseek_lab.base.sizes import parse_limit
from deepseek_lab.notebook.host import Cell, Host, bind, save, view_of, warn
from deepseek_lab.notebook.parse import Command
from deepseek_lab.notebook.plan import Plan, checked, resolve
from deepseek_lab.notebook.show import Shown

if TYPE_CHECKING:
    from deepseek_lab.memory.run import MemoryRun


class ShownLimit(Shown):
    """A look at a training within a limit as it stands now; ``restore()`` leaves its models as they were."""

    def __init__(self, run: MemoryRun, *, view: str = "auto") -> None:
        super().__init__("")
        self.run, self._view = run, view

    @property
    def report(self) -> MemoryReport:
        """What was planned and measured so far."""
        return self.run.report

    def restore(self) -> None:
        """Models as they were."""
        self.run.restore()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return self.report.to_dict()

    def bundle(self) -> dict[str, Any]:
        """Text, and a table for a page."""
        from deepseek_lab import views

        made: dict[str, Any] = {"text/plain": repr(self)}
        if self._view != "text":
            made["text/html"] = views.memory_plan_html(self.report)
        return made

    def save(self, path: Path) -> None:
        """Write the report as it stands now."""
        from deepseek_lab import views

        page = views.memory_plan_html(self.report)
        Shown(repr(self), html_text=page, data=self.to_dict()).save(path)

    def __repr__(self) -> str:
        from deepseek_lab import views

        return views.memory_plan_text(self.report)


class LimitedRegion:
    """A cell whose training is kept within a limit."""

    def __init__(self, plan: Plan, cell: Cell, host: Host) -> None:
        self._command, self._host, self._later = plan.command, host, plan.later
        self._run = _open(plan, host, cell=cell.name, observe=not plan.objects)
        self._shown = ShownLimit(self._run, view=view_of(plan.command))
        self._again: Callable[[], None] | None = None
        self._lock = threading.Lock()
        bind(plan.command, self._shown, host)
        self._run.log.listen(self._heard)

    def _heard(self, event: ev.Event) -> None:
        if isinstance(event, ev.MemoryPlanned | ev.MemoryMeasured):
            try:
                self._show()
            except Exception as error:
                warn(f"the report could not be shown ({type(error).__name__}: {error})")

    def _show(self) -> None:
        with self._lock:
            if self._command.has("quiet"):
                return
            if self._again is None:
                self._again = self._host.display(self._shown)
            elif self._host.updates:
                self._again()

    def close(self, error: bool) -> None:
        """Plans stay; show what was planned and measured."""
        self._run.close(error)
        for path in self._later:
            try:
                self._run.open({path: checked(path, resolve(path, self._host.namespace))})
            except TargetError as problem:
                warn(f"optimize: {problem}")
        if not self._run.report.rows and not self._run.report.notes:
            if not self._command.has("quiet"):
                self._host.say("optimize  nothing in this cell trains, so no limit was needed")
            return
        self._show()
        save(self._command, self._shown)


def limited(plan: Plan, host: Host) -> Shown:
    """Keep the objects that were named within a limit, from their next training steps on."""
    return ShownLimit(_open(plan, host), view=view_of(plan.command))


def needs_limit(command: Command) -> None:
    """``--allow`` says what a plan for a limit may do.

    Raises:
        UsageError: There is no limit.
    """
    if command.has("allow") and not command.has("memory-limit"):
        raise UsageError(
            "--allow says what a plan within a memory limit may do, and there is no limit",
            hint="%%deepseek optimize --memory-limit 6GiB --allow 8bit-optimizer",
        )


def _open(plan: Plan, host: Host, *, cell: str = "", observe: bool = False) -> MemoryRun:
    command: Command = plan.command
    limit = command.text("memory-limit") or ""
    parse_limit(limit)  # before torch is imported
    words = command.get("allow")
    allow = parse_allowed(words if isinstance(words, tuple) else ())
    if command.has("backends") or command.has("tolerance"):
        raise TargetError(
            "with --memory-limit no backends are raced; PyTorch itself trains",
            hint=f"%%deepseek optimize --memory-limit {limit}",
        )
    from deepseek_lab.memory.run import MemoryRun

    run = MemoryRun(limit, precision=command.text("precision"), allow=allow, cell=cell)
    return run.open(dict(plan.objects), observe=observe and not plan.later, namespace=host.namespace)


__all__ = ["LimitedRegion", "ShownLimit", "limited", "needs_limit"]
