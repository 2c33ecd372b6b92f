"""The last operations of this rank's process groups: what, with which number, from which line, and whether it is over.

PyTorch keeps them itself, in a ring in C++ that collectives of gloo are in too
(torch/csrc/distributed/c10d/FlightRecorder.hpp, ProcessGroupGloo.cpp), also those that no Python code calls: of DDP's
reducer, of functional collectives. It knows for gloo neither when one has ended nor messages between two ranks. These,
and the lines of what other threads than the cell's call, are kept here, where ``ProcessGroup`` is called from Python.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import linecache
import math
import pickle
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import torch
from torch._C import _distributed_c10d as c10d
from torch.distributed import ProcessGroup, Work

from deepseek_lab.processes import cells

NUM_KEPT = 2000
"""As many as PyTorch's ring holds, unless TORCH_FR_BUFFER_SIZE says otherwise."""
_COLLECTIVES = (
    "broadcast",
    "allreduce",
    "allreduce_coalesced",
    "reduce",
    "allgather",
    "allgather_coalesced",
    "all_gather_single",
    "all_gather_single_coalesced",
    "_allgather_base",
    "gather",
    "scatter",
    "reduce_scatter",
    "reduce_scatter_single",
    "reduce_scatter_single_coalesced",
    "_reduce_scatter_base",
    "alltoall",
    "all_to_all_single",
    "alltoall_base",
    "barrier",
)
_MESSAGES = {"send": "send to {}", "recv": "recv from {}", "recv_anysource": "recv from any rank"}


class _Mark:
    """What is known of an operation beside PyTorch's ring."""

    __slots__ = ("at_ns", "dtype", "ended_ns", "failed", "group", "line", "name", "number", "peer", "shape")

    def __init__(self, line: int | None) -> None:
        self.at_ns, self.ended_ns, self.failed, self.line = time.time_ns(), 0, False, line
        self.group, self.number, self.name = "", 0, ""
        self.peer: int | None = None
        self.shape: tuple[int, ...] = ()
        self.dtype: Any = None


class Swap:
    """Messages that are one operation."""

    def __init__(self, mark: _Mark, group: ProcessGroup) -> None:
        self._mark, self._group = mark, group

    def wait(self, peer: int, work: Work) -> None:
        """For a message from a rank of the group, which is told as the one that is waited for."""
        self._mark.peer = torch.distributed.get_global_rank(self._group, peer)
        work.wait()


class Flight:
    """The record of this process; there is one.

    ``files`` are those of cells: the first line of a stack that is in one of them is a cell's.
    """

    def __init__(self) -> None:
        self.files: set[str] = set()
        self._marks: collections.deque[_Mark] = collections.deque(maxlen=NUM_KEPT)
        self._open: dict[int, _Mark] = {}
        """Those whose end is waited for, by the identity of the ``Work``."""
        self._lines = threading.local()
        """``value``, of what this thread calls; ``swap`` while messages are told as one operation."""
        self._since_ns = 0
        self.before: Callable[[ProcessGroup], None] | None = None
        """Called with its group before a collective."""

    def install(self) -> None:
        """Have what is called from Python from now on remembered, in this process."""
        if hasattr(Work.wait, "plain"):
            return
        cells.LEFT_OUT.add(__file__)
        wait = Work.wait

        def watched_wait(work: Work, *arguments: Any, **options: Any) -> Any:
            mark = self._open.pop(id(work), None)
            if mark is None:
                return wait(work, *arguments, **options)
            try:
                return wait(work, *arguments, **options)
            except BaseException:
                mark.failed = True
                raise
            finally:
                mark.ended_ns = time.time_ns()

        watched_wait.plain = wait  # type: ignore[attr-defined]
        Work.wait = watched_wait  # type: ignore[method-assign,assignment]
        for name in _COLLECTIVES:
            if hasattr(ProcessGroup, name):
                setattr(ProcessGroup, name, self._collective(getattr(ProcessGroup, name)))
        for name, words in _MESSAGES.items():
            setattr(ProcessGroup, name, self._message(getattr(ProcessGroup, name), words))

    def begin(self) -> None:
        """The groups of this rank are others from now on: what was before is not told."""
        self._since_ns = time.time_ns()
        self._open.clear()

    @contextlib.contextmanager
    def called_from(self, line: int | None) -> Iterator[None]:
        """What this thread calls meanwhile, it calls for a line of the cell."""
        self._lines.value = line
        try:
            yield
        finally:
            self._lines.value = None

    @contextlib.contextmanager
    def swap(self, group: ProcessGroup, name: str, part: torch.Tensor, size: int) -> Iterator[Swap]:
        """The messages that this thread sends and awaits meanwhile are one operation, of ``size`` such parts."""
        mark = _Mark(getattr(self._lines, "value", None) or self.line())
        mark.group, mark.name = group.group_name, name
        mark.shape, mark.dtype = (size, *part.shape), part.dtype
        self._marks.append(mark)
        self._lines.swap = True
        try:
            yield Swap(mark, group)
        except BaseException:
            mark.failed = True
            raise
        finally:
            self._lines.swap = False
            mark.ended_ns = time.time_ns()

    def line(self) -> int | None:
        """Of the cell, where this thread is."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if frame.f_code.co_filename in self.files:
                return frame.f_lineno
            frame = frame.f_back
        return None

    def _collective(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(group: ProcessGroup, *arguments: Any, **options: Any) -> Any:
            if self.before is not None:
                self.before(group)
            mark = _Mark(getattr(self._lines, "value", None))
            work = plain(group, *arguments, **options)
            mark.group, mark.number = group.group_name, _number(group)
            self._keep(mark, work)
            return work

        return call

    def _message(self, plain: Callable[..., Any], words: str) -> Callable[..., Any]:
        def call(group: ProcessGroup, tensors: list[torch.Tensor], *arguments: Any, **options: Any) -> Any:
            if getattr(self._lines, "swap", False):
                return plain(group, tensors, *arguments, **options)
            mark = _Mark(self.line())
            mark.group = group.group_name
            mark.shape, mark.dtype = tuple(tensors[0].shape), tensors[0].dtype
            if len(arguments) > 1:
                mark.peer = torch.distributed.get_global_rank(group, arguments[0])
            mark.name = words.format(mark.peer)
            work = plain(group, tensors, *arguments, **options)
            self._keep(mark, work)
            return work

        return call

    def _keep(self, mark: _Mark, work: Any) -> None:
        self._marks.append(mark)
        if work is not None:
            self._open[id(work)] = mark
            while len(self._open) > NUM_KEPT:  # works that nobody waited for
                self._open.pop(next(iter(self._open)), None)

    # Telling.

    def told(self, limit: int) -> tuple[list[dict[str, Any]], bool]:
        """The last operations as plain data (:class:`deepseek_lab.base.operations.Operation`), and whether these are
        all; the oldest first. May be called in any thread.
        """
        marks = [mark for mark in list(self._marks) if mark.at_ns >= self._since_ns]
        known = {(mark.group, mark.number): mark for mark in marks if mark.number}
        entries = [one for one in _entries() if one["time_created_ns"] >= self._since_ns]
        found = [self._collected(one, known) for one in entries]
        found += [_sent(mark) for mark in marks if mark.name]
        found.sort(key=lambda one: one["at_s"])
        whole = len(entries) < NUM_KEPT and len(found) <= limit
        return found[-limit:], whole

    def _collected(self, entry: dict[str, Any], known: dict[tuple[str, int], _Mark]) -> dict[str, Any]:
        group = entry["process_group"][0]
        shapes = entry["input_sizes"] or entry["output_sizes"]
        dtypes = entry["input_dtypes"] or entry["output_dtypes"]
        mark = known.get((group, entry["op_id"]))
        line = next((one["line"] for one in entry["frames"] if one["filename"] in self.files), None)
        # What waits for NCCL only has the stream wait, so its end says nothing. gloo tells the ring of an end in a
        # thread of its own, after those who wait.
        waited = mark is not None and mark.ended_ns > 0 and entry["on_cpu"]
        took_s = None
        if mark is not None and waited:
            took_s = max(0, mark.ended_ns - entry["time_created_ns"]) * 1e-9
        elif entry["time_discovered_completed_ns"]:
            took_s = (entry["time_discovered_completed_ns"] - entry["time_created_ns"]) * 1e-9
        ended = waited or entry["retired"] or entry["state"] == "completed"
        dtype = _DTYPES.get(dtypes[0]) if dtypes else None
        return {
            "name": entry["profiling_name"].partition(":")[2].strip("_"),
            "group": group,
            "number": entry["collective_seq_id"],
            "shapes": shapes,
            "dtype": _name(dtype),
            "num_bytes": sum(math.prod(shape) for shape in shapes) * (dtype.itemsize if dtype else 0),
            "peer": None,
            "line": mark.line if line is None and mark is not None else line,
            "at_s": entry["time_created_ns"] * 1e-9,
            "took_s": took_s,
            "state": "failed" if mark is not None and mark.failed else "ended" if ended else "waits",
        }


_DTYPES = {
    "Byte": torch.uint8,
    "Char": torch.int8,
    "Short": torch.int16,
    "Int": torch.int32,
    "Long": torch.int64,
    "Half": torch.float16,
    "Float": torch.float32,
    "Double": torch.float64,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
    "Bool": torch.bool,
    "BFloat16": torch.bfloat16,
}
"""By the names that C++ has for them."""


def _name(dtype: torch.dtype | None) -> str:
    return "" if dtype is None else str(dtype).removeprefix("torch.")


def _number(group: ProcessGroup) -> int:
    """Of the last collective or message of a group, by its backend; 0 where it does not count them."""
    try:
        return int(group._get_sequence_number_for_group())  # type: ignore[attr-defined]
    except RuntimeError:
        return 0


def _entries() -> list[dict[str, Any]]:
    """PyTorch's rings: that of gloo and others on the CPU, and that of NCCL (``on_cpu``: which)."""
    dumps = {True: c10d._dump_fr_trace}  # type: ignore[attr-defined]
    if torch.cuda.is_initialized() and hasattr(c10d, "_dump_nccl_trace"):
        dumps[False] = c10d._dump_nccl_trace
    with _no_import():
        found = [
            {**one, "on_cpu": on_cpu}
            for on_cpu, dump in dumps.items()
            for one in pickle.loads(dump(True, True, False)).get("entries", ())
        ]
    return [one for one in found if not one["is_p2p"]]


@contextlib.contextmanager
def _no_import() -> Iterator[None]:
    """To name frames C++ asks ``torch`` for ``_inductor``, which is then imported, for a second and more.

    There is nothing in it where nobody has imported it: torch/csrc/profiler/python/combined_traceback.cpp.
    """
    if "torch._inductor" in sys.modules:
        yield
        return
    nothing = types.ModuleType("torch._inductor")
    torch._inductor = nothing
    try:
        yield
    finally:
        if vars(torch).get("_inductor") is nothing:
            del torch._inductor


def _sent(mark: _Mark) -> dict[str, Any]:
    return {
        "name": mark.name,
        "group": mark.group,
        "number": 0,
        "shapes": [mark.shape],
        "dtype": _name(mark.dtype),
        "num_bytes": math.prod(mark.shape) * mark.dtype.itemsize,
        "peer": mark.peer,
        "line": mark.line,
        "at_s": mark.at_ns * 1e-9,
        "took_s": (mark.ended_ns - mark.at_ns) * 1e-9 if mark.ended_ns else None,
        "state": "failed" if mark.failed else "ended" if mark.ended_ns else "waits",
    }


def stack_of(thread: int, file: str) -> tuple[int | None, str, list[str]]:
    """Where a thread is: the line of the cell, that line's text, and the frames from there on."""
    frame = sys._current_frames().get(thread)
    if frame is None:
        return None, "", []
    frames = [(one.f_code.co_filename, line, one.f_code.co_name) for one, line in traceback.walk_stack(frame)]
    frames.reverse()
    inside = list(itertools.dropwhile(lambda one: one[0] != file, frames))
    if not inside:
        return None, "", []
    line = inside[0][1]
    return (
        line,
        linecache.getline(file, line).strip(),
        [f"{one[0]}, line {one[1]}, in {one[2]}" for one in inside],
    )


flight = Flight()
"""Of this process."""
