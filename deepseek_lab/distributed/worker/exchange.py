"""Gradients on their way between ranks: as they are, in bfloat16, as int8 codes, or as factors of low rank.

Each way is a communication hook of ``DistributedDataParallel``. Buckets go to threads in turn, each with a process
group of its own, so that one bucket is encoded while another is sent, and every group sees its collectives in the
same order on all ranks.
"""

from __future__ import annotations

import abc
import contextlib
import queue
import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from deepseek_lab._kernels.contracts import exchange as contract
from deepseek_lab._kernels.contracts.exchange import GROUP
from deepseek_lab._kernels.cpu import exchange as kernel
from deepseek_lab.distributed.worker.low_rank import LowRank

NUM_THREADS = 2
Key = tuple[int, int]
"""A replica's number and that of a bucket."""

_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
"""Its name since PyTorch 2.13, and before."""


class Way(Protocol):
    """How the mean of a tensor over all ranks is found."""

    def mean(self, key: Key, values: Tensor, parts: Sequence[Tensor], group: Any) -> None:
        """Write it into ``values`` [n] float32.

        ``key`` names the tensor from step to step; ``parts`` are the gradients in it, views that have their shapes.
        """


class Plain:
    """The values as they are: exact up to the order of the additions."""

    def mean(self, key: Key, values: Tensor, parts: Sequence[Tensor], group: Any) -> None:
        dist.all_reduce(values, group=group)
        values /= dist.get_world_size(group)


class Shared(abc.ABC):
    """Each rank adds up one part of the values, of what all ranks send of it, and sends the sum to all.

    A value is rounded twice on its way, whatever the number of ranks; sums are in float32. What goes over the link is
    2 (n - 1) / n of the encoded size, as little as in a ring.
    """

    def mean(self, key: Key, values: Tensor, parts: Sequence[Tensor], group: Any) -> None:
        size = dist.get_world_size(group)
        part = -(-values.numel() // (size * GROUP)) * GROUP
        padded = torch.nn.functional.pad(values, (0, part * size - values.numel()))
        sent = self.encode((*key, 0), padded.view(size, part))
        came = torch.empty_like(sent)
        dist.all_to_all_single(came, sent, group=group)
        total = self.decode(came, part).sum(0)
        total /= size
        (mine,) = self.encode((*key, 1), total.view(1, part))
        all_of = mine.new_empty(size * mine.numel())
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
        made = rows.new_empty(count, part + 4 * (part // GROUP), dtype=torch.uint8)
        codes = _codes_of(rows)
        for row, left, out in zip(rows, error, made, strict=True):
            codes.encode(row, left, out[:part].view(torch.int8), out[part:].view(torch.float32))
        return made

    def decode(self, rows: Tensor, part: int) -> Tensor:
        out = rows.new_empty(rows.shape[0], part, dtype=torch.float32)
        codes = _codes_of(rows)
        for row, values in zip(rows, out, strict=True):
            codes.decode(row[:part].view(torch.int8), row[part:].view(torch.float32), values)
        return out


def _codes_of(values: Tensor) -> Any:
    """The kernel, or off the CPU what it means in PyTorch."""
    return kernel if values.is_cpu else contract


_MAKE: dict[str, Callable[[], Way]] = {"plain": Plain, "bf16": Bfloat16, "int8": Int8}
LOW_RANK = re.compile(r"powersgd-([1-9]\d*)")


def make(name: str) -> Way:
    """A way by its name: ``plain``, ``bf16``, ``int8``, or ``powersgd-R`` with a rank."""
    low_rank = LOW_RANK.fullmatch(name)
    return LowRank(int(low_rank[1])) if low_rank else _MAKE[name]()


class Exchange:
    """The threads that find means, and the hook that gives them the buckets of a backward pass.

    Made by all ranks together; closed when nothing is under way.
    """

    def __init__(self, way: str = "plain") -> None:
        self._ways: dict[str, Way] = {}
        self.way = way
        """How buckets go from the next one on; the same on all ranks."""
        self._put_s = 0.0
        self._num_replicas = 0
        self._lanes = [_Lane(dist.new_group()) for _ in range(NUM_THREADS)]

    def install(self, replica: DistributedDataParallel) -> None:
        """Have a replica's buckets go this way."""
        number = self._num_replicas
        self._num_replicas += 1

        def hook(state, bucket):  # type: ignore[no-untyped-def]  # DDP refuses annotations that are strings
            return self.put(self.way, (number, bucket.index()), bucket.buffer(), bucket.gradients())

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
            chosen = self._ways[name] = make(name)
        self._lanes[key[1] % len(self._lanes)].put(chosen, key, values, parts or [values], future)
        return future

    @property
    def waited_s(self) -> float:
        """From when the last tensor was put to when all were there: what the last exchange took beside arithmetic."""
        return max(0.0, max(lane.done_s for lane in self._lanes) - self._put_s)

    def keep(self, way: str) -> None:
        """Go this way from now on, and forget what the others have kept."""
        self.way = way
        self._ways = {name: one for name, one in self._ways.items() if name == way}

    def close(self) -> None:
        """End the threads and their groups."""
        for lane in self._lanes:
            lane.close()


class _Lane:
    """One thread, its group, and what it has to do in the order in which it came."""

    def __init__(self, group: Any) -> None:
        self._group = group
        self.done_s = 0.0
        """When it had done what it had to do."""
        self._todo: queue.SimpleQueue[tuple[Way, Key, Tensor, Sequence[Tensor], Future[Tensor]] | None]
        self._todo = queue.SimpleQueue()
        threading.Thread(target=self._work, name="deepseek-exchange", daemon=True).start()

    def put(
        self, way: Way, key: Key, values: Tensor, parts: Sequence[Tensor], future: Future[Tensor]
    ) -> None:
        self._todo.put((way, key, values, parts, future))

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
            way, key, values, parts, future = item
            try:
                way.mean(key, values, parts, self._group)
            except BaseException as error:
                future.set_exception(error)  # type: ignore[arg-type]
            else:
                self.done_s = time.perf_counter()
                future.set_result(values)
            del item, values, parts, future
