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
_placeholders: list[int] = []


class _Information(ctypes.Structure):
    """mallinfo2(3); `hblks` is how many blocks have come from the system one by one."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    ]


@functools.cache
def _libc() -> Any:
    """glibc, or None where the process has another C library."""
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - raises where it is not glibc
        library.mallopt.argtypes = [ctypes.c_int, ctypes.c_int]
        library.malloc_trim.argtypes = [ctypes.c_size_t]
        library.malloc.argtypes, library.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
        library.free.argtypes = [ctypes.c_void_p]
        if hasattr(library, "mallinfo2"):
            library.mallinfo2.restype = _Information
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
    if (library := _libc()) is None:
        return
    with _lock:
        while _placeholders:
            library.free(_placeholders.pop())
        for option, value in (_AT_ONCE if on else _USUAL).items():
            library.mallopt(option, value)
        library.malloc_trim(0)
        if on:
            _fill_holes(library)


def _fill_holes(library: Any) -> None:
    """Occupy what is free in the heap, in pages that are never touched, so that large blocks come from the system.

    glibc looks for room among what is free before it asks whether a block is large, and what lies between others in
    the heap stays there when it is freed.
    """
    if not hasattr(library, "mallinfo2"):  # before glibc 2.33
        return
    size = 1 << 30
    while size >= _AT_ONCE[_MMAP_THRESHOLD]:
        from_system = library.mallinfo2().hblks
        block = library.malloc(size)
        if block and library.mallinfo2().hblks == from_system:
            _placeholders.append(block)
            continue
        library.free(block)
        size //= 2


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
