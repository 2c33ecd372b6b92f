"""Where a cell's time and memory went: plain records, numbers and strings only."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, cast

PHASES = ("forward", "backward", "optimizer", "data loading", "compiling", "python")
"""What a moment of a cell can belong to; ``python`` is what is left."""


@dataclasses.dataclass(frozen=True)
class LineCost:
    """One line of the user's, in the cell or in another cell or file that it called."""

    file: str
    line: int
    text: str = ""
    in_cell: bool = False
    self_s: float = 0.0
    """Seconds in which this was the innermost line of the user's."""
    total_s: float = 0.0
    """The same, with the lines of the user's that it called."""
    waiting_s: float = 0.0
    """The part of ``self_s`` in which the thread had no processor: sleeping, reading, waiting for workers."""
    allocated_bytes: int | None = None
    """Bytes allocated below it while operators were recorded; None where none were."""
    kept_bytes: int | None = None
    """What of these was still there when the recording ended, less what it freed of earlier lines."""


@dataclasses.dataclass(frozen=True)
class ModuleCost:
    """One module, what it calls included, in the time that was recorded operator by operator."""

    path: str
    type_name: str = ""
    num_calls: int = 0
    forward_s: float = 0.0
    backward_s: float = 0.0
    flops: int = 0
    allocated_bytes: int = 0


@dataclasses.dataclass(frozen=True)
class OperatorCost:
    """One operator, without the operators that it calls, in the time that was recorded."""

    name: str
    num_calls: int = 0
    self_s: float = 0.0
    flops: int = 0
    moved_bytes: int = 0
    """Bytes of its operands and of what it allocated: at least so much went through memory."""
    allocated_bytes: int = 0


@dataclasses.dataclass(frozen=True)
class TriedFix:
    """A change that was tried: captured again with what the cell's calls were given, nothing of the user's called."""

    change: str
    """The code that makes it."""
    works: bool
    effect: str
    """What was measured, or why it is of no use."""


@dataclasses.dataclass(frozen=True)
class CompileCost:
    """What torch.compile spent time on while a cell ran."""

    kind: str
    """``compiled``, ``compiled again``, ``gave up`` (it runs in eager mode from then on) or ``graph break``."""
    function: str
    file: str
    line: int
    text: str = ""
    in_cell: bool = False
    count: int = 1
    seconds: float = 0.0
    """Of compiling; for a break, of compiling what comes after it by itself, which is in ``compiled`` too."""
    cause: str = ""
    fix: TriedFix | None = None


@dataclasses.dataclass(frozen=True)
class Limits:
    """What this machine does at best, as measured in this process with its number of threads."""

    flops_per_s: float
    """A large float32 matrix product."""
    bytes_per_s: float
    """A copy that fits into no cache, bytes read and written."""
    num_threads: int = 0

    def bound(self, one: OperatorCost) -> tuple[str, float] | None:
        """What holds an operator back, ``arithmetic`` or ``memory``, and how much of that limit it reaches.

        Source: Williams, Waterman and Patterson, Roofline, CACM 52(4), 2009.
        """
        if not one.self_s or not (one.flops or one.moved_bytes):
            return None
        shares = {
            "arithmetic": one.flops / self.flops_per_s / one.self_s,
            "memory": one.moved_bytes / self.bytes_per_s / one.self_s,
        }
        return max(shares.items(), key=lambda item: item[1])


@dataclasses.dataclass(frozen=True)
class CellCosts:
    """One cell that was profiled."""

    wall_s: float
    """Seconds that the cell took, without ``overhead_s``."""
    overhead_s: float = 0.0
    """Seconds that reading what was recorded took while the cell ran; they are part of no other number."""
    lines: tuple[LineCost, ...] = ()
    """The cell's own by number, then others by file and number."""
    modules: tuple[ModuleCost, ...] = ()
    """In the order in which they were first called."""
    operators: tuple[OperatorCost, ...] = ()
    """Longest first."""
    compilations: tuple[CompileCost, ...] = ()
    """What torch.compile did, most costly first."""
    phases: dict[str, float] = dataclasses.field(default_factory=dict)
    """Seconds by phase, those of :data:`PHASES` that occurred."""
    waiting_s: float = 0.0
    num_samples: int = 0
    recorded_s: float = 0.0
    """Seconds that were recorded operator by operator."""
    recording_s: float = 0.0
    """The part of these that recording itself took, as far as it is in no operator's time; it is in lines' times."""
    peak_bytes: int | None = None
    """Most memory that the process held while the cell ran."""
    start_bytes: int | None = None
    """What it held when the cell began."""
    peak_at: tuple[str, int] | None = None
    """File and line that ran when most was held."""
    limits: Limits | None = None
    error: str = ""
    """Type of the exception that ended the cell."""
    notes: tuple[str, ...] = ()

    @property
    def attributed(self) -> float:
        """Share of the cell's time that is on a line of the user's, from 0 to 1."""
        return min(1.0, math.fsum(line.self_s for line in self.lines) / self.wall_s) if self.wall_s else 0.0

    @property
    def operators_s(self) -> float:
        """Seconds of all operators together."""
        return math.fsum(one.self_s for one in self.operators)

    @property
    def flops(self) -> int:
        """Floating-point operations that were recorded."""
        return sum(one.flops for one in self.operators)

    @property
    def flops_per_s(self) -> float | None:
        """Over the whole time that was recorded; None where nothing was."""
        return self.flops / self.recorded_s if self.recorded_s else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data: what a file that was written and read again would give."""
        made = dataclasses.asdict(self) | {
            "attributed": self.attributed,
            "flops": self.flops,
            "flops_per_s": self.flops_per_s,
        }
        return cast(dict[str, Any], json.loads(json.dumps(made)))
