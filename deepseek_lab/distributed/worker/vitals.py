"""What a rank measures of its training while it trains: counts that only grow, from which the notebook makes rates."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from deepseek_lab.measure.resident import resident_bytes


class Waits:
    """Seconds that the thread which makes it sleeps while it is held open.

    Held open where other ranks are waited for: in a backward pass, at whose end DDP waits for the means of its
    gradients, and where ranks agree on parameters or buffers. Counted is the time that passes there, less what the
    thread computes, and less what it is ready to compute while others have the processor (proc(5), ``schedstat``). So a
    machine that is too busy does not look like a link that is too slow. Whatever else the thread sleeps for there
    counts too: threads that share an operator's work or encode gradients, a page that comes from a disk.
    """

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._clock = time.pthread_getcpuclockid(self._thread)
        self._schedule: int | None = None
        with contextlib.suppress(OSError):
            self._schedule = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        self._depth = 0
        self._began_s: float | None = None
        self._total_s = 0.0

    def close(self) -> None:
        """Measure no more; what was measured stays."""
        schedule, self._schedule = self._schedule, None
        if schedule is not None:
            os.close(schedule)

    def __enter__(self) -> Waits:
        if threading.get_ident() == self._thread:
            if not self._depth:
                self._began_s = self._slept_s()
            self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        if threading.get_ident() == self._thread:
            self._depth -= 1
            if not self._depth and self._began_s is not None:
                began_s, self._began_s = self._began_s, None
                self._total_s += max(0.0, self._slept_s() - began_s)

    @property
    def seconds(self) -> float:
        """So far, that which goes on included. May be asked for in any thread."""
        began_s, total_s = self._began_s, self._total_s
        return total_s if began_s is None else total_s + max(0.0, self._slept_s() - began_s)

    def _slept_s(self) -> float:
        """Grows while the thread sleeps, and only then; where it begins means nothing."""
        delay_s = 0.0
        if self._schedule is not None:
            with contextlib.suppress(OSError, ValueError, IndexError):
                delay_s = int(os.pread(self._schedule, 64, 0).split()[1]) * 1e-9
        return time.perf_counter() - time.clock_gettime(self._clock) - delay_s


class Vitals:
    """How this rank is doing, as long as it is open.

    Losses are what ``backward`` is called on, where that is one number.

    Args:
        device: Of the training. What is waited for on a GPU is waited for there, in no thread: nobody knows how long.
        num_bytes: Gives what has gone over the connections to the other ranks.
    """

    def __init__(self, device: str, num_bytes: Callable[[], int]) -> None:
        self.waits = Waits()
        self.num_backwards = 0
        self._on_cpu, self._num_bytes = device == "cpu", num_bytes
        self._counts: Callable[[], tuple[int, int]] | None = None
        self._loss: float | None = None
        self._copied: tuple[Tensor, torch.cuda.Event] | None = None
        self._undo: Callable[[], None] = lambda: None

    def __enter__(self) -> Vitals:
        original = torch.autograd.backward

        @functools.wraps(original)
        def backward(tensors: Any, *arguments: Any, **options: Any) -> Any:
            __tracebackhide__ = True
            self.num_backwards += 1
            self._keep(tensors)
            with self.waits:
                return original(tensors, *arguments, **options)

        def undo() -> None:
            if torch.autograd.backward is backward:  # else somebody has put another one on top
                torch.autograd.backward = original

        torch.autograd.backward = backward
        self._undo = undo
        return self

    def __exit__(self, *_: object) -> None:
        self._undo()
        self.waits.close()

    @contextlib.contextmanager
    def counting(self, counts: Callable[[], tuple[int, int]]) -> Iterator[None]:
        """While it is open, ``counts`` gives updates and samples; the last counts stay."""
        self._counts = counts
        try:
            yield
        finally:
            last = counts()
            self._counts = lambda: last

    def now(self) -> dict[str, Any] | None:
        """Plain data, times by this process's clock; None until something counts. May be asked for in any thread."""
        if self._counts is None:
            return None
        num_updates, num_samples = self._counts()
        on_cpu = self._on_cpu
        return {
            "at_s": time.perf_counter(),
            "num_updates": num_updates,
            "num_samples": num_samples,
            "waited_s": self.waits.seconds if on_cpu else None,
            "memory_bytes": resident_bytes(),
            "device_bytes": torch.cuda.memory_allocated() if torch.cuda.is_initialized() else None,
            "loss": self.last_loss(),
            "link_bytes": self._num_bytes() if on_cpu else None,
        }

    def last_loss(self) -> float | None:
        """Of this rank, where there was one."""
        copied = self._copied
        if copied is not None and copied[1].query():
            self._loss = copied[0].item()
        return self._loss

    def _keep(self, tensors: Any) -> None:
        tensors = getattr(tensors, "held_here", tensors)  # its values may be on another rank
        if type(tensors) is not Tensor or tensors.numel() != 1:
            return
        if tensors.is_cpu:
            self._loss = tensors.item()
        elif tensors.is_cuda and (self._copied is None or self._copied[1].query()):
            # A loss that is read has the device finish its work first; it comes by itself, and a later one is as good.
            self.last_loss()
            there = torch.empty((), dtype=tensors.dtype, pin_memory=True)
            there.copy_(tensors.detach().reshape(()), non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
            self._copied = there, arrived
