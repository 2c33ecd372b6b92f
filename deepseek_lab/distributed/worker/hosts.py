"""Gradients that go among the ranks of a host first, so that no value crosses between hosts more often than it has to.

On each host every rank adds up one part of the values, ranks that hold the same part find its mean over the hosts, and
the parts go to all ranks of the host again (Mikami et al., arXiv:1811.05233, call it a 2D torus). In a ring over all
ranks 2 (n - 1) / n of the values cross each border between hosts, here 2 (h - 1) / h with h hosts.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from deepseek_lab.distributed.worker.collectives import gather

if TYPE_CHECKING:
    from deepseek_lab.distributed.worker.exchange import Way

NAME = "hierarchical"


@dataclasses.dataclass(frozen=True)
class Hosts:
    """Which ranks share a host."""

    of: tuple[int, ...] = ()
    """Something that is the same for two ranks if they share one, by rank."""

    @property
    def groups(self) -> list[list[int]]:
        """Ranks by host."""
        found: dict[int, list[int]] = {}
        for rank, host in enumerate(self.of):
            found.setdefault(host, []).append(rank)
        return list(found.values())

    @property
    def num_parts(self) -> int:
        """Ranks of a host that send to other hosts: as many as the smallest one has."""
        return min(map(len, self.groups))

    @property
    def layered(self) -> bool:
        """Whether there are several hosts, and several ranks on one of them."""
        return 1 < len(self.groups) < len(self.of)


class Levels:
    """A group of the ranks of this host, and one of those that hold the same part on other hosts.

    Made by all ranks together.
    """

    def __init__(self, hosts: Hosts) -> None:
        rank, groups = dist.get_rank(), hosts.groups
        self.num_ranks, self.num_hosts, self.num_parts = len(hosts.of), len(groups), hosts.num_parts
        self.inside: Any = None
        self.across: Any = None
        """None where this rank holds no part."""
        for ranks in groups:
            made = dist.new_group(ranks)
            if rank in ranks:
                self.inside, self.mates = made, ranks
        for at in range(self.num_parts):
            ranks = [mates[at] for mates in groups]
            made = dist.new_group(ranks)
            if rank in ranks:
                self.across = made

    def close(self) -> None:
        """End the groups."""
        for group in filter(None, (self.inside, self.across)):
            with contextlib.suppress(RuntimeError, ValueError, AssertionError):
                dist.destroy_process_group(group)


class Hierarchical:
    """Sums on each host as they are, and between hosts any way of a flat tensor.

    Args:
        between: The way between hosts.
        levels: By the group that a mean is asked for in.
    """

    def __init__(self, between: Way, levels: Mapping[Any, Levels]) -> None:
        self.between, self._levels = between, levels
        self.own, self.common = between.own, between.common

    def mean(self, key: tuple[int, int], values: Tensor, parts: Sequence[Tensor], group: Any) -> None:
        """Write the mean over all ranks into ``values`` [n] float32."""
        levels = self._levels[group]
        part = -(-values.numel() // levels.num_parts)
        padded = torch.nn.functional.pad(values, (0, part * levels.num_parts - values.numel()))
        mine = self._sum(padded, part, levels)
        if levels.across is not None:
            self.between.mean(key, mine, [mine], levels.across)
            mine *= levels.num_hosts / levels.num_ranks
        self._spread(padded, mine, levels)
        values.copy_(padded[: values.numel()])

    def _sum(self, padded: Tensor, part: int, levels: Levels) -> Tensor:
        """The part of this rank, added up over its host; empty where it has none."""
        num = len(levels.mates)
        lengths = [part if at < levels.num_parts else 0 for at in range(num)]
        own = lengths[dist.get_rank(levels.inside)]
        came = padded.new_empty(num, own)
        dist.all_to_all_single(came.view(-1), padded, [own] * num, lengths, group=levels.inside)
        return came.sum(0)

    def _spread(self, padded: Tensor, mine: Tensor, levels: Levels) -> None:
        """Give all ranks of the host all parts."""
        if levels.num_parts == len(levels.mates):
            gather(padded, mine, group=levels.inside)
            return
        at = dist.get_rank(levels.inside)
        rows = padded.view(levels.num_parts, -1)
        if at < levels.num_parts:
            rows[at] = mine
        sent = [
            dist.broadcast(row, levels.mates[at], group=levels.inside, async_op=True)
            for at, row in enumerate(rows)
        ]
        for one in sent:
            one.wait()
