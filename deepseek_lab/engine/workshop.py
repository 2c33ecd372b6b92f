"""The background side of the engine: one thread that turns captured graphs into installed programs.

For each graph: look in the store; otherwise have the builder build, verify and race the candidates, best
expected gain first. The first verified win is installed at once, the best one in the end.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import queue
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from torch import Tensor

from deepseek_lab.base import events as ev
from deepseek_lab.base.errors import ArtifactError, BuildError, CaptureError
from deepseek_lab.base.settings import settings
from deepseek_lab.engine import candidates as registry
from deepseek_lab.engine.background import Meter, come_forward, keep_one_openmp_thread, quietly
from deepseek_lab.engine.builder import Builder, Interrupted
from deepseek_lab.engine.candidates import Candidate, Program
from deepseek_lab.engine.digests import Ahead, weights_digest
from deepseek_lab.engine.guards import WeightGuard
from deepseek_lab.engine.problem import Problem, Spec
from deepseek_lab.engine.runtime import GraphRunner
from deepseek_lab.engine.search import Job, Search
from deepseek_lab.engine.store import LOCK, Entry, Key, Store
from deepseek_lab.engine.training.search import TrainingJob, TrainingSearch
from deepseek_lab.measure import machine
from deepseek_lab.measure.race import Ratio


class Workshop:
    """Runs jobs one after the other in a daemon thread."""

    def __init__(self, store: Store | None = None) -> None:
        self.store = store or Store()
        self.builder = Builder()
        self._queue: queue.Queue[Job | Literal["prepare"] | None] = queue.Queue()
        self._waiting: list[Job] = []
        """Jobs that were taken from the queue and not begun; the thread's own."""
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._job: Job | None = None
        self._meter: Meter | None = None
        self._closing = False
        self._building = False
        self._ahead = Ahead()
        self._loaded: tuple[str, Entry, Program] | None = None
        """What was loaded while the call was captured, with the digest of its key."""

    @property
    def starving(self) -> bool:
        """Whether work is under way that gets next to no processor time."""
        meter = self._meter
        return self._job is not None and meter is not None and meter.starving()

    @property
    def _crowded(self) -> bool:
        return self._meter is not None and self._meter.crowded

    def prepare(self, weights: Sequence[Tensor]) -> None:
        """A graph over some of these weights is about to be captured: start what it will need."""
        self._ahead.start(weights, self._folder_for)
        self._put("prepare")

    def _folder_for(self, total: str) -> Path | None:
        """Where to save weights for the builder; None where they were built for before.

        Then what was won with them is loaded, for the graph that is being captured is most likely the same again.
        """
        digest = self.store.marked(total)
        entry = self.store.get(digest) if digest else None
        if digest is None or entry is None:
            return self.store.scratch()
        candidate = registry.registered().get(entry.record["chosen"])
        if candidate is not None and candidate.missing() is None:
            try:
                program = candidate.load(entry.directory, Spec.from_dict(entry.record["spec"]))
            except Exception:  # the job that needs it loads it again, and tells why that fails
                return None
            self._loaded = (digest, entry, program)
        return None

    def submit(self, job: Job) -> None:
        """Queue a job; returns at once."""
        self._ahead.stand_back()
        self._put(job)

    def await_answer(self, runner: GraphRunner, timeout_s: float) -> None:
        """Let the caller wait until the store's program for a graph is installed or there is none.

        Meanwhile the work has the ordinary priority, since nothing of the user's runs. Not while the builder is busy.
        """
        until = time.monotonic() + timeout_s
        runner.awaited = True
        try:
            while not runner.looked_up.wait(0.01):
                if self._building or self._thread is None or time.monotonic() > until:
                    return
        finally:
            runner.awaited = False

    def _put(self, item: Job | Literal["prepare"]) -> None:
        with self._lock:
            self._queue.put(item)
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

    def _next(self) -> Job | Literal["prepare"] | None:
        """What to do next: of several graphs the one whose calls have taken the user most time.

        Raises:
            queue.Empty: for a while there was nothing.
        """
        while True:
            try:
                item = self._queue.get(timeout=0.0 if self._waiting else 30.0)
            except queue.Empty:
                if not self._waiting:
                    raise
                hottest = max(self._waiting, key=lambda job: job.spent_s())
                self._waiting.remove(hottest)
                return hottest
            if not isinstance(item, Job):
                return item
            self._waiting.append(item)

    def _work(self) -> None:
        keep_one_openmp_thread()
        while True:
            try:
                job = self._next()
            except queue.Empty:
                with self._lock:
                    if self._queue.empty():
                        self._ahead.drop()
                        self._loaded = None  # loaded for a call in which nothing was captured
                        self.builder.kill()
                        self._thread = None
                        return
                continue
            if job is None or self._closing:
                return
            if job == "prepare":
                with contextlib.suppress(OSError):  # told by the job that needs it
                    self.builder.start()
                continue
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
            self._building = False
            job.runner.looked_up.set()
            job.runner.decided = True
            job.runner.release()
            job.done(job)
            del job  # this thread may wait for long, and a job holds the user's weights

    # -- one job ----------------------------------------------------------------------------------

    def _decide(self, job: Job) -> None:
        runner = job.runner
        if isinstance(job, TrainingJob):
            self._building = True
            TrainingSearch(job, self.builder, self.store).run()
            return
        if runner.refusal is not None:
            job.reason = runner.refusal
            return
        if runner.trains:
            self._ahead.release(runner.weights_now())
            return
        problem = runner.problem()
        weights = runner.weights_now()
        guard = WeightGuard(weights)
        chosen = registry.select(job.names)
        key = quietly(lambda: self._key(problem, weights, chosen), awaited=runner.is_awaited)
        try:
            with self._only_one(key, job):
                self._ahead.finish(weights)
                loaded = self._loaded
                if loaded is not None and loaded[0] == key.digest:
                    found = self._reuse(job, loaded[1], chosen, guard, loaded[2])
                else:
                    entry = quietly(lambda: self.store.get(key), awaited=runner.is_awaited)
                    found = entry is not None and self._reuse(job, entry, chosen, guard)
                runner.looked_up.set()
                if not found:
                    self._building = True
                    self._build_all(job, key, problem, chosen, guard, weights)
            if self._ahead.total and not job.stop.is_set():
                self.store.mark(self._ahead.total, key)
        finally:
            self._loaded = None
            self._ahead.release(weights)
        if guard.changed(weights) is not None:
            runner.uninstall()
            # A graph that updates its own buffers was refused for that, which says more.
            job.chosen, job.reason = "eager", job.reason or "the weights changed while candidates were built"

    def _key(self, problem: Problem, weights: Sequence[Tensor], chosen: dict[str, Candidate]) -> Key:
        spec = problem.spec
        return Key.of(
            graph=spec.graph_key,
            weights=weights_digest(weights, self._ahead),
            threads=str(spec.num_threads),
            candidates=",".join(sorted(chosen)),
            versions=",".join(f"{name} {version}" for name, version in sorted(machine.versions().items())),
            processor=f"{machine.processor()} {machine.features()}",
        )

    @contextlib.contextmanager
    def _only_one(self, key: Key, job: Job) -> Iterator[None]:
        """Let one kernel at a time build an entry; the others wait and then find it."""
        self.store.root.mkdir(parents=True, exist_ok=True)
        with (self.store.root / f"{LOCK}{key.digest}").open("w") as handle:
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if job.stop.wait(0.1):
                        raise Interrupted("stopped by the user") from None
            yield

    def _reuse(
        self,
        job: Job,
        entry: Entry,
        chosen: dict[str, Candidate],
        guard: WeightGuard,
        loaded: Program | None = None,
    ) -> bool:
        """Install what the store remembers; False when it cannot be loaded."""
        record = entry.record
        name = record["chosen"]
        if name != "eager":
            try:
                program = job.load(chosen[name], entry.directory, loaded)
            except Exception as error:  # a backend's own failure to load: build again instead
                job.emit(
                    ev.Noted(run=job.run, text=f"the stored {name} did not load ({error}); building again")
                )
                return False
            order = tuple(None if one is None else tuple(one) for one in record["output_order"])
            job.runner.install(chosen[name], program, guard, order)
            job.runner.artifact = entry.directory
            if (live := record.get("live")) is not None:
                job.runner.remembered = Ratio(
                    live["speedup"], tuple(live["speedup_ci95"]), live["eager_ms"], live["median_ms"], 0
                )
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
            job.runner.sure = job.ratio is None or job.ratio.ci95[0] > settings.min_gain
            job.announce(chosen[name])
        return True

    def _build_all(
        self,
        job: Job,
        key: Key,
        problem: Problem,
        chosen: dict[str, Candidate],
        guard: WeightGuard,
        weights: Sequence[Tensor],
    ) -> None:
        scratch = self.store.scratch()
        try:
            folder = scratch / "problem"
            folder.mkdir()
            weights_at = self._ahead.claim(weights, folder)
            quietly(lambda: problem.save(folder, weights_at))
            search = Search(job, self.builder, problem, guard, scratch, lambda: self._crowded)
            search.run(chosen)
            self._remember(job, key, search, problem)
        finally:
            with contextlib.suppress(BuildError):
                if self.builder.pid is not None and not job.stop.is_set():
                    self.builder.ask("close", budget_s=30.0)
            shutil.rmtree(scratch, ignore_errors=True)

    def _remember(self, job: Job, key: Key, search: Search, problem: Problem) -> None:
        """Keep the verdict and the winner's artefact, unless the search was cut short."""
        if job.stop.is_set() or any(
            event.status == "failed" for event in search.ended.values() if _passing(event)
        ):
            return
        scratch = search.built[job.chosen].directory if job.chosen in search.built else self.store.scratch()
        record = {
            "chosen": job.chosen,
            "reason": job.reason,
            "spec": problem.spec.to_dict(),
            "output_order": search.analysis.output_order,
            "candidates": [event.to_dict() for event in search.ended.values()],
        }
        try:
            job.runner.artifact = quietly(lambda: self.store.put(key, scratch, record)).directory
        except ArtifactError as error:
            job.emit(ev.Noted(run=job.run, text=f"not remembered for the next kernel: {error.message}"))


def _passing(event: ev.CandidateEnded) -> bool:
    """Whether a failure says nothing about the next try: the builder died, or ran out of time or space."""
    return any(word in event.reason for word in ("builder", "budget", "No space", "MemoryError"))
