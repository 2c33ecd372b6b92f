"""What another process prints, on its way to the notebook."""

from __future__ import annotations

import io
import threading
from typing import Any


class Output:
    """Both streams of a process, in the order in which it wrote to them."""

    def __init__(self) -> None:
        self._parts: list[tuple[str, str]] = []
        self._lock = threading.Lock()
        self.stdout = Stream(self, "stdout")
        self.stderr = Stream(self, "stderr")

    def add(self, stream: str, text: str) -> None:
        """Something was written."""
        with self._lock:
            if self._parts and self._parts[-1][0] == stream:
                text = self._parts.pop()[1] + text
            self._parts.append((stream, text))

    def take(self) -> list[tuple[str, str]]:
        """What was written since the last time."""
        with self._lock:
            parts, self._parts = self._parts, []
        return parts


class Stream(io.TextIOBase):
    """``sys.stdout`` or ``sys.stderr`` of a process."""

    encoding = "utf-8"

    def __init__(self, output: Output, name: str) -> None:
        self._output, self.name = output, name

    def write(self, text: Any) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if text:
            self._output.add(self.name, text)
        return len(text)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 1 if self.name == "stdout" else 2
