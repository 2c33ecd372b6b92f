"""Freed memory that is kept for the next step, by the C library's own switches.

glibc gives the top of the heap back to the system once 64 MiB of it are free, and takes blocks of more than 32 MiB
from the system one by one. A training step frees all of its activations, so that each step has the kernel clear
gigabytes page by page again: 60,000 page faults a step of ResNet-50, a fifth of its time. Kept, the pages are there.
The values that are computed are the same.

Source: mallopt(3), M_TRIM_THRESHOLD and M_MMAP_THRESHOLD; the usual figures are what glibc's own adjustment of them
arrives at in a process that has freed one large tensor (malloc/malloc.c, DEFAULT_MMAP_THRESHOLD_MAX).
"""

from __future__ import annotations

import ctypes
import functools
import threading
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT = {_TRIM_THRESHOLD: -1, _MMAP_THRESHOLD: 1 << 30}
_USUAL = {_TRIM_THRESHOLD: 64 << 20, _MMAP_THRESHOLD: 32 << 20}
_AT_ONCE = {_TRIM_THRESHOLD: 1 << 20, _MMAP_THRESHOLD: 1 << 20}
_lock = threading.Lock()
_keeps = False


@functools.cache
def _libc() -> Any:
    """glibc, or None where the process has another C library."""
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - raises where it is not glibc
        library.mallopt.argtypes = [ctypes.c_int, ctypes.c_int]
        library.malloc_trim.argtypes = [ctypes.c_size_t]
    except (OSError, AttributeError):
        return None
    return library


def available() -> bool:
    """Whether memory can be kept here."""
    return _libc() is not None


def keep(on: bool) -> None:
    """Keep freed memory from now on, or handle it as usual."""
    global _keeps
    if on == _keeps:
        return
    library = _libc()
    if library is None:
        return
    with _lock:
        for option, value in (_KEPT if on else _USUAL).items():
            library.mallopt(option, value)
        _keeps = on


def return_at_once(on: bool) -> None:
    """Have blocks of a megabyte and more go back to the system as soon as they are free, or as usual.

    The process then holds what its tensors hold: usual heaps have holes that nothing fits in, a quarter of a training
    step and more. The price is that the system clears pages again for every such block.
    """
    if (library := _libc()) is not None:
        with _lock:
            for option, value in (_AT_ONCE if on else _USUAL).items():
                library.mallopt(option, value)
        library.malloc_trim(0)


def trim() -> None:
    """Give back to the system what is free now."""
    if (library := _libc()) is not None:
        library.malloc_trim(0)


def give_back() -> None:
    """Handle freed memory as usual, and give back to the system what was kept."""
    if not _keeps:
        return
    keep(False)
    trim()
