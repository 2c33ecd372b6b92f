"""What happens, on the page while it happens.

The page asks: it opens a channel for a run that it shows, is told how the run stands, and then what is new, at most ten
messages a second for all channels of a kernel, and one once a run has gone on for ten seconds. So a page that was
loaded again comes back to where the run is, and two views of one output are two channels. Where the kernel serves
channels beside the main thread (a subshell), a page can also stop a run while a cell is busy.

A page answers the first message and then every second one. One that does not keep up is told nothing meanwhile, and
then how things stand: newest wins, totals stay exact.

Where nothing is served beside a busy main thread no page can open a channel for what the cell does. Then those that
asked something before are told of the run as a whole, thinned, for as long as nobody has a channel.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from deepseek_lab.base import events as ev
from deepseek_lab.base.series import Rows

TARGET = "deepseek_lab"
"""Name under which pages open channels."""
PERIOD_S = 0.12
"""Shortest pause between two messages of all channels together."""
LONG_PERIOD_S = 1.0
"""The same for a run that has gone on for longer: every message costs the kernel, the server and the page something."""
SHARE = 0.005
"""Of the kernel's time, at most this much is spent on telling pages."""
MAX_PAUSE_S = 1.0
UNHEARD_S = 1.0
"""So long after its begin a run that no page has a channel for is told to those that asked something else."""
MAX_UNANSWERED = 3
MAX_ROWS = 20_000
"""Values of one message; more are thinned, and the page is told how many there were."""


def _no_facts() -> Mapping[str, Any]:
    return {}


@dataclasses.dataclass
class Source:
    """One run that pages may ask for."""

    id: str
    log: ev.EventLog
    stop: Callable[[], None]
    ended: Callable[[], bool]
    stopping: Callable[[], bool] = lambda: False
    act: Callable[[Mapping[str, Any]], None] | None = None
    """What a page may wish for beside the end, e.g. ``{"do": "prune", "trial": 3}``; it came from a page, so that
    nothing of it is to be believed. Called beside the main thread where the kernel serves channels there."""
    facts: Callable[[], Mapping[str, Any]] = _no_facts
    """What pages are told of how it stands beside its events, plain data that replaces what was told before."""
    kind: str = "run"
    """The view that shows it: ``run`` or ``search``."""
    began_s: float = dataclasses.field(default_factory=time.monotonic)

    @property
    def period_s(self) -> float:
        """How often to tell of it: a tenth of its age so far."""
        return min(LONG_PERIOD_S, max(PERIOD_S, (time.monotonic() - self.began_s) / 10))


class Packing(Protocol):
    """Packs what is new of one run, each time for the same page."""

    def packed(self, events: list[ev.Event], rows: Rows, **facts: Any) -> str: ...


class _RunPacking:
    def packed(self, events: list[ev.Event], rows: Rows, **facts: Any) -> str:
        from deepseek_lab.views import _run

        return _run.packed_run(events, _run.thinned(rows, MAX_ROWS), **facts)


def _packing(source: Source) -> Packing:
    if source.kind != "search":
        return _RunPacking()
    from deepseek_lab.views import _search_packed

    return _search_packed.SearchPacking()


class Whole:
    """A run told as a whole to pages that may hear and cannot answer: each word replaces the one before."""

    PERIOD_S = 0.5
    ROWS = 1_500
    """Values that such a page is shown."""
    CHARACTERS = 120_000
    """Of what such a page is told of a search."""

    def __init__(self, source: Source, after_s: float = 0.0) -> None:
        self.source = source
        self._next_s = time.monotonic() + after_s
        self._told: tuple[Any, ...] = ()

    def news(self) -> str | None:
        """The run as a packed table; None where there is nothing new or it is too early to say so."""
        source, now_s = self.source, time.monotonic()
        log, more = source.log, dict(source.facts())
        state = (len(log), log.progress, log.ranks, source.stopping(), more)
        if now_s < self._next_s or state == self._told or source.ended():
            return None
        self._told, began_s = state, time.thread_time()
        facts = {**more, "now_s": time.time(), "state": "stopping" if source.stopping() else "live"}
        packed = self._packed(log, facts)
        self._next_s = now_s + max(self.PERIOD_S, (time.thread_time() - began_s) / SHARE)
        return packed

    def _packed(self, log: ev.EventLog, facts: dict[str, Any]) -> str:
        if self.source.kind == "search":
            from deepseek_lab.views import _search_packed

            return _search_packed.packed_search(log, self.CHARACTERS, **facts)
        from deepseek_lab.views import _run

        return _run.packed_log(log, self.ROWS, **facts)


_sources: dict[str, Source] = {}
_wholes: dict[str, Whole] = {}
_channels: set[_Channel] = set()
_lock = threading.Lock()
_thread: threading.Thread | None = None
_talks: list[tuple[Any, contextvars.Context]] = []
_hurry = threading.Event()
"""Set when there is something to say at once."""
_heard_from_page = False
_extras: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {}


def offer(source: Source) -> None:
    """Let pages ask for a run until it has ended."""
    with _lock:
        _sources[source.id] = source
        _wholes.setdefault(source.id, Whole(source, after_s=UNHEARD_S))
        asked = bool(_talks)
    if asked:
        _run_publisher()


def withdraw(run: str) -> None:
    """Nothing more comes of a run: pages that ask for it later are told that it is gone."""
    with _lock:
        _sources.pop(run, None)
        _wholes.pop(run, None)
    _hurry.set()


def watched(run: str) -> bool:
    """Whether a page has a channel for a run, so that its output need not be replaced."""
    with _lock:
        return any(channel.source.id == run and channel.keeps_up for channel in _channels)


def heard_from_page() -> bool:
    """Whether a page with our extension has ever opened a channel to this kernel."""
    return _heard_from_page


def answer(question: str, reply: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Let pages ask something else: ``reply`` gets the message and returns the answer."""
    _extras[question] = reply


def listen() -> bool:
    """Accept channels from pages; returns whether there is a kernel that could."""
    try:
        import comm
    except ImportError:
        return False
    comm.get_comm_manager().register_target(TARGET, _opened)
    return True


def unlisten() -> None:
    """Accept no more channels."""
    import comm

    with contextlib.suppress(KeyError):
        comm.get_comm_manager().unregister_target(TARGET, _opened)
    _extras.clear()
    with _lock:
        talks, _talks[:] = list(_talks), []
    for talk, context in talks:
        with contextlib.suppress(Exception):
            context.run(talk.close)


class _Channel:
    """One page's view of one run."""

    def __init__(self, comm: Any, source: Source) -> None:
        self.source = source
        self._comm = comm
        # A kernel sends the page's answers where the last message came from: without the context of the opening one
        # they would wait for the main thread.
        self._context = contextvars.copy_context()
        self._events = self._rows = self._sent = 0
        self._answered = 0
        self._progress: ev.Progressed | None = None
        self._ranks: ev.RanksSeen | None = None
        self._packing = _packing(source)
        self._facts: dict[str, Any] = {}
        self._told_stopping = False
        self.owes_answer = False
        """Whether the page has wished for something and not heard since."""

    @property
    def keeps_up(self) -> bool:
        return self._sent - self._answered < MAX_UNANSWERED

    def answered(self, number: Any) -> None:
        if isinstance(number, int) and self._answered < number <= self._sent:
            self._answered = number

    def tell(self) -> bool:
        """Send what is new; returns whether that was the last word."""
        source = self.source
        ended = source.ended()
        if not self.keeps_up and not ended:
            return False
        log = source.log
        events, rows, progress = log.since(self._events), log.series.since(self._rows), log.progress
        told = events
        ranks = log.ranks
        if ranks is not None and ranks is not self._ranks:
            self._ranks = ranks
            told = [*events, ranks]
        stopping, more = source.stopping(), dict(source.facts())
        changed = stopping != self._told_stopping or more != self._facts
        news = told or len(rows) or progress is not self._progress or changed
        if not news and not ended and self._sent and not self.owes_answer:
            return False
        self._events += len(events)
        self._rows += len(rows)
        self._progress, self._told_stopping, self._facts = progress, stopping, more
        facts: dict[str, Any] = {**more, "values": self._rows, "now_s": time.time(), "state": "live"}
        if progress is not None:
            facts |= {"done": progress.done, "total": progress.total, "unit": progress.unit}
        if ended or stopping:
            facts["state"] = "ended" if ended else "stopping"
        self._sent += 1
        self.owes_answer = False
        packed = self._packing.packed(told, rows, **facts)
        message = {"number": self._sent, "first": self._sent == 1, "packed": packed}
        self._context.run(self._comm.send, message)
        return ended

    def close(self) -> None:
        with contextlib.suppress(Exception):  # the page may be gone
            self._context.run(self._comm.close)


def _opened(comm: Any, message: dict[str, Any]) -> None:
    global _heard_from_page
    _heard_from_page = True
    data = message["content"]["data"]
    question = data.get("ask")
    if question in _extras:
        _converse(comm, data)
        return
    with _lock:
        source = _sources.get(data.get("run", ""))
    if source is None:
        comm.send({"gone": True})
        comm.close()
        return
    channel = _Channel(comm, source)
    comm.on_msg(lambda received: _heard(channel, received["content"]["data"]))
    comm.on_close(lambda _: _drop(channel))
    if channel.tell():
        channel.close()
        return
    with _lock:
        _channels.add(channel)
    _run_publisher()


def _converse(comm: Any, data: dict[str, Any]) -> None:
    """A channel for questions, each of which gets one answer, and for what is announced to all."""

    def heard(asked: dict[str, Any]) -> None:
        reply = _extras.get(asked.get("ask", ""))
        comm.send({"error": "not known here"} if reply is None else reply(asked))

    talk = (comm, contextvars.copy_context())
    with _lock:
        _talks.append(talk)
    comm.on_msg(lambda received: heard(received["content"]["data"]))
    comm.on_close(lambda _: _forget(talk))
    heard(data)


def _forget(talk: tuple[Any, contextvars.Context]) -> None:
    with _lock:
        if talk in _talks:
            _talks.remove(talk)


def announce(data: dict[str, Any]) -> None:
    """Tell every page that ever asked something."""
    with _lock:
        talks = list(_talks)
    for comm, context in talks:
        try:
            context.run(comm.send, data)
        except Exception:  # the page or the kernel's sockets are gone
            _forget((comm, context))


def _heard(channel: _Channel, data: dict[str, Any]) -> None:
    if wish(channel.source, data):
        channel.owes_answer = True
    channel.answered(data.get("seen"))


def wish(source: Source, data: Mapping[str, Any]) -> bool:
    """Do what a page wishes of a run, and tell pages soon what came of it; returns whether it was a wish."""
    if data.get("do") == "stop":
        source.stop()
    elif isinstance(data.get("do"), str) and source.act is not None:
        source.act(data)
    else:
        return False
    _hurry.set()
    return True


def _drop(channel: _Channel) -> None:
    with _lock:
        _channels.discard(channel)


def _run_publisher() -> None:
    global _thread
    with _lock:
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(target=_publish, name="deepseek-live", daemon=True)
            _thread.start()


def _publish() -> None:
    """Tell the channels what is new while there are any, and of runs without a channel whoever has asked something."""
    global _thread
    while True:
        with _lock:
            channels = list(_channels)
            told = {channel.source.id for channel in channels}
            unheard = [whole for run, whole in _wholes.items() if run not in told] if _talks else []
            if not channels and not unheard:
                _thread = None
                return
        for channel in channels:
            began_s = time.thread_time()
            try:
                over = channel.tell()
            except Exception:  # the page or the kernel's sockets are gone
                over = True
            if over:
                _drop(channel)
                channel.close()
            # While this thread works the user's waits for the interpreter: no more than a small share of its time.
            spent_s = time.thread_time() - began_s
            time.sleep(PERIOD_S)
            _hurry.wait(min(MAX_PAUSE_S, max(channel.source.period_s, spent_s / SHARE)) - PERIOD_S)
        _hurry.clear()
        for whole in unheard:
            if (packed := whole.news()) is not None:
                announce({"run": whole.source.id, "packed": packed})
            time.sleep(PERIOD_S)
