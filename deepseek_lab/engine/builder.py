"""The user's side of the builder process: start it, ask it, survive it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepseek_lab.base.errors import BuildError
from deepseek_lab.base.settings import settings
from deepseek_lab.measure import machine


class BuilderDied(BuildError):
    """The builder process ended in the middle of a request."""


class BuilderTimeout(BuildError):
    """A request took longer than its budget; the builder was stopped."""


class Interrupted(BuildError):
    """The user asked for background work to end."""


class _Meter:
    """Says whether a process gets less than a third of one processor, every half second."""

    def __init__(self, pid: int | None) -> None:
        self._path = Path(f"/proc/{pid}/stat")
        self._seconds, self._at, self._verdict = self._read(), time.monotonic(), False

    def _read(self) -> float:
        try:
            fields = self._path.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except (OSError, IndexError, ValueError):
            return 0.0

    def starving(self) -> bool:
        """The latest verdict."""
        now = time.monotonic()
        if now - self._at >= 0.5:
            seconds = self._read()
            self._verdict = (seconds - self._seconds) / (now - self._at) < 0.33
            self._seconds, self._at = seconds, now
        return self._verdict


class Builder:
    """One builder process, started at first need and again after it died.

    All methods but :meth:`kill` are called by one thread.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Any = None
        self._words: Any = None
        self._lock = threading.Lock()
        self.starving = False
        """Whether a request is under way that has had next to no processor time lately."""

    @property
    def pid(self) -> int | None:
        """Process id while one is running."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> None:
        """Start the process unless it runs."""
        if self.pid is not None:
            return
        self._release()
        ours, theirs = multiprocessing.Pipe()
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process, see _release
        limit = settings.builder_memory_bytes or machine.memory_bytes() * 3 // 4
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
        root = str(Path(__file__).resolve().parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
        environment.pop("PYTHONSTARTUP", None)
        command = [sys.executable, "-c", _MAIN, str(theirs.fileno()), str(limit)]
        with self._lock:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=self._words,
                stderr=self._words,
                pass_fds=(theirs.fileno(),),
                env=environment,
                start_new_session=True,
            )
        theirs.close()
        self._connection = ours

    def ask(
        self, method: str, *arguments: Any, budget_s: float, stop: Callable[[], bool] = lambda: False
    ) -> Any:
        """Send one request and wait for its answer.

        Raises:
            BuildError: the request failed in the builder; its own words.
            BuilderDied, BuilderTimeout: the process is gone; the next request starts another.
            Interrupted: ``stop`` became true.
        """
        self.start()
        until = time.monotonic() + budget_s
        meter = _Meter(self.pid)
        try:
            self._connection.send((method, arguments))
            while not self._connection.poll(0.05):
                self.starving = meter.starving()
                if stop():
                    self.kill()
                    raise Interrupted("stopped by the user")
                if time.monotonic() > until:
                    self.kill()
                    raise BuilderTimeout(f"took longer than its budget of {budget_s:.0f} s")
                if self.pid is None and not self._connection.poll(0):
                    raise EOFError
            ok, answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise BuilderDied(self._death()) from error
        finally:
            self.starving = False
        if not ok:
            raise BuildError(answer)
        return answer

    def _death(self) -> str:
        process = self._process
        assert process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=2)
        code = process.returncode
        last = self._last_words()
        self._release()
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            hint = " (out of memory?)" if name in ("SIGKILL", "SIGABRT") and "alloc" in last else ""
            return f"the builder was ended by {name}{hint}{': ' + last if last else ''}"
        return f"the builder ended with code {code}{': ' + last if last else ''}"

    def _last_words(self) -> str:
        try:
            self._words.seek(0)
            lines = self._words.read().decode(errors="replace").strip().splitlines()
        except (OSError, ValueError, AttributeError):
            return ""
        return lines[-1][:200] if lines else ""

    def kill(self) -> None:
        """End the process and everything that it started. May be called from any thread."""
        with self._lock:
            process = self._process
            if process is None or process.poll() is not None:
                return
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)

    def _release(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._words is not None:
            self._words.close()
            self._words = None
        self._process = None


_MAIN = "from deepseek_lab.engine.builder_process import main; main()"
