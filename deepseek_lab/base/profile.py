"""What the operations of a graph cost and what came out of them: plain records, numbers and strings only."""

from __future__ import annotations

import dataclasses
import math
from typing import Any


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Of the elements of one floating-point tensor.

    Mean, standard deviation (of the whole, not of a sample) and largest magnitude are those of the finite elements,
    NaN where there is none.
    """

    mean: float
    std: float
    largest: float
    nonfinite: float
    """Share of elements that are NaN or infinite, from 0 to 1."""


@dataclasses.dataclass(frozen=True)
class OperationProfile:
    """One node of a graph; None stands for what was not measured."""

    name: str
    op: str = ""
    time_s: float | None = None
    """Median seconds in eager mode."""
    num_times: int = 0
    flops: int | None = None
    """Floating-point operations of the products, convolutions and attention in it, a multiplication and an addition
    counted as two; None where it has none of these."""
    read_bytes: int | None = None
    """Bytes of the operands of the operators that it dispatches to; 0 for a view."""
    result_bytes: int | None = None
    values: Statistics | None = None
    """Of a result in floating point, and of an input of the call."""
    gradient: Statistics | None = None
    backend: str = ""
    """What runs it now, in words."""

    @property
    def flops_per_s(self) -> float | None:
        """Floating-point operations a second; None where either is not known."""
        return self.flops / self.time_s if self.flops is not None and self.time_s else None


@dataclasses.dataclass(frozen=True)
class GraphProfile:
    """One graph, measured node by node in eager mode."""

    graph: str
    target: str
    operations: tuple[OperationProfile, ...]
    """One record for each node of the captured graph, in its order."""
    inputs: str = ""
    """Which inputs it was run on, in words."""
    whole_s: float | None = None
    """Median seconds of the whole graph in eager mode, as one call."""
    overhead_s: float = 0.0
    """Seconds that measuring adds to the time of each node; they are not taken off."""
    num_rounds: int = 0
    gradient_of: str = ""
    """What was differentiated; empty where no gradient was asked for."""
    notes: tuple[str, ...] = ()

    @property
    def sum_s(self) -> float | None:
        """Seconds of all nodes together; None where there is none that was timed."""
        times = [one.time_s for one in self.operations if one.time_s is not None]
        return math.fsum(times) if times else None

    @property
    def accounted(self) -> float | None:
        """Which share of the whole call's time the nodes account for; above 1 where measuring slows short ones."""
        total = self.sum_s
        return total / self.whole_s if total is not None and self.whole_s and self.num_rounds else None

    @property
    def flops(self) -> int | None:
        """Floating-point operations of all nodes that have a count; None where none has."""
        counts = [one.flops for one in self.operations if one.flops is not None]
        return sum(counts) if counts else None

    def most_expensive(self, count: int = 10) -> list[OperationProfile]:
        """The nodes that took longest, longest first."""
        timed = [one for one in self.operations if one.time_s is not None]
        return sorted(timed, key=lambda one: -(one.time_s or 0.0))[:count]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; what is not a number is None."""

        def clean(value: Any) -> Any:
            if isinstance(value, float) and not math.isfinite(value):
                return None
            if isinstance(value, dict):
                return {key: clean(item) for key, item in value.items()}
            if isinstance(value, list | tuple):
                return [clean(item) for item in value]
            return value

        made = clean(dataclasses.asdict(self))
        assert isinstance(made, dict)
        return made | {"sum_s": self.sum_s, "accounted": self.accounted, "flops": self.flops}
