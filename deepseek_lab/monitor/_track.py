"""A loop that says where it is and can be ended from outside, without being written anew."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from math import isfinite
from typing import Any, Generic, SupportsFloat, TypeVar

from deepseek_lab.base import events as ev
from deepseek_lab.base.errors import UsageError
from deepseek_lab.measure.resident import resident_bytes

T = TypeVar("T")
_PROGRESS_S = 0.1
_SAMPLE_S = 0.5
_numbers = itertools.count(1)


class Track(Generic[T]):
    """The steps of a loop, one after the other, as an iterable that is watched.

    Args:
        steps: What the loop runs over.
        name: What the run is called where it is shown.
        total: How many steps there are; by default ``len(steps)`` where it has a length.

    Every half second the rate of steps and the process's resident memory are measured, and :meth:`log` adds what
    the loop knows. :meth:`stop` ends the loop after the step that it is in, as if there were no more steps.

    >>> run = Track([0.5, 0.25], name="halves")
    >>> for loss in run:
    ...     run.log(loss=loss)
    >>> run.last["loss"], run.done, run.ended
    (0.25, 2, 'all 2 steps')
    """

    def __init__(self, steps: Iterable[T], *, name: str = "steps", total: int | None = None) -> None:
        if not isinstance(steps, Iterable):
            raise UsageError(
                f"track needs something to run over, not {type(steps).__name__}", hint="range(1000)"
            )
        if total is None:
            total = len(steps) if isinstance(steps, Sized) else None
        elif isinstance(total, bool) or not isinstance(total, int) or total < 0:
            raise UsageError(f"total is a number of steps, not {total!r}", hint="total=1000")
        self.id = f"track-{next(_numbers)}-{time.time_ns():x}"
        self.name = name
        self.total = total
        self.done = 0
        """Steps that were taken to their end."""
        self.ended = ""
        """Why the run ended; empty while it goes on."""
        self.last: dict[str, float] = {}
        """The last value of each name."""
        self.log_of_events = ev.EventLog()
        self._steps = steps
        self._iterator: Iterator[T] | None = None
        self._in_step = False
        self._stop = threading.Event()
        self._not_finite: set[str] = set()
        self._progress_at = self._sampled_at = 0.0
        self._sampled_done = 0
        self._emit(ev.RunStarted(run=self.id, verb="track", targets=(name,)))

    def __len__(self) -> int:
        if self.total is None:
            raise TypeError(f"nobody knows how many steps {self.name} has: pass total=")
        return self.total

    def __iter__(self) -> Track[T]:
        if self.ended:
            raise UsageError(
                f"{self.name} has ended ({self.ended})", hint="make a new track for another loop"
            )
        if self._iterator is None:
            self._iterator = iter(self._steps)
            self._sampled_at = time.perf_counter()
        return self

    def __next__(self) -> T:
        if self._iterator is None:
            iter(self)
        assert self._iterator is not None
        if self._in_step:
            self.done += 1
            self._in_step = False
        self._tell()
        if self._stop.is_set():
            self.end(f"stopped after {self._words()}")
        if self.ended:
            raise StopIteration
        try:
            item = next(self._iterator)
        except StopIteration:
            self.end(f"all {self._words()}" if self.total == self.done else self._words())
            raise
        except BaseException as error:
            self.end(f"{type(error).__name__} after {self._words()}")
            raise
        self._in_step = True
        return item

    def __enter__(self) -> Track[T]:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.end(f"{kind.__name__} after {self._words()}" if kind else self._words())

    def log(self, **values: SupportsFloat) -> None:
        """Add what this step gave, by name: numbers, or tensors of one element.

        Raises:
            UsageError: a value is no single number; nothing of this call is kept then.
        """
        made: dict[str, float] = {}
        for name, value in values.items():
            try:
                made[name] = float(value)
            except (TypeError, ValueError, RuntimeError):
                raise UsageError(
                    f"{name} is no single number but {type(value).__name__}", hint=f"{name}={name}.mean()"
                ) from None
        for name, number in made.items():
            if not isfinite(number) and name not in self._not_finite:
                self._not_finite.add(name)
                self._emit(ev.Noted(run=self.id, text=f"{name} is {number} at step {self.done}"))
        self.last.update(made)
        self.log_of_events.measured(self.id, self.done, made, time.time())

    @property
    def values(self) -> dict[str, list[tuple[int, float]]]:
        """Step and value of everything that was measured, by name."""
        rows = self.log_of_events.series.since()
        found: dict[str, list[tuple[int, float]]] = {}
        for row, code in enumerate(rows.code):
            found.setdefault(rows.names[code], []).append((rows.step[row], rows.value[row]))
        return found

    def stop(self) -> None:
        """End the loop after the step that it is in. From any thread, any number of times."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        """Whether the loop was asked to end and has not ended yet."""
        return self._stop.is_set() and not self.ended

    def end(self, reason: str) -> None:
        """Say that nothing more comes; only the first reason counts."""
        if self.ended:
            return
        self.ended = reason
        self._sample(time.perf_counter(), last=True)
        self._emit(ev.Progressed(run=self.id, done=self.done, total=self.total))
        self._emit(ev.RunEnded(run=self.id, reason=reason))

    def to_dict(self) -> dict[str, Any]:
        """How the run stands and what was measured, as plain JSON data; None stands for what is not finite."""
        values = {
            name: [(step, value if isfinite(value) else None) for step, value in found]
            for name, found in self.values.items()
        }
        return {
            "name": self.name,
            "done": self.done,
            "total": self.total,
            "ended": self.ended,
            "values": values,
        }

    def _tell(self) -> None:
        now = time.perf_counter()
        if now - self._progress_at >= _PROGRESS_S:
            self._progress_at = now
            self._emit(ev.Progressed(run=self.id, done=self.done, total=self.total))
        if now - self._sampled_at >= _SAMPLE_S:
            self._sample(now)

    def _sample(self, now: float, *, last: bool = False) -> None:
        seconds, steps = now - self._sampled_at, self.done - self._sampled_done
        made: dict[str, float] = {}
        if steps and seconds > 0 and (not last or seconds > _SAMPLE_S / 5):
            made["steps per second"] = steps / seconds
        resident = resident_bytes()
        if resident is not None:
            made["memory GiB"] = resident / 2**30
        self._sampled_at, self._sampled_done = now, self.done
        self.last.update(made)
        if made:
            self.log_of_events.measured(self.id, self.done, made, time.time())

    def _words(self) -> str:
        return f"{self.done:,} step{'' if self.done == 1 else 's'}"

    def _emit(self, event: ev.Event) -> None:
        self.log_of_events.emit(event)

    def __repr__(self) -> str:
        of = f" of {self.total:,}" if self.total is not None else ""
        parts = [f"{self.name}  {self.done:,}{of} steps"]
        parts += [f"{name} {value:.4g}" for name, value in list(self.last.items())[:6]]
        return "  ".join([*parts, self.ended and f"ended: {self.ended}"]).rstrip()
