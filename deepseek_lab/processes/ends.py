"""How another process has ended, in words."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from typing import IO

_WAIT_S = 5.0


def last_words(process: subprocess.Popen[bytes], log: IO[bytes]) -> str:
    """Say by what a process was ended, or its exit code with the last line of its log, which holds both its streams."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_WAIT_S)
    code = process.returncode
    if code is not None and code < 0:
        memory = ", as it does when memory runs out" if -code == signal.SIGKILL else ""
        return f"its process was ended by {signal.Signals(-code).name}{memory}"
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    return f"its process ended with code {code}{': ' + lines[-1] if lines else ''}"
