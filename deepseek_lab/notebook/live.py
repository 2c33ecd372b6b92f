"""A displayed report that follows its run until the decision, and after it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from deepseek_lab.base import events as ev
from deepseek_lab.notebook.host import Host, save, view_of, warn
from deepseek_lab.notebook.parse import Command
from deepseek_lab.notebook.show import ShownRun

_FINAL = (ev.Decided, ev.RunEnded)
_STEPS = (ev.GraphCaptured, ev.CandidateEnded, *_FINAL)
_PAUSE_S = 0.5


class Follower:
    """Shows a run's report once, then again in the same place whenever it has changed.

    Events come from background threads; steps are shown at most twice a second, final words always.
    """

    def __init__(self, command: Command, shown: ShownRun, host: Host) -> None:
        self._command = command
        self._shown = shown
        self._lock = threading.Lock()
        self._last_s = 0.0
        self._seen = ""
        self._again: Callable[[], None] | None = None
        if not command.has("quiet"):
            self._again = host.display(shown)
        self._seen = repr(shown)
        self._updates = host.updates and view_of(command) != "static"
        self._save()
        if shown.run is not None and (self._updates or command.has("save")):
            shown.run.log.listen(self._heard)
            self.refresh()

    def _save(self) -> None:
        try:
            save(self._command, self._shown)
        except Exception as error:
            warn(f"the report was not saved ({error})")

    def _heard(self, event: ev.Event) -> None:
        if not isinstance(event, _STEPS):
            return
        now = time.monotonic()
        if not isinstance(event, _FINAL) and now - self._last_s < _PAUSE_S:
            return
        self._last_s = now
        try:
            self.refresh()
        except Exception as error:
            warn(f"the report could not be updated ({type(error).__name__}: {error})")

    def refresh(self) -> None:
        """Show and save again if the summary has changed."""
        with self._lock:
            summary = repr(self._shown)
            if summary == self._seen:
                return
            self._seen = summary
            if self._updates and self._again is not None:
                self._again()
            if self._shown.report.decided:
                self._save()
