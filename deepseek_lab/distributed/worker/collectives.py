"""All-to-all, all-gather and reduce-scatter over TCP, as messages that are awaited before they are sent.

Gloo's all-to-all sends to a rank before it tells that rank that it is ready to receive (gloo/alltoall.cc), and what
tells so then waits behind megabytes that go the same way: on links with queues the two directions take turns. Its
reduce-scatter is an all-reduce, which sends twice as much. Here each rank is ready for everything before it sends
anything. Where that is faster, parts go in small pieces besides, a piece to each rank in turn and none before what was
sent to this one with it has come, so that queues stay short and no two ranks send to the same one for long. On a link
whose messages take long to arrive it is not, and on a fast one pieces cost arithmetic, so both are tried now and then.
``python -m tests.benchmarks.collectives`` measures what of a link they reach.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from deepseek_lab.distributed.worker.flight import Swap, flight

PIECE_BYTES = 200_000
_EVERY = 64
"""Of so many calls with parts that are larger, one is tried whole and one in pieces."""
_WHOLE, _PIECES = 3, 4
"""Which: connections that are new, or have rested, have not found their speed."""
_CLEARLY = 1.1
"""So much longer pieces take where they are the wrong way: two or more times as long over fast links and long ones."""
_TAG = 1_920_233_985
"""Of all messages here, so that none is taken for one of the cell's own."""


def all_to_all(came: Tensor, sent: Tensor, group: Any) -> None:
    """Row r of ``sent`` [n, b] goes to rank r of the group, whose row for this rank comes into ``came`` [n, b].

    Called by all ranks of the group together, with tensors of one shape.
    """
    if not came.is_cpu:
        dist.all_to_all_single(came, sent, group=group)
        return
    _swap("all_to_all", list(came), list(sent), group)


def all_gather(came: Tensor, mine: Tensor, group: Any) -> None:
    """``mine`` [b] of each rank comes into its row of ``came`` [n, b].

    Called by all ranks of the group together, with tensors of one shape.
    """
    if not came.is_cpu:
        gather(came.view(-1), mine, group=group)
        return
    rows = list(came)
    _swap("all_gather", rows, [mine] * len(rows), group)


def reduce_scatter(total: Tensor, values: Tensor, group: Any) -> None:
    """The sum over all ranks of row r of ``values`` [n, k] comes into ``total`` [k] of rank r, added in their order.

    Called by all ranks of the group together, with tensors of one shape.
    """
    came = torch.empty_like(values)
    all_to_all(came, values, group)
    torch.sum(came, 0, out=total)


gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
"""PyTorch's own, by its name since PyTorch 2.13, and before."""


def _swap(name: str, came: Sequence[Tensor], sent: Sequence[Tensor], group: Any) -> None:
    rank, size = dist.get_rank(group), len(came)
    came[rank].copy_(sent[rank])
    num_bytes = sent[rank].nbytes
    if size == 1 or not num_bytes:
        return
    pace = _paces.setdefault(group, _Pace())
    step = pace.piece(num_bytes, group) // sent[rank].itemsize
    pieces = [(at, min(at + step, sent[rank].numel())) for at in range(0, sent[rank].numel(), step)]
    began_s = time.perf_counter()
    with flight.swap(group, name, sent[rank], size) as swap:
        _send_all(came, sent, pieces, group, rank, swap)
    pace.took((time.perf_counter() - began_s) / num_bytes, group)


def _send_all(
    came: Sequence[Tensor],
    sent: Sequence[Tensor],
    pieces: Sequence[tuple[int, int]],
    group: Any,
    rank: int,
    swap: Swap,
) -> None:
    """One round for each piece and distance: this rank sends to the one that is so far on, as all others do."""
    size = len(came)
    rounds = [(far, first, end) for first, end in pieces for far in range(1, size)]
    awaited = [
        ((rank - far) % size, group.recv([came[(rank - far) % size][first:end]], (rank - far) % size, _TAG))
        for far, first, end in rounds
    ]
    whole = len(pieces) == 1
    out = []
    for number, (far, first, end) in enumerate(rounds):
        peer = (rank + far) % size
        out.append(group.send([sent[peer][first:end]], peer, _TAG))
        if number and not whole:
            swap.wait(*awaited[number - 1])
    for peer, one in awaited if whole else awaited[-1:]:
        swap.wait(peer, one)
    for one in out:
        one.wait()


class _Pace:
    """Whether parts go in pieces over the links of a group, as its ranks have agreed.

    Args:
        pieces: Whether they do before that was tried.
    """

    def __init__(self, *, pieces: bool = False) -> None:
        self.pieces = pieces
        self._num, self._tried, self._whole = 0, 0, 0.0

    def piece(self, num_bytes: int, group: Any) -> int:
        """Bytes that go at a time, of so many; ranks begin together with what is tried."""
        self._tried = 0
        if num_bytes <= PIECE_BYTES:
            return num_bytes
        self._num += 1
        if self._num % _EVERY in {_WHOLE, _PIECES}:
            self._tried = self._num % _EVERY
            dist.barrier(group=group)
        return PIECE_BYTES if self._tried == _PIECES or (self.pieces and not self._tried) else num_bytes

    def took(self, seconds: float, group: Any) -> None:
        """So long for each byte of a part; the slowest rank counts."""
        if self._tried == _WHOLE:
            self._whole = seconds
        elif self._tried == _PIECES:
            both = torch.tensor([self._whole, seconds], dtype=torch.float64)
            dist.all_reduce(both, dist.ReduceOp.MAX, group=group)
            self.pieces = bool(both[1] < _CLEARLY * both[0])


_paces: weakref.WeakKeyDictionary[Any, _Pace] = weakref.WeakKeyDictionary()


def try_again() -> None:
    """Forget what was found to be faster, as links are others now; called by all ranks."""
    _paces.clear()
