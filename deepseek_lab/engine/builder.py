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
from collections.abc import Callable, Iterator
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


class Builder:
    """One builder process, started at first need and again after it died.

    All methods but :meth:`kill` are called by one thread.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Any = None
        self._words: Any = None
        self._lock = threading.Lock()

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
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
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
                # Not a session of its own: Linux shares processor time among sessions first (autogroups), and
                # a low priority inside of another session does not keep it from taking half of the machine.
                process_group=0,
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
        if stop():
            raise Interrupted("stopped by the user")
        self.start()
        until = time.monotonic() + budget_s
        try:
            self._connection.send((method, arguments))
            while not self._connection.poll(0.05):
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
            if stop():
                raise Interrupted("stopped by the user") from error
            raise BuilderDied(self._death()) from error
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

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Stop the process for the length of the block, in which the user's calls are measured."""
        process = self._process
        running = process is not None and process.poll() is None
        if running:
            self._signal(process, signal.SIGSTOP)
        try:
            yield
        finally:
            if running:
                self._signal(process, signal.SIGCONT)

    @staticmethod
    def _signal(process: subprocess.Popen[bytes] | None, which: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, which)  # type: ignore[union-attr]

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
