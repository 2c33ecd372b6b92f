"""A search below its cell, while it goes on: what was tried, what is best so far, and ways to end all or one of it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from deepseek_lab.base import events as ev
from deepseek_lab.base.search import SearchReport
from deepseek_lab.notebook.host import Host, view_of, warn
from deepseek_lab.notebook.parse import Command
from deepseek_lab.notebook.show import Shown, Widget
from deepseek_lab.views import live

if TYPE_CHECKING:
    from deepseek_lab.views import LiveWidget

_SHOWN_S, _SAID_S = 2.0, 15.0
"""Shortest pause between two pictures where no page follows, and between two lines at a terminal."""
_SHARE = 0.05
"""Of the time, at most this much is spent on such pictures."""
_STILL = ("static", "text")
"""Views in which nothing is live."""
_NEWS = (ev.SearchStarted, ev.TrialEnded, ev.SearchCompared, ev.RunEnded)


class SearchPort(Protocol):
    """What this file asks of a search; both functions may be called from any thread."""

    @property
    def run_id(self) -> str:
        """The run of its events."""

    def stop(self) -> None:
        """End the search soon; what has ended stays."""

    def prune(self, trial: int) -> None:
        """End a trial when it says how far it is the next time."""


class FollowedSearch(Shown):
    """A search as an output: a line, tables, pictures and the view."""

    def __init__(self, run: str, log: ev.EventLog, *, view: str = "auto") -> None:
        super().__init__("")
        self._run, self._log, self._view = run, log, view
        self._folded, self._num_seen = SearchReport(), 0
        self._lock = threading.RLock()
        self.live = True
        self.widget: Widget | None = None
        """What follows the search where the front end has no extension of ours."""

    @property
    def report(self) -> SearchReport:
        """The search as it stands now."""
        return SearchReport.fold(self._log.since())

    @contextlib.contextmanager
    def known(self) -> Iterator[SearchReport]:
        """The same, kept from one time to the next; what other threads would add waits until this one has read."""
        with self._lock:
            news = self._log.since(self._num_seen)
            self._num_seen += len(news)
            for event in news:
                self._folded.add(event)
            yield self._folded

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON data."""
        return self.report.to_dict()

    def bundle(self) -> dict[str, Any]:
        """Text alone for ``--view text``; nothing that is live for ``static``."""
        from deepseek_lab import views

        if self._view == "text":
            return {"text/plain": repr(self)}
        live = self.live and self._view not in _STILL
        with self.known() as report:
            study = report.started.study if report.started is not None else ""
            title = f"search {study}".strip()
            made = views.search_bundle(self._run, self._log, title=title, live=live, report=report)
        if self._view == "static":
            made = {key: value for key, value in made.items() if key.startswith("text/")}
        return made | self.widget.data if self.widget is not None and live else made

    def metadata(self) -> dict[str, Any]:
        """What the widget needs beside its place in the bundle."""
        return self.widget.metadata if self.widget is not None else {}

    def line(self) -> str:
        """The search in one line."""
        from deepseek_lab import views

        with self.known() as report:
            return views.search_line(report)

    def __repr__(self) -> str:
        from deepseek_lab import views

        with self.known() as report:
            return views.search_text(report)


class LiveSearch:
    """Shows a search as long as it is open; :meth:`end` puts what came of it in its place.

    Args:
        command: What was typed.
        host: Where it is shown.
        search: What a page may end all or one trial of.
        log: What the search tells.
    """

    def __init__(self, command: Command, host: Host, search: SearchPort, log: ev.EventLog) -> None:
        self._command, self._host, self._search, self._log = command, host, search, log
        self.shown = FollowedSearch(search.run_id, log, view=view_of(command))
        self._again: Callable[[], None] | None = None
        self._widget: LiveWidget | None = None
        self._stopped, self._closed = threading.Event(), threading.Event()
        self._pruning: set[int] = set()
        self._last_s = time.monotonic()
        self._took_s = 0.0

    def __enter__(self) -> LiveSearch:
        if not self._command.has("quiet"):
            self._guarded(self._open)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._closed.set()
        live.withdraw(self._search.run_id)
        if kind is not None:
            self.end(None)

    def end(self, shown: Shown | None) -> None:
        """Show what came of it: in the place of what was live, else ``shown``."""
        if self._command.has("quiet"):
            return
        self.shown.live, self.shown.widget = False, None
        if self._again is not None:
            self._guarded(self._again)
        elif shown is not None:
            self._host.display(shown)
        if self._widget is not None:
            self._widget.close()

    def _open(self) -> None:
        if self._host.updates:
            shown = self.shown
            if view_of(self._command) not in _STILL:
                from deepseek_lab import views

                source = live.Source(
                    self._search.run_id,
                    self._log,
                    self._stop,
                    ended=self._closed.is_set,
                    stopping=lambda: self._stopped.is_set() and not self._closed.is_set(),
                    act=self._act,
                    facts=self._facts,
                    kind="search",
                )
                live.offer(source)
                self._widget = shown.widget = views.live_widget(source, shown.bundle())
            self._again = self._host.display(shown)
        self._log.listen(self._heard)

    def _stop(self) -> None:
        self._stopped.set()
        self._search.stop()

    def _act(self, wish: Mapping[str, Any]) -> None:
        """End a trial, where it runs and the search is not about it alone."""
        trial = wish.get("trial")
        if wish.get("do") != "prune" or isinstance(trial, bool) or not isinstance(trial, int):
            return
        if self._runs(trial):
            self._pruning.add(trial)
            self._search.prune(trial)

    def _runs(self, trial: int) -> bool:
        with self.shown.known() as report:
            row = report.rows.get(trial)
        return row is not None and row.status == "running" and row.purpose == "search"

    def _facts(self) -> Mapping[str, Any]:
        self._pruning -= {trial for trial in list(self._pruning) if not self._runs(trial)}
        return {"pruning": sorted(self._pruning)}

    def _heard(self, event: ev.Event) -> None:
        if isinstance(event, _NEWS) and not self._closed.is_set():
            self._guarded(self._show)

    def _show(self) -> None:
        """Anew where there is nobody who follows."""
        least_s = _SAID_S if self._again is None else _SHOWN_S
        if time.monotonic() - self._last_s < max(least_s, self._took_s / _SHARE):
            return
        if self._widget is not None or live.watched(self._search.run_id):
            return
        began_s = time.monotonic()
        if self._again is not None:
            self._again()
        else:
            self._host.say(self.shown.line())
        self._last_s = time.monotonic()
        self._took_s = self._last_s - began_s

    def _guarded(self, action: Callable[[], None]) -> None:
        """What is shown is ours to get right, the search goes on."""
        try:
            action()
        except Exception as error:
            warn(f"the search is not shown ({type(error).__name__}: {error})")
