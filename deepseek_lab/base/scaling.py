"""What a plan for data-parallel training says: numbers and sentences."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class WayOutcome:
    """One way of exchanging gradients at the number of ranks that was asked for."""

    name: str
    is_exact: bool
    typed: str
    """The flags that take it; empty where ``%%deepseek distributed`` has no such way."""
    sent_bytes: int
    """Through a node's port in a step, one way."""
    kept_bytes: int
    """What a rank keeps for it from step to step, above what every way holds."""
    step_s: float
    waiting_share: float
    """Of the step, in which a rank waits for gradients; 0 to 1."""
    efficiency: float
    """Samples a second beside as many times those of one rank; 0 to 1."""


@dataclasses.dataclass(frozen=True)
class ScalingPoint:
    """Efficiency of each way at one number of ranks."""

    num_ranks: int
    efficiency: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Checked:
    """How well predictions matched steps that were measured on a machine."""

    machine: str
    when: str
    num_steps: int
    """Settings that were compared."""
    worst: float
    """Largest relative difference."""
    median: float


@dataclasses.dataclass(frozen=True)
class MeshOutcome:
    """Ranks that share layers, are stages of a pipeline, or copies of both."""

    mesh: str
    micro_batches: int
    """0 where there are no stages."""
    typed: str
    """The flags of ``%%deepseek distributed`` that take it."""
    num_groups: int
    """Of layers that are shared."""
    shared: float
    """The part of the parameters that is in them; 0 to 1."""
    held_bytes: int
    """Parameters, gradients and AdamW's states of the rank that has most of them."""
    layers_s: float
    """Of a step, in which sums within layers are under way on one rank."""
    copies_s: float
    """In which gradients of copies are averaged."""
    bubble: float
    """The part of its passes in which a stage waits; 0 to 1."""
    step_s: float
    efficiency: float
    """Samples a second beside as many times those of one rank; 0 to 1."""


@dataclasses.dataclass(frozen=True)
class ScalingPlan:
    """How a model trains data-parallel, as predicted."""

    model: str
    class_name: str
    num_parameters: int
    devices: str
    num_ranks: int
    network: str
    inputs: str
    single_s: float
    """A step on one rank, without communication."""
    held: dict[str, int]
    """Bytes on every rank, by what they are for."""
    limit_bytes: int
    """What the smallest device has; 0 where nobody said."""
    num_buckets: int
    ways: tuple[WayOutcome, ...]
    """Exact ones first."""
    curve: tuple[ScalingPoint, ...]
    assumptions: tuple[str, ...]
    checked: Checked | None
    meshes: tuple[MeshOutcome, ...] = ()
    """Beside data parallelism, where one was asked for."""

    @property
    def best_exact(self) -> WayOutcome:
        """The fastest way that changes nothing but the order of additions."""
        return min((one for one in self.ways if one.is_exact), key=lambda one: one.step_s)

    @property
    def best(self) -> WayOutcome:
        """The fastest that ``%%deepseek distributed`` has."""
        return min((one for one in self.ways if one.typed), key=lambda one: one.step_s)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return dataclasses.asdict(self) | {"held_bytes": sum(self.held.values())}
