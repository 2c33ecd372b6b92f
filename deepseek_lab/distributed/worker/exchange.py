"""Gradients on their way between ranks: as they are, in bfloat16, or as int8 codes with error feedback.

Each way is a communication hook of ``DistributedDataParallel``. Buckets go to threads in turn, each with a process
group of its own, so that one bucket is encoded while another is sent, and every group sees its collectives in the
same order on all ranks.
"""

from __future__ import annotations

import abc
import contextlib
import queue
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from deepseek_lab._kernels.cpu import exchange as codes_of
from deepseek_lab._kernels.cpu.exchange import GROUP

NUM_THREADS = 2
_WARM_UP = 3
"""Steps before the race: buckets are made anew after the first."""
_ROUNDS = 5
_WORTH = 0.97
WAYS = ("plain", "bf16", "int8")
Key = tuple[int, int]
"""A replica's number and that of a bucket."""

_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
"""Its name since PyTorch 2.13, and before."""


class Way(Protocol):
    """How the mean of a tensor over all ranks is found."""

    def mean(self, key: Key, values: Tensor, group: Any) -> None:
        """Write it into ``values`` [n] float32; ``key`` names the tensor from step to step."""


class Plain:
    """The values as they are: exact up to the order of the additions."""

    def mean(self, key: Key, values: Tensor, group: Any) -> None:
        dist.all_reduce(values, group=group)
        values /= dist.get_world_size(group)


class Shared(abc.ABC):
    """Each rank adds up one part of the values, of what all ranks send of it, and sends the sum to all.

    A value is rounded twice on its way, whatever the number of ranks; sums are in float32. What goes over the link is
    2 (n - 1) / n of the encoded size, as little as in a ring.
    """

    def mean(self, key: Key, values: Tensor, group: Any) -> None:
        size = dist.get_world_size(group)
        part = -(-values.numel() // (size * GROUP)) * GROUP
        padded = torch.nn.functional.pad(values, (0, part * size - values.numel()))
        sent = self.encode((*key, 0), padded.view(size, part))
        came = torch.empty_like(sent)
        dist.all_to_all_single(came, sent, group=group)
        total = self.decode(came, part).sum(0)
        total /= size
        (mine,) = self.encode((*key, 1), total.view(1, part))
        all_of = torch.empty(size * mine.numel(), dtype=torch.uint8)
        _gather(all_of, mine, group=group)
        values.copy_(self.decode(all_of.view(size, -1), part).view(-1)[: values.numel()])

    @abc.abstractmethod
    def encode(self, key: tuple[int, ...], rows: Tensor) -> Tensor:
        """Rows [r, part] float32 as bytes [r, b]."""

    @abc.abstractmethod
    def decode(self, rows: Tensor, part: int) -> Tensor:
        """Bytes [r, b] as rows [r, part] float32."""


class Bfloat16(Shared):
    """Half of the bytes; each value is rounded to 8 bits of precision twice."""

    def encode(self, key: tuple[int, ...], rows: Tensor) -> Tensor:
        return rows.bfloat16().view(torch.uint8)

    def decode(self, rows: Tensor, part: int) -> Tensor:
        return rows.view(torch.bfloat16).float()


class Int8(Shared):
    """A quarter of the bytes: int8 codes with a scale for 256 values; what is left out is sent the next times."""

    def __init__(self) -> None:
        self._errors: dict[tuple[int, ...], Tensor] = {}

    def encode(self, key: tuple[int, ...], rows: Tensor) -> Tensor:
        count, part = rows.shape
        error = self._errors.get(key)
        if error is None or error.shape != rows.shape:
            error = self._errors[key] = torch.zeros_like(rows)
        made = torch.empty(count, part + 4 * (part // GROUP), dtype=torch.uint8)
        for row, left, out in zip(rows, error, made, strict=True):
            codes_of.encode(row, left, out[:part].view(torch.int8), out[part:].view(torch.float32))
        return made

    def decode(self, rows: Tensor, part: int) -> Tensor:
        out = torch.empty(rows.shape[0], part)
        for row, values in zip(rows, out, strict=True):
            codes_of.decode(row[:part].view(torch.int8), row[part:].view(torch.float32), values)
        return out


_MAKE: dict[str, Callable[[], Way]] = {"plain": Plain, "bf16": Bfloat16, "int8": Int8}


class Exchange:
    """The threads that find means, and the hook that gives them the buckets of a backward pass.

    Made by all ranks together; closed when nothing is under way.
    """

    def __init__(self, way: str = "plain") -> None:
        self.ways: dict[str, Way] = {name: make() for name, make in _MAKE.items()}
        self.way = way
        """Which of them is used from the next bucket on; the same on all ranks."""
        self._num_replicas = 0
        self._lanes = [_Lane(dist.new_group()) for _ in range(NUM_THREADS)]

    def install(self, replica: DistributedDataParallel) -> None:
        """Have a replica's buckets go this way."""
        number = self._num_replicas
        self._num_replicas += 1

        def hook(state, bucket):  # type: ignore[no-untyped-def]  # DDP refuses annotations that are strings
            return self._put((number, bucket.index()), bucket.buffer())

        replica.register_comm_hook(None, hook)

    def _put(self, key: tuple[int, int], values: Tensor) -> Future[Tensor]:
        future: Future[Tensor] = Future()
        self._lanes[key[1] % len(self._lanes)].put(self.ways[self.way], key, values, future)
        return future

    def close(self) -> None:
        """End the threads and their groups."""
        for lane in self._lanes:
            lane.close()


class Race:
    """Finds the way with which steps are fastest, in steps of the training itself.

    Ways take turns; what each step took is averaged over the ranks, so that all come to the same choice.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._order = [*["plain"] * _WARM_UP, *WAYS * _ROUNDS]
        self._times: dict[str, list[float]] = {way: [] for way in WAYS}
        self._began_s: float | None = None
        self.seconds: dict[str, float] = {}
        """Of a step, by way; empty until it is decided."""
        exchange.way = self._order[0]

    def stepped(self) -> None:
        """An update is done, on all ranks."""
        if not self._order:
            return
        now = time.perf_counter()
        way = self._order.pop(0)
        if self._began_s is not None and len(self._order) < len(WAYS) * _ROUNDS:
            self._times[way].append(now - self._began_s)
        if self._order:
            self._exchange.way = self._order[0]
        else:
            self._decide()
        self._began_s = time.perf_counter()

    def _decide(self) -> None:
        medians = torch.tensor([statistics.median(self._times[way]) for way in WAYS], dtype=torch.float64)
        dist.all_reduce(medians)
        medians /= dist.get_world_size()
        self.seconds = dict(zip(WAYS, medians.tolist(), strict=True))
        best = min(WAYS, key=lambda way: self.seconds[way])
        # What is exact is given up for a gain only.
        self._exchange.way = best if self.seconds[best] < _WORTH * self.seconds["plain"] else "plain"


class _Lane:
    """One thread, its group, and what it has to do in the order in which it came."""

    def __init__(self, group: Any) -> None:
        self._group = group
        self._todo: queue.SimpleQueue[tuple[Way, Key, Tensor, Future[Tensor]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="deepseek-exchange", daemon=True).start()

    def put(self, way: Way, key: Key, values: Tensor, future: Future[Tensor]) -> None:
        self._todo.put((way, key, values, future))

    def close(self) -> None:
        self._todo.put(None)

    def _work(self) -> None:
        try:
            self._find_means()
        finally:
            with contextlib.suppress(RuntimeError, ValueError, AssertionError):
                dist.destroy_process_group(self._group)

    def _find_means(self) -> None:
        while (item := self._todo.get()) is not None:
            way, key, values, future = item
            try:
                way.mean(key, values, self._group)
            except BaseException as error:
                future.set_exception(error)  # type: ignore[arg-type]
            else:
                future.set_result(values)
            del item, values, future
