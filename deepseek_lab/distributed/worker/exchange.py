"""Gradients on their way between ranks: as they are, in bfloat16, as int8 codes, or as factors of low rank; and any of
the first three between hosts alone, after sums on each of them.

Each way is a communication hook of ``DistributedDataParallel``. Buckets go to threads in turn, each with a process
group of its own, so that one bucket is encoded while another is sent, and every group sees its collectives in the
same order on all ranks.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import queue
import re
import threading
import time
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from deepseek_lab._kernels.contracts import exchange as contract
from deepseek_lab._kernels.contracts.exchange import GROUP
from deepseek_lab._kernels.cpu import exchange as kernel
from deepseek_lab.base.errors import TargetError
from deepseek_lab.distributed.worker import collectives
from deepseek_lab.distributed.worker.feedback import Feedback, State
from deepseek_lab.distributed.worker.flight import flight
from deepseek_lab.distributed.worker.hosts import NAME, Hierarchical, Hosts, Levels
from deepseek_lab.distributed.worker.low_rank import LowRank

APART = frozenset({"local", "diloco"})
"""Ways without gradients that go between ranks (:mod:`deepseek_lab.distributed.worker.apart`)."""
INT8 = ("int8", f"{NAME}-int8")
NUM_THREADS = 2
_PIECE = 1 << 16
"""Values."""
Key = tuple[int, int]
"""A replica's number and that of a bucket."""


class Way(Protocol):
    """How the mean of a tensor over all ranks is found; ``own`` and ``common`` as in :class:`Feedback`."""

    own: dict[tuple[int, ...], Tensor]
    common: dict[tuple[int, ...], Tensor]

    def mean(self, key: Key, values: Tensor, parts: Sequence[Tensor], group: Any) -> None:
        """Write it into ``values`` [n] float32.

        ``key`` names the tensor from step to step; ``parts`` are the gradients in it, views that have their shapes.
        """


class Plain(Feedback):
    """The values as they are: exact up to the order of the additions."""

    def mean(self, key: Key, values: Tensor, parts: Sequence[Tensor], group: Any) -> None:
        dist.all_reduce(values, group=group)
        values /= dist.get_world_size(group)


class Shared(Feedback, abc.ABC):
    """Each rank adds up one part of the values, of what all ranks send of it, and sends the sum to all.

    A value is rounded twice on its way, whatever the number of ranks; sums are in float32. What goes over the link is
    2 (n - 1) / n of the encoded size, as little as in a ring.
    """

    def mean(self, key: Key, values: Tensor, parts: Sequence[Tensor], group: Any) -> None:
        turn = Turn(self, values, dist.get_world_size(group), dist.get_rank(group))
        turn.encode(key)
        collectives.all_to_all(turn.came, turn.sent, group)
        turn.reduce(key)
        collectives.all_gather(turn.came, turn.mine, group)
        turn.decode()

    @abc.abstractmethod
    def num_bytes(self, part: int) -> int:
        """Of so many values."""

    @abc.abstractmethod
    def encode(self, key: tuple[int, ...], rows: Sequence[Tensor], part: int, out: Tensor) -> None:
        """Rows of at most ``part`` float32 values as bytes [r, b]."""

    @abc.abstractmethod
    def decode(self, row: Tensor, part: int, out: Tensor, *, add: bool = False) -> None:
        """Bytes [b] as float32 values [at most ``part``], written or added."""


class Turn:
    """The arithmetic of one mean, in memory that the next one of this thread takes again.

    Tensors of tens of megabytes would otherwise come from the system page by page, which takes as long as encoding.
    """

    def __init__(self, way: Shared, values: Tensor, size: int, rank: int) -> None:
        self._way, self._size, self._rank = way, size, rank
        self._part = -(-values.numel() // (size * GROUP)) * GROUP
        self._rows = [values[at * self._part : (at + 1) * self._part] for at in range(size)]
        width = way.num_bytes(self._part)
        self.sent = _scratch("sent", size * width, values.device).view(size, width)
        """Encoded parts, one for each rank; in its first row then the encoded sum of this rank's own."""
        self.came = _scratch("came", size * width, values.device).view(size, width)
        """What the ranks have sent of this one's part, then all encoded sums."""

    @property
    def mine(self) -> Tensor:
        """The encoded sum."""
        return self.sent[0]

    def encode(self, key: Key) -> None:
        """Before the first collective."""
        self._way.encode((*key, 0), self._rows, self._part, self.sent)

    def reduce(self, key: Key) -> None:
        """Between the two."""
        length = self._rows[self._rank].numel()
        total = _scratch("total", 4 * self._part, self.sent.device).view(torch.float32)[:length]
        for at, row in enumerate(self.came):
            self._way.decode(row, self._part, total, add=at > 0)
        total /= self._size
        self._way.encode((*key, 1), [total], self._part, self.sent[:1])

    def decode(self) -> None:
        """After the second one."""
        for row, out in zip(self.came, self._rows, strict=True):
            self._way.decode(row, self._part, out)


_kept = threading.local()


def _scratch(name: str, num_bytes: int, device: torch.device) -> Tensor:
    """Bytes that this thread has for itself until it asks for them again; they end with it."""
    tensors: dict[str, Tensor] = vars(_kept)
    key = f"{name} {device}"
    if key not in tensors or tensors[key].numel() < num_bytes:
        tensors[key] = torch.empty(num_bytes, dtype=torch.uint8, device=device)
    return tensors[key][:num_bytes]


class Bfloat16(Shared):
    """Half of the bytes; each value is rounded to 8 bits of precision twice."""

    def num_bytes(self, part: int) -> int:
        return 2 * part

    def encode(self, key: tuple[int, ...], rows: Sequence[Tensor], part: int, out: Tensor) -> None:
        for row, made in zip(rows, out.view(torch.bfloat16), strict=True):
            made[: row.numel()].copy_(row)

    def decode(self, row: Tensor, part: int, out: Tensor, *, add: bool = False) -> None:
        values = row.view(torch.bfloat16)[: out.numel()]
        if not add:
            out.copy_(values)
            return
        # PyTorch makes a float32 copy of what it adds; in pieces that stay in a cache.
        for some, more in zip(out.split(_PIECE), values.split(_PIECE), strict=True):
            some += more


class Int8(Shared):
    """A quarter of the bytes: int8 codes with a scale for 256 values; what is left out is sent the next times."""

    def num_bytes(self, part: int) -> int:
        return part + 4 * (part // GROUP)

    def encode(self, key: tuple[int, ...], rows: Sequence[Tensor], part: int, out: Tensor) -> None:
        error = self.own.get(key)
        if error is None or error.shape != (len(rows), part):
            error = self.own[key] = torch.zeros(len(rows), part, device=out.device)
        for row, left, made in zip(rows, error, out, strict=True):
            _codes_of(row).encode(row, left[: row.numel()], *_parts(made, part, row.numel()))

    def decode(self, row: Tensor, part: int, out: Tensor, *, add: bool = False) -> None:
        _codes_of(out).decode(*_parts(row, part, out.numel()), out, add=add)


def _parts(row: Tensor, part: int, length: int) -> tuple[Tensor, Tensor]:
    """Codes and scales of so many values, in the bytes of a row."""
    scales = row[part:].view(torch.float32)
    return row[:length].view(torch.int8), scales[: -(-length // GROUP)]


def _codes_of(values: Tensor) -> Any:
    """The kernel, or off the CPU what it means in PyTorch."""
    return kernel if values.is_cpu else contract


_MAKE: dict[str, Callable[[], Way]] = {"plain": Plain, "bf16": Bfloat16, "int8": Int8}
LOW_RANK = re.compile(r"powersgd-([1-9]\d*)")


def make(name: str, levels: Mapping[Any, Levels] | None = None) -> Way:
    """A way by its name: ``plain``, ``bf16``, ``int8``, or ``powersgd-R`` with a rank.

    With ``levels``, by group, also ``hierarchical``, and ``hierarchical-bf16`` and ``hierarchical-int8``, which change
    what goes between hosts alone.
    """
    first, _, between = name.partition("-")
    if first == NAME:
        return Hierarchical(make(between or "plain"), levels or {})
    low_rank = LOW_RANK.fullmatch(name)
    return LowRank(int(low_rank[1])) if low_rank else _MAKE[name]()


class Exchange:
    """The threads that find means, and the hook that gives them the buckets of a backward pass.

    Made by all ranks together; closed when nothing is under way.

    Args:
        way: See :attr:`way`.
        hosts: Where the ranks are; given where gradients may go among those of a host first.

    Raises:
        TargetError: that is asked for, and no host has several ranks, or there is but one.
    """

    def __init__(self, way: str = "plain", hosts: Hosts | None = None) -> None:
        self.layered = hosts is not None and hosts.layered
        """Whether ways that begin with ``hierarchical`` can be taken."""
        if way.startswith(NAME) and not self.layered:
            raise TargetError(
                f"{way} is for several hosts with several ranks",
                hint="%%deepseek distributed --exchange plain",
            )
        self._ways: dict[str, Way] = {}
        self._where = hosts.of if hosts is not None and self.layered else (0,) * dist.get_world_size()
        self.way = way
        """How buckets go from the next one on; the same on all ranks."""
        self._put_s = 0.0
        self._num_replicas = 0
        groups = [dist.new_group() for _ in range(NUM_THREADS)]
        self._levels = (
            {group: Levels(hosts) for group in groups} if hosts is not None and self.layered else {}
        )
        self._lanes = [_Lane(group, self._levels.get(group)) for group in groups]

    def install(self, replica: DistributedDataParallel) -> None:
        """Have a replica's buckets go this way."""
        number = self._num_replicas
        self._num_replicas += 1

        def hook(state, bucket):  # type: ignore[no-untyped-def]  # DDP refuses annotations that are strings
            way = "int8" if self.way in APART else self.way  # the first update
            return self.put(way, (number, bucket.index()), bucket.buffer(), bucket.gradients())

        replica.register_comm_hook(None, hook)

    def put(self, way: str, key: Key, values: Tensor, parts: Sequence[Tensor] = ()) -> Future[Tensor]:
        """Have the mean over all ranks written into ``values`` [n]; what is not float32 goes as it is.

        Called in the same order on all ranks.
        """
        future: Future[Tensor] = Future()
        self._put_s = time.perf_counter()
        name = way if values.dtype == torch.float32 else "plain"
        chosen = self._ways.get(name)
        if chosen is None:
            chosen = self._ways[name] = make(name, self._levels)
        self._lanes[key[1] % len(self._lanes)].put(
            _Item(chosen, key, values, parts or [values], future, flight.line())
        )
        return future

    @property
    def waited_s(self) -> float:
        """From when the last tensor was put to when all were there: what the last exchange took beside arithmetic."""
        return max(0.0, max(lane.done_s for lane in self._lanes) - self._put_s)

    def keep(self, way: str, *uses: str) -> None:
        """Go this way from now on, which uses others, and forget what the rest has kept."""
        self.way = way
        self._ways = {name: one for name, one in self._ways.items() if name in {way, *uses}}

    @property
    def state(self) -> State:
        """What the ways keep; it is what they go on with, no copy. Asked for when nothing is under way."""
        ways = self._ways.items()
        return State(
            {name: one.own for name, one in ways if one.own},
            {name: one.common for name, one in ways if one.common},
            self._where,
        )

    def take_up(self, state: State, ways: Container[str]) -> bool:
        """Go on with what was kept, of these ways; gives whether there was anything of this rank's own for them."""
        found = False
        for name in [name for name in {**state.own, **state.common} if name in ways]:
            one = self._ways.setdefault(name, make(name, self._levels))
            one.common.update(state.common.get(name, {}))
            if state.hosts == self._where or LOW_RANK.fullmatch(name):
                one.own.update(state.own.get(name, {}))
                found = found or bool(one.own)
        return found

    def close(self) -> None:
        """End the threads and their groups."""
        for lane in self._lanes:
            lane.close()


@dataclasses.dataclass(frozen=True)
class _Item:
    """A mean that is to be found."""

    way: Way
    key: Key
    values: Tensor
    parts: Sequence[Tensor]
    future: Future[Tensor]
    line: int | None
    """Of the cell, for which."""


class _Lane:
    """One thread, its groups, and what it has to do in the order in which it came."""

    def __init__(self, group: Any, levels: Levels | None) -> None:
        self._group, self._levels = group, levels
        self.done_s = 0.0
        """When it had done what it had to do."""
        self._todo: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="deepseek-exchange", daemon=True).start()

    def put(self, item: _Item) -> None:
        self._todo.put(item)

    def close(self) -> None:
        self._todo.put(None)

    def _work(self) -> None:
        try:
            self._find_means()
        finally:
            if self._levels is not None:
                self._levels.close()
            with contextlib.suppress(RuntimeError, ValueError, AssertionError):
                dist.destroy_process_group(self._group)

    def _find_means(self) -> None:
        while (item := self._todo.get()) is not None:
            try:
                with flight.called_from(item.line):
                    item.way.mean(item.key, item.values, item.parts, self._group)
            except BaseException as error:
                item.future.set_exception(error)  # type: ignore[arg-type]
            else:
                self.done_s = time.perf_counter()
                item.future.set_result(item.values)
            del item
