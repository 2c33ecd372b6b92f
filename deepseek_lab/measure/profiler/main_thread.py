"""Having the main thread do something soon, wherever it is."""

from __future__ import annotations

import ctypes
import signal
import sys
from collections import deque
from collections.abc import Callable
from types import FrameType

_works: deque[Callable[[FrameType | None], None]] = deque()


def called(_: object) -> int:
    """What the interpreter calls."""
    try:
        if _works:
            _works.popleft()(sys._getframe(1))
    except KeyboardInterrupt:
        signal.raise_signal(signal.SIGINT)
    except Exception:  # nothing of the user's may fail for it
        pass
    return 0


_entry = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(called)
"""Made once and never freed: the interpreter may still be about to call it, or be inside of it."""


def run_soon(work: Callable[[FrameType | None], None]) -> bool:
    """Have the main thread call ``work`` between two of its instructions; False where its queue is full.

    ``work`` is given the frame that it came between. What it raises is lost. An interrupt that arrives meanwhile is
    not: it is raised in the user's own code.
    """
    _works.append(work)
    if ctypes.pythonapi.Py_AddPendingCall(_entry, None) == 0:
        return True
    _works.remove(work)
    return False
