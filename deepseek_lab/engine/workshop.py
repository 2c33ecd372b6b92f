"""The background side of the engine: one thread that turns captured graphs into installed programs.

For each graph: look in the store; otherwise have the builder build, verify and race the candidates, best
expected gain first. The first verified win is installed at once, the best one in the end.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import fcntl
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from deepseek_lab.base import events as ev
from deepseek_lab.base.errors import ArtifactError, BuildError, CaptureError
from deepseek_lab.base.settings import settings
from deepseek_lab.engine import candidates as registry
from deepseek_lab.engine.background import Meter, come_forward, keep_one_openmp_thread, quietly
from deepseek_lab.engine.builder import Builder, BuilderDied, BuilderTimeout, Interrupted
from deepseek_lab.engine.builder_process import FIRST_RACE_S, Analysis
from deepseek_lab.engine.candidates import Candidate, NotApplicable
from deepseek_lab.engine.guards import WeightGuard
from deepseek_lab.engine.problem import Problem, weights_digest
from deepseek_lab.engine.runtime import GraphRunner
from deepseek_lab.engine.store import Entry, Key, Store
from deepseek_lab.engine.verify import Agreement
from deepseek_lab.measure import machine
from deepseek_lab.measure.race import Ratio

FINAL_RACE_SHARE = 0.9
"""Candidates slower than this share of the best are not raced again."""


@dataclasses.dataclass
class Job:
    """One graph to be decided.

    ``emit`` takes events; ``done`` is called once, with the job, when the builder has no more to say.
    """

    run: str
    target: str
    runner: GraphRunner
    names: tuple[str, ...] | None
    emit: Callable[[ev.Event], None]
    done: Callable[[Job], None]
    stop: threading.Event
    advanced: Callable[[], None] = lambda: None
    """Called when a program was installed while the search goes on."""
    proven: Callable[[], bool] = lambda: False
    """Whether what is installed has won in the user's own calls."""
    ratio: Ratio | None = None
    chosen: str = "eager"
    reason: str = ""


@dataclasses.dataclass
class _Built:
    candidate: Candidate
    directory: Path
    agreement: Agreement
    build_s: float
    ratio: Ratio


class Workshop:
    """Runs jobs one after the other in a daemon thread."""

    def __init__(self, store: Store | None = None) -> None:
        self.store = store or Store()
        self.builder = Builder()
        self._queue: queue.Queue[Job | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._job: Job | None = None
        self._meter: Meter | None = None
        self._closing = False

    @property
    def starving(self) -> bool:
        """Whether work is under way that gets next to no processor time."""
        meter = self._meter
        return self._job is not None and meter is not None and meter.starving()

    @property
    def _crowded(self) -> bool:
        return self._meter is not None and self._meter.crowded

    def submit(self, job: Job) -> None:
        """Queue a job; returns at once."""
        with self._lock:
            self._queue.put(job)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="deepseek-workshop", daemon=True)
                self._thread.start()
                self._meter = Meter(lambda: self.builder.pid)
                atexit.unregister(self.close)
                atexit.register(self.close)

    def close(self, timeout_s: float = 20.0) -> None:
        """End the work under way and wait for the thread.

        A thread that is inside of a backend's C++ when the interpreter ends takes the process down with an abort.
        """
        with self._lock:
            thread, job = self._thread, self._job
            self._closing = True
        if thread is None or not thread.is_alive():
            return
        if job is not None:
            job.stop.set()
        self.builder.kill()
        come_forward()
        self._queue.put(None)
        thread.join(timeout_s)

    def _work(self) -> None:
        keep_one_openmp_thread()
        while True:
            try:
                job = self._queue.get(timeout=30.0)
            except queue.Empty:
                with self._lock:
                    if self._queue.empty():
                        self.builder.kill()
                        self._thread = None
                        return
                continue
            if job is None or self._closing:
                return
            self._job = job
            try:
                self._decide(job)
            except Interrupted:
                job.reason = "stopped by the user"
            except (BuildError, ArtifactError, CaptureError) as error:
                job.reason = error.message
            except OSError as error:
                job.reason = f"the builder could not work: {error.strerror or error}"
            except Exception as error:  # an error of ours costs a speed-up, never the user's session
                job.reason = f"an error of deepseek_lab's own: {type(error).__name__}: {error}"
            self._job = None
            job.runner.decided = True
            job.runner.release()
            job.done(job)

    # -- one job ----------------------------------------------------------------------------------

    def _decide(self, job: Job) -> None:
        runner = job.runner
        if runner.refusal is not None:
            job.reason = runner.refusal
            return
        problem = runner.problem()
        weights = runner.weights_now()
        guard = WeightGuard(weights)
        chosen = registry.select(job.names)
        key = quietly(lambda: self._key(problem, chosen))
        with self._only_one(key, job):
            entry = quietly(lambda: self.store.get(key))
            if entry is None or not self._reuse(job, entry, chosen, guard):
                self._build_all(job, key, problem, chosen, guard)
        if guard.changed(weights) is not None:
            runner.uninstall()
            # A graph that updates its own buffers was refused for that, which says more.
            job.chosen, job.reason = "eager", job.reason or "the weights changed while candidates were built"

    def _key(self, problem: Problem, chosen: dict[str, Candidate]) -> Key:
        spec = problem.spec
        return Key.of(
            graph=spec.graph_key,
            weights=weights_digest(problem.weights),
            threads=str(spec.num_threads),
            candidates=",".join(sorted(chosen)),
            versions=",".join(f"{name} {version}" for name, version in sorted(machine.versions().items())),
            processor=f"{machine.processor()} {machine.features()}",
        )

    @contextlib.contextmanager
    def _only_one(self, key: Key, job: Job) -> Iterator[None]:
        """Let one kernel at a time build an entry; the others wait and then find it."""
        self.store.root.mkdir(parents=True, exist_ok=True)
        with (self.store.root / f".lock-{key.digest}").open("w") as handle:
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if job.stop.wait(0.1):
                        raise Interrupted("stopped by the user") from None
            yield

    def _reuse(self, job: Job, entry: Entry, chosen: dict[str, Candidate], guard: WeightGuard) -> bool:
        """Install what the store remembers; False when it cannot be loaded."""
        record = entry.record
        name = record["chosen"]
        if name != "eager":
            try:
                spec = job.runner.problem().spec
                program = quietly(lambda: chosen[name].load(entry.directory, spec))
            except Exception as error:  # a backend's own failure to load: build again instead
                job.emit(
                    ev.Noted(run=job.run, text=f"the stored {name} did not load ({error}); building again")
                )
                return False
            order = tuple(None if one is None else tuple(one) for one in record["output_order"])
            job.runner.install(chosen[name], program, guard, order)
            job.runner.artifact = entry.directory
        for data in record["candidates"]:
            event = ev.from_dict({**data, "run": job.run, "graph": job.runner.graph_id, "cached": True})
            job.emit(event)
            if isinstance(event, ev.CandidateEnded) and event.candidate == name:
                job.ratio = Ratio(
                    event.speedup or 1.0,
                    event.speedup_ci95 or (1.0, 1.0),
                    event.eager_ms or 0.0,
                    event.median_ms or 0.0,
                    0,
                )
        job.chosen, job.reason = name, record["reason"]
        if name != "eager":
            self._announce(job, chosen[name])
        return True

    def _build_all(
        self, job: Job, key: Key, problem: Problem, chosen: dict[str, Candidate], guard: WeightGuard
    ) -> None:
        scratch = self.store.scratch()
        try:
            quietly(lambda: problem.save(scratch / "problem"))
            analysis = self._open(job, scratch)
            ended: dict[str, ev.CandidateEnded] = {}
            built: dict[str, _Built] = {}
            if analysis.refusal is not None:
                job.reason = analysis.refusal
            else:
                self._build_each(job, problem, chosen, guard, scratch, analysis, ended, built)
                self._settle(job, guard, analysis, ended, built)
            for event in ended.values():
                job.emit(event)
            self._remember(job, key, analysis, ended, built)
        finally:
            with contextlib.suppress(BuildError):
                if self.builder.pid is not None and not job.stop.is_set():
                    self.builder.ask("close", budget_s=30.0)
            shutil.rmtree(scratch, ignore_errors=True)

    def _open(self, job: Job, scratch: Path) -> Analysis:
        try:
            found = self.builder.ask(
                "open", str(scratch / "problem"), budget_s=settings.build_budget_s, stop=job.stop.is_set
            )
        except (BuilderDied, BuilderTimeout, Interrupted):
            raise
        except BuildError as error:
            raise BuildError(f"the builder could not open the graph: {error.message}") from error
        assert isinstance(found, Analysis)
        return found

    def _build_each(
        self,
        job: Job,
        problem: Problem,
        chosen: dict[str, Candidate],
        guard: WeightGuard,
        scratch: Path,
        analysis: Analysis,
        ended: dict[str, ev.CandidateEnded],
        built: dict[str, _Built],
    ) -> None:
        best = 1.0
        for name, candidate in chosen.items():

            def verdict(status: str, reason: str = "", **numbers: Any) -> ev.CandidateEnded:
                return ev.CandidateEnded(
                    run=job.run,
                    graph=job.runner.graph_id,
                    candidate=name,  # noqa: B023 - used within this turn of the loop only
                    status=status,
                    reason=reason,
                    **numbers,
                )

            if (absent := candidate.missing()) is not None:
                ended[name] = verdict("skipped", f"the package {absent} is not installed")
                continue
            if (why := candidate.refuse(problem.spec)) is not None:
                ended[name] = verdict("skipped", why)
                continue
            job.emit(ev.CandidateStarted(run=job.run, graph=job.runner.graph_id, candidate=name))
            directory = scratch / name
            directory.mkdir()
            start = time.monotonic()
            try:
                build_s, found = self._make(job, name, directory, scratch)
            except Interrupted:
                ended[name] = verdict("skipped", "stopped by the user", build_s=time.monotonic() - start)
                break
            except BuilderTimeout as error:
                ended[name] = verdict("failed", error.message, build_s=time.monotonic() - start)
                continue
            except BuildError as error:
                kind, _, words = error.message.partition(": ")
                status = ("skipped", words) if kind == NotApplicable.__name__ else ("failed", error.message)
                ended[name] = verdict(*status, build_s=time.monotonic() - start)
                continue
            numbers: dict[str, Any] = {
                "build_s": build_s,
                "max_rel_error": found.max_rel_error,
                "eager_rel_error": found.eager_rel_error,
            }
            if not found.ok:
                ended[name] = verdict("refused", found.detail, **numbers)
                continue
            if job.chosen == "eager" and self._crowded:
                # The user's own calls are the better judge, and at once: see Dispatcher.advance.
                built[name] = _Built(
                    candidate, directory, found, build_s, Ratio(1.0, (0.0, 0.0), 0.0, 0.0, 0)
                )
                if self._install(job, built[name], guard, analysis):
                    job.advanced()
            try:
                ratio = self.builder.ask(
                    "race", [name], FIRST_RACE_S, budget_s=settings.build_budget_s, stop=job.stop.is_set
                )[name]
            except Interrupted:
                ended[name] = verdict("skipped", "stopped by the user", **numbers)
                break
            except BuildError as error:
                ended[name] = verdict("failed", error.message, **numbers)
                built.pop(name, None)
                if job.chosen == name:
                    job.runner.uninstall()
                    job.chosen = "eager"
                continue
            ended[name] = verdict("lost", **numbers, **_times(ratio))
            built[name] = _Built(candidate, directory, found, build_s, ratio)
            # The user's own calls will tell; here it is enough that there is reason to try.
            if ratio.speedup > max(settings.min_gain, best * 1.05):
                best = ratio.speedup
                if self._install(job, built[name], guard, analysis):
                    job.advanced()

    def _make(self, job: Job, name: str, directory: Path, scratch: Path) -> tuple[float, Agreement]:
        """Build and verify one candidate, in a builder that has the problem open."""
        stop = job.stop.is_set
        if self.builder.pid is None:
            self._open(job, scratch)
        build_s = self.builder.ask("build", name, str(directory), budget_s=settings.build_budget_s, stop=stop)
        found = self.builder.ask("check", name, str(directory), budget_s=settings.build_budget_s, stop=stop)
        assert isinstance(found, Agreement)
        return float(build_s), found

    def _install(self, job: Job, built: _Built, guard: WeightGuard, analysis: Analysis) -> bool:
        spec = job.runner.problem().spec
        try:
            program = quietly(lambda: built.candidate.load(built.directory, spec))
        except Exception as error:  # loading is the backend's own code in the user's process
            job.emit(ev.Noted(run=job.run, text=f"{built.candidate.name} could not be loaded here: {error}"))
            return False
        if guard.changed(job.runner.weights_now()) is not None:
            return False
        job.runner.install(built.candidate, program, guard, analysis.output_order)
        job.chosen, job.ratio = built.candidate.name, built.ratio
        self._announce(job, built.candidate)
        return True

    def _announce(self, job: Job, candidate: Candidate) -> None:
        assert job.runner.spec is not None
        job.emit(
            ev.PlanChosen(
                run=job.run,
                graph=job.runner.graph_id,
                candidate=candidate.name,
                code=candidate.plan(job.runner.spec),
            )
        )

    def _settle(
        self,
        job: Job,
        guard: WeightGuard,
        analysis: Analysis,
        ended: dict[str, ev.CandidateEnded],
        built: dict[str, _Built],
    ) -> None:
        """Race those that are near the best once more, all in one go, and install the winner."""
        if not built:
            if not any(event.status == "refused" for event in ended.values()):
                job.reason = job.reason or "no candidate could run this graph"
            return
        fastest = max(one.ratio.speedup for one in built.values())
        finalists = [n for n, one in built.items() if one.ratio.speedup >= FINAL_RACE_SHARE * fastest]
        if not job.stop.is_set():
            try:
                ratios = self._race_again(finalists, built, job)
            except BuildError:
                ratios = {}
            for name, ratio in ratios.items():
                built[name] = dataclasses.replace(built[name], ratio=ratio)
                ended[name] = dataclasses.replace(ended[name], **_times(ratio))
        name = max(finalists, key=lambda n: built[n].ratio.speedup)
        if (self._crowded or job.stop.is_set()) and job.chosen in built and job.proven():
            # Between the user's calls the builder measured next to nothing, and those calls have decided.
            ended[job.chosen] = dataclasses.replace(ended[job.chosen], status="won")
            return
        if built[name].ratio.ci95[0] <= settings.min_gain:
            job.runner.uninstall()
            job.chosen, job.reason = "eager", ""
            return
        if job.chosen != name and not self._install(job, built[name], guard, analysis):
            return
        job.chosen, job.ratio = name, built[name].ratio
        ended[name] = dataclasses.replace(ended[name], status="won")

    def _race_again(self, finalists: list[str], built: dict[str, _Built], job: Job) -> dict[str, Ratio]:
        if self.builder.pid is None:
            self._open(job, next(iter(built.values())).directory.parent)
            for name in finalists:
                self.builder.ask("check", name, str(built[name].directory), budget_s=settings.build_budget_s)
        answer: dict[str, Ratio] = self.builder.ask(
            "race",
            finalists,
            settings.race_budget_s,
            budget_s=settings.build_budget_s,
            stop=job.stop.is_set,
        )
        return answer

    def _remember(
        self,
        job: Job,
        key: Key,
        analysis: Analysis,
        ended: dict[str, ev.CandidateEnded],
        built: dict[str, _Built],
    ) -> None:
        """Keep the verdict and the winner's artefact, unless the search was cut short."""
        if job.stop.is_set() or any(event.status == "failed" for event in ended.values() if _passing(event)):
            return
        scratch = built[job.chosen].directory if job.chosen in built else self.store.scratch()
        record = {
            "chosen": job.chosen,
            "reason": job.reason,
            "output_order": analysis.output_order,
            "candidates": [event.to_dict() for event in ended.values()],
        }
        try:
            job.runner.artifact = quietly(lambda: self.store.put(key, scratch, record)).directory
        except ArtifactError as error:
            job.emit(ev.Noted(run=job.run, text=f"not remembered for the next kernel: {error.message}"))


def _passing(event: ev.CandidateEnded) -> bool:
    """Whether a failure says nothing about the next try: the builder died, or ran out of time or space."""
    return any(word in event.reason for word in ("builder", "budget", "No space", "MemoryError"))


def _times(ratio: Ratio) -> dict[str, Any]:
    return {
        "median_ms": ratio.median_ms,
        "eager_ms": ratio.base_ms,
        "speedup": ratio.speedup,
        "speedup_ci95": ratio.ci95,
    }
