"""The dispatcher: stands where a target is called and sends each call the right way.

It never makes a call wait for a compiler. A kind of call that is new to a target is captured once, at
once for the first kind and for others when the time lost in eager mode has paid for it.
"""

from __future__ import annotations

import contextlib
import copy
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.modules.module import _has_any_global_hook
from torch.utils.hooks import unserializable_hook

from deepseek_lab.base import events as ev
from deepseek_lab.base.report import SUPERSEDED
from deepseek_lab.base.settings import settings
from deepseek_lab.capture.nodes import call_site, graph_nodes
from deepseek_lab.engine.lanes import TOO_SHORT_S, Lane, exact_shapes, is_step, lane_key, literals, timed
from deepseek_lab.engine.replay import Methods, Replaying, copied, hook_tables
from deepseek_lab.engine.runtime import GraphRunner
from deepseek_lab.engine.tracing import Tracer, lasting_effects
from deepseek_lab.engine.training.lane import TrainingLane
from deepseek_lab.engine.training.ways import Way
from deepseek_lab.engine.weak import weakly
from deepseek_lab.measure import machine
from deepseek_lab.measure.race import Ratio

NUM_LISTENED = 8
"""Results of a call that are asked whether a backward pass reaches them."""
CAPTURE_S = 3.0
"""What a first capture is taken to cost before one was measured."""
SELDOM = 0.05
"""A kind of call with less than this share of a target's time is not worth a capture."""


class Dispatcher:
    """Sends calls of one target to eager mode or to what was won.

    Args:
        name: What the user calls the target.
        eager: The target's own behaviour (for a module its ``_call_impl``, hooks included).
        module: The module whose mode and parameters matter; None for a function.
        submit: Hands a captured graph to the workshop.
        submit_training: Hands the recorded steps of a training lane to the workshop.
        emit: Takes events.
        run: The run's name.
        starving: Whether the builder gets no processor time.
        prepare: Told the target's weights when a capture begins.
        await_store: Waits until the store's answer to a captured graph is known, for some seconds at most.
        verdict: Told what a graph's program brought in the user's own calls; None where it was not kept.
        undisturbed: Keeps the builder still while a call is timed.
    """

    def __init__(
        self,
        name: str,
        eager: Callable[..., Any],
        module: torch.nn.Module | None,
        *,
        run: str,
        precision: str,
        tolerance: float | None,
        submit: Callable[[Dispatcher, GraphRunner], None],
        submit_training: Callable[[Dispatcher, TrainingLane], None] = lambda dispatcher, lane: None,
        emit: Callable[[ev.Event], None],
        starving: Callable[[], bool] = lambda: False,
        prepare: Callable[[Sequence[torch.Tensor]], None] = lambda weights: None,
        await_store: Callable[[GraphRunner, float], None] = lambda runner, timeout_s: None,
        verdict: Callable[[GraphRunner, Ratio | None], None] = lambda runner, ratio: None,
        undisturbed: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        self.name, self.eager, self.module, self.run_id = name, eager, module, run
        self._precision, self._tolerance = precision, tolerance
        self._submit, self._emit, self._starving = submit, emit, starving
        self._submit_training = submit_training
        self._prepare, self._await_store, self._verdict = prepare, await_store, verdict
        self._undisturbed = undisturbed
        self.lanes: dict[Any, Lane] = {}
        self.runners: list[GraphRunner] = []
        self.stopped = False
        self._captured: list[GraphRunner] = []
        self._local = threading.local()
        self._tracer: Tracer | None = None
        self._fallbacks: set[tuple[str, str]] = set()
        self._hooks = hook_tables(module)
        self._num_hooks = tuple(map(len, self._hooks))
        self._methods = Methods(module)

    # -- the call ---------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Make the call the best way known now."""
        __tracebackhide__ = True
        if getattr(self._local, "inside", False) or torch.compiler.is_compiling():
            return self.eager(*args, **kwargs)
        if self._hooks and tuple(map(len, self._hooks)) != self._num_hooks:
            self._emit_once("a hook was added or removed; calls run in eager mode, where it is seen")
            return self.eager(*args, **kwargs)
        if self._methods.changed():
            self._emit_once("a method was replaced; calls run in eager mode, where it is seen")
            return self.eager(*args, **kwargs)
        training = self.module.training if self.module is not None else False
        key = lane_key(args, kwargs, training)
        lane = self.lanes.get(key)
        if lane is None:
            lane = self.lanes[key] = Lane(name=f"{self.name}#{len(self.lanes) + 1}")
        if _has_any_global_hook():  # Dynamo guards each module's own hooks, not these
            self._fell_back(lane, "hooks of all modules are registered; run in eager mode")
            return self.eager(*args, **kwargs)
        if lane.training is not None:
            return self._training_call(lane, lane.training, args, kwargs)
        state = lane.state
        if state == "fast":
            return self._fast(lane, args, kwargs)
        if state == "eager" or self.stopped:
            return self.eager(*args, **kwargs)
        self._local.inside = True
        try:
            if state == "new":
                value = self._new(lane, args, kwargs)
            elif state == "racing":
                lane.sample = (args, kwargs)
                value = self._race_call(lane, args, kwargs)
            else:
                lane.sample = (args, kwargs)
                value, elapsed = timed(self._eager, args, kwargs)
                lane.eager_s = min(lane.eager_s or elapsed, elapsed)
                lane.spent_s += elapsed
                self._donate(lane, elapsed)
        finally:
            self._local.inside = False
        self._listen(lane, value)
        return value

    # -- training ---------------------------------------------------------------------------------

    def _listen(self, lane: Lane, value: Any) -> None:
        """Have the first backward pass that reaches a call's results say that its lane trains."""
        if lane.runners and torch.is_grad_enabled():
            trains = weakly(self._trains)
            _on_gradient(value, lambda: trains(lane))

    def _runner_trains(self, runner: GraphRunner) -> None:
        for lane in self.lanes.values():
            if runner in lane.runners:
                self._trains(lane)

    def _trains(self, lane: Lane) -> None:
        """The results of such calls are differentiated: their steps are what is to be fast."""
        if lane.training is not None or self.stopped or not lane.runners or lane.state == "new":
            return
        whole = len(lane.runners) == 1 and not lane.num_breaks and lane.runners[0].refusal is None
        for runner in lane.runners:
            runner.trains = True
            runner.uninstall()
        runner = max(lane.runners, key=lambda one: len(one.graph_module.graph.nodes))
        settled, fell_back = weakly(self._training_settled), weakly(self._training_fell_back)
        submit = weakly(self._submit_lane)
        lane.state, lane.sample, lane.final = "building", None, True
        lane.training = TrainingLane(
            runner,
            whole=whole,
            submit=lambda: submit(lane),
            settled=lambda way, ratio, reason: settled(lane, way, ratio, reason),
            fell_back=lambda reason: fell_back(lane, reason),
            starving=self._starving,
        )
        if whole:
            runner.training = lane.training.graph
        self._decided(lane, "eager", "it trains; a few of its steps are recorded first")

    def _training_call(
        self, lane: Lane, training: TrainingLane, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        __tracebackhide__ = True
        assert self._tracer is not None
        try:
            captured = training.begin()
        except Exception as error:  # an error of ours: the loop goes on as it was
            training.give_up(f"an error of deepseek_lab's own: {type(error).__name__}: {error}")
            captured = False
        if not captured:
            value = self.eager(*args, **kwargs)
            training.called(hit=False)
        else:
            before = training.runner.num_calls
            self._local.inside = True
            try:
                value = self._tracer.run(args, kwargs)
            finally:
                self._local.inside = False
            training.called(hit=training.runner.num_calls > before)
            if training.fits_nothing:
                self._missed_training(lane, training)
                return value
        if training.optimizer is None:
            _on_gradient(value, weakly(training.differentiated))
        return value

    def _missed_training(self, lane: Lane, training: TrainingLane) -> None:
        """What was captured fits no call: some models change themselves in their first one. Capture a later one."""
        training.runner.training = None
        if lane.num_captures >= 3:
            training.whole = False
            return
        training.close()
        lane.training, lane.state, lane.final = None, "new", False
        lane.missed_s = lane.capture_s / settings.retrace_budget + 1.0

    def _submit_lane(self, lane: Lane) -> None:
        if lane.training is not None:
            self._submit_training(self, lane.training)

    def _training_fell_back(self, lane: Lane, reason: str) -> None:
        self._fell_back(lane, reason)

    def _training_settled(self, lane: Lane, way: Way, ratio: Ratio | None, reason: str) -> None:
        lane.settle("eager" if way == Way() else "fast", reason, ratio)
        if ratio is not None:
            self._measured(lane, ratio)
        self._decided(lane, way.name, reason)

    def cell_ended(self) -> None:
        """The region closed: what training lanes have recorded is all there is."""
        for lane in self.lanes.values():
            if lane.training is not None:
                lane.training.ended()

    def close(self) -> None:
        """Take training lanes away; the search is stopped by :meth:`stop`."""
        for lane in self.lanes.values():
            if lane.training is not None:
                lane.training.close()
                lane.training.runner.training = None
                lane.training, lane.state = None, "eager"

    def _emit_once(self, reason: str) -> None:
        if (self.name, reason) not in self._fallbacks:
            self._fallbacks.add((self.name, reason))
            self._emit(ev.FellBack(run=self.run_id, target=self.name, reason=reason))

    def _new(self, lane: Lane, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        __tracebackhide__ = True
        # The first call is captured at once, unless it opens a generation: what pays there is the step.
        first = len(self.lanes) == 1 and not lane.shapes and not is_step(kwargs)
        lane.shapes.add(exact_shapes(args, kwargs))
        if first:
            try:
                return self.capture(lane, args, kwargs, dynamic=False)
            except BaseException:
                # An interrupt or an error of the user's: the next call of this kind is the first one again.
                lane.state = "new"
                lane.shapes.clear()
                raise
        estimate = max((other.capture_s for other in self.lanes.values()), default=0.0) or CAPTURE_S
        if lane.missed_s * settings.retrace_budget > estimate:
            return self.capture(lane, args, kwargs, dynamic=len(lane.shapes) > 1 or is_step(kwargs))
        # Only a step of a generation may be repeated by wait(): other calls could print, count or append again.
        lane.repeatable = is_step(kwargs)
        lane.sample = (args, kwargs)
        value, elapsed = timed(self._eager, args, kwargs)
        lane.missed_s += elapsed
        lane.spent_s += elapsed
        lane.eager_s = min(lane.eager_s or elapsed, elapsed)
        return value

    def _donate(self, lane: Lane, elapsed_s: float) -> None:
        """Pause for a part of the usual time of a call when the builder gets none otherwise."""
        pause_s = lane.pause_s(elapsed_s, settings.donated_share)
        if self._starving():
            time.sleep(pause_s)

    def _fast(self, lane: Lane, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        __tracebackhide__ = True
        assert self._tracer is not None
        before = sum(runner.num_calls for runner in lane.runners)
        self._local.inside = True
        try:
            value, elapsed = timed(self._tracer.run, args, kwargs)
        finally:
            self._local.inside = False
        if sum(runner.num_calls for runner in lane.runners) == before:
            self._missed(lane, args, kwargs, elapsed)
        if not lane.final:
            lane.sample = (args, kwargs)
            self._donate(lane, elapsed)
        return value

    def _missed(self, lane: Lane, args: tuple[Any, ...], kwargs: dict[str, Any], elapsed: float) -> None:
        """Nothing captured fitted this call. When such calls have cost enough, the lane is captured again."""
        lane.missed_s += elapsed
        lane.shapes.add(exact_shapes(args, kwargs))
        self._fell_back(lane, "the input differs from what was captured; run in eager mode")
        if lane.num_captures >= 3:
            lane.settle("eager", "its guards fail again and again")
            self._decided(lane, "eager")
        elif lane.missed_s * settings.retrace_budget > max(lane.capture_s, 0.05):
            lane.state, lane.missed_s = "new", lane.capture_s / settings.retrace_budget + 1.0
            lane.sample = (args, kwargs)

    # -- capture ----------------------------------------------------------------------------------

    def capture(self, lane: Lane, args: tuple[Any, ...], kwargs: dict[str, Any], *, dynamic: bool) -> Any:
        """Make the call under Dynamo and hand what it captured to the workshop."""
        __tracebackhide__ = True
        if len(self.runners) >= settings.max_graphs:
            lane.settle("eager", f"the target already has {settings.max_graphs} graphs")
            return self.eager(*args, **kwargs)
        if self._tracer is None:
            self._tracer = Tracer(self.eager, weakly(self._backend))
        if self.module is not None and not self.stopped:
            self._prepare([*self.module.parameters(), *self.module.buffers()])
        site = call_site()
        known = {id(runner): runner.num_calls for runner in self.runners}
        self._captured = []
        lane.num_captures += 1
        value, lane.capture_s = self._tracer.capture(args, kwargs, dynamic=dynamic)
        lane.num_breaks = self._tracer.num_breaks
        self._methods.watch(self._tracer.traced)
        for found in self._tracer.breaks:
            reason, file, line = found.reason[:300], found.file, found.line
            self._emit(ev.GraphBreak(run=self.run_id, target=self.name, reason=reason, file=file, line=line))
        hit = [r for r in self.runners if r.num_calls > known.get(id(r), 0)]
        for runner in lane.runners:
            if runner not in hit:
                self._conclude(runner, SUPERSEDED)
        lane.runners = hit
        if not hit:
            lane.settle("eager", "nothing could be captured from the call")
            return value
        # A call that was interrupted leaves graphs that Dynamo has and the workshop has not: their turn is now.
        new = [r for r in self.runners if not r.submitted and (r in hit or r in self._captured)]
        for runner in new:
            runner.literals = literals(args, kwargs)
            self._emit(
                ev.GraphCaptured(
                    run=self.run_id,
                    target=self.name,
                    graph=runner.graph_id,
                    nodes=graph_nodes(runner.graph_module, site),
                    signature=runner.spec.signature if runner.spec else "",
                    capture_s=lane.capture_s / len(new),
                    dynamic=runner.spec.dynamic if runner.spec else False,
                )
            )
            self._submit(self, runner)
            runner.submitted = True
        lane.state, lane.sample = "building", (args, kwargs)
        lane.final, lane.judged = False, ()
        until = time.monotonic() + settings.store_wait_s
        for runner in new:
            self._await_store(runner, until - time.monotonic())
        self.advance()
        return value

    def _backend(self, graph_module: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        runner = GraphRunner(
            graph_module,
            example_inputs,
            precision=self._precision,
            tolerance=self._tolerance,
            on_fallback=weakly(self._runner_fell_back),
            on_stale=weakly(self._stale),
            on_training=weakly(self._runner_trains),
        )
        runner.lasting_effects = lasting_effects()
        self.runners.append(runner)
        self._captured.append(runner)
        return runner.__call__

    def _runner_fell_back(self, runner: GraphRunner, reason: str) -> None:
        for lane in self.lanes.values():
            if runner in lane.runners:
                self._fell_back(lane, reason)

    def _fell_back(self, lane: Lane, reason: str) -> None:
        if (lane.name, reason) not in self._fallbacks:
            self._fallbacks.add((lane.name, reason))
            self._emit(ev.FellBack(run=self.run_id, target=self.name, reason=reason))

    def _stale(self, runner: GraphRunner) -> None:
        """The weights changed and are stable again: build anew."""
        if self.stopped:
            return
        runner.decided = False
        for lane in self.lanes.values():
            if runner in lane.runners and lane.state in ("fast", "racing"):
                lane.state, lane.final, lane.judged = "building", False, ()
        self._submit(self, runner)

    def _conclude(self, runner: GraphRunner, reason: str) -> None:
        """The final word on a graph as it stands."""
        chosen = runner.installed.name if runner.installed else "eager"
        self._emit(
            ev.Decided(run=self.run_id, target=self.name, graph=runner.graph_id, chosen=chosen, reason=reason)
        )

    # -- decisions --------------------------------------------------------------------------------

    def advance(self) -> None:
        """Move lanes on whose graphs the builder has decided. Called from any thread."""
        for lane in list(self.lanes.values()):
            if lane.final or lane.state == "new" or not lane.runners or lane.training is not None:
                continue
            installed = lane.installed
            if not all(runner.decided for runner in lane.runners):
                known = lane.contender if lane.state == "racing" else lane.judged
                if installed and installed != known and not self._too_short(lane):
                    lane.start_race()
            elif not installed:
                lane.settle("eager", next((r.refusal for r in lane.runners if r.refusal), "") or "")
                self._decided(lane, "eager")
            elif self._too_short(lane):
                lane.settle("eager", f"a call takes {lane.eager_s * 1e6:.0f} us, too short to gain from")
                self._decided(lane, "eager")
            else:
                lane.final = True
                if installed == lane.judged and lane.state == "fast":
                    self._kept(lane, lane.ratio)
                else:
                    lane.start_race()

    def spent_s(self, runner: GraphRunner) -> float:
        """Seconds that calls have taken which a program for a graph would have made faster."""
        return sum(lane.spent_s for lane in self.lanes.values() if runner in lane.runners)

    def proven(self, runner: GraphRunner) -> bool:
        """Whether the program in a graph has won in the user's own calls."""
        return any(
            runner in lane.runners and lane.state == "fast" and lane.judged == lane.installed
            for lane in self.lanes.values()
        )

    @staticmethod
    def _too_short(lane: Lane) -> bool:
        return 0.0 < lane.eager_s < TOO_SHORT_S

    def _race_call(self, lane: Lane, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One of the user's calls as one sample of the race."""
        __tracebackhide__ = True
        assert self._tracer is not None
        tracer = self._tracer
        fast = lane.race.arm == "fast"
        before = sum(runner.num_calls for runner in lane.runners)
        with self._undisturbed():
            value, elapsed = timed(tracer.run if fast else self._eager, args, kwargs)
        if fast and sum(runner.num_calls for runner in lane.runners) == before:
            self._missed(lane, args, kwargs, elapsed)
            return value
        lane.race.add(elapsed)
        self._judge(lane)
        return value

    def _eager(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        __tracebackhide__ = True
        return self.eager(*args, **kwargs)

    def _judge(self, lane: Lane) -> None:
        ratio = lane.race.verdict(settings.min_gain)
        if ratio is None:
            return
        kept = ratio.ci95[0] > 1.0 and ratio.speedup > settings.min_gain
        self._measured(lane, ratio)
        if not lane.final:
            lane.judged, lane.ratio = lane.contender, ratio
            lane.state = "fast" if kept else "building"
            self.advance()  # the builder may have ended or installed another one meanwhile
        elif kept:
            self._kept(lane, ratio)
        else:
            low, high = ratio.ci95
            reason = f"in your own calls it was {ratio.speedup:.2f}x (95% {low:.2f}-{high:.2f})"
            lane.settle("eager", reason, ratio)
            for runner in lane.runners:
                if not any(runner in other.runners for other in self.lanes.values() if other.state == "fast"):
                    runner.uninstall()
                    self._verdict(runner, None)
            self._decided(lane, "eager", reason)

    def _kept(self, lane: Lane, ratio: Ratio | None) -> None:
        lane.settle("fast", ratio=ratio)
        for runner in lane.runners:
            self._conclude(runner, "")
            if ratio is not None and runner.installed is not None:
                self._verdict(runner, ratio)

    def _measured(self, lane: Lane, ratio: Ratio) -> None:
        for runner in lane.runners:
            self._emit(
                ev.LiveMeasured(
                    run=self.run_id,
                    target=self.name,
                    graph=runner.graph_id,
                    eager_ms=ratio.base_ms,
                    median_ms=ratio.median_ms,
                    speedup=ratio.speedup,
                    speedup_ci95=ratio.ci95,
                    num_rounds=ratio.num_rounds,
                    load=machine.load(),
                )
            )

    def _decided(self, lane: Lane, chosen: str, reason: str = "") -> None:
        for runner in lane.runners:
            self._emit(
                ev.Decided(
                    run=self.run_id,
                    target=self.name,
                    graph=runner.graph_id,
                    chosen=chosen,
                    reason=reason or lane.reason,
                )
            )

    # -- what wait() does -------------------------------------------------------------------------

    @property
    def undecided(self) -> bool:
        """Whether a lane still has something to find out."""
        return not self.stopped and any(
            lane.undecided and (lane.state != "new" or lane.repeatable) for lane in self.lanes.values()
        )

    def progress(self, until: Callable[[], bool]) -> bool:
        """Do one piece of work that may be done in the user's time. Returns whether there was any.

        Captures a kind of call that is still waiting for it, or races a lane by repeating its last call.
        """
        for key, lane in list(self.lanes.items()):
            training, grad, inference = key[:3]
            if lane.sample is None or until() or (lane.state == "new" and not lane.repeatable):
                continue
            if self.module is not None and self.module.training != training:
                continue
            with torch.inference_mode(inference), torch.set_grad_enabled(grad and not inference):
                if self._progress_lane(lane, until):
                    return True
        return False

    def _progress_lane(self, lane: Lane, until: Callable[[], bool]) -> bool:
        if lane.sample is not None:
            args, kwargs = lane.sample
            if lane.state == "new":
                total = sum(other.missed_s for other in self.lanes.values())
                if lane.missed_s < SELDOM * total:
                    lane.settle("eager", "seldom called")
                    return True
                growing = len(lane.shapes) > 1 or is_step(kwargs)
                try:
                    args, kwargs = copy.deepcopy((args, kwargs))
                    with self._replaying():
                        self.capture(lane, args, kwargs, dynamic=growing)
                except Exception:  # nobody but us made this call; the user's own tells what it raises
                    lane.settle("eager", "the call cannot be repeated as it was")
                return True
            if lane.state == "racing" and lane.final:
                self._replay(lane, until)
                return True
        return False

    def _replay(self, lane: Lane, until: Callable[[], bool]) -> None:
        """Race a lane on copies of its last call; by the builder's word alone where repeating could be seen."""
        assert lane.sample is not None
        assert self._tracer is not None
        reason = lane.cannot_replay(self.module)
        if reason is not None:
            self._by_the_builder(lane, reason)
            return
        args, kwargs = lane.sample
        with self._replaying():
            while lane.state == "racing" and not until():
                missed = lane.missed_s
                try:
                    self._race_call(lane, copied(args), copied(kwargs))
                    repeated = lane.missed_s == missed
                except Exception:  # nobody but us made this call; the user's own tells what it raises
                    repeated = False
                if lane.state == "racing" and not repeated:
                    self._by_the_builder(
                        lane, "measured by the builder; the call cannot be repeated as it was"
                    )

    def _by_the_builder(self, lane: Lane, reason: str) -> None:
        """End the search by the builder's race, where the calls themselves cannot be raced."""
        if all(runner.sure for runner in lane.runners if runner.installed):
            lane.settle("fast", reason)
            for runner in lane.runners:
                self._conclude(runner, reason)
            return
        lane.settle("eager", reason.replace("measured by", "too close to call for"))
        for runner in lane.runners:
            runner.uninstall()
        self._decided(lane, "eager")

    def _replaying(self) -> Any:
        return Replaying(self._local)

    def stop(self) -> None:
        """End the search; what was won stays."""
        self.stopped = True
        for lane in self.lanes.values():
            if lane.training is not None:
                if lane.training.phase == "recording":
                    lane.training.settle(Way(), None, "stopped by the user")
            elif lane.undecided and lane.state == "fast":
                lane.settle("fast", "stopped by the user")
                for runner in lane.runners:
                    self._conclude(runner, lane.reason)
            elif lane.undecided:
                lane.settle("eager", "stopped by the user")
                self._decided(lane, "eager")


def _on_gradient(value: Any, told: Callable[[], None]) -> None:
    """Tell when a gradient comes back to a call's value. An error of ours must not become one of the backward pass."""

    @unserializable_hook  # type: ignore[untyped-decorator]
    def hook(gradient: Tensor) -> None:
        with contextlib.suppress(Exception):
            told()

    with contextlib.suppress(RuntimeError):  # a tensor of a function transform takes none
        for result in differentiable(value):
            result.register_hook(hook)


def differentiable(value: Any) -> list[Tensor]:
    """The first tensors in a call's value that a gradient can come back to."""
    found: list[Tensor] = []
    left = [value]
    while left and len(found) < NUM_LISTENED:
        one = left.pop(0)
        if isinstance(one, Tensor):
            if one.requires_grad and one.grad_fn is not None:
                found.append(one)
        elif isinstance(one, Mapping):
            left.extend(one.values())
        elif isinstance(one, tuple | list):
            left.extend(one)
    return found
