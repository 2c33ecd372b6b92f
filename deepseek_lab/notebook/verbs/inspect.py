"""``inspect``: what is wrong with a training loop, said while it runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek_lab.base.errors import TargetError
from deepseek_lab.base.inspection import Finding, Inspection
from deepseek_lab.notebook.host import Cell, Host, bind, save, view_of, warn
from deepseek_lab.notebook.plan import Plan
from deepseek_lab.notebook.ports import torch_loaded
from deepseek_lab.notebook.show import Shown

if TYPE_CHECKING:
    from deepseek_lab.inspector.watch import Watch

_last: list[ShownInspection] = []
_PAUSE_S = 0.5
"""Shortest time between two changes of what is shown while the cell runs."""


class ShownInspection(Shown):
    """What was seen of a loop; attributes are the record's (:class:`Inspection`) own too."""

    def __init__(self, seen: Inspection, *, view: str = "auto") -> None:
        from deepseek_lab import views

        super().__init__(views.inspection_text(seen), data=seen.to_dict())
        self.inspection = seen
        self._view = view

    def bundle(self) -> dict[str, Any]:
        """Text alone for ``--view text``; without what can be explored for ``static``."""
        made = super().bundle()
        if self._view == "text":
            return made
        from deepseek_lab import views

        whole = views.inspection_bundle(self.inspection)
        if self._view == "static":
            whole = {key: value for key, value in whole.items() if key.startswith("text/")}
        return whole | made

    def save(self, path: Path) -> None:
        """Write .json data, an .html page or .md text."""
        from deepseek_lab import views

        self._html = views.inspection_html(self.inspection)
        super().save(path)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "inspection":
            raise AttributeError(name)
        return getattr(self.inspection, name)


class _Output(Shown):
    """What stands below the cell: findings while it runs, the report when it has ended."""

    def __init__(self) -> None:
        super().__init__("")
        self.now: Shown = Shown("")

    def bundle(self) -> dict[str, Any]:
        return self.now.bundle()

    def __repr__(self) -> str:
        return repr(self.now)


class InspectRegion:
    """A cell that is watched."""

    def __init__(self, plan: Plan, cell: Cell, host: Host) -> None:
        self._command, self._host = plan.command, host
        self._output = _Output()
        self._again: Callable[[], None] | None = None
        self._found: list[Finding] = []
        self._shown_s = 0.0
        self._watch: Watch | None = None
        if not torch_loaded():
            warn("torch was not imported when the cell began, so nothing is inspected; run it once more")
            return
        from deepseek_lab.inspector.trial import Trials
        from deepseek_lab.inspector.watch import Watch

        self._watch = Watch(
            host.namespace,
            only=_modules(plan.objects),
            found=self._tell,
            trials=Trials() if plan.command.has("try") else None,
        ).open()

    def _tell(self, finding: Finding) -> None:
        """Say it now; the loop goes on."""
        self._found.append(finding)
        if self._command.has("quiet"):
            return
        from deepseek_lab import views

        if not self._host.updates:
            self._host.say(f"inspect: step {finding.since}: {finding.text}")
            return
        if self._again is not None and time.monotonic() - self._shown_s < _PAUSE_S and len(self._found) > 3:
            return  # there is an end to what is worth reading in half a second; the report has all
        self._output.now = Shown(views.live_text(self._found, finding.since))
        self._shown_s = time.monotonic()
        if self._again is None:
            self._again = self._host.display(self._output)
        else:
            self._again()

    def close(self, error: bool) -> None:
        """Stop watching, then show the report."""
        if self._watch is None:
            return
        self._watch.close(getattr(sys, "last_value", None) if error else None)
        shown = ShownInspection(
            self._watch.report(error=_last_error() if error else ""), view=view_of(self._command)
        )
        _last[:] = [shown]
        bind(self._command, shown, self._host)
        save(self._command, shown)
        if self._command.has("quiet"):
            return
        self._output.now = shown
        if self._again is not None:
            self._again()
        else:
            self._host.display(shown)


def region(plan: Plan, cell: Cell, host: Host) -> InspectRegion:
    """Surround a cell."""
    return InspectRegion(plan, cell, host)


def run(plan: Plan, host: Host) -> Shown:
    """The last cell's report again."""
    if not _last:
        raise TargetError(
            "nothing has been inspected in this session yet", hint="%%deepseek inspect above a cell"
        )
    return ShownInspection(_last[-1].inspection, view=view_of(plan.command))


def last_inspection() -> Inspection | None:
    """What the last cell showed, for views that lay it over something else."""
    return _last[-1].inspection if _last else None


def _modules(objects: Mapping[str, Any]) -> list[Any]:
    """The targets, which must be modules.

    Raises:
        TargetError: one is something else.
    """
    import torch

    for name, value in objects.items():
        if not isinstance(value, torch.nn.Module):
            raise TargetError(
                f"{name} is a {type(value).__name__}, and inspect watches modules", hint="%%deepseek inspect"
            )
    return list(objects.values())


def _last_error() -> str:
    kind = getattr(sys, "last_type", None)
    return kind.__name__ if isinstance(kind, type) else "an error"
