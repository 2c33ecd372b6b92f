"""Measured values in columns: a million of them take 26 MB, and reading from where one stopped copies only the rest."""

from __future__ import annotations

import array
import dataclasses
import threading
from collections.abc import Iterator, Mapping

MAX_NAMES = 1000
"""Names that one run may measure; values under more names are counted and not kept."""
MAX_WAITING = 1000
"""Steps whose values wait to be sorted into the columns."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """Values in the order in which they were measured, all columns of one length."""

    names: tuple[str, ...]
    """Every name so far; ``code`` counts in it."""
    code: array.array[int]
    step: array.array[int]
    at_s: array.array[float]
    value: array.array[float]

    def __len__(self) -> int:
        return len(self.code)


class Series:
    """Values by name and step, appended by one thread and read by others.

    The thread that appends is a loop that somebody wants to be fast: what it adds waits as it is until it is read, or
    until there is much of it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[tuple[int, float, Mapping[str, float]]] = []
        self._codes: dict[str, int] = {}
        self._code = array.array("H")
        self._step = array.array("q")
        self._at = array.array("d")
        self._value = array.array("d")
        self._dropped = 0

    def add(self, step: int, at_s: float, values: Mapping[str, float]) -> None:
        """Append what one step gave; ``values`` are the series' own from here on."""
        waiting = self._waiting
        waiting.append((step, at_s, values))
        if len(waiting) >= MAX_WAITING:
            with self._lock:
                self._sort_in()

    def _sort_in(self) -> None:
        """Put what waits into the columns. The lock is held; others may append meanwhile."""
        count = len(self._waiting)
        for step, at_s, values in self._waiting[:count]:
            for name, value in values.items():
                code = self._codes.get(name)
                if code is None:
                    if len(self._codes) >= MAX_NAMES:
                        self._dropped += 1
                        continue
                    code = self._codes[name] = len(self._codes)
                self._code.append(code)
                self._step.append(step)
                self._at.append(at_s)
                self._value.append(value)
        del self._waiting[:count]

    @property
    def dropped(self) -> int:
        """Values whose name was one too many."""
        with self._lock:
            self._sort_in()
            return self._dropped

    def __len__(self) -> int:
        with self._lock:
            self._sort_in()
            return len(self._code)

    def since(self, start: int = 0) -> Rows:
        """The rows from number ``start`` on."""
        with self._lock:
            self._sort_in()
            return Rows(
                tuple(self._codes),
                self._code[start:],
                self._step[start:],
                self._at[start:],
                self._value[start:],
            )

    def steps(self) -> Iterator[tuple[int, float, dict[str, float]]]:
        """Step, time and values, as they were added."""
        rows = self.since()
        found: dict[str, float] = {}
        last = (0, 0.0)
        for row, code in enumerate(rows.code):
            name = rows.names[code]
            key = (rows.step[row], rows.at_s[row])
            if found and (name in found or key != last):
                yield *last, found
                found = {}
            last, found[name] = key, rows.value[row]
        if found:
            yield *last, found
