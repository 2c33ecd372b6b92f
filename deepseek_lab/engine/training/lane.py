"""One kind of training call: its steps are recorded, ways to run it are raced in them, the best one stays.

Phases, in order: ``recording`` (a few steps are kept as copies), ``searching`` (the builder repeats those),
``racing`` (two ways in turn, step by step of the user's own loop), then ``kept`` or ``eager``; a way that was only
measured on copies is ``racing`` first when the loop goes on.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from deepseek_lab.base.settings import settings
from deepseek_lab.engine import allocator
from deepseek_lab.engine.lanes import LiveRace
from deepseek_lab.engine.runtime import GraphRunner
from deepseek_lab.engine.training.programs import Program
from deepseek_lab.engine.training.record import Recorder
from deepseek_lab.engine.training.steps import FusedForm, steps
from deepseek_lab.engine.training.ways import Way
from deepseek_lab.engine.weak import weakly
from deepseek_lab.measure.race import Ratio

MAX_PAUSE_S = 0.5
MAX_MISSED = 4
"""Calls in a row, from the first, that a graph may not fit before another one is captured."""
COMPILING_SHARE = 0.3
"""Of what a loop gives of its time to a builder that gets none, while that compiles: for minutes, maybe for nothing."""
IDLE_S = 5.0
"""A loop that has taken no step for so long, and for ten of its steps, has ended or is busy with something else."""
MAX_GAP_S = 1.0
"""A pause between two steps that is longer, and ten times as long as the last one, is none of the loop's own."""


class GraphTraining:
    """How one graph is run where it trains; what the runner asks at each call with gradients.

    Args:
        runner: The graph.
        fell_back: Told why a way was given up.
    """

    def __init__(self, runner: GraphRunner, fell_back: Callable[[str], None]) -> None:
        self._runner, self._fell_back = runner, fell_back
        self.program: Program | None = None
        self.lowers = False
        self.recorder: Recorder | None = None

    def __call__(self, arguments: Sequence[Any]) -> Any:
        """Run the graph with gradients."""
        runner, program = self._runner, self.program
        if program is not None:
            try:
                guarded = self.lowers
                outputs = (
                    self._guarded(program, arguments) if guarded else program(runner.tensors_of(arguments))
                )
                return runner.results_of(outputs, arguments)
            except Exception as error:  # where the code itself is wrong, eager raises that once more
                self.program = None
                words = str(error).strip().partition("\n")[0][:200]
                self._fell_back(f"it raised {type(error).__name__}: {words}")
                return runner.eager(*arguments)
        if (recorder := self.recorder) is None:
            return runner.eager(*arguments)
        recorder.begins(arguments)
        results = runner.eager(*arguments)
        recorder.returned(results if isinstance(results, tuple | list) else (results,))
        return results

    def _guarded(self, program: Program, arguments: Sequence[Any]) -> Sequence[Tensor]:
        """Run in a lower precision; where that is not finite and eager is, eager has the call and all later ones."""
        runner = self._runner
        changing = runner.buffers_of(arguments)
        with torch.no_grad():
            before = [one.clone() for one in changing]
        state = torch.get_rng_state()
        outputs = program(runner.tensors_of(arguments))
        if all(map(_finite, outputs)):
            return outputs
        with torch.no_grad():
            for one, old in zip(changing, before, strict=True):
                one.copy_(old)
        torch.set_rng_state(state)
        again = runner.plain(*arguments)
        again = again if isinstance(again, tuple | list) else (again,)
        if all(map(_finite, again)):
            self.program = None
            self._fell_back("its results were not finite in a lower precision and are in the code's own")
        return again


def _finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point():
        return True
    with torch.no_grad():
        # A sum reads once and writes nothing; it can overflow without an infinite value.
        return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


class TrainingLane:
    """One kind of call that trains.

    Args:
        runner: Its graph, or the largest one where it has several.
        whole: Whether that graph is all of the call. Else it is called as it is, and only what stands around graphs
            can be changed.
        submit: Called once the steps are recorded.
        settled: Called with what stays and what it brought; from the user's thread or from the workshop's.
        fell_back: Told why a way was given up.
        starving: Whether the builder gets no processor time.
    """

    def __init__(
        self,
        runner: GraphRunner,
        *,
        whole: bool = True,
        submit: Callable[[], None],
        settled: Callable[[Way, Ratio | None, str], None],
        fell_back: Callable[[str], None],
        starving: Callable[[], bool] = lambda: False,
    ) -> None:
        self.phase = "recording"
        self.runner, self.whole = runner, whole
        self.graph = GraphTraining(runner, weakly(self.give_up))
        self.graph.recorder = self.recorder = Recorder(runner)
        self.way = Way()
        """What runs outside of a race."""
        self.compiling = False
        """Whether the builder compiles."""
        self._optimizer: Callable[[], torch.optim.Optimizer | None] = lambda: None
        self._submit, self._settled, self._fell_back, self._starving = submit, settled, fell_back, starving
        self._programs: dict[Way, Program] = {}
        self._contender = Way()
        self._race = LiveRace()
        self._ratio: Ratio | None = None
        self._judged = threading.Event()
        self._parameters = frozenset(map(id, runner.trained_weights()))
        self._fused = FusedForm()
        self._boundary = 0.0
        self._step_s = self._gap_s = 0.0
        self._pure = False
        self._num_calls = 0
        self._differentiated = False
        self._num_missed = 0.0
        """Calls that the graph did not fit; below zero once it fitted one."""
        self._lock = threading.RLock()
        self._confirming = False
        steps.listen(self)

    @property
    def optimizer(self) -> torch.optim.Optimizer | None:
        """The optimiser that has stepped last; None where none of PyTorch's has."""
        return self._optimizer()

    # -- the user's calls and steps -----------------------------------------------------------------

    def begin(self) -> bool:
        """A training call begins. Returns whether it is to run through the captured graph."""
        now = time.perf_counter()
        self.recorder.stop()
        if self.optimizer is None and self._differentiated:
            self._step_ends()  # a loop that updates its weights by hand: a step ends where the next one begins
        if not self._num_calls:
            gap = now - self._boundary
            self._pure = self._pure and gap <= max(MAX_GAP_S, 10 * self._gap_s)
            self._gap_s = gap
        self._num_calls += 1
        if self.phase == "searching" and self._num_calls == 1 and self._starving():
            share = settings.donated_share * (COMPILING_SHARE if self.compiling else 1.0)
            time.sleep(min(share * self._step_s, MAX_PAUSE_S))
        if self.phase == "recording":
            return self.whole
        way = self._now()
        allocator.keep(way.keeps)
        self.graph.program = self._programs.get(way.graph)
        self.graph.lowers = way.lowers
        return self.graph.program is not None

    def called(self, *, hit: bool) -> None:
        """A training call has returned; ``hit`` says whether the captured graph ran."""
        if self.phase == "recording" and hit:
            self._num_missed = -math.inf
            self.recorder.watch()
        elif self.phase == "recording":
            self._num_missed += 1
        elif not hit and self._programs.get(self._now().graph) is not None:
            self._pure = False

    @property
    def fits_nothing(self) -> bool:
        """Whether calls were made and what was captured fitted none of them."""
        return self._num_missed >= MAX_MISSED

    def differentiated(self) -> None:
        """A backward pass has reached the results of a call."""
        self._differentiated = True

    def _now(self) -> Way:
        if self.phase == "racing":
            return self._contender if self._race.arm == "fast" else self.way
        return self.way if self.phase == "kept" or self.phase == "searching" else Way()

    def trains(self, parameters: frozenset[int]) -> bool:
        """Whether an optimiser of these parameters trains the lane's graph."""
        return not self._parameters.isdisjoint(parameters)

    def step_begins(self, optimizer: torch.optim.Optimizer) -> None:
        """Have the optimiser take its step in the form that is due."""
        self.recorder.stop()
        self._fused.put_back()
        if self._now().fused:
            self._fused.take(optimizer)

    def step_ended(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimiser has stepped."""
        self._fused.put_back()
        self._optimizer = weakref.ref(optimizer)
        if self._num_calls:  # several optimisers may share a model's weights: one step
            self._step_ends()

    def _step_ends(self) -> None:
        now = time.perf_counter()
        elapsed, pure = now - self._boundary, self._pure
        self._boundary, self._num_calls, self._differentiated, self._pure = now, 0, False, True
        if pure:
            self._step_s = elapsed
        if self.phase == "recording" and not self.whole:
            self._recorded()
        elif self.phase == "recording":
            self.recorder.step_ends()
            if self.recorder.complete or (self.recorder.hopeless and self.recorder.num_batches):
                self._recorded()
            elif self.recorder.hopeless:
                self.settle(Way(), None, "its results are not differentiated in most calls")
        elif self.phase == "racing" and pure:
            with self._lock:
                self._add(elapsed)

    def _recorded(self) -> None:
        self.graph.recorder = None
        self.phase = "searching"
        self._submit()

    def ended(self) -> None:
        """The cell has ended: go on with what was recorded, if anything."""
        self.recorder.stop()
        self._fused.put_back()
        allocator.give_back()
        if self.phase == "recording":
            self.recorder.step_ends()
            if self.recorder.num_batches:
                self._recorded()

    # -- the race in the user's own steps -----------------------------------------------------------

    def _add(self, elapsed: float) -> None:
        if self.phase != "racing":
            return
        self._race.add(elapsed)
        ratio = self._race.verdict(settings.min_gain)
        if ratio is None:
            return
        self._ratio = ratio
        if self._confirming:
            kept = ratio.ci95[0] > 1.0 and ratio.speedup > settings.min_gain
            low, high = ratio.ci95
            reason = (
                "" if kept else f"in your own steps it was {ratio.speedup:.2f}x (95% {low:.2f}-{high:.2f})"
            )
            self.settle(self._contender if kept else Way(), ratio, reason)
            return
        self.phase = "searching"
        self._judged.set()

    def add_way(self, way: Way, program: Program) -> None:
        """Make a way known, so that it can be raced."""
        self._programs[way.graph] = program

    def trial(self, way: Way, stopped: Callable[[], bool]) -> Ratio | None:
        """Race a way against the best one so far, in the user's own steps. Called by the workshop.

        Returns:
            The ratio, or None where the loop takes no more steps, or has to end.
        """
        with self._lock:
            self._judged.clear()
            self._contender, self._ratio = way, None
            self._race = LiveRace(drops_first=way.keeps != self.way.keeps)
            self._confirming = False
            self._pure = False  # the step under way began otherwise
            self.phase = "racing"
        while not self._judged.wait(0.05):
            with self._lock:
                if (stopped() or self.idle) and not self._judged.is_set():
                    self.phase = "searching"
                    return None
        return self._ratio

    def prefer(self, way: Way) -> None:
        """Run the loop in this way while the search goes on."""
        with self._lock:
            self.way = way

    @property
    def idle(self) -> bool:
        """Whether the loop takes no steps now."""
        return time.perf_counter() - self._boundary > max(IDLE_S, 10 * self._step_s)

    def settle(self, way: Way, ratio: Ratio | None, reason: str = "", *, confirm: bool = False) -> None:
        """End the search: this way stays. ``confirm`` has the loop's next steps say whether that is right."""
        with self._lock:
            self.way = Way() if confirm else way
            self._contender, self._confirming = way, confirm
            if confirm:
                self._race = LiveRace(drops_first=way.keeps)
                self.phase = "racing"
            else:
                self.phase = "eager" if way == Way() else "kept"
            self._programs = {one: run for one, run in self._programs.items() if one == way.graph}
            self.graph.recorder = None
            self.recorder.release()
        if self.phase == "eager":
            steps.leave(self)
        self._settled(way, ratio, reason)

    def give_up(self, reason: str) -> None:
        """Stay in eager mode from now on."""
        self._fell_back(reason)
        self.settle(Way(), None, reason)

    def close(self) -> None:
        """Be as if the lane had never been."""
        self.recorder.release()
        self._fused.put_back()
        allocator.give_back()
        self.phase, self._programs, self.way = "eager", {}, Way()
        steps.leave(self)
