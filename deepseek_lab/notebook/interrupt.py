"""The interrupt while regions are open: the first one ends measuring, the second one the cell."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from deepseek_lab.notebook.host import warn
from deepseek_lab.notebook.ports import Run, working_runs


class Interrupts:
    """Holds SIGINT while at least one region is open, and puts the previous handler back afterwards.

    Signals reach only the main thread, so regions of other threads change nothing here.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._previous: Any = None
        self._spent = False

    def enter(self) -> bool:
        """A region opens. Returns whether :meth:`leave` must be called for it."""
        if threading.current_thread() is not threading.main_thread():
            return False
        if self._depth == 0:
            previous = signal.getsignal(signal.SIGINT)
            if not callable(previous):
                return False
            self._previous, self._spent = previous, False
            signal.signal(signal.SIGINT, self._handle)
        self._depth += 1
        return True

    def leave(self) -> None:
        """A region closes. A handler that the cell itself installed stays."""
        self._depth -= 1
        if self._depth == 0:
            if signal.getsignal(signal.SIGINT) == self._handle:
                signal.signal(signal.SIGINT, self._previous)
            self._previous = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._spent and (working := working_runs()):
            self._spent = True
            # In a thread: the main thread may hold a lock of the engine at this moment.
            threading.Thread(target=_end, args=(working,), name="deepseek-interrupt", daemon=True).start()
            return
        self._previous(number, frame)


def _end(runs: list[Run]) -> None:
    for run in runs:
        try:
            run.interrupt()
        except Exception as error:
            warn(f"run {run.id} could not be stopped ({type(error).__name__}: {error})")
    warn("measuring and building ended, the cell goes on; interrupt once more to interrupt the cell")
