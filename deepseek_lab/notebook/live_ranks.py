"""A training on ranks below its cell, while it goes on: how each rank is doing, and whom the others wait for."""

from __future__ import annotations

import _thread
import signal
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from deepseek_lab.base import events as ev
from deepseek_lab.base.ranks import RankVitals
from deepseek_lab.notebook.host import Host, view_of, warn
from deepseek_lab.notebook.parse import Command
from deepseek_lab.notebook.show import Shown, Widget
from deepseek_lab.views import live

if TYPE_CHECKING:
    from deepseek_lab.distributed.ranks import Ranks

_SHOWN_S, _SAID_S = 2.0, 15.0
"""Pause between two pictures where no page follows, and between two lines at a terminal."""
_STILL = ("static", "text")
"""Views in which nothing is live."""


class ShownVitals(Shown):
    """How the ranks of a training are doing, as an output: a line, a table, curves and the view."""

    def __init__(self, run: str, title: str, log: ev.EventLog, *, view: str = "auto") -> None:
        super().__init__("")
        self._run, self._title, self._log, self._view = run, title, log, view
        self.live = True
        self.widget: Widget | None = None
        """What follows the run where the front end has no extension of ours."""

    def bundle(self) -> dict[str, Any]:
        """Text alone for ``--view text``; nothing that is live for ``static``."""
        from deepseek_lab import views

        live = self.live and self._view not in _STILL
        made = views.run_bundle(self._run, self._log, self.line(), title=self._title, live=live)
        if self._view == "text":
            return {"text/plain": made["text/plain"]}
        if self._view == "static":
            made = {key: value for key, value in made.items() if key.startswith("text/")}
        return made | self.widget.data if self.widget is not None and live else made

    def metadata(self) -> dict[str, Any]:
        """What the widget needs beside its place in the bundle."""
        return self.widget.metadata if self.widget is not None else {}

    def line(self) -> str:
        """All ranks together."""
        from deepseek_lab import views

        return views.vitals_line(self._log.ranks.ranks) if self._log.ranks is not None else "training"

    def __repr__(self) -> str:
        return str(self.bundle()["text/plain"])


class LiveRanks:
    """Shows a training on ranks as long as it is open; what it has shown last stays.

    Stop is the interrupt of the cell.
    """

    def __init__(self, command: Command, host: Host, ranks: Ranks) -> None:
        from deepseek_lab.distributed.watch import Watch

        self._command, self._host, self._ranks = command, host, ranks
        self._log = ev.EventLog()
        self._watch = Watch(self._log, len(ranks))
        title = f"training on {len(ranks)} ranks"
        self._shown = ShownVitals(self._watch.run, title, self._log, view=view_of(command))
        self._again: Callable[[], None] | None = None
        self._stopped = threading.Event()
        self._last_s = time.monotonic()
        self.notes: tuple[str, ...] = ()
        """What is to be remarked of the whole, when it has ended."""
        self.failed = False
        """Whether a rank did not come to the end of the cell."""

    @property
    def vitals(self) -> tuple[RankVitals, ...]:
        """How the ranks were doing."""
        return self._watch.vitals

    def __enter__(self) -> LiveRanks:
        if not self._command.has("quiet"):
            self._guarded(self._open)
        self._ranks.watcher = self._watch
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        failed = "failed" if self.failed else ""
        self.notes = tuple(self._watch.end(failed if kind is None else kind.__name__))
        self._ranks.unwatch()
        if not self._command.has("quiet"):
            self._guarded(self._close)

    def _open(self) -> None:
        if not self._host.updates:
            self._log.listen(self._heard)
            return
        from deepseek_lab import views

        run, shown = self._watch.run, self._shown
        if view_of(self._command) not in _STILL:
            source = live.Source(
                run,
                self._log,
                self._stop,
                ended=lambda: bool(self._watch.ended),
                stopping=lambda: self._stopped.is_set() and not self._watch.ended,
            )
            live.offer(source)
            shown.widget = views.live_widget(source, shown.bundle())
        self._again = self._host.display(shown)
        self._log.listen(self._heard)

    def _close(self) -> None:
        live.withdraw(self._watch.run)
        shown, widget = self._shown, self._shown.widget
        shown.live, shown.widget = False, None
        if self._again is not None:
            self._again()
        elif self.vitals:
            self._host.say(repr(shown))
        if widget is not None:
            widget.close()

    def _stop(self) -> None:
        if not self._stopped.is_set():  # a second interrupt would end the ranks
            self._stopped.set()
            _thread.interrupt_main(signal.SIGINT)

    def _heard(self, event: ev.Event) -> None:
        if isinstance(event, ev.RanksSeen):
            self._guarded(self._show)

    def _show(self) -> None:
        """Anew, from a thread, where there is nobody who follows."""
        pause_s = _SAID_S if self._again is None else _SHOWN_S
        followed = self._shown.widget is not None or live.watched(self._watch.run)
        if time.monotonic() - self._last_s < pause_s or followed:
            return
        self._last_s = time.monotonic()
        if self._again is not None:
            self._again()
        else:
            self._host.say(self._shown.line())

    def _guarded(self, action: Callable[[], None]) -> None:
        """What is shown is ours to get right, the training goes on."""
        try:
            action()
        except Exception as error:
            warn(f"how the ranks are doing is not shown ({type(error).__name__}: {error})")
