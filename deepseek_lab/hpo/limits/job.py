"""What a process is to measure, and what it answers: plain data."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Task:
    """What all measurements have in common."""

    source: str
    """The cell, as Python."""
    file: str
    """File name of its code."""
    threads: int
    dtype: str = "float32"
    """PyTorch's default."""
    matmul: str = "highest"
    """PyTorch's precision of float32 products."""


@dataclasses.dataclass(frozen=True)
class Job:
    """Run the cell until it has made so many steps.

    A step here is one of the optimizer that steps first, with all that came since its last one.
    """

    steps: int
    """At least."""
    most: int
    """At most."""
    seconds: float = 0.0
    """Between the least and the most, go on for so long."""
    warm: int = 0
    """Steps before these, which are not told."""
    size: int | None = None
    """Samples in a batch; None leaves the loader's own."""
    skip: int = 0
    """Loaders before the one with which something is trained."""
    limit_bytes: int | None = None
    """Memory that allocations may not exceed: resident of the process, or on GPUs that of each."""
    rates: tuple[float, ...] = ()
    """Learning rates of the steps; empty leaves the optimizer's own."""
    seed: int = 0
    until_s: float | None = None
    """Come to an end after so many seconds, if with fewer steps."""


@dataclasses.dataclass(frozen=True)
class Seen:
    """What the cell's loop turned out to be."""

    own: int | None = None
    """Samples in a batch of the first loader that a loop with gradients is over; None where there is none."""
    num_samples: int | None = None
    """Of that loader; None for a stream."""
    fixed: str = ""
    """Why its batches cannot be made larger or smaller."""
    skip: int = 0
    """Loaders that were met before it, and with which nothing was trained."""
    optimizer: str = ""
    """Class of the optimizer that steps first."""
    num_optimizers: int = 0
    num_groups: int = 0
    device: str = "cpu"
    """Of what it trains."""
    room_bytes: int | None = None
    """Where that is a GPU, what it has for this process."""
    rateless: str = ""
    """Why no learning rate can be set."""


@dataclasses.dataclass(frozen=True)
class Turn:
    """One step."""

    seconds: float
    """Since the end of the last one."""
    samples: int
    loss: float | None
    """The mean of what ``backward`` was called on; None where that was not one number."""


@dataclasses.dataclass
class Outcome:
    """What became of a job."""

    status: str
    """``done``, ``ended`` (the cell came to its end before), ``memory``, ``failed`` or ``killed``."""
    turns: list[Turn] = dataclasses.field(default_factory=list)
    seen: Seen = Seen()
    num_turns: int = 0
    """Steps, with those that are not told."""
    num_backwards: int = 0
    first_loss: float | None = None
    """Before any update."""
    start_bytes: int | None = None
    peak_bytes: int | None = None
    seconds: float = 0.0
    error: str = ""
    """In one line."""
    text: str = ""
    """Traceback of the cell."""
