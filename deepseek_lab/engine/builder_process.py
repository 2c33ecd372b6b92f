"""The builder process: builds, verifies and races candidates where nothing of the user's can be hurt.

Started as ``python -m deepseek_lab.engine.builder_process FD``; answers one request at a time on that
file descriptor and ends when the other side closes.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
FIRST_RACE_S = 1.5
"""Time for the race by which a candidate is tried at once, before all of them are raced together."""
MIN_COUNT = 6
"""Blocks that follow each other less often are not tried by themselves."""
FIRST_RUN_S = 0.1
"""A graph whose first run takes longer is not run once more to see whether it is cheap."""


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What one eager run of the graph showed; ``refusal`` says why no candidate may replace it."""

    refusal: str | None
    output_order: tuple[tuple[int, ...] | None, ...] = ()
    """For each output the order of its dimensions in memory, outermost first; None when contiguous."""
    eager_ms: float = 0.0


def analyse(problem: Any) -> Analysis:
    """Run the graph once and look at what it does besides returning values."""
    return observe(problem)[0]


def observe(problem: Any) -> tuple[Analysis, tuple[Any, ...]]:
    """The analysis of one run of the graph, and what the graph returned in it."""
    import torch

    from deepseek_lab.engine.results import memory_order

    arguments = problem.arguments()  # a graph that changes them is refused, and nobody uses them afterwards
    versions = [tensor._version for tensor in arguments]
    random_before = torch.get_rng_state()
    with torch.no_grad():
        start = time.perf_counter()
        result = problem.graph(*arguments)
        elapsed = time.perf_counter() - start
    outputs = tuple(result) if isinstance(result, tuple | list) else (result,)

    def refused(why: str) -> tuple[Analysis, tuple[Any, ...]]:
        return Analysis(why), outputs

    if not torch.equal(random_before, torch.get_rng_state()):
        return refused("draws random numbers, and another backend would draw others")
    for index, (tensor, version) in enumerate(zip(arguments, versions, strict=True)):
        if tensor._version != version:
            what = "a weight or buffer" if problem.spec.is_weight[index] else f"input {index}"
            return refused(f"updates {what} in place")
    owners = {t.untyped_storage().data_ptr() for t in arguments if t.numel()}
    seen: set[int] = set()
    for index, tensor in enumerate(outputs):
        storage = tensor.untyped_storage().data_ptr()
        if not tensor.numel():
            continue
        if storage in owners:
            return refused(f"output {index} shares memory with an input")
        if storage in seen:
            return refused(f"output {index} shares memory with another output")
        seen.add(storage)
    return Analysis(None, tuple(memory_order(tensor) for tensor in outputs), elapsed * 1e3), outputs


class Workbench:
    """The problem at hand and the candidates built for it."""

    def __init__(self) -> None:
        self._problem: Any = None
        self._expected: list[Any] = []
        self._programs: dict[str, Any] = {}
        self._block: Workbench | None = None
        self._training: Any = None

    def training(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """One request that is about a training problem, to its :class:`TrainingBench`."""
        from deepseek_lab.engine.training.bench import TrainingBench

        if self._training is None:
            self._training = TrainingBench()
        return getattr(self._training, method)(*arguments)

    def open(self, directory: str) -> Analysis:
        """Load a problem, analyse it and compute what candidates will be compared with."""
        import torch

        from deepseek_lab.engine.problem import Problem

        self.close()
        problem = Problem.load(Path(directory))
        torch.set_num_threads(problem.spec.num_threads)
        return self.take(problem)

    def take(self, problem: Any) -> Analysis:
        """Analyse a problem and compute what candidates will be compared with."""
        from deepseek_lab.engine import verify

        self._problem = problem
        found, outputs = observe(self._problem)
        if found.refusal is None:
            # What the first run took includes reading the weights from disk: only a call that is long anyway is
            # known to be.
            fresh = None if found.eager_ms < FIRST_RUN_S * 1e3 else 1
            self._expected = verify.expectations(self._problem, fresh, seen=outputs)
        return found

    def build(self, name: str, directory: str) -> float:
        """Build one candidate; returns the seconds it took."""
        from deepseek_lab.engine import candidates

        start = time.perf_counter()
        candidates.registered()[name].build(self._problem, Path(directory))
        gc.collect()
        return time.perf_counter() - start

    def check(self, name: str, directory: str) -> Any:
        """Load a built candidate and verify it; returns an ``Agreement``."""
        from deepseek_lab.engine import candidates, verify

        problem = self._problem
        program = candidates.registered()[name].load(Path(directory), problem.spec)
        verdict = verify.agreement(
            lambda live: program(live, problem.weights),
            # The first inputs twice: a candidate that is right once and wrong at a later call is wrong.
            [*self._expected, self._expected[0]],
            problem.spec.precision,
            problem.spec.tolerance,
        )
        if verdict.ok:
            self._programs[name] = program
        return verdict

    def race(self, names: list[str], budget_s: float) -> dict[str, Any]:
        """Race verified candidates against eager."""
        import torch

        from deepseek_lab.measure.race import race

        problem = self._problem

        def call(program: Any) -> Callable[[], object]:
            return lambda: program(problem.live, problem.weights)

        calls: dict[str, Callable[[], object]] = {"eager": problem.eager}
        calls.update({name: call(self._programs[name]) for name in names})
        with torch.no_grad():
            # In a short budget a few rounds are enough to tell whether a candidate may be tried at once.
            return race(calls, "eager", budget_s=budget_s, min_rounds=5 if budget_s > FIRST_RACE_S else 3)

    def block(self, min_bytes: int) -> int:
        """Look for the block that the problem repeats, for :meth:`share`.

        Returns:
            How often it stands there; 0 where it is not worth while: weights of fewer bytes, few repetitions, none.
        """
        from deepseek_lab.engine import blocks

        if sum(weight.nbytes for weight in self._problem.weights) < min_bytes:
            return 0
        found = blocks.block_of(self._problem)
        if found is None or found.count < MIN_COUNT:
            return 0
        bench = Workbench()
        if bench.take(found.problem).refusal is not None:
            return 0
        self._block = bench
        return found.count

    def share(self, name: str, best: str, directory: str, budget_s: float) -> float:
        """Race two candidates on the block: how many times as fast as the best so far the other is."""
        bench = self._block
        assert bench is not None
        for one in (best, name):
            if one not in bench._programs:
                folder = Path(directory) / one
                folder.mkdir(parents=True, exist_ok=True)
                bench.build(one, str(folder))
                verdict = bench.check(one, str(folder))
                if not verdict.ok:
                    raise ValueError(f"{one} on the block {verdict.detail}")
        found = bench.race([best, name], budget_s)
        return float(found[name].speedup / found[best].speedup)

    def close(self) -> None:
        """Let go of the problem."""
        self._problem, self._expected, self._programs, self._block = None, [], {}, None
        self._training = None
        gc.collect()


def _protect(memory_bytes: int) -> None:
    """Make sure that whatever goes wrong takes this process and not the user's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        # Only what nobody else wants: two pools of OpenMP threads on the same cores stall each other at every
        # barrier, for milliseconds each, and the user's would be one of them.
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except (OSError, AttributeError):
        os.nice(19)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    if memory_bytes:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def main() -> None:
    """Serve requests until the other side is gone."""
    descriptor, memory_bytes = map(int, sys.argv[1:3])
    _protect(memory_bytes)
    connection = Connection(descriptor)
    with contextlib.suppress(Exception):  # told as the answer to the request that needs it
        # What every request needs is imported while the user's process still captures.
        from deepseek_lab.engine import problem, verify  # noqa: F401
    bench = Workbench()
    while True:
        try:
            method, arguments = connection.recv()
        except (EOFError, OSError):
            return
        try:
            answer: tuple[bool, Any] = (True, getattr(bench, method)(*arguments))
        except Exception as error:  # every failure is an answer: the caller reports it by candidate
            text = str(error).strip().splitlines()
            answer = (False, f"{type(error).__name__}: {text[0][:300] if text else 'no message'}")
        connection.send(answer)


if __name__ == "__main__":
    main()
