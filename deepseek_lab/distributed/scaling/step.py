"""One step of data-parallel training, simulated: what computes, what is sent, and what waits for what.

All ranks do the same at the same time, so that one stands for all. Threads share the cores of their machine evenly,
transfers share the port; between two events all rates are constant (a fluid model).
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence

from deepseek_lab.distributed.scaling.network import Link

_STEPS = 3
"""Steps that are simulated one after the other; the last one counts."""
_NOTHING = 1e-12


Share = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Phase:
    """A part of what becomes of a bucket: first the time that passes, then arithmetic, then bytes sent."""

    delay_s: float = 0.0
    work_s: float = 0.0
    """Seconds of one core."""
    num_bytes: float = 0.0
    """Through the port, one way."""
    share: Share = (1.0, 1.0)
    """Of the port's bandwidth that it reaches alone, and that two like it reach together."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A bucket."""

    ready_s: float
    """Seconds of the backward pass after which it is full."""
    phases: tuple[Phase, ...]
    copied_s: float = 0.0
    """Seconds of one core in which gradients are written from it when it has come back."""


@dataclasses.dataclass(frozen=True)
class Host:
    """What a rank runs on."""

    num_cores: float = 1.0
    num_ranks: int = 1
    """That share the cores."""
    num_threads: int = 1
    """That compute in each rank."""
    core_s_per_byte: float = 0.0
    """What sending and receiving a byte takes of a core: copies of the system and of gloo, additions."""


@dataclasses.dataclass(frozen=True)
class Times:
    """Of one step, in seconds."""

    step_s: float
    waiting_s: float
    """In which the rank had nothing to compute, because gradients were under way."""

    @property
    def waiting_share(self) -> float:
        """From 0 to 1."""
        return self.waiting_s / self.step_s if self.step_s else 0.0


def simulate(
    forward_s: float,
    backward_s: float,
    update_s: float,
    jobs: Sequence[Job],
    *,
    link: Link,
    host: Host,
    num_lanes: int = 2,
) -> Times:
    """The last of a few steps in a row.

    Args:
        forward_s: Seconds of the cores that a rank computes on, were they its own.
        backward_s: The same.
        update_s: The same, after all gradients have come.
        jobs: Buckets in the order in which they are sent.
        link: The port.
        host: What the rank runs on.
        num_lanes: Buckets that are under way at a time.
    """
    tokens = link.burst_bytes
    times = Times(0.0, 0.0)
    for _ in range(_STEPS if link.burst_bytes else 1):
        run = _Run(forward_s, backward_s, update_s, jobs, link, host, num_lanes, tokens)
        times, tokens = run.times(), run.tokens
    return times


def even(demands: Sequence[float], capacity: float) -> list[float]:
    """What each gets of a capacity: as much as the others, or less where it wants less."""
    given = [0.0] * len(demands)
    left, open_ones = capacity, sorted(range(len(demands)), key=lambda at: demands[at])
    for count, at in enumerate(open_ones):
        given[at] = min(demands[at], left / (len(open_ones) - count))
        left -= given[at]
    return given


class _Run:
    """The state of one step."""

    def __init__(
        self,
        forward_s: float,
        backward_s: float,
        update_s: float,
        jobs: Sequence[Job],
        link: Link,
        host: Host,
        num_lanes: int,
        tokens: float,
    ) -> None:
        self._link, self._host, self._jobs = link, host, jobs
        self.tokens = tokens
        # The thread that computes: seconds of work, then either the bucket that it hands over or one to wait for.
        self._script: list[tuple[str, float, int]] = [("work", forward_s, -1)]
        done = 0.0
        for number, job in enumerate(jobs):
            self._script += [("work", max(0.0, job.ready_s - done), -1), ("send", 0.0, number)]
            done = max(done, job.ready_s)
        self._script.append(("work", max(0.0, backward_s - done), -1))
        for number, job in enumerate(jobs):
            self._script += [("wait", 0.0, number), ("work", job.copied_s, -1)]
        self._script.append(("work", update_s, -1))
        self._lanes: list[list[_Under]] = [[] for _ in range(num_lanes)]
        self._come: set[int] = set()

    def times(self) -> Times:
        now = waiting = 0.0
        script = list(reversed(self._script))
        while script:
            kind, left, number = script[-1]
            if kind == "send":
                self._lanes[number % len(self._lanes)].append(_Under(number, self._jobs[number].phases))
                script.pop()
                self._settle()
                continue
            if (kind == "wait" and number in self._come) or (kind == "work" and left <= _NOTHING):
                script.pop()
                continue
            computes = kind == "work"
            rates = self._rates(computes)
            active = [lane[0] for lane in self._lanes if lane]
            own = rates[0] if computes else 0.0
            until = [left / own] if computes and own > 0 else []
            until += [one.until(rate) for one, rate in zip(active, rates[1:], strict=True)]
            drain = sum(rate for one, rate in zip(active, rates[1:], strict=True) if one.kind == "bytes")
            if self.tokens > _NOTHING and drain > self._link.bandwidth:
                until.append(self.tokens / (drain - self._link.bandwidth))
            step = min(until)
            assert math.isfinite(step), "nothing goes on"
            now += step
            waiting += 0.0 if computes else step
            if computes:
                script[-1] = (kind, left - own * step, number)
            for one, rate in zip(active, rates[1:], strict=True):
                one.go(rate * step)
            if self._link.burst_bytes:
                tokens = self.tokens + (self._link.bandwidth - drain) * step
                self.tokens = min(self._link.burst_bytes, max(0.0, tokens))
            self._settle()
        return Times(now, waiting)

    def _settle(self) -> None:
        """Take what is done from its lane."""
        for lane in self._lanes:
            while lane and lane[0].over:
                self._come.add(lane.pop(0).number)

    def _rates(self, computes: bool) -> list[float]:
        """What the computing thread gets done in a second, and each lane: seconds, core seconds or bytes."""
        host, link = self._host, self._link
        active = [lane[0] for lane in self._lanes if lane]
        fast = self.tokens > _NOTHING
        port = max(link.burst_bandwidth, link.bandwidth) if fast else link.bandwidth
        sending = [one.share for one in active if one.kind == "bytes"]
        reached = statistics.mean(together for _, together in sending) if len(sending) > 1 else 1.0
        wanted = even([one.share[0] * port if one.kind == "bytes" else 0.0 for one in active], reached * port)
        demands = [float(host.num_threads) if computes else 0.0]
        for one, rate in zip(active, wanted, strict=True):
            by_bytes = rate * host.core_s_per_byte
            demands.append({"delay": 0.0, "work": 1.0, "bytes": by_bytes}[one.kind])
        given = even(demands, host.num_cores / host.num_ranks)
        rates = [given[0] / host.num_threads]
        for one, rate, demand, got in zip(active, wanted, demands[1:], given[1:], strict=True):
            part = got / demand if demand else 1.0
            rates.append({"delay": 1.0, "work": got, "bytes": rate * part}[one.kind])
        return rates


class _Under:
    """A bucket that is under way."""

    def __init__(self, number: int, phases: Sequence[Phase]) -> None:
        self.number = number
        parts: list[tuple[str, float, Share]] = []
        for phase in phases:
            parts += [
                ("delay", phase.delay_s, phase.share),
                ("work", phase.work_s, phase.share),
                ("bytes", phase.num_bytes, phase.share),
            ]
        self._parts = [part for part in reversed(parts) if part[1] > _NOTHING]

    @property
    def over(self) -> bool:
        return not self._parts

    @property
    def kind(self) -> str:
        return self._parts[-1][0]

    @property
    def share(self) -> Share:
        return self._parts[-1][2]

    def until(self, rate: float) -> float:
        return self._parts[-1][1] / rate if rate > 0 else math.inf

    def go(self, amount: float) -> None:
        kind, left, share = self._parts.pop()
        # What is left by rounding is nothing: a millionth of a byte, of a nanosecond.
        if left - amount > _NOTHING + left * 1e-12:
            self._parts.append((kind, left - amount, share))
