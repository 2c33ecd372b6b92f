"""The process that measures, seen from here: asked, watched, and ended where it goes beyond what it may."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

from deepseek_lab.hpo.limits.job import Job, Outcome, Seen, Task
from deepseek_lab.measure.machine import memory_bytes
from deepseek_lab.measure.room import free_bytes
from deepseek_lab.processes import ends
from deepseek_lab.processes.sealed import Sealed

_LOOK_S = 0.01
"""Pause between two looks at the process's memory."""
_ROOM_S = 0.1
"""Pause between two looks at what the machine has left."""
_LEFT_SHARE, _LEFT_BYTES = 0.02, 256 << 20
"""What the machine is always to have left, of its memory and at least."""


class OutOfTime(Exception):
    """The time is up; the process was ended."""


class Unmade(Exception):
    """What the notebook defined cannot be made in another process."""


class Child:
    """One process; another one takes its place where it has ended.

    Args:
        task: The cell.
        sealed: What it begins with.
        until_s: When everything is to have ended, by the monotonic clock.
        told: Hears what is known of the loop, and how many turns a job has made.
    """

    def __init__(
        self, task: Task, sealed: Sealed, until_s: float, told: Callable[[Seen | int], None]
    ) -> None:
        self._task, self._sealed, self._until_s, self._told = task, sealed, until_s, told
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._seen = Seen()
        self.start_bytes: int | None = None
        """What a process held with what the cell begins with."""
        self.limit_bytes: int | None = None
        """Resident memory at which it is ended."""

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._log.close()

    @property
    def alive(self) -> bool:
        """Whether a process is there."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Have a process that is ready.

        Raises:
            OutOfTime: it was not in time.
            Unmade: it cannot be.
        """
        self.close()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "deepseek_lab.hpo.limits.child", str(theirs.fileno())],
                pass_fds=[theirs.fileno(), self._sealed.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                env={**os.environ, "MPLBACKEND": "agg"},
                start_new_session=True,
            )
        self._connection = Connection(ours.detach())
        setup = {
            "task": self._task,
            "sealed": self._sealed.fileno(),
            "layout": self._sealed.layout,
            "path": sys.path,
            "parent": os.getpid(),
        }
        try:
            self._connection.send(setup)
            self._wait(self._until_s)
            kind, content = self._connection.recv()
        except (EOFError, OSError):
            raise Unmade(self._last_words()) from None
        if kind == "unmade":
            raise Unmade(content)
        self.start_bytes = content

    def _wait(self, until_s: float) -> None:
        assert self._connection is not None
        while not self._connection.poll(_LOOK_S):
            if time.monotonic() > until_s:
                self.close()
                raise OutOfTime

    def ask(self, job: Job) -> Outcome:
        """Have a job done. A process that is ended by whatever is an outcome.

        Raises:
            OutOfTime: it was not in time.
            Unmade: there is no process to do it.
        """
        if not self.alive:
            self.start()
        assert self._connection is not None
        began_s, peak = time.monotonic(), 0
        looked_s = 0.0
        self._seen = Seen()
        try:
            self._connection.send(job)
            while True:
                while not self._connection.poll(_LOOK_S):
                    now = time.monotonic()
                    if now > self._until_s:
                        self.close()
                        raise OutOfTime
                    peak = max(peak, self._resident() or 0)
                    if self.limit_bytes is not None and peak > self.limit_bytes:
                        return self._ended(peak, began_s, "it held more than the limit")
                    if now - looked_s > _ROOM_S:
                        looked_s = now
                        if _room_is_short():
                            return self._ended(peak, began_s, "the machine had no memory left")
                kind, content = self._connection.recv()
                if kind == "done":
                    outcome: Outcome = content
                    outcome.peak_bytes = outcome.peak_bytes or peak or None
                    return outcome
                if kind == "seen":
                    self._seen = content
                self._told(content)
        except (EOFError, OSError):
            words = self._last_words()
            self.close()
            return Outcome(
                "killed",
                seen=self._seen,
                peak_bytes=peak or None,
                seconds=time.monotonic() - began_s,
                error=words,
            )

    def _ended(self, peak: int, began_s: float, why: str) -> Outcome:
        self.close()
        return Outcome(
            "memory", seen=self._seen, peak_bytes=peak, seconds=time.monotonic() - began_s, error=why
        )

    def _resident(self) -> int | None:
        assert self._process is not None
        try:
            with open(f"/proc/{self._process.pid}/statm", encoding="ascii") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError, IndexError):
            return None

    def _last_words(self) -> str:
        """How the process ended."""
        assert self._process is not None
        return ends.last_words(self._process, self._log)

    def close(self) -> None:
        """End the process and all that it has started."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _room_is_short() -> bool:
    """Whether the machine has so little memory left that something will be ended."""
    free = free_bytes()
    return free is not None and free < max(_LEFT_SHARE * memory_bytes(), _LEFT_BYTES)
