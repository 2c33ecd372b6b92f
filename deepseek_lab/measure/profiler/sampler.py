"""A thread that looks where another one is."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Callable
from types import FrameType

from deepseek_lab.measure.profiler.frames import kind_of
from deepseek_lab.measure.resident import resident_bytes

FIRST_S = 1e-3
"""Time between two looks at first, so that a short cell has some too."""
SHARE = 1 / 200
"""Later it is this part of the time so far: what takes a tenth of a cell is seen as often in a long one."""
LONGEST_S = 2e-2
COST = 0.005
"""Share of the time that looking may cost, as far as its own thread can tell; waking it costs as much again."""
MOST_S = 0.1
"""Between two looks where that cost is reached: the stack of a compiler is deep."""
_DEPTH = 3000
"""Frames that are read of a stack; a compiler's are deep."""

Place = tuple[str, int]
"""File and line."""


@dataclasses.dataclass
class Seen:
    """Seconds that were found on a line."""

    self_s: float = 0.0
    total_s: float = 0.0
    waiting_s: float = 0.0


class Sampler:
    """Gives each moment of a thread to the line of the user's that it is on, and to a phase.

    Args:
        thread_id: The thread to watch.
        native_id: The same by the system's number.
        on_look: Called in the sampler's thread after each look.
        timed: Whether something better times lines and phases now; only waiting is counted then.

    Times between two looks count for what the second one saw, so nothing is left out and a line's error falls with
    the number of looks.
    """

    def __init__(
        self,
        thread_id: int,
        native_id: int,
        on_look: Callable[[float], None] = lambda now: None,
        timed: Callable[[], bool] = lambda: False,
    ) -> None:
        self.lines: defaultdict[Place, Seen] = defaultdict(Seen)
        self.phases: defaultdict[str, float] = defaultdict(float)
        self.num_samples = 0
        self.waiting_s = 0.0
        self.start_bytes = self.peak_bytes = resident_bytes() or 0
        self.peak_at: Place | None = None
        self._thread_id, self._on_look, self._timed = thread_id, on_look, timed
        self._busy_s = _busy_clock(thread_id, native_id)
        self._ended = False
        self._stop = threading.Lock()
        """Held until the end; a lock wakes its thread with less work than an event does."""
        self._stop.acquire()
        self._thread = threading.Thread(target=self._work, name="deepseek-sampler", daemon=True)
        self._at = self._ran = 0.0
        self._held = False
        self._last: list[Place] = []
        self.phase = ""
        """What was seen last."""

    @property
    def stopped(self) -> bool:
        """Whether it has ended."""
        return self._ended

    def start(self) -> None:
        """Begin."""
        self._at, self._ran = time.perf_counter(), self._busy()
        self._thread.start()

    def look(self, frame: FrameType) -> None:
        """Look now, in the thread that is watched."""
        self._take(frame, time.perf_counter())

    def hold(self, frame: FrameType) -> None:
        """Look now, then count nothing until :meth:`go_on`."""
        self.look(frame)
        self._held = True

    def go_on(self) -> None:
        """Count again, from now on."""
        self._at, self._ran = time.perf_counter(), self._busy()
        self._held = False

    def stop(self) -> float:
        """End, and say when; the time since the last look counts for the line that called this, if it is the user's."""
        now = time.perf_counter()
        if not self._ended:
            self._ended = True
            self._stop.release()
        self._thread.join()
        if threading.get_ident() == self._thread_id:
            self._take(sys._getframe(1), max(now, self._at), ended=True)
        return now

    def _work(self) -> None:
        period_s, cost_s, begun = FIRST_S, 0.0, self._at
        while not self._stop.acquire(timeout=period_s):
            start = time.thread_time()
            now = time.perf_counter()
            frame = sys._current_frames().get(self._thread_id)
            if frame is None:
                return
            self._take(frame, now)
            del frame
            self._on_look(now)
            cost_s += time.thread_time() - start
            usual_s = min(max(FIRST_S, SHARE * (now - begun)), LONGEST_S)
            period_s = min(max(usual_s, cost_s / max(self.num_samples, 1) / COST), MOST_S)

    def _busy(self) -> float:
        with contextlib.suppress(OSError, ValueError):
            return self._busy_s()
        return 0.0

    def _take(self, frame: FrameType | None, now: float, *, ended: bool = False) -> None:
        if self._held:
            return
        elapsed, self._at = now - self._at, now
        ran, before = self._busy(), self._ran
        self._ran = ran
        waiting = max(0.0, elapsed - (ran - before)) if ran else 0.0
        timed = self._timed()
        own, phase = _read(frame)
        self.phase = phase
        own = self._last = own or (self._last if ended else [])
        if own:
            innermost = self.lines[own[0]]
            innermost.waiting_s += waiting
            if not timed:
                innermost.self_s += elapsed
                for place in dict.fromkeys(own):
                    self.lines[place].total_s += elapsed
        if not timed:
            self.phases[phase] += elapsed
        self.waiting_s += waiting
        self.num_samples += 1
        held = resident_bytes() or 0
        if held > self.peak_bytes:
            self.peak_bytes, self.peak_at = held, own[0] if own else None


def _busy_clock(thread_id: int, native_id: int) -> Callable[[], float]:
    """Seconds that a thread has run, or was ready to run while others did; 0 where the system does not say."""
    try:
        file = os.open(f"/proc/self/task/{native_id}/schedstat", os.O_RDONLY)
    except OSError:
        return _processor_clock(thread_id)

    def read() -> float:
        ran, ready, _ = os.pread(file, 64, 0).split()
        return (int(ran) + int(ready)) * 1e-9

    weakref.finalize(read, os.close, file)
    return read


def _processor_clock(thread_id: int) -> Callable[[], float]:
    try:
        clock = time.pthread_getcpuclockid(thread_id)
    except (AttributeError, OSError):
        return lambda: 0.0
    return lambda: time.clock_gettime(clock)


def _read(frame: FrameType | None) -> tuple[list[Place], str]:
    """The user's lines in a stack, innermost first, and its phase."""
    own: list[Place] = []
    phase = ""
    for _ in range(_DEPTH):
        if frame is None:
            break
        kind = kind_of(frame.f_code)
        if kind == "own":
            own.append((frame.f_code.co_filename, frame.f_lineno))
        elif kind == "shell":
            break
        elif kind == "module":
            phase = phase or "forward"
        elif kind == "compiling":
            phase = kind  # whatever is called while something is compiled belongs to that
        elif kind in ("data loading", "backward", "optimizer"):
            phase = phase or kind
        frame = frame.f_back
    return own, phase or "python"
