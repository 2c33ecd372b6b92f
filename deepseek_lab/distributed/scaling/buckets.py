"""The buckets in which ``DistributedDataParallel`` sends gradients."""

from __future__ import annotations

from collections.abc import Sequence

FIRST_BYTES, CAP_BYTES = 1 << 20, 25 << 20
"""Where a bucket is closed: the first one, and all others (``bucket_cap_mb`` of PyTorch)."""


def assign(sizes: Sequence[int], first: int = FIRST_BYTES, cap: int = CAP_BYTES) -> list[list[int]]:
    """Positions by bucket: a bucket is closed by the tensor with which it reaches its limit.

    Args:
        sizes: Bytes of the gradients, in the order in which buckets are filled.
        first: Limit of the first bucket in bytes.
        cap: Limit of all others in bytes.

    >>> assign([400_000, 800_000, 30_000_000, 5])
    [[0, 1], [2], [3]]
    """
    made: list[list[int]] = [[]]
    total, limit = 0, first
    for position, size in enumerate(sizes):
        made[-1].append(position)
        total += size
        if total >= limit:
            made.append([])
            total, limit = 0, cap
    return [one for one in made if one]
