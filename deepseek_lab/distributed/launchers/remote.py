"""Ranks on other machines: a keeper beside each rank says on a connection of its own how the rank is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from deepseek_lab.distributed.channel import Message
from deepseek_lab.distributed.launchers.launcher import Launcher, Site, Start, tail
from deepseek_lab.processes.ends import ending

_PATIENCE_S = 1.0
SILENT_S = 30
"""A machine of which nothing is heard for so long is given up."""


class RemoteProcess:
    """A rank's process, of which its keeper tells.

    Args:
        start: Whom to tell when it ends.
        send: To the keeper.
        end: Ends the process where the keeper cannot be asked.
    """

    def __init__(
        self, start: Start, send: Callable[[Message, bytes], None], end: Callable[[], None] | None = None
    ) -> None:
        self.identity = start.identity
        self.pid = 0
        self.host = ""
        self.silent_s = 0
        """Since its keeper was heard last."""
        self._start, self._send, self._end = start, send, end
        self._ended = threading.Event()
        self._words = ""
        self._lock = threading.Lock()

    @property
    def spoke(self) -> bool:
        """Whether its keeper was ever heard."""
        return self.pid != 0

    @property
    def alive(self) -> bool:
        """Whether it has not ended, as far as is known."""
        return not self._ended.is_set()

    def heard(self, message: Message) -> None:
        """Its keeper said something."""
        self.silent_s = 0
        fields = message.fields
        if message.kind == "kept":
            self.pid, self.host = fields["pid"], fields["host"]
        elif message.kind == "ended":
            self.end(fields["why"] or ending(fields["status"]), fields["words"])

    def end(self, why: str, words: str = "") -> None:
        """Take note that it has ended, unless that is known."""
        with self._lock:
            if self._ended.is_set():
                return
            self._words = words
            self._ended.set()
        self._start.ended(f"{why} (on {self.host})" if self.host else why)

    def kill(self) -> None:
        """End it and whatever it has started."""
        if self.alive:
            self._send(Message("kill"), f"keeper-{self.identity}".encode())
            if self._end is not None:  # the keeper, if it hears, says what has happened
                timer = threading.Timer(_PATIENCE_S if self.spoke else 0, self._end)
                timer.daemon = True
                timer.start()

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended within the time."""
        return self._ended.wait(timeout_s)

    def last_words(self) -> str:
        """The end of what it wrote beside its cells."""
        return tail(self._words.encode())


class Remote(Launcher):
    """Takes what keepers say to the processes that they keep."""

    _processes: dict[bytes, RemoteProcess]

    def open(self, site: Site) -> None:
        """Take note of what the notebook has, and look after those that fall silent."""
        super().open(site)
        self._processes = {}
        self._closed = threading.Event()
        threading.Thread(target=self._look, name="deepseek-keepers", daemon=True).start()

    def heard(self, sender: bytes, message: Message) -> None:
        """Called with what a keeper says."""
        process = self._processes.get(sender)
        if process is not None:
            process.heard(message)

    def close(self) -> None:
        """Look no longer."""
        self._closed.set()

    def _keep(self, start: Start, **options: Any) -> RemoteProcess:
        process = RemoteProcess(start, self._site.send, **options)
        self._processes[f"keeper-{start.identity}".encode()] = process
        return process

    def _look(self) -> None:
        # Seconds are counted, not read from a clock: a notebook that was stopped has not heard what waits for it.
        while not self._closed.wait(1):
            for process in list(self._processes.values()):
                if process.alive and process.spoke:
                    process.silent_s += 1
                    if process.silent_s > SILENT_S:
                        process.end(f"was not heard of for {SILENT_S} s: its machine or the network is down")
            self._looked()

    def _looked(self) -> None:
        """Called every second."""
