"""Ways of exchanging gradients: what each sends, what it computes for that, and whether it is exact."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

from deepseek_lab.distributed.scaling.network import Network, all_reduce, reduce_scatter
from deepseek_lab.distributed.scaling.step import Phase, Share
from deepseek_lab.distributed.worker import local_steps, low_rank

GROUP = 256
"""Values that share a scale in int8 codes."""


@dataclasses.dataclass(frozen=True)
class Stages:
    """Seconds of a core for a value: before the first collective, between the two, and after the second."""

    before_s: float = 0.0
    between_s: float = 0.0
    after_s: float = 0.0


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """What exchanging costs beside sending."""

    stages: Mapping[str, Stages] = dataclasses.field(default_factory=dict)
    """By way, those that encode."""
    copy_s_per_byte: float = 0.0
    """Seconds of a core to copy a gradient into a bucket, and again out of it."""
    s_per_flop: float = 0.0
    """Of a matrix product."""


@dataclasses.dataclass(frozen=True)
class Shares:
    """The part of a port's bandwidth that collectives reach: alone, and two of them together; 1 is all of it."""

    all_reduce: Share = (1.0, 1.0)
    exchange: Share = (1.0, 1.0)
    """All-to-alls and all-gathers in turn."""


@dataclasses.dataclass(frozen=True)
class Bucket:
    """Shapes of the gradients in it, all float32."""

    shapes: tuple[tuple[int, ...], ...]

    @property
    def num_values(self) -> int:
        """Of all of them."""
        return sum(math.prod(shape) for shape in self.shapes)


@dataclasses.dataclass(frozen=True)
class Way:
    """One way.

    ``phases`` gives what becomes of a bucket. ``every`` is how many steps pass from one exchange to the next; more
    than one leaves nothing to overlap with.
    """

    name: str
    is_exact: bool
    typed: str
    """Which flags of ``%%deepseek distributed`` take it; empty where it cannot be had there."""
    layered: str = dataclasses.field(default="", kw_only=True)
    """Those where ranks share nodes, if what goes inside of these is not encoded."""
    phases: Callable[[Bucket, Network, Arithmetic, Shares], tuple[Phase, ...]]
    sent_bytes: Callable[[Bucket], float]
    """Bytes that encode a bucket."""
    every: int = 1
    error_feedback: bool = False
    """Whether a rank keeps what was rounded away: as much as the gradients."""


def _values(bucket: Bucket) -> float:
    return 4.0 * bucket.num_values


def _plain(bucket: Bucket, network: Network, _: Arithmetic, shares: Shares) -> tuple[Phase, ...]:
    sent = all_reduce(_values(bucket), network)
    return (Phase(sent.delay_s, 0.0, sent.num_bytes, shares.all_reduce),)


def _shared(name: str, bytes_of: Callable[[Bucket], float]) -> Callable[..., tuple[Phase, ...]]:
    """An all-to-all of encoded parts, and an all-gather of their encoded sums; among ranks of a node as they are."""

    def phases(bucket: Bucket, network: Network, arithmetic: Arithmetic, shares: Shares) -> tuple[Phase, ...]:
        stages, count = arithmetic.stages.get(name, Stages()), float(bucket.num_values)
        half = reduce_scatter(bytes_of(bucket), network, _values(bucket))
        if network.layered:
            count /= network.num_local
        return (
            Phase(work_s=stages.before_s * count),
            Phase(half.delay_s, 0.0, half.num_bytes, shares.exchange),
            Phase(work_s=stages.between_s * count),
            Phase(half.delay_s, 0.0, half.num_bytes, shares.exchange),
            Phase(work_s=stages.after_s * count),
        )

    return phases


def _matrices(bucket: Bucket) -> tuple[list[tuple[int, int]], int]:
    """Rows and columns of what has a low rank, and values of what has not (Vogels et al., arXiv:1905.13727)."""
    found, rest = [], 0
    for shape in bucket.shapes:
        total, thin = low_rank.sizes(shape)
        if thin < total:
            found.append((shape[0], total // shape[0]))
        else:
            rest += total
    return found, rest


def _low_rank_bytes(bucket: Bucket) -> float:
    matrices, rest = _matrices(bucket)
    return 4.0 * (rest + low_rank.RANK * sum(rows + columns for rows, columns in matrices))


def _low_rank(bucket: Bucket, network: Network, arithmetic: Arithmetic, shares: Shares) -> tuple[Phase, ...]:
    matrices, rest = _matrices(bucket)
    one = 2.0 * low_rank.RANK * sum(rows * columns for rows, columns in matrices) * arithmetic.s_per_flop
    orthogonal = 4.0 * low_rank.RANK**2 * sum(rows for rows, _ in matrices) * arithmetic.s_per_flop
    first = all_reduce(4.0 * (rest + low_rank.RANK * sum(rows for rows, _ in matrices)), network)
    second = all_reduce(4.0 * low_rank.RANK * sum(columns for _, columns in matrices), network)
    return (
        Phase(work_s=one),
        Phase(first.delay_s, 0.0, first.num_bytes, shares.all_reduce),
        Phase(work_s=one + orthogonal),
        Phase(second.delay_s, 0.0, second.num_bytes, shares.all_reduce),
        Phase(work_s=one),
    )


def _bf16_bytes(bucket: Bucket) -> float:
    return 2.0 * bucket.num_values


def _int8_bytes(bucket: Bucket) -> float:
    return bucket.num_values * (1 + 4 / GROUP)


WAYS: Sequence[Way] = (
    Way("plain", True, "--exchange plain", _plain, _values),
    Way(
        "bf16",
        False,
        "--allow-lossy --exchange bf16",
        _shared("bf16", _bf16_bytes),
        _bf16_bytes,
        layered="--allow-lossy --exchange hierarchical-bf16",
    ),
    Way(
        "int8",
        False,
        "--allow-lossy --exchange int8",
        _shared("int8", _int8_bytes),
        _int8_bytes,
        error_feedback=True,
        layered="--allow-lossy --exchange hierarchical-int8",
    ),
    Way(
        f"PowerSGD, rank {low_rank.RANK}",
        False,
        "--allow-lossy --exchange powersgd",
        _low_rank,
        _low_rank_bytes,
        error_feedback=True,
    ),
    Way(
        f"local SGD, {local_steps.EVERY} steps",
        False,
        "--allow-lossy --exchange local",
        _shared("int8", _int8_bytes),
        _int8_bytes,
        every=local_steps.EVERY,
        error_feedback=True,
        layered="--allow-lossy --exchange local",
    ),
)
"""Exact ways first. ``plain`` is that of ``DistributedDataParallel``."""
BY_NAME = {way.name: way for way in WAYS}
