"""How work in the background keeps out of the way of the user's own calls, and how it gets its turn.

What computes runs under SCHED_IDLE, which is only what nobody else wants: the builder process, and in the user's
process a thread of its own for each heavy piece (:func:`quietly`). The thread that directs them has the ordinary
priority and hardly ever runs. It must not stand back itself: a thread that holds the interpreter's lock and gets no
processor makes the user's thread wait for both.

A loop of calls without a gap wants everything, and then each call is followed by a short pause; see
``settings.donated_share``.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")
WINDOW_S = 0.25
ENOUGH = 0.6
"""Share of one processor below which the background starves."""


def quietly(work: Callable[[], T], *, awaited: Callable[[], bool] = lambda: False) -> T:
    """Do a heavy piece of work in a thread that gets only the processor time that nobody else wants.

    While the user's own call waits for the work, which ``awaited`` says, it has the ordinary priority; it stands back
    from when the call does not wait any more.

    A thread that takes a core away from eager's OpenMP team for a moment stalls the whole team at its next
    barrier: one busy thread of ordinary priority made a two-thread model 50 times slower here. Threads that
    a backend starts meanwhile stand back too where the system lets them come forward again, which happens when the
    work is done.
    """
    result: list[T] = []
    failure: list[BaseException] = []
    inherit = _may_come_forward()
    before = _tasks() if inherit else set()

    flags = 0 if inherit else os.SCHED_RESET_ON_FORK
    at_once = not awaited()

    def run() -> None:
        if at_once:
            _stand_back(0, flags)
        keep_one_openmp_thread()
        try:
            result.append(work())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="deepseek-quietly", daemon=True)
    _working.add(thread)
    try:
        thread.start()
        while not at_once and thread.is_alive() and awaited():
            thread.join(0.02)
        if not at_once and thread.is_alive():
            for task in (_tasks() - before) if inherit else {thread.native_id or 0}:
                _stand_back(task, flags)
        thread.join()
    finally:
        _working.discard(thread)
        if inherit:
            for task in _tasks() - before:
                _come_forward(task)
    if failure:
        raise failure[0]
    return result[0]


def stand_back(task: int) -> None:
    """Leave a thread, for good, only the processor time that nobody else wants."""
    _stand_back(task, os.SCHED_RESET_ON_FORK)


def _stand_back(task: int, flags: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(task, os.SCHED_IDLE | flags, os.sched_param(0))


_working: set[threading.Thread] = set()


def come_forward() -> None:
    """Give what works quietly now the ordinary priority, so that it can be waited for."""
    for thread in list(_working):
        if thread.native_id is not None:
            _come_forward(thread.native_id)


def _come_forward(task: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        if os.sched_getscheduler(task) & ~os.SCHED_RESET_ON_FORK == os.SCHED_IDLE:
            os.sched_setscheduler(task, os.SCHED_OTHER, os.sched_param(0))


@functools.cache
def _may_come_forward() -> bool:
    """Whether a thread that stood back can have its priority again: containers often forbid it."""
    found: list[bool] = []

    def probe() -> None:
        try:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        except (OSError, AttributeError):
            return
        found.append(True)

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join()
    return bool(found)


def helpers(num_threads: int) -> ThreadPoolExecutor:
    """Threads that stand back as far as the calling one does, each without an OpenMP team."""
    policy = os.sched_getscheduler(0) if hasattr(os, "sched_getscheduler") else None

    def begin() -> None:
        if policy is not None and policy & ~os.SCHED_RESET_ON_FORK == os.SCHED_IDLE:
            with contextlib.suppress(OSError):
                os.sched_setscheduler(0, policy, os.sched_param(0))
        keep_one_openmp_thread()

    return ThreadPoolExecutor(num_threads, "deepseek-helper", begin)


def _tasks() -> set[int]:
    try:
        return {int(path.name) for path in Path("/proc/self/task").iterdir()}
    except OSError:
        return set()


def keep_one_openmp_thread() -> None:
    """Keep this thread from starting an OpenMP team of its own.

    libgomp counts all teams of a process. With more threads than processors every team, the user's too, goes to sleep
    at each barrier instead of spinning for a moment: steps of a generation took twice as long.
    """
    torch.get_num_threads()  # torch's own setting for this thread, made on first use, comes before ours
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(str(library)).omp_set_num_threads(1)


class Meter:
    """Says whether the background, threads and builder process together, gets too little of a processor.

    Asked by the user's threads: what starves could not even say so.
    """

    def __init__(self, pid: Callable[[], int | None]) -> None:
        self._pid = pid
        self._seconds, self._at, self._verdict = self._read(), time.monotonic(), False
        self._asked_at = 0.0

    def _read(self) -> float:
        return sum(map(_thread_seconds, list(_working))) + _process_seconds(self._pid())

    def starving(self) -> bool:
        """The latest verdict, renewed after each window."""
        now = self._asked_at = time.monotonic()
        if now - self._at >= WINDOW_S:
            seconds = self._read()
            self._verdict = (seconds - self._seconds) / (now - self._at) < ENOUGH
            self._seconds, self._at = seconds, now
        return self._verdict

    @property
    def crowded(self) -> bool:
        """Whether calls of the user's follow each other so closely that times taken by the builder mean nothing."""
        return time.monotonic() - self._asked_at < 2.0


def _thread_seconds(thread: threading.Thread) -> float:
    """Processor time of a thread of this process; 0 before it has started and after it has ended.

    By its number in /proc: the clock of a thread that has just ended must not be asked for, C leaves that undefined.
    """
    return _seconds_in(Path(f"/proc/self/task/{thread.native_id}/stat"), 2)


def _process_seconds(pid: int | None) -> float:
    """Processor time of a process and of the children that it has waited for."""
    return _seconds_in(Path(f"/proc/{pid}/stat"), 4)


def _seconds_in(stat: Path, num_fields: int) -> float:
    try:
        fields = stat.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        return sum(map(int, fields[11 : 11 + num_fields])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return 0.0
