"""What batch sizes and learning rates a training bears: numbers and sentences, as they were measured."""

from __future__ import annotations

import dataclasses
from typing import Any

MARGIN = 0.1
"""Of the limit, what a safe batch size leaves free."""
NO_SLOWER = 0.97
"""Of the best throughput, what a smaller batch has to reach to be called the fastest in its place."""


@dataclasses.dataclass(frozen=True)
class BatchRow:
    """Training steps at one batch size."""

    size: int
    status: str
    """``safe``, ``tight`` (ran, and left less than the margin), ``memory`` (did not fit), ``failed`` (the cell raised)
    or ``killed`` (its process was ended, by the system or by itself)."""
    peak_bytes: int | None = None
    """The most that the process held, on a GPU what was reserved there; None where that is not known."""
    samples_per_s: float | None = None
    """By the median time of a step; None where too few steps were timed."""
    interval: tuple[float, float] | None = None
    """95 % interval of the median."""
    step_s: float | None = None
    """Median time of a step."""
    num_steps: int = 0
    """Steps that were timed."""
    reason: str = ""

    @property
    def ran(self) -> bool:
        """Whether the steps came to their end."""
        return self.status in {"safe", "tight"}


@dataclasses.dataclass(frozen=True)
class RateRange:
    """Learning rates between which the loss falls."""

    low: float
    """Where it begins to fall."""
    high: float
    """Where it has fallen as far as it does."""
    value: float
    """The middle of the fall, on a logarithmic scale."""
    steepest: float
    """Where it falls most steeply."""


@dataclasses.dataclass(frozen=True)
class RateCurve:
    """One run with a learning rate that grows from step to step (arXiv 1506.01186)."""

    seed: int
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    """After the step with the rate at the same place."""
    smooth: tuple[float, ...]
    """The same losses, smoothed."""
    found: RateRange | None = None
    reason: str = ""
    """How it ended, or why it tells nothing."""


@dataclasses.dataclass
class LimitsReport:
    """What was measured so far."""

    what: str = "the cell"
    device: str = "cpu"
    optimizer: str = ""
    num_groups: int = 0
    num_samples: int | None = None
    """Of the training data; None for a stream."""
    own: int | None = None
    """The batch size of the loader as it is."""
    limit_bytes: int | None = None
    is_auto: bool = True
    """Whether the limit is what was free."""
    start_bytes: int | None = None
    """What the process held before the first step."""
    rows: list[BatchRow] = dataclasses.field(default_factory=list)
    bound: str = ""
    """Why no larger batch was tried: ``memory``, ``predicted`` (memory, by the last peaks), ``data``, ``throughput``,
    ``time``, ``error`` or ``fixed``.
    """
    bound_words: str = ""
    """The same as a sentence."""
    curves: list[RateCurve] = dataclasses.field(default_factory=list)
    rates: RateRange | None = None
    """All runs together."""
    rates_size: int | None = None
    """Samples in the batches of these runs."""
    rates_reason: str = ""
    """Why there is no range."""
    notes: list[str] = dataclasses.field(default_factory=list)
    doing: str = "starting a process"
    seconds: float = 0.0
    reason: str = ""
    """Why it ended before its end: ``interrupted`` or ``time``."""

    def row(self, size: int) -> BatchRow | None:
        """What was measured at a batch size."""
        return next((one for one in self.rows if one.size == size), None)

    def put(self, row: BatchRow) -> None:
        """Add a row, in the place of an earlier one of the same size, in order of sizes."""
        self.rows = sorted(
            [*(one for one in self.rows if one.size != row.size), row], key=lambda one: one.size
        )

    @property
    def largest(self) -> BatchRow | None:
        """The largest batch size that is safe, below all for which memory did not suffice."""
        short = [one.size for one in self.rows if one.status in {"tight", "memory", "killed"}]
        safe = [one for one in self.rows if one.status == "safe" and (not short or one.size < min(short))]
        return max(safe, key=lambda one: one.size, default=None)

    @property
    def fastest(self) -> BatchRow | None:
        """Of the safe sizes the one with the best throughput; of sizes that are about as good the smallest."""
        timed = [(one.samples_per_s, one) for one in self.rows if one.status == "safe" and one.samples_per_s]
        if not timed:
            return None
        best = max(speed for speed, _ in timed)
        return next(one for speed, one in timed if speed >= NO_SLOWER * best)

    @property
    def gain(self) -> float | None:
        """Throughput of the fastest size in times that of the loader's own."""
        own, best = self.row(self.own or 0), self.fastest
        if own is None or best is None or not own.samples_per_s or not best.samples_per_s:
            return None
        return best.samples_per_s / own.samples_per_s

    @property
    def next(self) -> str:
        """The line to type next; empty where no range was found."""
        if self.rates is None:
            return ""
        low, high, value = map(number, (self.rates.low, self.rates.high, self.rates.value))
        return f"lr = ds.log({low}, {high}, default={value})"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        largest, fastest = self.largest, self.fastest
        return dataclasses.asdict(self) | {
            "margin": MARGIN,
            "largest": largest.size if largest is not None else None,
            "fastest": fastest.size if fastest is not None else None,
            "gain": self.gain,
            "next": self.next,
        }


def number(value: float) -> str:
    """A learning rate with one digit, as Python reads it.

    >>> number(0.0031), number(1.0), number(2.6e-7)
    ('3e-3', '1e0', '3e-7')
    """
    digits, _, power = f"{value:.0e}".partition("e")
    return f"{digits}e{int(power)}"
