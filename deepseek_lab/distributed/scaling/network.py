"""Links, and what collectives send over them.

A message of V bytes takes ``latency + V / bandwidth`` (Hockney, Parallel Computing 20(3), 1994). A ring of n ranks
sends 2 (n - 1) messages of V / n bytes each (Thakur, Rabenseifner and Gropp, IJHPCA 19(1), 2005,
doi:10.1177/1094342005051521). Where several ranks share a node, each first adds up its part of what the ranks of the
node have, exchanges that part with its peers on other nodes, and hands it around inside.
"""

from __future__ import annotations

import dataclasses
import re

from deepseek_lab.base.errors import UsageError

_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(bit|b|B|byte|bytes)(?:/s|ps)", re.IGNORECASE)
_FACTOR = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}


@dataclasses.dataclass(frozen=True)
class Link:
    """A port that sends and receives at the same time."""

    bandwidth: float
    """Bytes in a second, one way, when much is sent."""
    latency_s: float
    """Of one message."""
    burst_bytes: float = 0.0
    """What a port that was idle sends before its bandwidth is limited, as shapers by token buckets allow."""
    burst_bandwidth: float = 0.0
    """Bytes in a second meanwhile."""


@dataclasses.dataclass(frozen=True)
class Network:
    """Ranks on nodes: ``inside`` joins the ranks of a node, ``between`` is the one port of each node."""

    num_ranks: int
    node_size: int
    inside: Link
    between: Link

    @property
    def num_nodes(self) -> int:
        """Nodes that have ranks."""
        return -(-self.num_ranks // self.node_size)

    @property
    def num_local(self) -> int:
        """Ranks on the fullest node."""
        return min(self.num_ranks, self.node_size)

    @property
    def layered(self) -> bool:
        """Whether there are several nodes, and several ranks on one of them."""
        return self.num_nodes > 1 and self.num_local > 1

    @property
    def port(self) -> Link:
        """The link that holds the ranks up: between nodes, inside where there is one node."""
        return self.between if self.num_nodes > 1 else self.inside


@dataclasses.dataclass(frozen=True)
class Sent:
    """What a collective does: time on links that nothing else waits for, then bytes over the port."""

    delay_s: float
    num_bytes: float
    """Through each node's port, one way; the ranks of a node share it, so each rank's own part is smaller."""

    def __add__(self, other: Sent) -> Sent:
        return Sent(self.delay_s + other.delay_s, self.num_bytes + other.num_bytes)


def reduce_scatter(num_bytes: float, network: Network, inside_bytes: float | None = None) -> Sent:
    """Every rank gets its part of the sum of what all have; each has ``num_bytes``.

    An all-to-all of the parts sends as much, and so does an all-gather of them. Inside of nodes they may be
    ``inside_bytes``, where codes go between nodes alone.
    """
    local, nodes = network.num_local, network.num_nodes
    if nodes == 1:
        link = network.inside
        return Sent((local - 1) * link.latency_s, (local - 1) / local * num_bytes)
    link = network.inside
    handed = num_bytes if inside_bytes is None else inside_bytes
    inside_s = (local - 1) * link.latency_s + (local - 1) / local * handed / link.bandwidth
    # local ranks send num_bytes / local each, through one port
    return Sent(
        inside_s + (nodes - 1) * network.between.latency_s,
        (nodes - 1) / nodes * num_bytes,
    )


def all_reduce(num_bytes: float, network: Network) -> Sent:
    """Every rank gets the sum: a reduce-scatter and an all-gather."""
    half = reduce_scatter(num_bytes, network)
    return half + half


def parse_rate(text: str, flag: str = "link") -> float:
    """Bytes a second of ``100Gbit/s`` or ``12.5GB/s``; a small b alone is a bit, a large one a byte.

    Raises:
        UsageError: the text is no rate.
    """
    match = _RATE.fullmatch(text.strip())
    value = float(match[1]) if match is not None else 0.0
    if match is None or not value:
        raise UsageError(f"{text!r} is no rate for --{flag}", hint=f"--{flag} 100Gbit/s")
    bits = match[3] == "b" or match[3].lower() == "bit"
    return value * _FACTOR[match[2].lower()] / (8 if bits else 1)
