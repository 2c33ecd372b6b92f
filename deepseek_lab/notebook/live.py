"""A displayed report that follows its run until the decision, and after it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from deepseek_lab.base import events as ev
from deepseek_lab.notebook.host import Host, save, view_of, warn
from deepseek_lab.notebook.parse import Command
from deepseek_lab.notebook.ports import Run
from deepseek_lab.notebook.show import ShownRun
from deepseek_lab.views import live

if TYPE_CHECKING:
    from deepseek_lab.views import LiveWidget

_FINAL = (ev.Decided, ev.RunEnded)
_STEPS = (ev.GraphCaptured, ev.CandidateEnded, *_FINAL)
_PAUSE_S = 0.5


class Follower:
    """Shows a run's report once, then again in the same place whenever it has changed.

    Events come from background threads; steps are shown at most twice a second, final words always. Steps that a page
    is told by a channel are not shown again.
    """

    def __init__(self, command: Command, shown: ShownRun, host: Host) -> None:
        self._command = command
        self.shown = shown
        self._lock = threading.Lock()
        self._last_s = 0.0
        self._again: Callable[[], None] | None = None
        self._stopped = threading.Event()
        run = shown.run
        self._updates = host.updates and view_of(command) != "static"
        self._widget: LiveWidget | None = None
        self._widget_is_shown = False
        if run is not None and self._updates:
            self._offer(run)
        if not command.has("quiet"):
            self._again = host.display(shown)
            self._widget_is_shown = self._widget is not None
        self._seen = self._state()
        self._save()
        if run is not None and (self._updates or command.has("save")):
            run.log.listen(lambda event: self._heard(run, event))
            self.refresh()

    def _state(self) -> tuple[str, int]:
        """What an output shows: the summary, and how many candidates have a verdict."""
        report = self.shown.report
        return repr(self.shown), sum(row.status != "building" for row in list(report.rows.values()))

    def _save(self) -> None:
        try:
            save(self._command, self.shown)
        except Exception as error:
            warn(f"the report was not saved ({error})")

    def _offer(self, run: Run) -> None:
        """Let pages follow the run, and stop it, while something is under way."""
        if not run.working:
            live.withdraw(run.id)
            return
        stopped = self._stopped

        def stop() -> None:
            stopped.set()
            run.interrupt()

        source = live.Source(
            run.id,
            run.log,
            stop,
            ended=lambda: not run.working,
            stopping=lambda: stopped.is_set() and run.working,
        )
        live.offer(source)
        if self._widget is None and not self._command.has("quiet"):
            from deepseek_lab import views

            self._widget = self.shown.widget = views.live_widget(source, self.shown.bundle())
            self._widget_is_shown = False

    def _heard(self, run: Run, event: ev.Event) -> None:
        if not isinstance(event, _STEPS):
            return
        now = time.monotonic()
        if self._updates:
            self._offer(run)
        if not isinstance(event, _FINAL) and (now - self._last_s < _PAUSE_S or live.watched(run.id)):
            return
        self._last_s = now
        try:
            self.refresh()
        except Exception as error:
            warn(f"the report could not be updated ({type(error).__name__}: {error})")

    def refresh(self) -> None:
        """Show and save again if there is something new to show."""
        with self._lock:
            state = self._state()
            if state == self._seen:
                return
            self._seen = state
            if self._updates and self._again is not None:
                self._show_again()
            if self.shown.report.decided:
                self._save()

    def _show_again(self) -> None:
        assert self._again is not None
        widget, run = self._widget, self.shown.run
        if widget is None or run is None:
            self._again()
        elif not run.working:
            # What is saved shows without a kernel: nothing that is live stays behind.
            self._widget = self.shown.widget = None
            self._again()
            widget.close()
        elif self._widget_is_shown:
            widget.show(self.shown.bundle())
        else:
            self._widget_is_shown = True
            self._again()
