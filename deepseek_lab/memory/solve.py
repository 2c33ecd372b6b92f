"""Which part of a model keeps what: the choice that costs least time within a number of bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from deepseek_lab.memory.operations import Operation
from deepseek_lab.memory.recompute import ALL_AGAIN, Keep

NUM_LEVELS = 1000
"""Steps in which bytes are counted; each choice is rounded up to one."""
NUM_OPTIONS = 16


@dataclasses.dataclass(frozen=True)
class Option:
    """One way to run a part of a model."""

    keep: Keep | None
    """Operations whose results are kept; None leaves the part as it is."""
    bytes: int
    """What it holds from its forward to its backward pass, without its input and its result."""
    seconds: float
    """What it adds to a step."""
    within: tuple[str, ...] = ()
    """Its own parts that are recomputed by themselves, by path."""

    @property
    def word(self) -> str:
        """In the field's words."""
        if self.within:
            if self.keep is None:
                return "full recomputation of its parts"
            return "full recomputation, and again of its parts within it"
        if self.keep is None:
            return "as it is"
        return "selective recomputation" if self.keep else "full recomputation"


def options(operations: Sequence[Operation], plain_bytes: int, overhead_s: float = 0.0) -> list[Option]:
    """The ways to run a part that are worth a thought, from the fewest bytes to the most.

    Results are kept in order of the time that computing them again would take for each byte.

    Args:
        operations: Those of its forward pass.
        plain_bytes: What it holds when nothing is recomputed.
        overhead_s: What a policy costs for each operation, forward and again.
    """
    total_s = sum(one.seconds for one in operations)
    found = [Option(ALL_AGAIN, 0, total_s)]
    order = sorted(
        (index for index, one in enumerate(operations) if one.keepable),
        key=lambda index: -operations[index].seconds / operations[index].bytes,
    )
    policy_s = 2 * overhead_s * len(operations)
    bytes_, seconds, kept = 0, total_s + policy_s, set[int]()
    step, reached = plain_bytes / NUM_OPTIONS, 0.0
    for index in order:
        bytes_ += operations[index].bytes
        seconds -= operations[index].seconds
        kept.add(index)
        if bytes_ >= plain_bytes:
            break
        if bytes_ >= reached + step or (reached == 0.0 and bytes_ > 0):
            reached = bytes_
            found.append(Option(frozenset(kept), bytes_, seconds))
    found.append(Option(None, plain_bytes, 0.0))
    front: list[Option] = []
    # Of two that are alike, the one that changes nothing.
    for option in sorted(found, key=lambda one: (one.bytes, one.seconds, one.keep is not None)):
        if not front or option.seconds < front[-1].seconds:
            front.append(option)
    return front


def solve(parts: Sequence[Sequence[Option]], budget_bytes: float) -> list[Option] | None:
    """One option for each part, with the least time in all, that hold no more than the budget together.

    A multiple-choice knapsack, by dynamic programming over bytes in :data:`NUM_LEVELS` steps.

    Returns:
        The options, or None where even the smallest ones hold more.
    """
    if budget_bytes < 0:
        return None
    levels = min(NUM_LEVELS, int(budget_bytes))
    level = budget_bytes / levels if levels else 1.0
    sizes = [[int(np.ceil(one.bytes / level)) for one in part] for part in parts]
    best = np.zeros(levels + 1)
    chosen = np.zeros((len(parts), levels + 1), dtype=np.int16)
    for row, (part, needs) in enumerate(zip(parts, sizes, strict=True)):
        following = np.full(levels + 1, np.inf)
        for index, (option, need) in enumerate(zip(part, needs, strict=True)):
            if need > levels:
                continue
            costs = np.full(levels + 1, np.inf)
            costs[need:] = best[: levels + 1 - need] + option.seconds
            better = costs < following
            following[better] = costs[better]
            chosen[row, better] = index
        best = following
    if not np.isfinite(best[levels]):
        return None
    left, picked = levels, []
    for row in range(len(parts) - 1, -1, -1):
        index = int(chosen[row, left])
        picked.append(parts[row][index])
        left -= sizes[row][index]
    return picked[::-1]
