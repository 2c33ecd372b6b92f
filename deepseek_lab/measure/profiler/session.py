"""One profile of one cell: opened before it runs, closed when it has ended."""

from __future__ import annotations

import json
import linecache
import math
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from deepseek_lab.base.costs import CellCosts, CompileCost, Limits, LineCost, ModuleCost, OperatorCost
from deepseek_lab.base.timeline import MemoryTimeline
from deepseek_lab.measure.profiler.compilations import Compilations
from deepseek_lab.measure.profiler.frames import kind_of
from deepseek_lab.measure.profiler.main_thread import run_soon
from deepseek_lab.measure.profiler.sampler import Place, Sampler

if TYPE_CHECKING:
    from deepseek_lab.measure.profiler.allocations import Held
    from deepseek_lab.measure.profiler.digest import Digest
    from deepseek_lab.measure.profiler.recorder import Recorder


class Session:
    """A profile under way. torch is not imported for it: a cell that does not use it has lines only.

    Args:
        cell: File name of the cell's own code.
        namespace: Where modules have their names.
        memory: Record for :meth:`timeline`: everything, from the beginning on, for as long as there is room.
    """

    def __init__(self, cell: str, namespace: Mapping[str, Any], *, memory: bool = False) -> None:
        self._cell, self._namespace = cell, namespace
        self._memory = memory
        self._held: Held | None = None
        thread_id = threading.get_ident()
        self._is_main = threading.current_thread() is threading.main_thread()
        self._sampler = Sampler(thread_id, threading.get_native_id(), self._looked, self._recording)
        self._recorder: Recorder | None = None
        if "torch" in sys.modules:
            from deepseek_lab.measure.profiler.recorder import Recorder

            self._recorder = Recorder(
                namespace,
                thread_id,
                whole=memory,
                opening=self._sampler.look,
                closing=self._sampler.hold,
                closed=self._sampler.go_on,
            )
        self._compilations = Compilations()
        self._asked = threading.Event()
        self._start = self._overhead_s = 0.0

    def open(self) -> Session:
        """Begin, from the next line of the calling code on."""
        if self._recorder is not None and self._memory:
            from deepseek_lab.measure.profiler.allocations import Held

            self._held = Held(self._namespace, _device())
        if self._recorder is not None:
            self._recorder.open()
        self._compilations.open()
        self._start = time.perf_counter()
        self._sampler.start()
        return self

    def __enter__(self) -> Session:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the measuring; what was measured is still to be read."""
        self._wall_s = self._sampler.stop() - self._start
        if self._recorder is not None:
            self._overhead_s = self._recorder.overhead_s
            self._wall_s -= self._overhead_s
            self._recorder.close()
        self._compilations.close()

    def costs(self, *, error: str = "") -> CellCosts:
        """What was measured. Takes a moment: events are read, and the machine's limits measured once."""
        digest, limits = self._digest()
        sampler, recorder = self._sampler, self._recorder
        return CellCosts(
            wall_s=self._wall_s,
            overhead_s=self._overhead_s,
            lines=self._lines(digest),
            modules=_modules(digest, recorder) if digest and recorder else (),
            operators=_operators(digest) if digest else (),
            compilations=self._compiled(),
            phases=self._phases(digest),
            waiting_s=sampler.waiting_s,
            num_samples=sampler.num_samples,
            recording_s=digest.recording_s if digest else 0.0,
            recorded_s=recorder.seconds if recorder else 0.0,
            peak_bytes=sampler.peak_bytes or None,
            start_bytes=sampler.start_bytes or None,
            peak_at=sampler.peak_at,
            limits=limits,
            error=error,
            notes=tuple(self.notes()),
        )

    def timeline(self) -> MemoryTimeline | None:
        """What memory held from the beginning on, as long as that was recorded; None where nothing was."""
        recorder = self._recorder
        if recorder is None or not recorder.windows or self._held is None:
            return None
        from deepseek_lab.measure.profiler.allocations import Allocations

        return Allocations(recorder.places, recorder.modules).timeline(recorder.windows, self._held)

    @property
    def recorded(self) -> float:
        """Share of the time that was recorded operator by operator."""
        return self._recorder.seconds / self._wall_s if self._recorder is not None and self._wall_s else 0.0

    def save_trace(self, path: Path) -> None:
        """Write what was recorded for Perfetto or chrome://tracing, as JSON.

        Raises:
            OSError: the file cannot be written.
        """
        whole: dict[str, Any] = {}
        events: list[dict[str, Any]] = []
        with tempfile.TemporaryDirectory() as folder:
            for window in self._recorder.windows if self._recorder else ():
                part = Path(folder) / "window.json"
                window.save(str(part))
                read = json.loads(part.read_text(encoding="utf-8", errors="replace"))
                first = 1 + max((one["id"] for one in events if _is_arrow(one)), default=0)
                for one in read.pop("traceEvents", []):
                    if _is_arrow(one):  # numbered from 1 in each window
                        one["id"] += first
                    events.append(one)
                whole |= read
        path.write_text(
            json.dumps({**whole, "traceName": path.name, "traceEvents": events}), encoding="utf-8"
        )

    def _recording(self) -> bool:
        """Whether lines are timed by the recorder, which does not have to guess."""
        return self._recorder is not None and self._recorder.is_open

    # -- while it is under way --------------------------------------------------------------------

    def _looked(self, now: float) -> None:
        self._compilations.attach()
        recorder = self._recorder
        if recorder is None or not self._is_main or self._asked.is_set():
            return
        work = recorder.wants(now, self._start, self._sampler.phase)
        if work is None:
            return

        def do(frame: FrameType | None) -> None:
            try:
                if self._sampler.stopped:
                    return
                if frame is not None and kind_of(frame.f_code) == "ours":
                    # Not in the middle of our own work, which is where calls that are traced nearly always are.
                    recorder.close_soon = recorder.is_open
                else:
                    work()
            except Exception as error:
                recorder.give_up(error)
            finally:
                self._asked.clear()

        self._asked.set()
        if not run_soon(do):
            self._asked.clear()

    # -- what was measured ------------------------------------------------------------------------

    def _digest(self) -> tuple[Digest | None, Limits | None]:
        recorder = self._recorder
        if recorder is None or not recorder.windows:
            return None, None
        from deepseek_lab.measure.profiler.calibration import recording_cost
        from deepseek_lab.measure.profiler.digest import Digest
        from deepseek_lab.measure.profiler.limits import limits
        from deepseek_lab.measure.profiler.recorder import torch_profiles

        if torch_profiles():  # a profiler of the user's own is still open
            digest = Digest(recorder.places, recorder.modules)
        else:
            digest = Digest(recorder.places, recorder.modules, recording_cost())
        for window, shapes in zip(recorder.windows, recorder.with_shapes, strict=True):
            digest.add(window, shapes=shapes)
        return digest, limits()

    def _compiled(self) -> tuple[CompileCost, ...]:
        if not self._compilations:
            return ()
        from deepseek_lab.measure.profiler.fixes import Fixes

        return self._compilations.costs(self._cell, tries=Fixes())

    def _phases(self, digest: Digest | None) -> dict[str, float]:
        """What was seen between windows, and what was recorded in them."""
        made = dict(self._sampler.phases)
        if digest is not None and self._recorder is not None:
            rest = max(0.0, self._recorder.seconds - math.fsum(digest.phases.values()))
            for phase, seconds in {**digest.phases, "python": rest}.items():
                made[phase] = made.get(phase, 0.0) + seconds
        return made

    def _lines(self, digest: Digest | None) -> tuple[LineCost, ...]:
        seen = self._sampler.lines
        recorded = digest.lines if digest else {}
        places: list[Place] = sorted(
            {*seen, *recorded}, key=lambda place: (place[0] != self._cell, place[0], place[1])
        )
        made = []
        for place in places:
            one, tally = seen.get(place), recorded.get(place)
            made.append(
                LineCost(
                    file=place[0],
                    line=place[1],
                    text=linecache.getline(*place).rstrip(),
                    in_cell=place[0] == self._cell,
                    self_s=(one.self_s if one else 0.0) + (tally["self_s"] if tally else 0.0),
                    total_s=(one.total_s if one else 0.0) + (tally["total_s"] if tally else 0.0),
                    waiting_s=one.waiting_s if one else 0.0,
                    allocated_bytes=tally["allocated_bytes"] if tally else None,
                    kept_bytes=tally["kept_bytes"] if tally else None,
                )
            )
        return tuple(made)

    def notes(self) -> list[str]:
        """What was not measured, and why, in sentences."""
        notes = []
        if self._recorder is not None and _device() == "cuda":
            notes.append(
                "times are the processor's: what CUDA computes is on the line that waits for it, "
                "and operators' times are those of launching their kernels"
            )
        if self._recorder is None:
            notes.append(
                "torch was not imported when the cell began, so only lines were measured; run it once more"
            )
        elif self._recorder.reason or self._recorder.note:
            notes += [one for one in (self._recorder.reason, self._recorder.note) if one]
        elif not self._is_main and self._wall_s > 2.0:
            notes.append("the cell ran in a thread of its own: operators were recorded at its beginning only")
        return notes


def _device() -> str:
    """The kind of device whose memory matters: CUDA's, once the program has begun to use it."""
    import torch

    return "cuda" if torch.cuda.is_available() and torch.cuda.is_initialized() else "cpu"


def _is_arrow(event: dict[str, Any]) -> bool:
    """Whether an event of a trace is an end of an arrow between two others."""
    return event.get("ph") in ("s", "f") and isinstance(event.get("id"), int)


def _modules(digest: Digest, recorder: Recorder) -> tuple[ModuleCost, ...]:
    known = recorder.modules
    return tuple(
        ModuleCost(known[name].path, known[name].type_name, **digest.module(name)) for name in digest.modules
    )


def _operators(digest: Digest) -> tuple[OperatorCost, ...]:
    made = [OperatorCost(name, **digest.operator(name)) for name in digest.operators]
    return tuple(sorted(made, key=lambda one: -one.self_s))
