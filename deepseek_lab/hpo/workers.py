"""Where trials run: in processes of their own, or in this one."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from deepseek_lab.hpo.spaces import Plain, Space
from deepseek_lab.hpo.trial import Job, Outcome
from deepseek_lab.hpo.worker import Bench
from deepseek_lab.processes import ends
from deepseek_lab.processes.sealed import Sealed

_ATTEMPTS = 3
_STARTS_S = 180.0
"""A worker that is not ready after so long never will be."""


class Listener(Protocol):
    """Who answers a trial's questions."""

    def ask(self, job: Job, name: str, space: Space) -> Plain: ...

    def report(self, job: Job, step: int, value: float) -> bool: ...


@dataclasses.dataclass(frozen=True)
class Task:
    """What all trials of a search have in common."""

    source: str
    file: str
    metrics: tuple[str, ...]
    final: str | None
    binds: tuple[str, ...]


class Workers(Protocol):
    """Places where trials run."""

    size: int

    def free(self) -> bool:
        """Whether a trial can begin now."""

    def begin(self, job: Job) -> None:
        """Begin a trial."""

    def ended(self, timeout_s: float) -> list[tuple[Job, Outcome]]:
        """Trials that have ended, after waiting for one for at most so long."""

    def give(self, number: int) -> tuple[list[Any], dict[str, str]] | None:
        """What the cell made in a trial that was to be kept; None where that is lost."""

    def keep_only(self, numbers: Sequence[int]) -> None:
        """Of what is kept, keep these."""

    def close(self) -> None:
        """End them all, whatever they are doing."""


class Here:
    """This process runs trials, one after the other."""

    size = 1

    def __init__(self, task: Task, sealed: Sealed, listener: Listener) -> None:
        self._bench = Bench(task.source, task.file, task.metrics, task.final, sealed, task.binds)
        self._listener = listener
        self._job: Job | None = None
        self._kept: set[int] = set()

    def free(self) -> bool:
        return self._job is None

    def begin(self, job: Job) -> None:
        self._job = job

    def ended(self, timeout_s: float) -> list[tuple[Job, Outcome]]:
        job, self._job = self._job, None
        if job is None:
            return []
        outcome = self._bench.run(
            job,
            lambda name, space: self._listener.ask(job, name, space),
            lambda step, value: self._listener.report(job, step, value),
        )
        if job.keep:
            self._kept.add(job.number)
        return [(job, outcome)]

    def give(self, number: int) -> tuple[list[Any], dict[str, str]] | None:
        return self._bench.give(number) if number in self._kept else None

    def keep_only(self, numbers: Sequence[int]) -> None:
        self._bench.forget(sorted(self._kept - set(numbers)))
        self._kept &= set(numbers)

    def close(self) -> None:
        self._job = None


@contextlib.contextmanager
def random_streams() -> Iterator[None]:
    """Leave the random streams of this process as they are."""
    import random

    import numpy as np
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


class Processes:
    """Processes that run a trial each at a time.

    Args:
        task: What trials have in common.
        sealed: What they begin with.
        listener: Answers what trials ask.
        size: How many.
        timeout_s: A trial that takes longer is ended with its process.
    """

    def __init__(
        self, task: Task, sealed: Sealed, listener: Listener, size: int, timeout_s: float | None = None
    ) -> None:
        self.size = size
        self._task, self._sealed, self._listener, self._timeout_s = task, sealed, listener, timeout_s
        self._homes: dict[int, int] = {}
        """Where what was kept is, by number of the trial."""
        self._workers: list[_Worker] = []
        try:
            for _ in range(size):
                self._workers.append(self._start())
            for index in range(size):
                self._greet(index)
        except BaseException:
            self.close()
            raise

    def _start(self) -> _Worker:
        threads = max(1, len(os.sched_getaffinity(0)) // self.size)
        return _Worker(self._task, self._sealed, threads)

    def _greet(self, index: int) -> None:
        """Wait until a worker is ready; one that ends before is started again."""
        for attempt in range(_ATTEMPTS):
            try:
                self._workers[index].hello()
                return
            except RuntimeError:
                if attempt == _ATTEMPTS - 1:
                    raise
                self._workers[index].kill()
                self._workers[index] = self._start()

    def free(self) -> bool:
        return any(worker.job is None for worker in self._workers)

    def begin(self, job: Job) -> None:
        for index, worker in enumerate(self._workers):
            if worker.job is None:
                if not worker.alive():
                    worker.kill()
                    self._homes = {number: home for number, home in self._homes.items() if home != index}
                    self._workers[index] = self._start()
                    self._greet(index)
                self._workers[index].begin(job)
                return
        raise RuntimeError("no worker is free")

    def ended(self, timeout_s: float) -> list[tuple[Job, Outcome]]:
        until_s = time.monotonic() + timeout_s
        found: list[tuple[Job, Outcome]] = []
        while not found:
            busy = {worker.connection: index for index, worker in enumerate(self._workers) if worker.job}
            left_s = until_s - time.monotonic()
            if not busy or left_s < 0:
                return found
            for ready in wait(list(busy), min(left_s, 0.2)):
                found += self._heard(busy[ready])  # type: ignore[index]
            found += self._overdue()
        return found

    def _heard(self, index: int) -> list[tuple[Job, Outcome]]:
        worker = self._workers[index]
        job = worker.job
        assert job is not None
        try:
            kind, content = worker.connection.recv()
            if kind == "ask":
                worker.connection.send(self._answer(job, *content))
            elif kind == "report":
                worker.connection.send(self._listener.report(job, *content))
        except (EOFError, OSError):
            return self._lost(index, worker.last_words())
        if kind != "done":
            return []
        worker.job = None
        if job.keep:
            self._homes[job.number] = index
        return [(job, content)]

    def _answer(self, job: Job, name: str, space: Space) -> Plain | Exception:
        try:
            return self._listener.ask(job, name, space)
        except ValueError as error:
            return error

    def _overdue(self) -> list[tuple[Job, Outcome]]:
        found: list[tuple[Job, Outcome]] = []
        for index, worker in enumerate(self._workers):
            if worker.job is not None and self._timeout_s is not None and worker.busy_s > self._timeout_s:
                found += self._lost(index, f"it took longer than {self._timeout_s:g} s and was ended")
        return found

    def _lost(self, index: int, why: str) -> list[tuple[Job, Outcome]]:
        """A worker is gone, and with it its trial; another takes its place when it is needed."""
        worker = self._workers[index]
        job, seconds = worker.job, worker.busy_s
        worker.kill()
        worker.job = None
        self._homes = {number: home for number, home in self._homes.items() if home != index}
        assert job is not None
        return [(job, Outcome("failed", seconds=seconds, error=why, text=why))]

    def give(self, number: int) -> tuple[list[Any], dict[str, str]] | None:
        if number not in self._homes:
            return None
        connection = self._workers[self._homes[number]].connection
        try:
            connection.send(("give", number))
            given: tuple[list[Any], dict[str, str]] = connection.recv()[1]
        except (EOFError, OSError):
            return None
        return given

    def keep_only(self, numbers: Sequence[int]) -> None:
        for index, worker in enumerate(self._workers):
            gone = [one for one, home in self._homes.items() if home == index and one not in numbers]
            if gone and worker.job is None:
                with contextlib.suppress(OSError):
                    worker.connection.send(("forget", gone))
                for one in gone:
                    del self._homes[one]

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
        self._workers = []


class _Worker:
    """One process, seen from here."""

    def __init__(self, task: Task, sealed: Sealed, threads: int) -> None:
        ours, theirs = socket.socketpair()
        self.job: Job | None = None
        self._began_s = 0.0
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the process is
        words = {
            name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        }
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "deepseek_lab.hpo.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno(), sealed.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                env={**os.environ, **words},
                start_new_session=True,
            )
        self.connection = Connection(ours.detach())
        self.connection.send(
            {
                **dataclasses.asdict(task),
                "sealed": sealed.fileno(),
                "layout": sealed.layout,
                "threads": threads,
                "path": sys.path,
                "parent": os.getpid(),
            }
        )

    def hello(self) -> None:
        """Wait until it is ready.

        Raises:
            RuntimeError: it never will be.
        """
        try:
            if self.connection.poll(_STARTS_S):
                self.connection.recv()
                return
        except (EOFError, OSError):
            pass
        raise RuntimeError(f"a process for trials did not start: {self.last_words()}")

    def alive(self) -> bool:
        return self._process.poll() is None

    def begin(self, job: Job) -> None:
        self.job, self._began_s = job, time.monotonic()
        with contextlib.suppress(OSError):  # its end is found where it is heard
            self.connection.send(("run", job))

    @property
    def busy_s(self) -> float:
        return time.monotonic() - self._began_s

    def last_words(self) -> str:
        """How the process ended."""
        return ends.last_words(self._process, self._log)

    def kill(self) -> None:
        """End the process and all that it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.connection.close()
        self._log.close()


def workers(
    task: Task, sealed: Sealed, listener: Listener, size: int, timeout_s: float | None = None
) -> Workers:
    """Places for ``size`` trials at a time; 0 runs them in this process."""
    return Processes(task, sealed, listener, size, timeout_s) if size else Here(task, sealed, listener)
