"""A search: small trials, of which the best go on, whole ones, and the best few beside the defaults."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
import statistics
import threading
import time
import uuid
from collections.abc import Sequence
from typing import Any

from deepseek_lab.base import events as ev
from deepseek_lab.base.errors import DeepseekError
from deepseek_lab.base.search import SearchReport
from deepseek_lab.hpo.comparison import Comparison, Repeated, Repeats, num_runs
from deepseek_lab.hpo.ladder import WHOLE, Ladder, Rung, rungs
from deepseek_lab.hpo.record import Entry, Record, StudyChanged, new_config
from deepseek_lab.hpo.replay import ended_event, space_event
from deepseek_lab.hpo.sampling import Draw, Judged, Sampling, suits
from deepseek_lab.hpo.spaces import Plain, Space
from deepseek_lab.hpo.trial import Job, Outcome
from deepseek_lab.hpo.workers import Task, Workers, random_streams, workers
from deepseek_lab.processes.sealed import Sealed

_RESERVED = 1 / 3
"""Of the time, at most this much is kept for the final comparison."""
_TELL_S = 0.25
"""Shortest time between two words on what one trial has reached."""
_LOOK_S = 0.5
_MOST_TEXT = 8_000
_JUDGE_S = 10.0


class CellFails(DeepseekError):
    """The cell does not run with its own defaults; ``text`` is its traceback."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.error)
        self.outcome = outcome


@dataclasses.dataclass(frozen=True)
class Options:
    """What a search is to do.

    With neither ``trials`` nor ``limit_s``, :data:`TRIALS` configurations are tried.
    """

    metrics: tuple[str, ...]
    directions: tuple[str, ...]
    final: str | None = None
    trials: int | None = None
    limit_s: float | None = None
    limit_cost: float | None = None
    """In whole trials."""
    target: float | None = None
    """Of the first metric: the search ends when a whole trial reaches it."""
    workers: int = 1
    sampler: str = "auto"
    schedule: str = "auto"
    """``ladder``, ``whole`` (no small trials), or ``auto``: the ladder where the cell can be made small."""
    seed: int = 0
    repeats: int = 3
    timeout_s: float | None = None
    changed: bool = False
    """Whether the study was made with another cell, whose trials are kept."""
    first: tuple[dict[str, Plain], ...] = ()
    """Configurations of another study, which are tried before others."""
    first_of: str = ""
    """The name of that study."""


TRIALS = 40


@dataclasses.dataclass(frozen=True)
class Kept:
    """What the cell made in the trial that was best."""

    payload: list[Any]
    left: dict[str, str]
    """Why names could not be sent."""
    params: dict[str, Plain]


class Search:
    """One run of a search.

    Args:
        task: The cell.
        sealed: What it begins with.
        options: What to do.
        record: Where trials are kept.
        log: Told of everything.
        run: Name of this run in the log.
    """

    def __init__(
        self, task: Task, sealed: Sealed, options: Options, record: Record, log: ev.EventLog, run: str = ""
    ) -> None:
        self._task, self._sealed, self._options = task, sealed, options
        self._record, self._log = record, log
        self.run_id = run or uuid.uuid4().hex[:12]
        self.result = SearchReport()
        """What is known so far."""
        self._largest = options.directions[0] == "max"
        num = options.trials if options.trials or options.limit_s else TRIALS
        self._ladder = Ladder((WHOLE,), self._largest, num)
        first = "tpe" if options.sampler == "auto" else options.sampler
        self._near = options.sampler == "auto"
        with random_streams():  # packages draw from them when they are imported
            self._sampling = Sampling(
                first, options.seed, options.directions, near=self._near, first=options.first
            )
        self._numbers = itertools.count()
        self._jobs: dict[int, _Running] = {}
        self._entries: list[Entry] = []
        self._whole_times: collections.deque[float] = collections.deque(maxlen=32)
        self._own: set[tuple[str, float]] = set()
        """Trials of this run, which are read again from the study."""
        self._params: dict[str, dict[str, Plain]] = {}
        self._told: set[str] = set()
        self._told_s: dict[int, float] = {}
        self._judged_s = 0.0
        self._until_s = math.inf
        self._known = False
        """Whether the defaults have run, so that it is known how small the cell can be made."""
        self._num_steps = 0
        """At which a whole trial reports."""
        self._old_names: set[str] = set()
        self._stop = threading.Event()
        self._pruned: set[int] = set()
        self._lock = threading.Lock()

    def stop(self) -> None:
        """End the search soon; may be called from another thread. What has ended stays."""
        self._stop.set()

    def prune(self, trial: int) -> None:
        """End a trial when it says how far it is the next time; may be called from another thread."""
        with self._lock:
            self._pruned.add(trial)

    def _emit(self, event: ev.Event) -> None:
        self.result.add(event)
        self._log.emit(event)

    def _note(self, text: str) -> None:
        self._emit(ev.Noted(run=self.run_id, text=text))

    # The whole of it.

    def run(self) -> Kept | None:
        """Search; returns what the cell made in the best trial, None where that was interrupted or there is none.

        Raises:
            CellFails: the cell does not run with its defaults.
            StudyChanged: the study has other ranges.
        """
        with random_streams():
            return self._run()

    def _run(self) -> Kept | None:
        options = self._options
        began_s = time.monotonic()
        found = self._record.news()
        self._emit(
            ev.SearchStarted(
                run=self.run_id,
                study=self._record.name,
                metrics=options.metrics,
                directions=options.directions,
                num_trials=self._ladder.num,
                limit_s=options.limit_s,
                num_workers=options.workers,
                sampler=options.sampler,
                num_found=len(found),
            )
        )
        self._old_names = set(self._record.spaces)
        for entry in found:
            self._take(entry)
        if found:
            self._sampling.reseed(self._fresh_seed())
        if options.limit_s is not None:
            self._until_s = began_s + options.limit_s
        places: Workers | None = None
        reason = ""
        try:
            places = workers(self._task, self._sealed, self, options.workers, options.timeout_s)
            self._search(places)
            if self._stop.is_set():
                reason = "stopped"
                return None
            return self._compare(places)
        except KeyboardInterrupt:
            reason = "interrupted"
            return None
        except BaseException as error:
            reason = type(error).__name__
            raise
        finally:
            if places is not None:
                places.close()
            self._close(reason)

    def _close(self, reason: str) -> None:
        for number, running in list(self._jobs.items()):
            self._emit(ended_event(self.run_id, number, running.entry(Outcome("abandoned"))))
        self._jobs.clear()
        self._record.flush()
        if self._record.failed:
            self._note(
                f"{len(self._record.unsaved)} trials could not be written to {self._record.where} "
                f"({self._record.failed}); they are lost with this kernel"
            )
        self._judge(final=True)
        self._emit(ev.RunEnded(run=self.run_id, reason=reason))

    def _search(self, places: Workers) -> None:
        """Until the schedule has nothing more to run."""
        while not self._stop.is_set():
            begun = False
            while places.free() and self._begin_next(places):
                begun = True
            if not begun and not self._jobs:
                return
            self._hear(places)
            if self._enough():
                return

    def _enough(self) -> bool:
        options = self._options
        if options.limit_cost is not None and self.result.cost >= options.limit_cost:
            return True
        if options.target is None or (best := self.result.best) is None:
            return False
        return best.values[0] >= options.target if self._largest else best.values[0] <= options.target

    def _hear(self, places: Workers) -> None:
        for job, outcome in places.ended(_LOOK_S):
            self._end(job, outcome)
        for entry in self._record.news():
            if (entry.config, entry.at_s) not in self._own:
                self._take(entry)
        self._judge()

    # What runs next.

    def _begin_next(self, places: Workers) -> bool:
        options = self._options
        if not self._known and "defaults" not in {one.purpose for one in self._jobs.values()}:
            self._begin(places, "defaults", _DEFAULTS, self._ladder.top, None)
            return True
        if not self._known and len(self._jobs) >= options.workers:
            return False
        if not self._ladder.closing and self._late(self._small_s()):
            self._ladder.closing = True
        step = self._ladder.next()
        if step is None:
            return False
        rung = self._ladder.sizes[step.rung]
        if step.config is not None:
            if self._late(rung.cost * self._whole_s()):
                return False
            self._begin(places, "search", step.config, step.rung, None)
            return True
        config = new_config()
        self._begin(places, "search", config, step.rung, self._sampling.draw(config))
        return True

    def _begin(self, places: Workers, purpose: str, config: str, rung: int, draw: Draw | None) -> None:
        size = self._ladder.sizes[rung]
        if purpose == "defaults":
            config = new_config()
        job = Job(next(self._numbers), self._options.seed, size.turns, size.share)
        self._ladder.begin(config, rung)
        self._jobs[job.number] = _Running(
            config, purpose, rung, size, draw, dict(self._params.get(config, {}))
        )
        self._told_of(job.number)
        places.begin(job)

    def _told_of(self, number: int) -> None:
        running = self._jobs[number]
        self._emit(
            ev.TrialBegan(
                run=self.run_id,
                trial=number,
                config=running.config,
                purpose=running.purpose,
                cost=running.size.cost,
            )
        )

    def _late(self, seconds: float) -> bool:
        """Whether a trial of so many seconds would run into the time that the comparison needs."""
        if math.isinf(self._until_s):
            return False
        options = self._options
        limit_s = options.limit_s or math.inf
        runs = num_runs(options.repeats)
        kept_s = min(_RESERVED * limit_s, math.ceil(runs / max(1, options.workers)) * self._whole_s())
        return time.monotonic() + seconds > self._until_s - kept_s

    def _whole_s(self) -> float:
        return statistics.median(self._whole_times) if self._whole_times else 0.0

    def _small_s(self) -> float:
        return self._ladder.sizes[0].cost * self._whole_s()

    # What trials ask.

    def ask(self, job: Job, name: str, space: Space) -> Plain:
        """The value of a range in a trial."""
        running = self._jobs[job.number]
        known = self._record.known(name, space)
        self._tell_space(known, space)
        if known not in running.params:
            if running.draw is not None:
                running.params[known] = running.draw.suggest(known, space)
            else:
                running.params[known] = space.default
        return running.params[known]

    def report(self, job: Job, step: int, value: float) -> bool:
        """What a trial has reached; whether it may go on."""
        number = job.number
        running = self._jobs[number]
        now = time.monotonic()
        if now - self._told_s.get(number, 0.0) > _TELL_S:
            self._told_s[number] = now
            self._emit(ev.TrialReported(run=self.run_id, trial=number, step=step, value=value))
        with self._lock:
            if number in self._pruned:
                return False
        if running.purpose != "search":
            return True
        if self._ladder.stops and running.draw is not None:
            return self._ladder.reached(running.config, step, value)
        return True

    # What has become of them.

    def _end(self, job: Job, outcome: Outcome) -> None:
        running = self._jobs.pop(job.number)
        entry = self._sized(running.entry(outcome, job))
        self._emit(ended_event(self.run_id, job.number, entry))
        if running.purpose == "defaults" and outcome.status != "complete":
            self._ladder.abandon(running.config)
            raise CellFails(outcome)
        if running.purpose == "defaults" and self._options.changed:
            self._check_ranges(running)
        self._own.add((entry.config, entry.at_s))
        self._record.add(entry)
        self._take(entry)

    def _sized(self, entry: Entry) -> Entry:
        """A trial that did not come to its end is as large as what it has reported."""
        num = self._num_steps
        if entry.status == "complete" or not num or not entry.curve:
            return entry
        rungs = [rung for rung, size in enumerate(self._ladder.sizes) if size.step in dict(entry.curve)]
        part = min(1.0, len(entry.curve) / num)
        return dataclasses.replace(entry, turns=part * entry.turns, rung=max(rungs, default=0))

    def _check_ranges(self, running: _Running) -> None:
        """Another cell may go on with a study only where its ranges are the same."""
        if self._old_names and (other := set(running.params) - self._old_names):
            raise StudyChanged(
                f"study {self._record.name} has other ranges: {sorted(other)[0]} is new or has changed",
                hint="--name with another name, or --on-change restart, which forgets its trials",
            )

    def _take(self, entry: Entry) -> None:
        """Take up a trial that has ended, of this run, an earlier one, or another kernel."""
        own = entry.number < 0
        self._entries.append(entry)
        self._params.setdefault(entry.config, entry.params)
        if entry.whole and entry.status == "complete":
            self._whole_times.append(entry.seconds)
        if not own:
            self._replay(entry)
        if entry.purpose == "repeat":
            return
        shows = own or not self._options.changed  # a cell that has changed shows its ranges first
        if entry.purpose == "defaults" and entry.status == "complete" and shows and not self._known:
            self._found(entry)
        self._ladder.end(entry.config, self._values(entry), entry.violation)
        if self._ladder.top:
            self._sampling.judge(self._placed(), self._record.spaces)
        else:
            self._sampling.add(self._judged(entry), self._record.spaces)

    def _replay(self, entry: Entry) -> None:
        """Tell of a trial that another run has done."""
        for name in entry.params:
            self._tell_space(name, self._record.spaces[name])
        self._emit(ended_event(self.run_id, next(self._numbers), entry))

    def _tell_space(self, name: str, space: Space) -> None:
        if name not in self._told:
            self._told.add(name)
            self._emit(space_event(self.run_id, name, space))

    def _values(self, entry: Entry) -> dict[int, float | None]:
        """What a trial says for the rungs of the ladder."""
        ladder = self._ladder
        rung = min(entry.rung, ladder.top)
        if entry.status == "failed":
            return {rung: None}
        curve = dict(entry.curve)
        found: dict[int, float | None] = {}
        for below, size in enumerate(ladder.sizes[:-1]):
            if size.step is not None and size.step in curve:
                found[below] = curve[size.step]
        if entry.status == "complete":
            found[rung] = entry.value
        return found

    def _found(self, entry: Entry) -> None:
        """The defaults have run: how small the cell can be made is known, and so is what suits it."""
        self._known = True
        options = self._options
        single = len(options.metrics) == 1
        steps = [step for step, _ in entry.curve]
        self._num_steps = len(steps)
        small = single and options.schedule != "whole"
        sizes = rungs(steps, entry.num_turns, entry.loads) if small else (WHOLE,)
        if len(sizes) == 1 and small:
            self._note(
                "the cell has no loop whose turns assign the metric and loads no data of which a share can be taken, "
                "so all trials run whole; ds.epochs(n) in its loop or ds.subset(data) make small ones possible"
            )
        old = self._ladder
        self._ladder = Ladder(sizes, self._largest, old.num)
        for one in old.configs.values():
            if one.running is not None:
                self._ladder.begin(one.name, self._ladder.top)
        for running in self._jobs.values():
            running.rung = self._ladder.top
        for earlier in self._entries[:-1]:
            if earlier.purpose != "repeat":
                self._ladder.end(earlier.config, self._values(earlier), earlier.violation)
        if options.first_of:
            self._note_first(set(entry.params))
        name = options.sampler
        if name == "auto":
            small_s = self._ladder.sizes[0].cost * entry.seconds
            name = suits(small_s, self._ladder.num, self._record.spaces)
        if name != self._sampling.name or self._ladder.top:
            told = ("min",) if self._ladder.top else options.directions
            left = self._sampling.first
            self._sampling = Sampling(name, self._fresh_seed(), told, near=self._near, first=left)
            for earlier in self._entries[:-1]:
                if earlier.purpose != "repeat" and not self._ladder.top:
                    self._sampling.add(self._judged(earlier), self._record.spaces)

    def _note_first(self, names: set[str]) -> None:
        options = self._options
        shared = names & {name for one in options.first for name in one}
        if not shared:
            self._sampling.first = []
            self._note(f"study {options.first_of} has no range of this cell, so nothing of it is tried first")
            return
        missing = f", but for {', '.join(sorted(names - shared))}" if names - shared else ""
        self._note(f"the best {len(options.first)} of study {options.first_of} are tried first{missing}")

    def _fresh_seed(self) -> int:
        """Another one whenever something is known: a search that goes on does not draw again what it drew at first."""
        return self._options.seed + 7_919 * len(self._entries)

    def _placed(self) -> list[Judged]:
        """All configurations as the sampler is to see them where trials differ in size: by their places."""
        return [
            Judged(name, self._params[name], (place,), self._ladder.configs[name].violation)
            for name, place in self._ladder.order().items()
        ]

    def _judged(self, entry: Entry) -> Judged:
        """A configuration as the sampler is to see it where all trials run whole."""
        values = entry.values if entry.status == "complete" else None
        if values is None and entry.value is not None:
            values = (entry.value,) * len(self._options.metrics)
        return Judged(entry.config, entry.params, values, entry.violation)

    def _judge(self, *, final: bool = False) -> None:
        """Say now and then how well small trials tell what whole ones give, and what matters."""
        now = time.monotonic()
        if not final and now - self._judged_s < _JUDGE_S:
            return
        self._judged_s = now
        ranks = []
        for rung in range(self._ladder.top):
            agreement = self._ladder.agreement(rung)
            if agreement.num >= 3:
                cost = self._ladder.sizes[rung].cost
                ranks.append(ev.Rank(cost, agreement.correlation, agreement.num))
                if agreement.poor and "poor" not in self._told:
                    self._told.add("poor")
                    self._note(
                        f"trials of {cost:.0%} tell little about whole ones here (rank correlation "
                        f"{agreement.correlation:.2f} over {agreement.num}), so more of them run whole"
                    )
        importances = self._sampling.importances() if len(self._options.metrics) == 1 else {}
        self._emit(ev.SearchJudged(run=self.run_id, ranks=tuple(ranks), importances=importances))

    # The best few beside the defaults.

    def _compare(self, places: Workers) -> Kept | None:
        """Run the best few and the defaults again with fresh seeds; keep what the best one made."""
        options = self._options
        if len(options.metrics) > 1 or options.repeats < 1 or self.result.defaults is None:
            return None
        comparison = Comparison(
            self._entries,
            largest=self._largest,
            apart=options.final is not None,
            seed=options.seed,
            repeats=options.repeats,
        )
        each_s = self._whole_s()
        if each_s and not math.isinf(self._until_s):
            left_s = self._until_s - time.monotonic()
            comparison.fit(left_s // each_s * max(1, options.workers))
        verdict = comparison.decide(
            lambda entries, seeds, unseen: self._repeat(places, entries, seeds, unseen)
        )
        if verdict.compared is not None:
            self._emit(ev.SearchCompared(run=self.run_id, compared=verdict.compared))
            self._record.say(compared=dataclasses.asdict(verdict.compared))
        if verdict.best is comparison.defaults:
            unseen = verdict.compared is not None and verdict.compared.unseen
            where = "" if not unseen else " on data that the search never saw"
            self._note(
                f"no configuration was better than the defaults with fresh seeds{where}: these are kept"
            )
        self._record.say(best=verdict.best.config)
        given = None if verdict.number is None else places.give(verdict.number)
        return None if given is None else Kept(*given, dict(verdict.best.params))

    def _repeat(
        self, places: Workers, entries: Sequence[Entry], seeds: Sequence[int], unseen: bool
    ) -> Repeats:
        """Run configurations whole with these seeds, all with a seed before any with the next."""
        left = [(entry, seed) for seed in seeds for entry in entries]
        wanted = {(entry.config, seed) for entry, seed in left}
        found: Repeats = {}
        running: dict[int, tuple[str, int]] = {}
        while (left or running) and not self._stop.is_set():
            while left and places.free():
                entry, seed = left.pop(0)
                job = Job(next(self._numbers), seed, final=unseen, keep=True)
                self._jobs[job.number] = _Running(
                    entry.config, "repeat", self._ladder.top, WHOLE, None, dict(entry.params)
                )
                self._told_of(job.number)
                running[job.number] = (entry.config, seed)
                places.begin(job)
            for job, outcome in places.ended(_LOOK_S):
                key = running.pop(job.number)
                self._end(job, outcome)
                if outcome.status == "complete" and key in wanted:
                    found[key] = Repeated(self._entries[-1], job.number)
        return found

    @property
    def params(self) -> dict[str, dict[str, Plain]]:
        """Values by configuration."""
        return dict(self._params)


_DEFAULTS = "defaults"


@dataclasses.dataclass
class _Running:
    """A trial under way."""

    config: str
    purpose: str
    rung: int
    size: Rung
    draw: Draw | None
    params: dict[str, Plain]

    def entry(self, outcome: Outcome, job: Job | None = None) -> Entry:
        """The trial as it has ended."""
        printed = f"\n{outcome.printed}" if outcome.printed else ""
        return Entry(
            config=self.config,
            purpose=self.purpose,
            params=self.params,
            status=outcome.status,
            values=tuple(outcome.values),
            final=outcome.final,
            curve=tuple(outcome.curve),
            constraints=tuple(outcome.constraints),
            turns=self.size.turns,
            share=self.size.share,
            rung=self.rung,
            unseen=job is not None and job.final,
            seed=0 if job is None else job.seed,
            num_turns=outcome.num_turns,
            loads=outcome.loads,
            halves=outcome.halves,
            seconds=outcome.seconds,
            error=outcome.error,
            text=(outcome.text + printed)[-_MOST_TEXT:],
            line=outcome.line,
        )
