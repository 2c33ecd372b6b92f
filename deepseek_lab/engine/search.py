"""The search for one graph: candidates built, verified and raced in the builder, the best of them installed."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepseek_lab.base import events as ev
from deepseek_lab.base.errors import BuildError
from deepseek_lab.base.settings import settings
from deepseek_lab.engine.background import quietly
from deepseek_lab.engine.builder import Builder, BuilderDied, BuilderTimeout, Interrupted
from deepseek_lab.engine.builder_process import FIRST_RACE_S, Analysis
from deepseek_lab.engine.candidates import Candidate, NotApplicable, Program
from deepseek_lab.engine.guards import WeightGuard
from deepseek_lab.engine.problem import Problem
from deepseek_lab.engine.runtime import GraphRunner
from deepseek_lab.engine.verify import Agreement
from deepseek_lab.measure.race import Ratio

FINAL_RACE_SHARE = 0.9
"""Candidates slower than this share of the best are not raced again."""
HOPELESS = 0.8
"""Below this share of the best a candidate rules out those that do less."""
WORTH_TRYING = 1.05
"""A candidate this much faster than the best so far is installed while the search goes on."""


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
    spent_s: Callable[[], float] = lambda: 0.0
    """Seconds that calls have taken meanwhile: of several graphs that wait, the one with most comes first."""
    ratio: Ratio | None = None
    chosen: str = "eager"
    reason: str = ""

    @property
    def over(self) -> bool:
        """Whether nobody waits for it any more: stopped by the user, or the graph turned out to train."""
        return self.stop.is_set() or self.runner.trains

    def load(self, candidate: Candidate, directory: Path, loaded: Program | None = None) -> Program:
        """Load a candidate here and get it ready: backends pack weights and allocate at their first call.

        The user's next call shall not wait for that. ``loaded`` is the program where it was loaded before.
        """
        problem = self.runner.problem()

        def ready() -> Program:
            program = loaded or candidate.load(directory, problem.spec)
            candidate.warm(program, problem)
            return program

        return quietly(ready, awaited=self.runner.is_awaited)

    def announce(self, candidate: Candidate) -> None:
        """Tell what is installed from now on."""
        assert self.runner.spec is not None
        self.emit(
            ev.PlanChosen(
                run=self.run,
                graph=self.runner.graph_id,
                candidate=candidate.name,
                code=candidate.plan(self.runner.spec),
            )
        )


@dataclasses.dataclass
class Built:
    """A candidate that was verified."""

    candidate: Candidate
    directory: Path
    agreement: Agreement
    build_s: float
    ratio: Ratio


class Search:
    """Finds the best candidate for one job's graph.

    Attributes:
        built: Verified candidates by name.
        ended: The verdict on each candidate so far; told as events when they are reached and when they change.
    """

    def __init__(
        self,
        job: Job,
        builder: Builder,
        problem: Problem,
        guard: WeightGuard,
        scratch: Path,
        crowded: Callable[[], bool],
    ) -> None:
        self.job, self.built = job, dict[str, Built]()
        self.ended: dict[str, ev.CandidateEnded] = {}
        self._builder, self._problem, self._guard, self._scratch = builder, problem, guard, scratch
        self._crowded = crowded
        self._best = 1.0
        self._shares: dict[str, float] = {}
        """Speed in times of the best at that time, where it was measured."""
        self._num_blocks: int | None = None
        """How often the graph repeats a block; None where nobody looked."""
        self.analysis = self._open()

    def run(self, chosen: dict[str, Candidate]) -> None:
        """Try candidates one after the other, then install the winner.

        Raises:
            BuildError: nothing could be tried at all.
        """
        if self.analysis.refusal is not None:
            self.job.reason = self.analysis.refusal
            return
        for candidate in chosen.values():
            if not self._try(candidate):
                break
        self._settle()

    def _open(self) -> Analysis:
        self._num_blocks = None
        try:
            found = self._ask("open", str(self._scratch / "problem"))
        except (BuilderDied, BuilderTimeout, Interrupted):
            raise
        except BuildError as error:
            raise BuildError(f"the builder could not open the graph: {error.message}") from error
        assert isinstance(found, Analysis)
        return found

    def _ask(self, method: str, *arguments: Any) -> Any:
        return self._builder.ask(
            method, *arguments, budget_s=settings.build_budget_s, stop=lambda: self.job.over
        )

    def _verdict(self, name: str, status: str, reason: str = "", **numbers: Any) -> None:
        event = ev.CandidateEnded(
            run=self.job.run,
            graph=self.job.runner.graph_id,
            candidate=name,
            status=status,
            reason=reason,
            **numbers,
        )
        self._tell(event)

    def _tell(self, event: ev.CandidateEnded) -> None:
        if self.ended.get(event.candidate) != event:
            self.ended[event.candidate] = event
            self.job.emit(event)

    def _try(self, candidate: Candidate) -> bool:
        """Build, verify and race one candidate, and install it where it is the best. False ends the search."""
        name = candidate.name
        if (absent := candidate.missing()) is not None:
            self._verdict(name, "skipped", f"the package {absent} is not installed")
            return True
        if (why := candidate.refuse(self._problem.spec)) is not None:
            self._verdict(name, "skipped", why)
            return True
        try:
            why = self._hopeless(candidate)
        except Interrupted:
            self._verdict(name, "skipped", "stopped by the user")
            return False
        if why is not None:
            self._verdict(name, "skipped", why)
            return True
        self.job.emit(ev.CandidateStarted(run=self.job.run, graph=self.job.runner.graph_id, candidate=name))
        directory = self._scratch / name
        directory.mkdir()
        start = time.monotonic()
        numbers: dict[str, Any] = {}
        try:
            build_s, found = self._make(name, directory)
            numbers = {
                "build_s": build_s,
                "max_rel_error": found.max_rel_error,
                "eager_rel_error": found.eager_rel_error,
            }
            if not found.ok:
                self._verdict(name, "refused", found.detail, **numbers)
                return True
            if self.job.chosen == "eager" and self._crowded():
                # The user's own calls are the better judge, and at once: see Dispatcher.advance.
                self.built[name] = Built(
                    candidate, directory, found, build_s, Ratio(1.0, (0.0, 0.0), 0.0, 0.0, 0)
                )
                self._install_and_tell(self.built[name])
            ratio = self._ask("race", [name], FIRST_RACE_S)[name]
        except Interrupted:
            numbers.setdefault("build_s", time.monotonic() - start)
            self._verdict(name, "skipped", "stopped by the user", **numbers)
            return False
        except BuildError as error:
            numbers.setdefault("build_s", time.monotonic() - start)
            kind, _, words = error.message.partition(": ")
            status = ("skipped", words) if kind == NotApplicable.__name__ else ("failed", error.message)
            self._verdict(name, *status, **numbers)
            self._withdraw(name)
            return True
        self._verdict(name, "lost", **numbers, **times(ratio))
        self.built[name] = Built(candidate, directory, found, build_s, ratio)
        # The user's own calls will tell; here it is enough that there is reason to try.
        if ratio.speedup > max(settings.min_gain, self._best * WORTH_TRYING):
            self._best = ratio.speedup
            if self.job.chosen != name:
                self._install_and_tell(self.built[name])
        return True

    def _hopeless(self, candidate: Candidate) -> str | None:
        """What was measured that tells a candidate need not be built; None where it may win."""
        if not self.built:
            return None
        best = max(self.built, key=lambda name: self.built[name].ratio.speedup)
        better = candidate.outdone_by or ""
        if better in self.built:
            self._shares[better] = self.built[better].ratio.speedup / self.built[best].ratio.speedup
        if self._shares.get(better, 1.0) < HOPELESS:
            return f"not built: {better}, which does the same and more, was at {self._shares[better]:.2f} of the best"
        if candidate.long_to_build and (share := self._share_on_block(candidate.name, best)) < HOPELESS:
            return (
                f"not built: on the block that the graph repeats {self._num_blocks} times it was at {share:.2f} of "
                f"{best}"
            )
        return None

    def _share_on_block(self, name: str, best: str) -> float:
        """How fast a candidate is in times of the best so far, on a block that the graph repeats; 1 where unknown."""
        try:
            if self._builder.pid is None:
                self._open()
            if self._num_blocks is None:
                self._num_blocks = int(self._ask("block", settings.block_bytes))
            if not self._num_blocks:
                return 1.0
            share = float(self._ask("share", name, best, str(self._scratch / "block"), FIRST_RACE_S))
        except Interrupted:
            raise
        except (
            BuildError
        ):  # what it cannot do on a block it is asked for on the whole, and the reason is told then
            return 1.0
        self._shares[name] = share
        return share

    def _make(self, name: str, directory: Path) -> tuple[float, Agreement]:
        """Build and verify one candidate, in a builder that has the problem open."""
        if self._builder.pid is None:
            self._open()
        build_s = self._ask("build", name, str(directory))
        found = self._ask("check", name, str(directory))
        assert isinstance(found, Agreement)
        return float(build_s), found

    def _withdraw(self, name: str) -> None:
        self.built.pop(name, None)
        if self.job.chosen == name:
            self.job.runner.uninstall()
            self.job.chosen = "eager"

    def _install_and_tell(self, built: Built) -> None:
        if self._install(built):
            self.job.advanced()

    def _install(self, built: Built) -> bool:
        job, name = self.job, built.candidate.name
        try:
            program = job.load(built.candidate, built.directory)
        except Exception as error:  # loading is the backend's own code in the user's process
            job.emit(ev.Noted(run=job.run, text=f"{name} could not be loaded here: {error}"))
            return False
        if self._guard.changed(job.runner.weights_now()) is not None:
            return False
        job.runner.install(built.candidate, program, self._guard, self.analysis.output_order)
        job.runner.sure = built.ratio.ci95[0] > settings.min_gain
        job.chosen, job.ratio = name, built.ratio
        job.announce(built.candidate)
        return True

    def _settle(self) -> None:
        """Race those that are near the best once more, all in one go, and install the winner."""
        job, built = self.job, self.built
        if not built:
            if not any(event.status == "refused" for event in self.ended.values()):
                job.reason = job.reason or "no candidate could run this graph"
            return
        finalists = self._final() if not job.stop.is_set() else list(built)
        name = max(finalists, key=lambda n: built[n].ratio.speedup)
        if (self._crowded() or job.stop.is_set()) and job.chosen in built and job.proven():
            # Between the user's calls the builder measured next to nothing, and those calls have decided.
            self._tell(dataclasses.replace(self.ended[job.chosen], status="won"))
            return
        if built[name].ratio.speedup <= settings.min_gain:
            job.runner.uninstall()
            job.chosen, job.reason = "eager", ""
            return
        if job.chosen != name and not self._install(built[name]):
            return
        job.chosen, job.ratio = name, built[name].ratio
        # Where the interval reaches down to eager the user's calls decide: see Dispatcher.advance.
        job.runner.sure = job.ratio.ci95[0] > settings.min_gain
        self._tell(dataclasses.replace(self.ended[name], status="won"))

    def _final(self) -> list[str]:
        """Race those that are near the best in one go; again with others where that shows the best as slower."""
        finalists: list[str] = []
        while True:
            fastest = max(one.ratio.speedup for one in self.built.values())
            near = [n for n, one in self.built.items() if one.ratio.speedup >= FINAL_RACE_SHARE * fastest]
            if set(near) <= set(finalists):
                return finalists
            finalists = [name for name in self.built if name in near or name in finalists]
            raced = self._race_again(finalists)
            for name, ratio in raced.items():
                self.built[name] = dataclasses.replace(self.built[name], ratio=ratio)
                self._tell(dataclasses.replace(self.ended[name], **times(ratio)))
            if not raced:
                return finalists

    def _race_again(self, finalists: list[str]) -> dict[str, Ratio]:
        try:
            if self._builder.pid is None:
                self._open()
                for name in finalists:
                    self._ask("check", name, str(self.built[name].directory))
            answer: dict[str, Ratio] = self._ask("race", finalists, settings.race_budget_s)
        except BuildError:
            return {}
        return answer


def times(ratio: Ratio) -> dict[str, Any]:
    """A ratio in the fields of ``CandidateEnded``."""
    return {
        "median_ms": ratio.median_ms,
        "eager_ms": ratio.base_ms,
        "speedup": ratio.speedup,
        "speedup_ci95": ratio.ci95,
    }
