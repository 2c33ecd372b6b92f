"""An interrupt that waits for the end of what must not be left half done."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from torch.autograd import graph

_BACKWARD = graph._engine_run_backward.__code__


class Held:
    """Holds an interrupt back, in the main thread; a second one gets through at once.

    Args:
        still: Whether what must not be left half done is still under way, by the frame that runs. A handler that was
            left behind by an error lets the next interrupt through.
    """

    def __init__(self, still: Callable[[FrameType | None], bool] = lambda frame: True) -> None:
        self._still = still
        self._before: Any = None
        self._waits = False

    def hold(self) -> None:
        """From now on."""
        before = signal.getsignal(signal.SIGINT)
        ours = getattr(before, "__self__", None) is self
        if threading.current_thread() is threading.main_thread() and callable(before) and not ours:
            self._before, self._waits = before, False
            signal.signal(signal.SIGINT, self._came)

    def _came(self, number: int, frame: FrameType | None) -> None:
        before = self._before
        if self._waits or not self._still(frame):
            self._put_back()
            before(number, frame)
        self._waits = True

    def _put_back(self) -> None:
        if self._before is not None and getattr(signal.getsignal(signal.SIGINT), "__self__", None) is self:
            signal.signal(signal.SIGINT, self._before)
        self._before = None

    def drop(self) -> None:
        """Interrupts as they were, wherever the work ended."""
        if self._before is not None and threading.current_thread() is threading.main_thread():
            self._put_back()

    def release(self) -> None:
        """It is done: an interrupt that waited comes now."""
        before, waits = self._before, self._waits
        self.drop()
        if waits and before is not None:
            self._waits = False
            before(signal.SIGINT, None)


def in_backward(frame: FrameType | None) -> bool:
    """Whether a backward pass is under way."""
    while frame is not None:
        if frame.f_code is _BACKWARD:
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """An interrupt in here comes at the end."""
    held = Held()
    held.hold()
    try:
        yield
    finally:
        held.release()
