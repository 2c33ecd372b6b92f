"""Windows of a cell in which every operator is recorded, by PyTorch's own profiler, below the lines and modules that
called it.

While a window is open Python tells about each call and each line of the user's (``sys.settrace``), and a range of the
profiler's is opened for it. Between windows nothing of ours is in the way of the program.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import linecache
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePath
from types import FrameType
from typing import Any

import torch
from torch.autograd.profiler import profile

from deepseek_lab.measure.profiler import main_thread
from deepseek_lab.measure.profiler.frames import kind_of
from deepseek_lab.measure.profiler.room import Room
from deepseek_lab.measure.profiler.sampler import Place

MIN_S, MAX_S = 0.005, 1.0
"""A window ends with a round of the loop that it is in, after the first of these, and in any case after the second."""
COST = 0.006
"""Share of a cell's time that windows may cost after the first one."""
COLLECTING = 0.6
"""What it costs to collect events, in times of what it costs to read them when a window is closed."""
MAX_MARKS, MAX_MARKS_WHOLE = 8_000, 40_000
"""Calls and lines that a window may tell about, one of several and the only one."""
MAX_WHOLE_S = 60.0
"""A window of a whole recording ends after so long: operators that no line tells about fill memory too."""
MAX_CLOSING_S = 0.6
"""Windows may take so long to be closed, all together: they are kept until the cell has ended, 3 kB an event."""
_MAX_WINDOWS = 20
_SHAPES_EVERY = 4
_LONGER = 4
"""Later windows are up to so many times as long as the first: one that opens finds the caches cold."""

_ANOTHER = "another profiler of PyTorch's was open; operators were not recorded while it was"
_KINETO_LEVEL = "KINETO_LOG_LEVEL"
_ERROR = 2
"""Severity of an error in PyTorch's C++."""

_Range: Any = torch._C._profiler._RecordFunctionFast


@contextlib.contextmanager
def _unannounced() -> Iterator[None]:
    """Keep Kineto quiet, which reads this once, when the first profiler of the process is made."""
    before = os.environ.get(_KINETO_LEVEL)
    if before is None:
        os.environ[_KINETO_LEVEL] = "6"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_KINETO_LEVEL, None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep PyTorch's C++ from announcing a window on the cell's stderr, and from warning of every thousandth block that
    was there before it.
    """
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
        level = ctypes.c_int.in_dll(library, "FLAGS_caffe2_log_level")
    except (OSError, ValueError):  # another system, or another build: then it warns
        yield
        return
    before, level.value = level.value, max(level.value, _ERROR)
    try:
        yield
    finally:
        level.value = before


@dataclasses.dataclass(frozen=True)
class Module:
    """A module that was called."""

    path: str
    type_name: str


class Recorder:
    """Opens and closes windows on one thread.

    Args:
        namespace: Where modules have their names.
        thread_id: The thread that is recorded.
        whole: Whether there is one window only, as long as there is room.
        opening: Called with the frame that a window opens in, before it does.
        closing: The same before it closes.
        closed: Called when it was closed, which takes a moment.
    """

    def __init__(
        self,
        namespace: Mapping[str, Any],
        thread_id: int,
        *,
        whole: bool = False,
        opening: Callable[[FrameType], None] = lambda frame: None,
        closing: Callable[[FrameType], None] = lambda frame: None,
        closed: Callable[[], None] = lambda: None,
    ) -> None:
        with contextlib.suppress(ImportError, AttributeError):  # a build without Dynamo
            _uncompiled(Recorder._call, Recorder._line, Recorder._returned, main_thread.called)
        self._whole, self._opening, self._closing, self._closed = whole, opening, closing, closed
        self.windows: list[Any] = []
        """The profiler's results, one for each window."""
        self.with_shapes: list[bool] = []
        """For each of them whether operands' shapes were recorded."""
        self.places: dict[str, Place] = {}
        """What the range of a line is called, and its line."""
        self.modules: dict[str, Module] = {}
        """The same of modules."""
        self.seconds = 0.0
        self.overhead_s = 0.0
        """Seconds that opening and closing windows took while the cell ran."""
        self.close_soon = False
        """Asks for the window to be closed at the next call."""
        self.reason = ""
        """Why nothing is recorded any more."""
        self.note = ""
        """Why nothing was recorded for a time."""
        self._namespace, self._thread_id = namespace, thread_id
        self._names: dict[Place, str] = {}
        self._paths: weakref.WeakKeyDictionary[torch.nn.Module, str] = weakref.WeakKeyDictionary()
        self._ranges: list[tuple[FrameType, Any]] = []
        self._profile: Any = None
        self._ending = False
        self._quiet = contextlib.ExitStack()
        self._opened_at = self._ended_at = 0.0
        self._marks = 0
        self._room = Room()
        self._seen: dict[int, set[str]] = {}
        """Lines of each running frame that were seen in this window, by the frame's identity."""

    @property
    def is_open(self) -> bool:
        """Whether a window is open."""
        return self._profile is not None

    @property
    def _min_s(self) -> float:
        return MIN_S * min(len(self.windows) + 1, _LONGER)

    @property
    def _max_s(self) -> float:
        return MAX_WHOLE_S if self._whole else MAX_S

    def wants(self, now: float, start: float, phase: str) -> Callable[[], None] | None:
        """What is to be done now in the recorded thread, if anything, in a cell that began at ``start``."""
        if self.reason or phase == "compiling":
            return None
        if self.is_open:
            return self.close if now - self._opened_at > self._max_s else None
        if (
            self._whole
            or not self.windows
            or self.overhead_s > MAX_CLOSING_S
            or len(self.windows) >= _MAX_WINDOWS
        ):
            return None
        return self.open if self.overhead_s * (1.0 + COLLECTING) < COST * (now - start) else None

    def open(self, beginning: FrameType | None = None) -> None:
        """Open a window from here on. Called in the thread that is recorded.

        The lines that are under way get the time from now on; ``beginning`` is a frame whose line begins just now.
        """
        if self.is_open or self.reason or threading.get_ident() != self._thread_id or _in_backward():
            return
        if sys.gettrace() is not None:
            self.reason = "a debugger or a coverage tool traces this thread; operators were not recorded"
            return
        if torch_profiles():
            self.note = _ANOTHER
            return
        # Shapes take two thirds of the time that closing takes. A timeline has no need of them.
        shapes = not self._whole and len(self.windows) % _SHAPES_EVERY == 0
        made = profile(use_cpu=True, use_kineto=True, record_shapes=shapes, profile_memory=True)
        frame: FrameType | None = sys._getframe(1)
        assert frame is not None
        begun = time.perf_counter()
        if self.windows:
            self._opening(frame)
        self._quiet.enter_context(_quiet())
        with _unannounced():
            made.__enter__()
        self._profile, self._opened_at = made, time.perf_counter()
        if self.windows:  # the first one opens before the cell runs
            self.overhead_s += self._opened_at - begun
        self._marks = 0
        self._seen = {}
        own = []
        while frame is not None:
            if kind_of(frame.f_code) == "own":
                frame.f_trace = self._line
                own.append(frame)
            frame = frame.f_back
        if self.windows:
            for one in reversed(own):
                if one is not beginning:
                    self._enter(one, self._place(one))
        sys.settrace(self._call)

    def close(self) -> None:
        """Close the window, if one is open. Called in the thread that is recorded."""
        made, self.close_soon = self._profile, False
        if made is None or self._ending or threading.get_ident() != self._thread_id:
            return
        if _in_backward():
            self.close_soon = True
            return
        self._ending = True
        if sys.gettrace() == self._call:  # a debugger that was started meanwhile stays
            sys.settrace(None)
        here = sys._getframe(1)
        frame: FrameType | None = here
        while frame is not None:
            if frame.f_trace in (self._line, self._returned):
                frame.f_trace = None
            frame = frame.f_back
        while self._ranges:
            _close(self._ranges.pop()[1])
        self._closing(here)
        self._ended_at = time.perf_counter()
        self.seconds += self._ended_at - self._opened_at
        try:
            made.__exit__(None, None, None)
            self.windows.append(made.kineto_results)
            self.with_shapes.append(made.record_shapes)
        finally:
            self._quiet.close()
            self._profile, self._ending = None, False
            self.overhead_s += time.perf_counter() - self._ended_at
            self._closed()

    # -- what Python tells ------------------------------------------------------------------------

    def _call(self, frame: FrameType, event: str, arg: Any) -> Any:
        if self.close_soon:
            self._close_here()
            return None
        kind = kind_of(frame.f_code)
        if kind == "other":
            return None
        if kind == "own":
            return self._line
        if kind == "profiler":  # the user's own begins, and there is room for one
            self.note = _ANOTHER
            self._close_here()
            return None
        if kind == "compiling" and not self._whole:
            self._close_here()  # the sampler tells of a compiler; its millions of calls are nobody's operators
            return None
        if kind == "module":
            try:
                self._enter(frame, self._module(frame))
            except Exception as error:
                self.give_up(error)
            frame.f_trace_lines = False
            return self._returned
        return None

    # An error of ours ends the recording; out of a trace function it would end the user's program.

    def _returned(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "return":
            try:
                self._leave(frame)
            except Exception as error:
                self.give_up(error)
        return self._returned

    def _line(self, frame: FrameType, event: str, arg: Any) -> Any:
        try:
            if event == "line":
                self._leave(frame)
                self._line_begins(frame, self._place(frame))
            elif event == "return":
                self._leave(frame)
                self._seen.pop(id(frame), None)
        except Exception as error:
            self.give_up(error)
        return self._line

    def _line_begins(self, frame: FrameType, name: str) -> None:
        """Open a line's range; or end the window, where a round of a loop ends that is in no module's code."""
        lines = self._seen.setdefault(id(frame), set())
        again = name in lines
        lines.add(name)
        if again and self._due and not self._in_module:
            if self._whole:
                self._renew(frame)
            else:
                self.close()
        self._enter(frame, name)

    @property
    def _due(self) -> bool:
        """Whether a window ends with this round."""
        open_s = time.perf_counter() - self._opened_at
        return self._room.is_due(self._marks, open_s) if self._whole else open_s > self._min_s

    def _renew(self, frame: FrameType) -> None:
        """Close a window of a whole recording; open the next one if there is room."""
        if _in_backward():
            return
        marks, before_s = self._marks, self.seconds
        self.close()
        if self._room.closed(marks, self.seconds - before_s, len(self.windows[-1].events())):
            self.open(beginning=frame)

    @property
    def _most_marks(self) -> float:
        """Where no round ends, a window of a whole recording does after so many calls and lines."""
        return min(MAX_MARKS_WHOLE, 4 * self._room.max_marks) if self.windows else MAX_MARKS

    @property
    def _in_module(self) -> bool:
        return any(kind_of(frame.f_code) == "module" for frame, _ in self._ranges)

    def _close_here(self) -> None:
        try:
            self.close()
        except Exception as error:
            self.give_up(error)

    def give_up(self, error: Exception) -> None:
        """Record nothing more, and keep why."""
        self.reason = f"operators were recorded for a part of the time only ({type(error).__name__}: {error})"
        with contextlib.suppress(Exception):  # the reason is told already
            self.close()

    def _enter(self, frame: FrameType, name: str) -> None:
        self._marks += 1
        # Loops of very short lines: enough is known of them. In a thread that is not the main one nobody else looks.
        too_many = self._marks > (self._most_marks if self._whole else MAX_MARKS)
        if too_many or time.perf_counter() - self._opened_at > self._max_s:
            self.close()
        if not self.is_open or self._ending:
            return
        made = _Range(name)
        made.__enter__()
        self._ranges.append((frame, made))

    def _leave(self, frame: FrameType) -> None:
        """Close a frame's range, and those above it that were never closed."""
        ranges = self._ranges
        for at in range(len(ranges) - 1, -1, -1):
            if ranges[at][0] is frame:
                while len(ranges) > at:
                    _close(ranges.pop()[1])
                return

    # -- names ------------------------------------------------------------------------------------

    def _place(self, frame: FrameType) -> str:
        place = (frame.f_code.co_filename, frame.f_lineno)
        name = self._names.get(place)
        if name is None:
            text = linecache.getline(*place).strip()[:60]
            file = PurePath(place[0]).name
            label = "cell" if file[:-3].isdigit() or file.startswith("<ipython-input") else file
            name = f"{label}:{place[1]}  {text}".encode("utf-8", "replace").decode()
            while name in self.places:
                name += "'"
            self._names[place] = name
            self.places[name] = place
        return name

    def _module(self, frame: FrameType) -> str:
        module = frame.f_locals["self"]
        path = self._paths.get(module)
        if path is None:
            self._name_all(module)
            path = self._paths[module]
        return path

    def _name_all(self, root: torch.nn.Module) -> None:
        """Name a module that is called from outside of any other, and those inside of it."""
        start = self._root_name(root)
        for inner, module in root.named_modules(remove_duplicate=True):
            if module in self._paths:
                continue
            path = name = f"{start}.{inner}" if inner else start
            number = 1
            while name in self.modules:
                number += 1
                name = f"{path} ({number})"
            name = name.encode("utf-8", "replace").decode()
            self.modules[name] = Module(name, type(module).__name__)
            self._paths[module] = name

    def _root_name(self, root: torch.nn.Module) -> str:
        named = next(
            (name for name, value in list(self._namespace.items()) if value is root and name[:1] != "_"), ""
        )
        return named or type(root).__name__


def _uncompiled(*functions: Callable[..., Any]) -> None:
    """Have Dynamo leave these alone and what they call: it looks at whatever Python calls below a compiled function."""
    from torch._C._dynamo import eval_frame

    skip = eval_frame._FrameAction.SKIP
    for function in functions:
        eval_frame.set_code_exec_strategy(function.__code__, eval_frame._FrameExecStrategy(skip, skip))


def _in_backward() -> bool:
    """Whether autograd calls Python: thread-local state, a profiler's too, is put back when it returns."""
    return torch._C._current_graph_task_id() != -1


def torch_profiles() -> bool:
    """Whether a profiler of PyTorch's is open."""
    return bool(torch._C._autograd._profiler_enabled())


def _close(made: Any) -> None:
    with contextlib.suppress(RuntimeError):  # it was opened while nothing was recorded
        made.__exit__(None, None, None)
