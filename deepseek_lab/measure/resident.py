"""Memory that this process holds."""

from __future__ import annotations

import functools
import os


def resident_bytes() -> int | None:
    """Resident memory of this process in bytes; None where the system does not say."""
    try:
        return int(os.pread(_statm(os.getpid()), 64, 0).split()[1]) * _page_bytes()
    except (OSError, ValueError, IndexError, AttributeError):
        return None


@functools.lru_cache(maxsize=1)
def _statm(process_id: int) -> int:
    """Kept open, for opening takes ten times as long as reading; a forked process opens its own."""
    return os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)


@functools.cache
def _page_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE")


class PeakResident:
    """How far this process's resident memory has grown since :meth:`begin`, at most."""

    def __init__(self, start_bytes: int) -> None:
        self._start = start_bytes

    @classmethod
    def begin(cls) -> PeakResident | None:
        """From now on; None where the system keeps no such figure, or does not let it be reset."""
        start = resident_bytes()
        try:
            with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
                file.write("5")  # the peak becomes what is resident now (proc_pid_clear_refs(5))
        except OSError:
            return None
        return cls(start) if start is not None else None

    def bytes(self) -> int | None:
        """The most that was resident beyond what was there in the beginning."""
        try:
            with open("/proc/self/status", encoding="ascii", errors="replace") as file:
                for line in file:
                    if line.startswith("VmHWM:"):
                        return int(line.split()[1]) * 1024 - self._start
        except (OSError, ValueError):
            return None
        return None
