"""What torch.compile did while a cell ran: what it compiled, what it compiled again and why, and where graphs broke.

Dynamo keeps its own account of every compilation and every break. We read it, and note at the beginning of each
compilation what it is of, so that a change can be tried afterwards without calling anything of the user's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import linecache
import math
import re
import sys
import time
from collections.abc import Iterable
from types import FrameType
from typing import TYPE_CHECKING, Any

from deepseek_lab.base.costs import CompileCost, TriedFix
from deepseek_lab.measure.breaks import in_words
from deepseek_lab.measure.profiler.frames import is_own
from deepseek_lab.measure.profiler.sampler import Place

if TYPE_CHECKING:
    from deepseek_lab.measure.profiler.fixes import Fixes, Signature

_STACK = re.compile(r"Line: (\d+), Name: (.*), Filename: (.*)")
_FRAME = re.compile(r'File "(.*)", line (\d+), in ')
_RESUMED = re.compile(r"torch_dynamo_resume_in_(.*)_at_(\d+)$")
_COMPILER = "convert_frame.py"
_MAX_STARTED = 256


@dataclasses.dataclass
class _Piece:
    """Sums of what is one row of the report."""

    function: str
    count: int = 0
    seconds: float = 0.0
    signatures: list[Signature] = dataclasses.field(default_factory=list)


class Compilations:
    """Follows Dynamo from :meth:`open` until :meth:`close`. It is imported for nobody who does not compile."""

    def __init__(self) -> None:
        self._opened_us = 0
        self._first_break = 0
        self._metrics: dict[int, Any] = {}
        self._breaks: list[Any] = []
        self._started: list[tuple[Signature, int]] = []
        """What was compiled, and how many breaks there had been."""
        self._handler: Any = None

    def open(self) -> None:
        """Begin."""
        self._opened_us = time.time_ns() // 1000
        self._first_break = len(_breaks())
        self.attach()

    def attach(self) -> None:
        """Have Dynamo say when it begins, as soon as it is there. Called again and again, from any thread."""
        handler = getattr(sys.modules.get("torch._dynamo.callback"), "callback_handler", None)
        if handler is not None and self._handler is None:
            self._handler = handler
            handler.register_start_callback(self._begins)

    def close(self) -> None:
        """End, and leave Dynamo as it was."""
        if self._handler is not None:
            with contextlib.suppress(ValueError):  # cleared by torch._dynamo.reset(), say
                self._handler.remove_start_callback(self._begins)
            self._handler = None
        with contextlib.suppress(Exception):  # Dynamo's account is no promise of its makers
            self._collect()

    def __bool__(self) -> bool:
        return bool(self._metrics or self._breaks)

    def _begins(self, _: Any) -> None:
        """Called by Dynamo in the thread that compiles, below the frame that knows of what."""
        with contextlib.suppress(Exception):
            from deepseek_lab.measure.profiler.fixes import Signature

            self._collect()
            frame: FrameType | None = sys._getframe(1)
            while frame is not None and not (
                frame.f_code.co_name == "_compile" and frame.f_code.co_filename.endswith(_COMPILER)
            ):
                frame = frame.f_back
            if frame is not None and len(self._started) < _MAX_STARTED:
                self._started.append((Signature.of(frame.f_locals), len(self._breaks)))

    def _collect(self) -> None:
        """Take over what Dynamo has noted so far; of compilations it keeps 64."""
        utils = sys.modules.get("torch._dynamo.utils")
        if utils is None:
            return
        for one in utils.get_compilation_metrics():
            if (one.start_time_us or 0) >= self._opened_us:
                self._metrics.setdefault(id(one), one)
        breaks = _breaks()
        if len(breaks) < self._first_break:  # torch._dynamo.reset()
            self._first_break = 0
        self._breaks += breaks[self._first_break :]
        self._first_break = len(breaks)

    # -- what came of it ----------------------------------------------------------------------------

    def costs(self, cell: str, *, tries: Fixes | None = None) -> tuple[CompileCost, ...]:
        """One record for each function that was compiled, each cause of compiling again and each break; most costly
        first. ``tries`` tries a change for each of the latter.
        """
        made = [*self._compiled(cell, tries), *self._broken(cell, tries)]
        return tuple(sorted(made, key=lambda one: -one.seconds))

    def _compiled(self, cell: str, tries: Fixes | None) -> Iterable[CompileCost]:
        metrics = list(self._metrics.values())
        forward = {one.compile_id: one for one in metrics if one.is_forward is not False}
        pieces: dict[tuple[str, Place, str], _Piece] = {}
        for one in metrics:
            of = forward.get(one.compile_id, one)  # a backward pass belongs to what it is of
            place, cause = _place_of(of), cause_in_words(of.recompile_reason or "")
            kind = "compiled again" if of.recompile_reason else "compiled"
            if of.fail_type:
                kind, cause = "gave up", in_words(of.fail_reason or of.fail_type)
            piece = pieces.setdefault((kind, place, cause), _Piece(of.co_name or ""))
            piece.count += one is of
            piece.seconds += (one.duration_us or 0) * 1e-6
        for (kind, place, cause), piece in pieces.items():
            fix = None
            if kind == "compiled again" and tries is not None:
                again = [one for (its, at, _), one in pieces.items() if (its, at) == (kind, place)]
                total_s = math.fsum(one.seconds for one in again)
                fix = tries.dynamic(self._signatures(place), cause, total_s)
            yield _cost(kind, piece, place, cell, cause, fix)

    def _signatures(self, place: Place) -> list[Signature]:
        return [one for one, _ in self._started if (one.code.co_filename, one.code.co_firstlineno) == place]

    def _broken(self, cell: str, tries: Fixes | None) -> Iterable[CompileCost]:
        pieces: dict[tuple[Place, str], _Piece] = {}
        for at, one in enumerate(self._breaks):
            if not one.graph_break:
                continue
            stack = [frame for frame in one.user_stack if is_own(frame.filename)] or list(one.user_stack)
            place = (stack[-1].filename, stack[-1].lineno or 0) if stack else ("", 0)
            piece = pieces.setdefault((place, one.reason), _Piece(stack[-1].name if stack else ""))
            piece.count += 1
            before = [signature for signature, number in self._started if number <= at]
            piece.signatures += before[-1:]
        for (place, reason), piece in pieces.items():
            piece.seconds = self._after_break(place)
            fix = tries.unbroken(piece.signatures, place, reason) if tries is not None else None
            yield _cost("graph break", piece, place, cell, in_words(reason), fix)

    def _after_break(self, place: Place) -> float:
        """Seconds in which what comes after a break was compiled by itself."""
        total = 0.0
        for one in self._metrics.values():
            resumed = _RESUMED.match(one.co_name or "")
            if resumed and one.co_filename == place[0] and int(resumed[2]) == place[1]:
                total += (one.duration_us or 0) * 1e-6
        return total


def _breaks() -> list[Any]:
    utils = sys.modules.get("torch._dynamo.utils")
    return list(getattr(utils, "graph_break_reasons", ()))


def _cost(kind: str, piece: _Piece, place: Place, cell: str, cause: str, fix: TriedFix | None) -> CompileCost:
    resumed = _RESUMED.match(piece.function)
    return CompileCost(
        kind=kind,
        function=f"{resumed[1]}, from line {resumed[2]} on" if resumed else piece.function,
        file=place[0],
        line=place[1],
        text=linecache.getline(*place).strip(),
        in_cell=place[0] == cell,
        count=piece.count,
        seconds=piece.seconds,
        cause=cause,
        fix=fix,
    )


def _place_of(one: Any) -> Place:
    """Where a compiled function is; for one that is not the user's, the line of the user's that called it."""
    place = (one.co_filename or "", one.co_firstlineno or 0)
    if not place[0]:  # nothing was compiled; the guard that failed knows where it is from
        found = _FRAME.search(one.recompile_reason or "")
        return (found[1], int(found[2])) if found else place
    if is_own(place[0]) or not one.stack_trace:
        return place
    stack = [found for line in one.stack_trace if (found := _STACK.match(line))]
    own = [(found[3], int(found[1])) for found in stack if is_own(found[3])]
    return own[-1] if own else place


def cause_in_words(reason: str) -> str:
    """Dynamo's reason for compiling again in a line: the guard that failed, without the numbers that it met.

    >>> cause_in_words("0/0: tensor 'x' size mismatch at index 0. expected 4, actual 5")
    "tensor 'x' size mismatch at index 0"
    """
    first = re.sub(r"^\d+/\d+: ", "", reason.strip().partition("\n")[0])
    guard = re.split(r"\s{2,}#|  # ", first)[0].strip()
    if found := re.match(r"___check_type_id\((.*?), \d+\), type=<class '(.*?)'>", guard):
        return f"{found[1]} is no longer of type {found[2]}"
    if found := re.match(r"___check_obj_id\((.*?), \d+\)", guard):
        return f"{found[1]} is another object than before"
    if found := re.fullmatch(r"([\w\[\]'\".]+) == -?[\d.]+", guard):
        return f"{found[1]} is a number that was taken as a constant, and has changed"
    return re.sub(r"\. expected \S+, actual \S+$", "", guard)
