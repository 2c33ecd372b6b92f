"""What a way costs in time: arithmetic and bytes over the rates that a device's maker states. An estimate to order
plans by, not a claim about a machine that was never there.
"""

from __future__ import annotations

import dataclasses

from deepseek_lab.memory.devices.anatomy import Anatomy
from deepseek_lab.memory.devices.arithmetic import COMPUTE, Measured, reduce_bytes
from deepseek_lab.memory.devices.machine import Machine
from deepseek_lab.memory.devices.way import Way

HOST_LINK, HOST_MEMORY = 25e9, 200e9
"""Bytes a second: a device to its host over PCIe 4 x16, and the host's memory, which all devices share."""
ADAMW_TRAFFIC, ADAMW8_TRAFFIC = 28, 326
"""Bytes a parameter that a step reads and writes: fused float32; 8-bit operator by operator, which a test counts."""
ASSUMED = (
    "matrix products run at the maker's peak, everything else at its memory bandwidth, communication overlaps with "
    "the arithmetic of the same pass, the host moves 25 GB/s to each device and 200 GB/s in all"
)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds of one step on one device."""

    arithmetic_s: float
    communication_s: float
    step_s: float
    host_s: float

    @property
    def total_s(self) -> float:
        """With communication behind arithmetic where it is the shorter."""
        return max(self.arithmetic_s, self.communication_s) + self.step_s + self.host_s


def estimate(anatomy: Anatomy, measured: Measured, way: Way, machine: Machine) -> Estimate:
    """The slowest device's step."""
    n = machine.num_devices
    flops = min(device.flops for _, device in machine.groups)
    memory = min(device.memory_bandwidth for _, device in machine.groups)
    link = min(device.link_bandwidth for _, device in machine.groups)
    ends = measured.ends(way.chunk)
    work, traffic = float(ends.flops), float(ends.traffic)
    for how, block in zip(way.recompute(len(anatomy.blocks)), anatomy.blocks, strict=True):
        step = measured.step(how, block.kind)
        work += 3 * step.forward_flops + step.recomputed_flops
        traffic += step.traffic
    total = anatomy.num_parameters
    moved = (2 * COMPUTE + reduce_bytes(way)) * total * (n - 1) / n if n > 1 else 0.0
    per_parameter = ADAMW8_TRAFFIC if way.eight_bit else ADAMW_TRAFFIC
    own = 2 if way.bf16_parameters else 4
    stepped = total / n * per_parameter
    host = (3 * own * total / n / HOST_LINK + n * stepped / HOST_MEMORY) if way.offload else 0.0
    return Estimate(
        arithmetic_s=work / flops + traffic / memory,
        communication_s=moved / link,
        step_s=0.0 if way.offload else stepped / memory,
        host_s=host,
    )
