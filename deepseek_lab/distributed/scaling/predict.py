"""From a model's gradients, one device's compute and a network to the time of a step."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from deepseek_lab.distributed.scaling.buckets import CAP_BYTES, FIRST_BYTES, assign
from deepseek_lab.distributed.scaling.network import Network
from deepseek_lab.distributed.scaling.step import Host, Job, Times, simulate
from deepseek_lab.distributed.scaling.ways import Arithmetic, Bucket, Shares, Way


@dataclasses.dataclass(frozen=True)
class Compute:
    """One rank's step without communication, in seconds, on cores of its own."""

    forward_s: float
    backward_s: float
    update_s: float
    ready: tuple[float, ...]
    """By parameter, in the model's order: the part of the backward pass after which its gradient is there."""

    @property
    def total_s(self) -> float:
        """The whole step."""
        return self.forward_s + self.backward_s + self.update_s


def scaled(compute: Compute, total_s: float) -> Compute:
    """The same step in another time."""
    by = total_s / compute.total_s
    return dataclasses.replace(
        compute,
        forward_s=compute.forward_s * by,
        backward_s=compute.backward_s * by,
        update_s=compute.update_s * by,
    )


@dataclasses.dataclass(frozen=True)
class Setting:
    """Where a step runs."""

    network: Network
    host: Host = dataclasses.field(default_factory=Host)
    arithmetic: Arithmetic = dataclasses.field(default_factory=Arithmetic)
    shares: Shares = dataclasses.field(default_factory=Shares)
    num_lanes: int = 2


def buckets_of(
    shapes: Sequence[tuple[int, ...]], *, first: int = FIRST_BYTES, cap: int = CAP_BYTES
) -> list[list[int]]:
    """Positions of parameters by bucket in the order in which DDP sends them.

    Where parameters may be without gradients (``find_unused_parameters``, as here) it makes them in the model's order,
    once, and begins with the last: what is sent at the end of the backward pass is the small one.
    """
    sizes = [4 * Bucket((one,)).num_values for one in shapes]
    return assign(sizes, first, cap)[::-1]


def predict(
    shapes: Sequence[tuple[int, ...]],
    compute: Compute,
    setting: Setting,
    way: Way,
    *,
    first: int = FIRST_BYTES,
    cap: int = CAP_BYTES,
) -> Times:
    """The time of a step.

    Args:
        shapes: Of the float32 gradients, in the model's order.
        compute: What one rank computes.
        setting: Network, machine, and what arithmetic costs.
        way: How gradients are exchanged.
        first: Limit of the first bucket in bytes.
        cap: Limit of the others in bytes.
    """
    network = setting.network
    if network.num_ranks == 1:
        return simulate(
            compute.forward_s, compute.backward_s, compute.update_s, [], link=network.port, host=setting.host
        )
    copy = setting.arithmetic.copy_s_per_byte
    jobs, copied = [], 0.0
    for positions in buckets_of(shapes, first=first, cap=cap):
        bucket = Bucket(tuple(shapes[at] for at in positions))
        once = 4 * bucket.num_values * copy
        copied += once
        ready_s = max(compute.ready[at] for at in positions) * compute.backward_s + copied
        phases = way.phases(bucket, network, setting.arithmetic, setting.shares)
        jobs.append(Job(ready_s, phases, once))
    if way.every > 1:
        return _rarely(compute, jobs, setting, way.every)
    return simulate(
        compute.forward_s,
        compute.backward_s + copied,
        compute.update_s,
        jobs,
        link=network.port,
        host=setting.host,
        num_lanes=setting.num_lanes,
    )


def _rarely(compute: Compute, jobs: Sequence[Job], setting: Setting, every: int) -> Times:
    """Steps without an exchange, and one after which parameters are averaged: the mean of them."""
    port, host = setting.network.port, setting.host
    alone = simulate(compute.forward_s, compute.backward_s, compute.update_s, [], link=port, host=host)
    at_once = [dataclasses.replace(job, ready_s=0.0) for job in jobs]
    average = simulate(0.0, 0.0, 0.0, at_once, link=port, host=host, num_lanes=setting.num_lanes)
    return Times(alone.step_s + average.step_s / every, average.waiting_s / every)
