"""What a plan for a described machine says: numbers and sentences."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Holding:
    """Bytes on one device at its worst moment, by purpose."""

    moment: str
    parameters: int
    """This device's part."""
    gradients: int
    """This device's part."""
    moments: int
    """AdamW's, this device's part."""
    gathered: int
    """Whole parameters and gradients of the units at work, and what is on its way between devices."""
    activations: int
    """Kept for the backward pass."""
    working: int
    """What comes and goes."""

    @property
    def peak(self) -> int:
        """All of it."""
        parts = (self.parameters, self.gradients, self.moments, self.gathered, self.activations, self.working)
        return sum(parts)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One way to train and what it takes."""

    words: str
    holding: Holding
    host_bytes: int
    """What all hosts hold together."""
    slowdown: float
    """Estimated time of a step beside plain FSDP2's, which is 1."""
    fits: bool


@dataclasses.dataclass(frozen=True)
class Largest:
    """The largest model of the kind that one way trains."""

    words: str
    num_parameters: int
    num_blocks: int
    width: int
    """0 where only the depth grows."""
    peak_bytes: int
    host_bytes: int
    ratio: float
    """Parameters beside plain FSDP2's."""


@dataclasses.dataclass(frozen=True)
class DevicePlan:
    """A plan for one model on one machine, and what else was worked out on the way."""

    model: str
    class_name: str
    num_parameters: int
    num_blocks: int
    block_class: str
    devices: str
    num_devices: int
    limit_bytes: int
    """What a plan may fill of the smallest device."""
    inputs: str
    precision: str
    plain: Outcome
    chosen: Outcome | None
    """The cheapest that fits."""
    smallest: Outcome
    """The one that needs the least."""
    largest: tuple[Largest, ...]
    """One step after the other; the first is plain FSDP2."""
    remedies: tuple[str, ...]
    """Where nothing fits: what would change that."""
    assumptions: tuple[str, ...]
    code: str = ""

    @property
    def short_bytes(self) -> int:
        """How much is missing on a device where nothing fits."""
        return 0 if self.chosen else max(0, self.smallest.holding.peak - self.limit_bytes)

    @property
    def ratio(self) -> float:
        """The largest model planned beside the largest of plain FSDP2."""
        return max((one.ratio for one in self.largest), default=1.0)

    def to_code(self) -> str:
        """The plan as a program in plain PyTorch; empty where nothing fits."""
        return self.code

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        made = dataclasses.asdict(self)
        for name in ("plain", "chosen", "smallest"):
            if made[name] is not None:
                made[name]["peak_bytes"] = getattr(self, name).holding.peak
        return made | {"ratio": self.ratio, "short_bytes": self.short_bytes}
