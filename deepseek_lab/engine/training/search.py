"""From recorded steps to a verdict: each way repeated on copies in the builder, raced, and the best one kept."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import shutil
from typing import Any

import torch

from deepseek_lab.base import events as ev
from deepseek_lab.base.errors import ArtifactError, BuildError, CaptureError
from deepseek_lab.base.settings import settings
from deepseek_lab.engine import allocator
from deepseek_lab.engine.background import quietly
from deepseek_lab.engine.builder import Builder, Interrupted
from deepseek_lab.engine.search import Job, times
from deepseek_lab.engine.store import Key, Store
from deepseek_lab.engine.training.bench import Opened
from deepseek_lab.engine.training.lane import TrainingLane
from deepseek_lab.engine.training.problem import TrainingProblem
from deepseek_lab.engine.training.ways import Way, program, ways_for
from deepseek_lab.engine.verify import Agreement
from deepseek_lab.measure import machine
from deepseek_lab.measure.race import Ratio

OPTIMIZER_GAIN = 1.1
"""An optimiser's fused form is tried in whole steps when its own are so many times as fast."""
OPTIMIZER_RACE_S = 3.0


@dataclasses.dataclass(kw_only=True)
class TrainingJob(Job):
    """One training lane to be decided."""

    lane: TrainingLane


class TrainingSearch:
    """Finds the best way for one training lane."""

    def __init__(self, job: TrainingJob, builder: Builder, store: Store) -> None:
        self._job, self._builder, self._store = job, builder, store
        self._lane = job.lane
        self._opened = Opened(None)
        self._won: Way = Way()
        self._ratio: Ratio | None = None
        self._ended: dict[str, ev.CandidateEnded] = {}
        self._agreed: list[Way] = []
        """Ways that give the same results, as far as they were found."""
        self._fused = False

    def run(self) -> None:
        """Decide the lane; where its steps cannot be repeated it stays in eager mode."""
        lane = self._lane
        try:
            self._decide()
        except Interrupted:
            self._settle(f"stopped by the user{' before anything was won' if self._won == Way() else ''}")
        except Exception as error:
            message = (
                error.message if isinstance(error, BuildError | CaptureError | ArtifactError) else str(error)
            )
            self._job.reason = f"the steps could not be repeated: {message}"
            lane.settle(Way(), None, self._job.reason)

    def _decide(self) -> None:
        lane = self._lane
        problem = lane.recorder.problem(lane.optimizer)
        ways = ways_for(problem.problem)
        key = self._key(problem, ways)
        entry = self._store.get(key)
        if entry is not None and self._reuse(entry.record, problem):
            return
        can_fuse = problem.optimizer is not None and problem.optimizer.can_fuse
        if not ways and not can_fuse and not allocator.available():
            self._settle(
                "there is no other way to run its steps in this precision; --precision bf16 opens one"
            )
            return
        scratch = self._store.scratch()
        try:
            quietly(lambda: problem.save(scratch))
            self._opened = self._ask("open", str(scratch))
            if self._opened.refusal is not None:
                self._settle(self._opened.refusal)
                return
            self._search(problem, ways, can_fuse=can_fuse)
            self._remember(key)
        finally:
            with contextlib.suppress(BuildError):
                if self._builder.pid is not None and not self._job.stop.is_set():
                    self._builder.ask("close", budget_s=30.0)
            shutil.rmtree(scratch, ignore_errors=True)

    def _search(self, problem: TrainingProblem, ways: list[Way], *, can_fuse: bool) -> None:
        if allocator.available():
            keeping = Way(keeps=True)
            self._started(keeping)
            self._verdict(keeping, "lost", "the same values", max_rel_error=0.0, eager_rel_error=0.0)
            self._try(keeping)
        for way in ways:
            contender = dataclasses.replace(way, keeps=self._won.keeps)
            if self._check(contender):
                self._lane.add_way(contender, self._program(problem, contender))
                self._try(contender)
        if can_fuse and self._optimizer():
            self._fused = True
        self._settle("")

    def _started(self, way: Way) -> None:
        job = self._job
        job.emit(ev.CandidateStarted(run=job.run, graph=job.runner.graph_id, candidate=way.name))

    def _ask(self, method: str, *arguments: Any) -> Any:
        return self._builder.ask(
            "training", method, arguments, budget_s=settings.build_budget_s, stop=self._job.stop.is_set
        )

    def _program(self, problem: TrainingProblem, way: Way) -> Any:
        graph = problem.problem
        dtypes = [getattr(torch, name) for name in self._opened.dtypes]
        return program(graph.graph, graph.spec, way.graph, self._opened.orders, dtypes)

    # -- one way ------------------------------------------------------------------------------------

    def _check(self, way: Way) -> bool:
        """Whether a way agrees with eager on the recorded steps."""
        self._started(way)
        try:
            found = self._ask("check", way)
        except Interrupted:
            self._verdict(way, "skipped", "stopped by the user")
            raise
        except BuildError as error:
            self._verdict(way, "failed", error.message)
            return False
        assert isinstance(found, Agreement)
        errors = {"max_rel_error": found.max_rel_error, "eager_rel_error": found.eager_rel_error}
        self._verdict(way, "lost" if found.ok else "refused", found.detail, **errors)
        return found.ok

    def _try(self, way: Way) -> None:
        """Race a way against the best one so far, in the loop's own steps where it takes any."""
        self._agreed.append(way)
        ratio = self._lane.trial(way, self._job.stop.is_set)
        if ratio is None:
            return
        base = self._ratio
        if (
            base is not None
        ):  # against eager: what the best one so far brought, times what this one brings more
            low, high = ratio.ci95[0] * base.speedup, ratio.ci95[1] * base.speedup
            ratio = Ratio(
                ratio.speedup * base.speedup, (low, high), base.base_ms, ratio.median_ms, ratio.num_rounds
            )
        self._timed(way, ratio)
        floor = base.speedup if base is not None else 1.0
        if ratio.ci95[0] > floor and ratio.speedup > floor * settings.min_gain:
            self._won, self._ratio = way, ratio
            self._lane.prefer(way)

    def _optimizer(self) -> bool:
        """Whether the optimiser's fused form gives the same updates, faster."""
        way = Way(fused=True)
        self._started(way)
        try:
            found = self._ask("check_optimizer")
            if not found.ok:
                self._verdict(way, "refused", found.detail, max_rel_error=found.max_rel_error)
                return False
            ratio = self._ask("race_optimizer", OPTIMIZER_RACE_S)
        except Interrupted:
            self._verdict(way, "skipped", "stopped by the user")
            raise
        except BuildError as error:
            self._verdict(way, "failed", error.message)
            return False
        reason = "times of the optimiser's step alone"
        self._verdict(way, "lost", reason, max_rel_error=found.max_rel_error, **times(ratio))
        return bool(ratio.ci95[0] > 1.0 and ratio.speedup > OPTIMIZER_GAIN)

    # -- the end ------------------------------------------------------------------------------------

    def _settle(self, reason: str) -> None:
        """Have the best way stay; where the loop took no steps to tell, the copies do, and later steps confirm."""
        job, lane = self._job, self._lane
        untimed = any(self._ended[way.name].speedup is None for way in self._agreed)
        confirm = not job.stop.is_set() and untimed and self._on_copies()
        if self._fused and not job.stop.is_set():
            self._won = dataclasses.replace(self._won, fused=True)
            self._whole()
            confirm = True
        if self._won == Way():
            lane.settle(Way(), None, reason)
            job.reason = reason
            return
        self._tell_plan(self._won)
        parts = [self._ended[one.name] for one in self._parts() if one.name in self._ended]
        errors = [one.max_rel_error or 0.0 for one in parts]
        usual = [one.eager_rel_error or 0.0 for one in parts]
        numbers = times(self._ratio) if self._ratio is not None else {}
        self._verdict(
            self._won,
            "won",
            "; ".join(dict.fromkeys(one.reason for one in parts if one.reason)),
            max_rel_error=max(errors, default=0.0),
            eager_rel_error=max(usual, default=0.0),
            **numbers,
        )
        job.chosen, job.ratio = self._won.name, self._ratio
        lane.settle(self._won, self._ratio, reason, confirm=confirm)

    def _whole(self) -> None:
        """Race whole steps of what was put together, on copies: parts alone say nothing of a step."""
        try:
            self._ratio = self._ask("race", [self._won], settings.race_budget_s)[self._won.name]
        except BuildError:
            self._won = dataclasses.replace(self._won, fused=False)

    def _parts(self) -> tuple[Way, ...]:
        """What the best way was put together from."""
        return dataclasses.replace(self._won, fused=False), Way(fused=self._won.fused)

    def _on_copies(self) -> bool:
        """Race whole steps on copies. Returns whether the loop's own steps are still to confirm what was found."""
        contenders = list(
            dict.fromkeys(
                one
                for way in self._agreed
                for one in (way, dataclasses.replace(way, keeps=allocator.available()))
            )
        )
        try:
            raced: dict[str, Ratio] = self._ask("race", contenders, settings.race_budget_s)
        except BuildError:
            return False
        best, gained = Way(), settings.min_gain
        for way in contenders:
            ratio = raced[way.name]
            known = self._ended.get(way.name)
            if known is not None and known.speedup is None:
                self._timed(way, ratio)
            if ratio.speedup > gained and ratio.ci95[0] > 1.0:
                best, gained = way, ratio.speedup
        if best in (Way(), self._won):
            return False
        self._won, self._ratio = best, raced[best.name]
        if best.name not in self._ended:
            plain = self._ended[dataclasses.replace(best, keeps=False).name]
            self._tell(dataclasses.replace(plain, candidate=best.name, **times(self._ratio)))
        return True

    def _verdict(self, way: Way, status: str, reason: str = "", **numbers: Any) -> None:
        job = self._job
        self._tell(
            ev.CandidateEnded(
                run=job.run,
                graph=job.runner.graph_id,
                candidate=way.name,
                status=status,
                reason=reason,
                **numbers,
            )
        )

    def _timed(self, way: Way, ratio: Ratio) -> None:
        self._tell(dataclasses.replace(self._ended[way.name], **times(ratio)))

    def _tell(self, event: ev.CandidateEnded) -> None:
        if self._ended.get(event.candidate) != event:
            self._ended[event.candidate] = event
            self._job.emit(event)

    def _tell_plan(self, way: Way) -> None:
        job = self._job
        job.emit(ev.PlanChosen(run=job.run, graph=job.runner.graph_id, candidate=way.name, code=way.plan()))

    # -- what is remembered -------------------------------------------------------------------------

    def _key(self, problem: TrainingProblem, ways: list[Way]) -> Key:
        spec, digest = problem.problem.spec, hashlib.sha256()
        digest.update(problem.loss.graph.code.encode() if problem.loss is not None else b"")
        digest.update(repr((problem.trained, problem.differentiable, problem.optimizer)).encode())
        return Key.of(
            graph=f"training {spec.graph_key}",
            weights=digest.hexdigest()[:32],
            threads=str(spec.num_threads),
            candidates=",".join(way.name for way in ways),
            versions=",".join(f"{name} {version}" for name, version in sorted(machine.versions().items())),
            processor=f"{machine.processor()} {machine.features()}",
        )

    def _reuse(self, record: dict[str, Any], problem: TrainingProblem) -> bool:
        """Begin with what an earlier process found; the loop's own steps confirm it."""
        job, lane = self._job, self._lane
        way = Way(**record["way"])
        self._opened = Opened(
            None,
            tuple(None if one is None else tuple(one) for one in record["orders"]),
            tuple(record["dtypes"]),
        )
        for data in record["candidates"]:
            event = ev.from_dict({**data, "run": job.run, "graph": job.runner.graph_id, "cached": True})
            if isinstance(event, ev.CandidateEnded):
                self._tell(event)
        if way.keeps and not allocator.available():
            return False
        if way == Way():
            lane.settle(way, None, record["reason"])
            job.reason = record["reason"]
            return True
        lane.add_way(way, self._program(problem, way))
        self._tell_plan(way)
        live = record["ratio"]
        ratio = Ratio(live["speedup"], tuple(live["ci95"]), live["base_ms"], live["median_ms"], 0)
        job.chosen, job.ratio = way.name, ratio
        lane.settle(way, ratio, confirm=True)
        return True

    def _remember(self, key: Key) -> None:
        job = self._job
        if job.stop.is_set() or any(one.status == "failed" for one in self._ended.values()):
            return
        record = {
            "chosen": self._won.name,
            "way": dataclasses.asdict(self._won),
            "reason": job.reason,
            "ratio": None if self._ratio is None else dataclasses.asdict(self._ratio),
            "orders": self._opened.orders,
            "dtypes": self._opened.dtypes,
            "candidates": [event.to_dict() for event in self._ended.values()],
        }
        try:
            self._store.put(key, self._store.scratch(), record)
        except ArtifactError as error:
            job.emit(ev.Noted(run=job.run, text=f"not remembered for the next kernel: {error.message}"))
