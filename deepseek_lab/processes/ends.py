"""How another process has ended, in words."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from typing import IO

_WAIT_S = 5.0


def ending(status: int) -> str:
    """How a process ended, from its exit status; that of a signal is negative."""
    if status >= 0:
        return f"ended with exit status {status}"
    with contextlib.suppress(ValueError):
        name = signal.Signals(-status).name
        hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
        return f"was ended by {name}{hint}"
    return f"was ended by signal {-status}"


def last_words(process: subprocess.Popen[bytes], log: IO[bytes]) -> str:
    """Say by what a process was ended, or its exit status with the last line of its log (both streams)."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_WAIT_S)
    status = process.returncode
    if status is None:
        return "its process does not answer and has not ended"
    if status < 0:
        return f"its process {ending(status)}"
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    return f"its process {ending(status)}{': ' + lines[-1] if lines else ''}"
