"""How long the windows of a whole recording may be: as long as there is room for their events."""

from __future__ import annotations

MAX_EVENTS = 300_000
"""Events of a whole recording; the profiler keeps 1.4 kB of each once its window is closed."""
FIRST_MARKS, FIRST_S = 400, 0.25
"""The first window is closed after so many calls and lines or so long, to see how many events they are: nothing tells
while it is open. Closing costs more than recording does, so it is done as soon as it says something.
"""
GROWTH = 32
"""Later windows may have up to so many times as many calls and lines as the one before."""
PATIENCE = 4
"""They are closed too after so many times as long as these should take: the program does something else by now."""


class Room:
    """Counts the events of windows that are closed, and tells when the one that is open must be."""

    def __init__(self) -> None:
        self.num_events = 0
        self.max_marks = float(FIRST_MARKS)
        """Calls and lines after which the window is to be closed."""
        self.max_s = FIRST_S
        """The same of the time that it is open."""

    def is_due(self, marks: int, seconds: float) -> bool:
        """Whether a window with so many calls and lines, which has been open for so long, is to be closed."""
        return marks >= self.max_marks or seconds >= self.max_s

    def closed(self, marks: int, seconds: float, num_events: int) -> bool:
        """A window was closed; whether one more is worth it."""
        self.num_events += num_events
        longer = min(GROWTH, (MAX_EVENTS - self.num_events) / max(num_events, 1))
        self.max_marks, self.max_s = longer * marks, PATIENCE * longer * seconds
        return longer > 0.25
