"""An engine that records what it is asked and decides at once: notebook mechanics without torch.

``install()`` puts it, and a torch with nothing but ``nn.Module``, where the notebook room looks for both.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
import threading
import types
from typing import Any

from deepseek_lab.base import events as ev
from deepseek_lab.base.profile import GraphProfile, OperationProfile
from deepseek_lab.base.report import OptimizeReport

ENGINE = "deepseek_lab.engine.api"


class Module:
    """Stands for ``torch.nn.Module``."""

    def __call__(self, x: Any) -> Any:
        return ("called", x)


@dataclasses.dataclass(frozen=True)
class Options:
    precision: str | None = None
    tolerance: float | None = None
    backends: tuple[str, ...] | None = None
    seed: int | None = None
    device: str | None = None
    like: str | None = None


NODES = (
    ev.GraphNode("x", "input", shape=(2, 4), dtype="float32"),
    ev.GraphNode("weight", "parameter", module="layers.0", shape=(4, 4), dtype="float32"),
    ev.GraphNode("linear", "linear", "layers.0", ("x", "weight"), (2, 4), "float32", "<cell>", 3),
    ev.GraphNode("relu", "relu", "act", ("linear",), (2, 4), "float32", "<cell>", 4),
    ev.GraphNode("out", "output", "", ("relu",)),
)


class Run:
    """A run whose work is done when the test says so."""

    def __init__(self, number: int, **asked: Any) -> None:
        self.id = f"run{number}"
        self.asked = asked
        self.log = ev.EventLog()
        self.working = False
        self.closed: list[bool] = []
        self.interrupted = 0
        self.done = threading.Event()
        self.log.emit(ev.RunStarted(run=self.id, verb=asked["verb"], targets=tuple(asked["targets"])))

    @property
    def report(self) -> OptimizeReport:
        return OptimizeReport.fold(self.log)

    @property
    def serving(self) -> Run:
        return self

    def close(self, error: bool = False) -> None:
        if api.fail_on_close:
            raise RuntimeError("planted in close")
        self.closed.append(error)

    def interrupt(self) -> None:
        self.interrupted += 1
        self.working = False
        self.done.set()

    def restore(self) -> None:
        self.restored = True

    def capture(self, target: str = "model") -> None:
        self.working = True
        self.log.emit(ev.TargetFound(run=self.id, target=target, type_name="Net", num_parameters=16))
        self.log.emit(
            ev.GraphCaptured(
                run=self.id, target=target, graph="g0", nodes=NODES, signature="float32[2, 4]", capture_s=0.1
            )
        )

    def decide(self, target: str = "model") -> None:
        for name, status, ms, reason in (
            ("onnxruntime", "won", 1.0, ""),
            ("openvino", "lost", 1.5, "slower than onnxruntime"),
            ("inductor", "refused", None, "differs at output 0 (max rel 0.2)"),
        ):
            gain = 2.0 / ms if ms else None
            self.log.emit(
                ev.CandidateEnded(
                    run=self.id, graph="g0", candidate=name, status=status, reason=reason, build_s=1.0,
                    median_ms=ms, eager_ms=2.0, speedup=gain,
                    speedup_ci95=(gain - 0.1, gain + 0.1) if gain else None,
                    max_rel_error=3e-6 if ms else 0.2, eager_rel_error=1e-6,
                )
            )  # fmt: skip
        self.log.emit(
            ev.PlanChosen(run=self.id, graph="g0", candidate="onnxruntime", code="y = session.run(x)")
        )
        self.log.emit(
            ev.LiveMeasured(
                run=self.id, target=target, graph="g0", eager_ms=2.0, median_ms=1.0, speedup=2.0,
                speedup_ci95=(1.9, 2.1), num_rounds=9,
            )
        )  # fmt: skip
        self.log.emit(ev.Decided(run=self.id, target=target, graph="g0", chosen="onnxruntime"))
        self.working = False
        self.log.emit(ev.RunEnded(run=self.id))
        self.done.set()


@dataclasses.dataclass(frozen=True)
class Verified:
    target: str
    graph: str
    candidate: str
    max_rel_error: float
    eager_rel_error: float
    ok: bool
    detail: str


class RecordingEngine(types.ModuleType):
    """The engine's public functions; ``recorded`` holds every run that was opened."""

    Options = Options

    def __init__(self) -> None:
        super().__init__(ENGINE)
        self.recorded: list[Run] = []
        self.numbers = itertools.count(1)
        self.fail_on_open = False
        self.fail_on_close = False
        self.freed = 0

    def open_run(self, verb: str, **asked: Any) -> Run:
        if self.fail_on_open:
            raise RuntimeError("planted in open_run")
        run = Run(next(self.numbers), verb=verb, **asked)
        self.recorded.append(run)
        return run

    def runs(self) -> list[Run]:
        return list(self.recorded)

    def last_run(self) -> Run | None:
        return self.recorded[-1] if self.recorded else None

    def wait(self, timeout_s: float | None = None) -> bool:
        return all(run.done.wait(timeout_s) for run in self.recorded if run.working)

    def verify(self, run: Run, fresh_inputs: int = 3) -> list[Verified]:
        return [Verified("model", "g0", "onnxruntime", 3e-6, 1e-6, True, f"{fresh_inputs} inputs")]

    def profile(
        self, target: Any = None, *, gradients: bool = False, budget_s: float = 5.0, seed: int | None = None
    ) -> list[GraphProfile]:
        self.asked_profile = (target.id, gradients, budget_s, seed)
        timed = {"linear": 3e-3, "relu": 1e-3}
        made = [
            OperationProfile(node.name, node.op, timed.get(node.name), backend="onnxruntime")
            for node in NODES
        ]
        return [GraphProfile("g0", "model", tuple(made), "the inputs of the call", 4.2e-3, 1e-7, 15)]

    def doctor(self) -> list[tuple[str, bool, str, str]]:
        return [("torch", True, "2.13", ""), ("kernels", False, "not compiled", "make kernels")]

    def free(self) -> list[tuple[str, int]]:
        self.freed += 1
        return [("captured inputs", 2**20)]

    def status(self) -> dict[str, Any]:
        runs = [
            {
                "id": run.id,
                "working": run.working,
                "summary": "s",
                "targets": {"model": {"model#1": "onnxruntime"}},
            }
            for run in self.recorded
        ]
        return {"runs": runs, "builder_pid": None}


api = RecordingEngine()


def install() -> RecordingEngine:
    """Put the recording engine and its torch in place."""
    torch = types.ModuleType("torch")
    torch.nn = types.SimpleNamespace(Module=Module)  # type: ignore[attr-defined]
    sys.modules["torch"] = torch
    sys.modules[ENGINE] = api
    return api
