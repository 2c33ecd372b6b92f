"""From recorded steps to a verdict: each way repeated on copies in the builder, raced, and the best one kept."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from deepseek_lab.base import events as ev
from deepseek_lab.base.errors import ArtifactError, BuildError, CaptureError
from deepseek_lab.base.settings import settings
from deepseek_lab.engine import allocator
from deepseek_lab.engine.background import quietly
from deepseek_lab.engine.builder import Builder, Interrupted
from deepseek_lab.engine.search import Job, times
from deepseek_lab.engine.store import Entry, Key, Store
from deepseek_lab.engine.training import compiled
from deepseek_lab.engine.training.bench import Opened
from deepseek_lab.engine.training.lane import TrainingLane
from deepseek_lab.engine.training.problem import OptimizerProblem, TrainingProblem
from deepseek_lab.engine.training.programs import Program
from deepseek_lab.engine.training.ways import Way, program, ways_for
from deepseek_lab.engine.verify import Agreement
from deepseek_lab.measure import machine
from deepseek_lab.measure.race import Ratio

OPTIMIZER_GAIN = 1.1
"""An optimiser's fused form is tried in whole steps when its own are so many times as fast."""
OPTIMIZER_RACE_S = 3.0
COMPILER = "inductor"
"""The backend whose name lets training steps be compiled."""
MIN_FUSIBLE = 0.4
"""A graph is compiled when so much of a step is in other operators; with less it has won nothing that lasts a race."""
COMPILED = "compiled"
"""Folder of what was compiled, in an entry of the store."""


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
        self._reason = ""

    def run(self) -> None:
        """Decide the lane; where its steps cannot be repeated it stays in eager mode."""
        lane = self._lane
        try:
            self._decide()
        except Interrupted:
            self._stop()
        except Exception as error:
            message = (
                error.message if isinstance(error, BuildError | CaptureError | ArtifactError) else str(error)
            )
            self._job.reason = f"the steps could not be repeated: {message}"
            lane.settle(Way(), None, self._job.reason)

    def _decide(self) -> None:
        lane, recorder = self._lane, self._lane.recorder
        problem = recorder.problem(lane.optimizer) if lane.whole else None
        ways = ways_for(problem.problem) if problem is not None else []
        optimizer = recorder.optimizer_problem(lane.optimizer)
        key = self._key(problem, ways, optimizer)
        entry = self._store.get(key)
        if entry is not None and self._reuse(entry, problem):
            return
        scratch = self._store.scratch()
        try:
            if allocator.available():
                self._keep()
            if problem is not None and ways:
                self._try_all(problem, ways, scratch)
            if optimizer is not None and optimizer.spec.can_fuse:
                self._fuse(optimizer, scratch)
            if problem is not None and self._may_compile:
                self._compile(problem, scratch)
            self._settle(problem, scratch)
            self._remember(key, scratch)
        finally:
            with contextlib.suppress(BuildError):
                if self._builder.pid is not None and not self._job.stop.is_set():
                    self._builder.ask("close", budget_s=30.0)
            shutil.rmtree(scratch, ignore_errors=True)

    def _keep(self) -> None:
        """Try what changes no value and needs nobody to look at it."""
        way = Way(keeps=True)
        self._started(way)
        self._verdict(way, "lost", "the same values", max_rel_error=0.0, eager_rel_error=0.0)
        self._try(way)

    def _try_all(self, problem: TrainingProblem, ways: list[Way], scratch: Path) -> None:
        if not self._open(problem, scratch):
            return
        for way in ways:
            contender = dataclasses.replace(way, keeps=self._won.keeps)
            if self._check(contender):
                self._lane.add_way(contender, self._program(problem, contender))
                self._try(contender)

    def _open(self, problem: TrainingProblem, scratch: Path) -> bool:
        """Have the builder repeat the steps; whether that can be done."""
        if not self._opened.orders and self._opened.refusal is None:
            quietly(lambda: problem.save(scratch))
            self._opened = self._ask("open", str(scratch))
            self._reason = self._opened.refusal or ""
            if self._reason:
                job = self._job
                job.emit(ev.Noted(run=job.run, text=f"{job.target} runs its graph as it is: {self._reason}"))
        return self._opened.refusal is None

    def _fuse(self, problem: OptimizerProblem, scratch: Path) -> None:
        """Try the optimiser's fused form, where its step alone is worth it."""
        way = dataclasses.replace(self._won, fused=True)
        alone: Ratio | None = None
        with self._attempt(way):
            quietly(lambda: problem.save(scratch))
            found = self._ask("open_optimizer", str(scratch))
            if not found.ok:
                self._verdict(way, "refused", found.detail, max_rel_error=found.max_rel_error)
                return
            alone = self._ask("race_optimizer", OPTIMIZER_RACE_S)
        if alone is None:
            return
        reason = f"the optimizer's step alone {alone.speedup:.2f}x"
        before = self._ended.get(self._won.name)
        words = [before.reason, reason] if before is not None else [reason]
        errors = {"max_rel_error": found.max_rel_error, "eager_rel_error": 0.0}
        if before is not None:
            errors["max_rel_error"] = max(found.max_rel_error, before.max_rel_error or 0.0)
            errors["eager_rel_error"] = before.eager_rel_error or 0.0
        if alone.ci95[0] > 1.0 and alone.speedup > OPTIMIZER_GAIN:
            self._verdict(way, "lost", "; ".join(filter(None, words)), **errors)
            self._try(way)
        else:
            self._verdict(way, "skipped", reason, **errors)

    @property
    def _may_compile(self) -> bool:
        names = self._job.names
        return settings.compile_training and (names is None or COMPILER in names)

    def _compile(self, problem: TrainingProblem, scratch: Path) -> None:
        """Try the best way so far with both passes compiled by Inductor: last, as it takes a minute."""
        if not self._open(problem, scratch):
            return
        way, folder = dataclasses.replace(self._won, compiled=True), scratch / COMPILED
        lacks = (
            compiled.missing() if way.precision != "fp16" else "gradients are scaled, which is not compiled"
        )
        if lacks is not None:
            self._started(way)
            self._verdict(way, "skipped", lacks)
            return
        program = None
        self._lane.compiling = True
        try:
            with self._attempt(way):
                share = self._ask("fusible", way)
                if share < MIN_FUSIBLE:
                    words = f"products and convolutions take {1 - share:.0%} of a step, and are the same when compiled"
                    self._verdict(way, "skipped", words)
                    return
                self._ask("build", way.graph, str(folder))
                program = quietly(lambda: compiled.load(folder, self._plain(problem, way)))
        finally:
            self._lane.compiling = False
        if program is not None and self._check(way):
            self._lane.add_way(way, program)
            self._try(way)

    def _started(self, way: Way) -> None:
        job = self._job
        job.emit(ev.CandidateStarted(run=job.run, graph=job.runner.graph_id, candidate=way.name))

    def _ask(self, method: str, *arguments: Any) -> Any:
        return self._builder.ask(
            "training", method, arguments, budget_s=settings.build_budget_s, stop=self._job.stop.is_set
        )

    def _program(self, problem: TrainingProblem, way: Way) -> Program:
        graph = problem.problem
        dtypes = [getattr(torch, name) for name in self._opened.dtypes]
        return program(graph.graph, graph.spec, way.graph, self._opened.orders, dtypes)

    def _plain(self, problem: TrainingProblem, way: Way) -> Program:
        """What a compiled way is compiled from."""
        return self._program(problem, dataclasses.replace(way, compiled=False))

    # -- one way ------------------------------------------------------------------------------------

    def _check(self, way: Way) -> bool:
        """Whether a way agrees with eager on the recorded steps."""
        found: Agreement | None = None
        with self._attempt(way):
            found = self._ask("check", way)
        if found is None:
            return False
        errors = {"max_rel_error": found.max_rel_error, "eager_rel_error": found.eager_rel_error}
        self._verdict(way, "lost" if found.ok else "refused", found.detail, **errors)
        return found.ok

    @contextlib.contextmanager
    def _attempt(self, way: Way) -> Iterator[None]:
        """Tell how a way ended whose attempt fails; the search goes on after the block, unless it was interrupted."""
        self._started(way)
        try:
            yield
        except Interrupted:
            self._verdict(way, "skipped", "stopped by the user")
            raise
        except BuildError as error:
            self._verdict(way, "failed", error.message)

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

    # -- the end ------------------------------------------------------------------------------------

    def _settle(self, problem: TrainingProblem | None, scratch: Path) -> None:
        """Have the best way stay; where the loop took no steps to tell, the copies do, and later steps confirm."""
        job, lane = self._job, self._lane
        confirm = False
        untimed = [way for way in self._agreed if self._ended[way.name].speedup is None]
        if untimed and not job.stop.is_set():
            if problem is not None and self._open(problem, scratch):
                confirm = self._on_copies()
            elif self._won == Way() and problem is None:
                self._won, confirm = untimed[-1], True  # the next steps are the first to tell
        if self._won == Way():
            lane.settle(Way(), None, self._reason)
            job.reason = self._reason
            return
        self._tell_plan(self._won)
        self._tell(dataclasses.replace(self._ended[self._won.name], status="won"))
        job.chosen, job.ratio = self._won.name, self._ratio
        lane.settle(self._won, self._ratio, self._reason, confirm=confirm)

    def _stop(self) -> None:
        """End as things stand."""
        if self._won == Way():
            self._reason = "stopped by the user before anything was won"
            self._lane.settle(Way(), None, self._reason)
            return
        self._tell_plan(self._won)
        self._lane.settle(self._won, self._ratio, "stopped by the user")

    def _on_copies(self) -> bool:
        """Race whole steps on copies. Returns whether the loop's own steps are still to confirm what was found."""
        keeps = allocator.available()
        fused = any(way.fused for way in self._agreed)
        contenders = list(
            dict.fromkeys(
                one
                for way in self._agreed
                for one in (
                    way,
                    dataclasses.replace(way, keeps=keeps),
                    dataclasses.replace(way, keeps=keeps, fused=fused),
                )
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
            plain = [one for one in self._agreed if one.graph == best.graph and one.name in self._ended]
            self._tell(
                dataclasses.replace(self._ended[plain[0].name], candidate=best.name, **times(self._ratio))
            )
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

    def _key(
        self, problem: TrainingProblem | None, ways: list[Way], optimizer: OptimizerProblem | None
    ) -> Key:
        runner, digest = self._job.runner, hashlib.sha256()
        graph = runner.spec.graph_key if runner.spec is not None else runner.graph_module.code
        digest.update(graph.encode())
        if problem is not None:
            digest.update(problem.loss.graph.code.encode() if problem.loss is not None else b"")
            digest.update(repr((problem.trained, problem.differentiable)).encode())
            digest.update(repr([tuple(one.shape) for one in problem.batches[0].live]).encode())
        if optimizer is not None:
            digest.update(repr((optimizer.spec, [tuple(one.shape) for one in optimizer.weights])).encode())
        return Key.of(
            graph=f"training {digest.hexdigest()[:32]}",
            weights="any",
            threads=str(torch.get_num_threads()),
            candidates=",".join([*(way.name for way in ways), *([COMPILER] if self._may_compile else [])]),
            versions=",".join(f"{name} {version}" for name, version in sorted(machine.versions().items())),
            processor=f"{machine.processor()} {machine.features()}",
        )

    def _reuse(self, entry: Entry, problem: TrainingProblem | None) -> bool:
        """Begin with what an earlier process found; the loop's own steps confirm it."""
        job, lane, record = self._job, self._lane, entry.record
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
        if (way.keeps and not allocator.available()) or (way.graph != Way() and problem is None):
            return False
        if way == Way():
            lane.settle(way, None, record["reason"])
            job.reason = record["reason"]
            return True
        if problem is not None and way.graph != Way():
            if way.compiled:
                folder, plain = entry.directory / COMPILED, self._plain(problem, way)
                lane.add_way(way, quietly(lambda: compiled.load(folder, plain)))
            else:
                lane.add_way(way, self._program(problem, way))
        self._tell_plan(way)
        live = record["ratio"]
        ratio = live and Ratio(live["speedup"], tuple(live["ci95"]), live["base_ms"], live["median_ms"], 0)
        job.chosen, job.ratio = way.name, ratio
        lane.settle(way, ratio, confirm=True)
        return True

    def _remember(self, key: Key, scratch: Path) -> None:
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
        kept = self._store.scratch()
        try:
            if self._won.compiled:
                shutil.copytree(scratch / COMPILED, kept / COMPILED)
            self._store.put(key, kept, record)
        except ArtifactError as error:
            job.emit(ev.Noted(run=job.run, text=f"not remembered for the next kernel: {error.message}"))
