"""Bytes that several processes read, each as often as it likes, and none can change for the others."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Sequence
from typing import Any, BinaryIO

_ALIGN = 64


class Sealed:
    """What :func:`deepseek_lab.processes.travel.pack` made, once in memory for all.

    :meth:`open` gives it as if it had just been made: pages are shared until somebody writes to them, and what is
    written is seen by the writer alone (``MAP_PRIVATE``).
    """

    def __init__(self, parts: Sequence[Any]) -> None:
        self.layout: list[tuple[int, int]] = []
        """Where each part begins, and its bytes."""
        self._file = _nameless()
        for part in parts:
            self._file.seek(-self._file.tell() % _ALIGN, os.SEEK_CUR)
            self.layout.append((self._file.tell(), len(part)))
            self._file.write(part)
        self._file.truncate(max(1, self._file.tell()))
        self._file.flush()

    @classmethod
    def attach(cls, number: int, layout: list[tuple[int, int]]) -> Sealed:
        """That of another process, whose file this process has inherited."""
        made = cls.__new__(cls)
        made.layout, made._file = layout, os.fdopen(number, "r+b")
        return made

    def fileno(self) -> int:
        """For a process to inherit."""
        return self._file.fileno()

    def open(self) -> list[memoryview]:
        """The parts, each in memory that can be written to."""
        whole = memoryview(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_COPY))
        return [whole[start : start + size] for start, size in self.layout]

    def close(self) -> None:
        """Forget it; what was opened stays."""
        self._file.close()


def _nameless() -> BinaryIO:
    """A file in memory where the system has those, else one on disk that no name leads to."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("deepseek_lab"), "w+b")
    return tempfile.TemporaryFile()
