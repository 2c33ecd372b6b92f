"""Where measurements are made: the cell, and what it is run on again and again."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import io
import resource
import sys
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch

from deepseek_lab.hpo.limits.curve import diverged
from deepseek_lab.hpo.limits.job import Job, Outcome, Seen, Task, Turn
from deepseek_lab.hpo.limits.loops import LOSS, loss_of
from deepseek_lab.hpo.limits.watch import Enough, Watch, seed_all
from deepseek_lab.measure.resident import PeakResident, resident_bytes
from deepseek_lab.processes import travel
from deepseek_lab.processes.cells import CellFailed, run_cell
from deepseek_lab.processes.sealed import Sealed

_PAGE = 4096
_OUT_OF_MEMORY = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
    "could not create a memory",
    "can't start new thread",
)
_LEAST_TURNS = 3
"""With fewer no median is told, so that a job goes on for them when its time is up."""


class Stand:
    """Runs jobs in this process.

    Args:
        task: The cell.
        sealed: What it begins with, each time.
    """

    def __init__(self, task: Task, sealed: Sealed) -> None:
        self._task, self._sealed = task, sealed
        _warm_up()

    def held(self) -> int | None:
        """Resident memory with what the cell begins with, before it runs."""
        main = types.ModuleType("__main__")
        self._unpack(vars(main))
        found = resident_bytes()
        vars(main).clear()
        _free()
        return found

    def run(self, job: Job, seen: Callable[[Seen], None], told: Callable[[int], None]) -> Outcome:
        """Run the cell for a job; ``told`` hears how many turns it has made."""
        before = sys.modules["__main__"]
        main = types.ModuleType("__main__")
        sys.modules["__main__"] = main
        names = vars(main)
        outcome = Outcome("ended")
        began_s = time.perf_counter()
        counted = _Count(job, told, outcome.turns)
        watch = Watch(
            size=job.size,
            seed=job.seed,
            skip=job.skip,
            turned=counted.turned,
            seen=seen,
            rate=(lambda turn: job.rates[min(turn, len(job.rates) - 1)]) if job.rates else None,
        )
        try:
            self._unpack(names)
            names[LOSS] = loss_of
            names.setdefault("display", lambda *_, **__: None)
            names.setdefault("get_ipython", lambda: None)
            seed_all(job.seed)
            self._run(job, names, outcome, watch)
        finally:
            sys.modules["__main__"] = before
            names.clear()
            _free()
        outcome.seen, outcome.first_loss = watch.seen, watch.first_loss
        outcome.num_turns, outcome.num_backwards = watch.num_turns, watch.num_backwards
        outcome.seconds = time.perf_counter() - began_s
        return outcome

    def _run(self, job: Job, names: dict[str, Any], outcome: Outcome, watch: Watch) -> None:
        peak = _Peak()
        outcome.start_bytes = peak.start
        try:
            with _quiet(), _allocating(job.limit_bytes, peak.start), watch:
                run_cell(self._task.source, self._task.file, names)
        except CellFailed as failed:
            outcome.peak_bytes = peak.bytes(watch.seen.device)
            cause = failed.__cause__
            if isinstance(cause, Enough):
                outcome.status = "done"
                return
            outcome.status = "memory" if is_out_of_memory(cause) else "failed"
            outcome.error, outcome.text = f"{failed.name}: {failed}".splitlines()[0], failed.text
        else:
            outcome.peak_bytes = peak.bytes(watch.seen.device)

    def _unpack(self, names: dict[str, Any]) -> None:
        """Make everything anew, with its bytes resident, so that only what is added later counts as growth."""
        parts = self._sealed.open()
        for part in parts:
            sum(part[::_PAGE])
        came = travel.unpack(parts, names, copy=False).value
        names |= came["names"]
        for name, attributes in came["lost"].items():
            vars(names[name]).update(attributes)


class _Count:
    """How long a job goes on."""

    def __init__(self, job: Job, told: Callable[[int], None], turns: list[Turn]) -> None:
        self._job, self._told, self._turns = job, told, turns
        self._left = job.warm
        self._began_s = time.perf_counter()
        self._first_s = self._began_s

    def turned(self, turn: Turn) -> bool:
        """A turn was made; whether another one is wanted."""
        job, now = self._job, time.perf_counter()
        if self._left > 0:
            self._left -= 1
            self._first_s = now
        else:
            self._turns.append(turn)
        num = len(self._turns)
        self._told(num)
        if job.until_s is not None and now - self._began_s > job.until_s and num >= _LEAST_TURNS:
            return False
        if job.rates and (turn.loss is None or diverged([one.loss or 0.0 for one in self._turns])):
            return False
        if self._left > 0 or num < job.steps:
            return True
        return num < job.most and now - self._first_s < job.seconds


class _Peak:
    """The most memory that is held from now on."""

    def __init__(self) -> None:
        self.start = resident_bytes()
        self._resident = PeakResident.begin()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            for number in range(torch.cuda.device_count()):
                torch.cuda.reset_peak_memory_stats(number)

    def bytes(self, device: str) -> int | None:
        """Of the process, or on a GPU what was reserved there."""
        if device.startswith("cuda"):
            return int(torch.cuda.max_memory_reserved(device))
        grown = self._resident.bytes() if self._resident is not None else None
        return self.start + grown if self.start is not None and grown is not None else None


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, says that memory ran out."""
    seen = 0
    while error is not None and seen < 20:
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            return True
        if isinstance(error, RuntimeError | OSError) and any(
            words in str(error).lower() for words in _OUT_OF_MEMORY
        ):
            return True
        error, seen = error.__cause__ or error.__context__, seen + 1
    return False


@contextlib.contextmanager
def _allocating(limit_bytes: int | None, start_bytes: int | None) -> Iterator[None]:
    """Have allocations fail that would take the process, or where there are GPUs each of them, beyond a limit.

    The system counts what is allocated, not what is resident: what may be added to it is what the limit leaves.
    """
    if limit_bytes is None:
        yield
        return
    if torch.cuda.is_available():
        _share_gpus(limit_bytes)
        try:
            yield
        finally:
            _share_gpus(None)
        return
    allocated = _allocated_bytes()
    before = resource.getrlimit(resource.RLIMIT_DATA)
    if allocated is None or start_bytes is None:
        yield
        return
    most = allocated + max(limit_bytes - start_bytes, 0)
    resource.setrlimit(resource.RLIMIT_DATA, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _share_gpus(limit_bytes: int | None) -> None:
    for number in range(torch.cuda.device_count()):
        total = torch.cuda.get_device_properties(number).total_memory
        share = 1.0 if limit_bytes is None else min(1.0, limit_bytes / total)
        torch.cuda.set_per_process_memory_fraction(share, number)


def _allocated_bytes() -> int | None:
    """What the system counts against ``RLIMIT_DATA``."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            return next((int(line.split()[1]) * 1024 for line in file if line.startswith("VmData:")), None)
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What the cell prints is not kept."""
    nowhere = _Nowhere()
    with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


class _Nowhere(io.TextIOBase):
    def write(self, text: str) -> int:
        return len(text)

    def writable(self) -> bool:
        return True


def _warm_up() -> None:
    """Have PyTorch start its threads and load what it needs, which is not to count as the training's own."""
    x = torch.nn.Parameter(torch.randn(256, 256))
    (x @ x).square().sum().backward()
    torch.optim.SGD([x], lr=0.1).step()


def _free() -> None:
    """Give back to the system what is not used."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
