"""What a training bears: batch sizes by memory and throughput, then learning rates, on copies in another process."""

from __future__ import annotations

import contextlib
import copyreg
import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from deepseek_lab.base.errors import DeepseekError, TargetError
from deepseek_lab.base.limits import MARGIN, BatchRow, LimitsReport, RateCurve, number
from deepseek_lab.base.sizes import above, words
from deepseek_lab.hpo.limits import curve
from deepseek_lab.hpo.limits.job import Job, Outcome, Seen, Task, Turn
from deepseek_lab.hpo.limits.process import Child, OutOfTime, Unmade
from deepseek_lab.hpo.limits.sizes import Sizes, Tried
from deepseek_lab.measure.room import free_bytes
from deepseek_lab.processes import travel
from deepseek_lab.processes.sealed import Sealed

TIME_S = 60.0
AUTO_SHARE = 0.9
"""Of what is free, what ``auto`` lets a training take."""
_WARM = 2
"""Steps before those that count: the first one makes the optimizer's state."""
_LEAST, _MOST = 5, 40
"""Steps that are timed."""
_HALF = 0.5
"""Of the time that is left, at most this much is kept for learning rates."""
_RUNS = ((3, 100), (2, 100), (2, 60), (1, 60), (1, 40))
"""Runs with growing learning rates, and steps of each: what there is time for."""
_LEAST_STEPS = 30
"""With fewer, learning rates stand too far apart."""
_SHORT = {"tight": "leaves too little", "killed": "ended its process"}
_ENDS_S = 0.5
"""Kept for the end of a phase."""


class CellFails(DeepseekError):
    """The cell does not run as it is."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    limit_bytes: int | None = None
    """What the training may hold: the whole process, or on a GPU what is reserved there. None takes what is free."""
    time_s: float = TIME_S
    seed: int = 0
    timed_s: float = 1.0
    """For so long, and for at least five, steps are timed at each batch size."""


def sealed(names: dict[str, Any], wanted: Collection[str]) -> Sealed:
    """Names of a notebook for another process; nothing of them is changed.

    Raises:
        TargetError: one of them cannot travel.
    """
    values = {name: names[name] for name in sorted(wanted)}
    lost = {name: _lost(one) for name, one in values.items() if isinstance(one, torch.optim.Optimizer)}
    with _workers_left():
        try:
            return Sealed(travel.pack({"names": values, "lost": lost}, names))
        except Exception as error:
            for name, why in travel.unsendable(values, names).items():
                raise TargetError(
                    f"{name}, which the cell uses, is a {type(names[name]).__name__} that cannot be sent to another "
                    f"process ({why})",
                    hint=f"make {name} in the cell itself",
                ) from None
            raise TargetError(f"what the cell uses cannot be sent to another process ({error})") from None


def _nothing() -> Any:
    """What another process has in the place of something that cannot travel and is not missed."""


@contextlib.contextmanager
def _workers_left() -> Iterator[None]:
    """While it is open, loaders travel without the workers that they keep from one pass to the next."""
    before = copyreg.dispatch_table.get(_MultiProcessingDataLoaderIter)
    copyreg.pickle(_MultiProcessingDataLoaderIter, lambda workers: (_nothing, ()))
    try:
        yield
    finally:
        if before is None:
            copyreg.dispatch_table.pop(_MultiProcessingDataLoaderIter, None)
        else:
            copyreg.dispatch_table[_MultiProcessingDataLoaderIter] = before


def _lost(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What an optimizer has beside what pickling keeps of it, such as the ``_params`` of LBFGS."""
    kept = {"defaults", "state", "param_groups", "step"}
    ours = ("_optimizer_", "_zero_grad_", "_warned_", "_need_device_", "_opt_called")
    return {
        name: one for name, one in vars(optimizer).items() if name not in kept and not name.startswith(ours)
    }


def task_of(source: str, file: str) -> Task:
    """A cell, to be run as this process would."""
    return Task(
        source,
        file,
        torch.get_num_threads(),
        str(torch.get_default_dtype()).removeprefix("torch."),
        torch.get_float32_matmul_precision(),
    )


class Measurement:
    """One measurement.

    Args:
        task: The cell.
        content: What it begins with.
        options: What to measure.
        told: Called when the report has changed.
        what: The cell in words.
    """

    def __init__(
        self,
        task: Task,
        content: Sealed,
        options: Options,
        told: Callable[[LimitsReport], None] = lambda report: None,
        what: str = "the cell",
    ) -> None:
        self._task, self._content, self._options, self._told = task, content, options, told
        self.report = LimitsReport(what=what, is_auto=options.limit_bytes is None)
        self._skip = 0
        """Loaders of the cell before the one with which it trains."""
        self._until_s = math.inf
        self._start_s = 0.0
        """What it takes to start a process."""
        self._setup_s = 0.0
        """What it takes to begin a job."""
        self._step_s = 0.0
        """With the loader's own batches."""
        self._total: int | None = None
        """Steps that the cell makes by itself, where it comes to its end."""
        self._auto_bytes: int | None = None

    def run(self) -> LimitsReport:
        """Measure; an interrupt ends it with what is known.

        Raises:
            CellFails: the cell does not run as it is.
            TargetError: there is nothing to measure, or too little memory for it.
        """
        began_s = time.monotonic()
        self._until_s = began_s + self._options.time_s
        report = self.report
        with Child(self._task, self._content, self._until_s, self._heard) as child:
            try:
                self._begin(child)
                if (first := self._probe(child)) is not None:
                    self._sizes(child, first)
                self._rates(child)
            except OutOfTime:
                report.reason = "time"
            except KeyboardInterrupt:
                report.reason = "interrupted"
            except Unmade as error:
                raise TargetError(f"the cell cannot be run in another process: {error}") from None
        report.doing = ""
        report.seconds = time.monotonic() - began_s
        self._say_why()
        return report

    # What is said.

    def _doing(self, text: str) -> None:
        self.report.doing = text
        self._told(self.report)

    def _heard(self, what: Seen | int) -> None:
        if not isinstance(what, Seen):
            self.report.doing = f"{self.report.doing.partition(', step')[0]}, step {what}"
        self._told(self.report)

    def _say_why(self) -> None:
        """Put words to why there is no more."""
        report = self.report
        safe = report.largest.size if report.largest is not None else 0
        bad = next((one for one in report.rows if one.status != "safe" and one.size > safe), None)
        longer = f"--time {math.ceil(2 * self._options.time_s / 10) * 10}"
        if report.rows and not report.bound:
            report.bound = "time"
        report.bound_words = {
            "memory": f"{bad.size:,} {_SHORT.get(bad.status, 'does not fit')}" if bad else "",
            "predicted": "by what these took, little more would fit",
            "data": f"the data set has {report.num_samples:,} samples" if report.num_samples else "",
            "throughput": "larger ones are no faster",
            "time": "interrupted" if report.reason == "interrupted" else f"no time for larger ones: {longer}",
            "error": f"{bad.size:,} fails: {bad.reason}" if bad else "",
        }.get(report.bound, report.bound_words)
        if report.rates is None and not report.rates_reason:
            ended = report.reason == "interrupted"
            report.rates_reason = (
                "interrupted" if ended else f"there was no time for learning rates: {longer}"
            )

    # Memory.

    def _begin(self, child: Child) -> None:
        self._doing("starting a process")
        began_s = time.monotonic()
        child.start()
        self._start_s = time.monotonic() - began_s
        report, given = self.report, self._options.limit_bytes
        report.start_bytes = start = child.start_bytes
        free = free_bytes()
        if start is not None and free is not None:
            self._auto_bytes = int(start + AUTO_SHARE * free)
        if torch.cuda.is_available():
            child.limit_bytes = self._auto_bytes  # until it is known where the cell trains
            return
        if given is not None and start is not None and given <= start:
            raise TargetError(
                f"a process with what the cell uses holds {words(start)} before the first step, "
                f"which leaves nothing of {words(given)}",
                hint=f"--memory {above(start)} or more",
            )
        report.limit_bytes = child.limit_bytes = given or self._auto_bytes

    def _trains_on(self, child: Child, seen: Seen) -> None:
        """It is known where the cell trains."""
        report, given = self.report, self._options.limit_bytes
        report.device = seen.device
        if seen.room_bytes is not None:
            report.limit_bytes = given or int(AUTO_SHARE * seen.room_bytes)
            child.limit_bytes = self._auto_bytes
        else:
            report.limit_bytes = child.limit_bytes = given or self._auto_bytes

    @property
    def _room_bytes(self) -> int | None:
        """What a safe batch holds at most."""
        limit = self.report.limit_bytes
        return None if limit is None else int((1 - MARGIN) * limit)

    @property
    def _allowed_bytes(self) -> int | None:
        """What allocations are held to."""
        return self._options.limit_bytes if torch.cuda.is_available() else self.report.limit_bytes

    def _job(self, size: int | None, *, timed: bool, until_s: float) -> Job:
        return Job(
            steps=_LEAST if timed else 1,
            most=_MOST if timed else 1,
            seconds=self._options.timed_s if timed else 0.0,
            warm=_WARM,
            size=size,
            skip=self._skip,
            limit_bytes=self._allowed_bytes,
            seed=self._options.seed,
            until_s=until_s - time.monotonic(),
        )

    # Batch sizes.

    def _probe(self, child: Child) -> Tried | None:
        """Run the cell with its own batches; None where others cannot be tried."""
        self._doing("its own batches")
        now = time.monotonic()
        outcome = child.ask(self._job(None, timed=True, until_s=now + (self._until_s - now) / 3))
        seen, report = outcome.seen, self.report
        self._require(outcome)
        if seen.optimizer:
            self._trains_on(child, seen)
        self._know(outcome)
        report.own, report.num_samples, self._skip = seen.own, seen.num_samples, seen.skip
        turns = outcome.turns
        self._step_s = _median_s(turns) if turns else outcome.seconds
        self._setup_s = max(outcome.seconds - self._step_s * outcome.num_turns, 0.0)
        if outcome.status == "ended":
            self._total = outcome.num_turns
        if seen.own is not None and not seen.fixed:
            row = self._row(seen.own, outcome)
            report.put(row)
            self._told(report)
            return self._tried(row)
        report.bound = "fixed"
        report.bound_words = (
            seen.fixed or "no loop over a DataLoader was seen, so that batches are as they are"
        )
        if turns and turns[0].samples:
            report.own = turns[0].samples
            report.put(self._row(report.own, outcome))
        return None

    def _require(self, outcome: Outcome) -> None:
        """See that the cell trains something with its own batches."""
        seen = outcome.seen
        if outcome.status == "failed":
            raise CellFails(f"{outcome.text or outcome.error}\n\nThe cell fails as it is.")
        if outcome.status in {"memory", "killed"} and (seen.own is None or seen.fixed):
            raise CellFails(f"The cell does not run as it is: {outcome.error}.")
        if outcome.status in {"done", "ended"} and not outcome.num_turns:
            raise TargetError(
                "the cell ended without a step of an optimizer of torch.optim, so that there is nothing to measure",
                hint="%%deepseek limits above a training loop",
            )

    def _know(self, outcome: Outcome) -> None:
        """Note the optimizers, where they have stepped."""
        report, seen = self.report, outcome.seen
        report.optimizer, report.num_groups = seen.optimizer, seen.num_groups
        if seen.num_optimizers > 1:
            report.notes.append(
                f"{seen.num_optimizers} optimizers step: their learning rates were moved alike, and a loss is the mean "
                "of all that backward() was called on"
            )
        self._losses(outcome)

    def _losses(self, outcome: Outcome) -> None:
        """See whether there is a loss that learning rates can be judged by."""
        report, first = self.report, outcome.first_loss
        if outcome.status not in {"done", "ended"}:
            return
        if outcome.seen.rateless:
            report.rates_reason = outcome.seen.rateless
        elif not outcome.num_backwards:
            report.rates_reason = "no loss was found: nothing called backward() before the optimizer's step"
        elif first is None:
            report.rates_reason = "no loss was found: backward() was not called on a tensor of one number"
        elif not math.isfinite(first):
            report.rates_reason = (
                f"the loss is {first} before any update: %%deepseek inspect says where that begins"
            )

    def _sizes(self, child: Child, first: Tried) -> None:
        """Try batch sizes until memory, data, time or what they bring ends it."""
        report, own = self.report, self.report.own
        assert own is not None
        left_s = self._until_s - time.monotonic()
        kept_s = 0.0 if report.rates_reason else min(_HALF * left_s, self._run_s(_RUNS[0][1]) * _RUNS[0][0])
        until_s = self._until_s - kept_s - _ENDS_S
        search = Sizes(own, report.num_samples, self._room_bytes)
        search.next(lambda size, timed: True)
        search.add(first)

        def affordable(size: int, timed: bool) -> bool:
            again_s = 0.0 if child.alive else self._start_s
            steps = _WARM + (_LEAST if timed else 1)
            return time.monotonic() + again_s + self._setup_s + steps * self._guess_s(size) < until_s

        while (one := search.next(affordable)) is not None:
            self._doing(f"batch {one.size:,}")
            outcome = child.ask(self._job(one.size, timed=one.timed, until_s=until_s))
            if report.optimizer == "" and outcome.seen.optimizer:
                self._trains_on(child, outcome.seen)
                self._know(outcome)
                search.room_bytes = self._room_bytes
            row = self._row(one.size, outcome)
            report.put(row)
            search.add(self._tried(row))
            report.bound = search.bound
            self._told(report)
        report.bound = search.bound

    def _guess_s(self, size: int) -> float:
        """What a step with so many samples takes, from that with the nearest number of them."""
        known = [(one.size, one.step_s) for one in self.report.rows if one.step_s]
        if not known:
            return self._step_s
        near, seconds = min(known, key=lambda one: abs(math.log(one[0] / size)))
        return seconds * max(size / near, 0.5 if size < near else 1.0)

    def _row(self, size: int, outcome: Outcome) -> BatchRow:
        turns, room, status = outcome.turns, self._room_bytes, outcome.status
        reason = outcome.error
        if status in {"done", "ended"} and turns:
            over = outcome.peak_bytes is not None and room is not None and outcome.peak_bytes > room
            status = "tight" if over else "safe"
        elif status in {"done", "ended"}:
            status, reason = "failed", "the data ended before so many samples came"
        row = BatchRow(size, status, outcome.peak_bytes, reason=reason)
        if len(turns) < 3:
            return dataclasses.replace(row, step_s=_median_s(turns) if turns else None)
        low, high = interval([one.seconds for one in turns])
        samples, step_s = statistics.median(one.samples for one in turns), _median_s(turns)
        return dataclasses.replace(
            row,
            samples_per_s=samples / step_s,
            interval=(samples / high, samples / low),
            step_s=step_s,
            num_steps=len(turns),
        )

    def _tried(self, row: BatchRow) -> Tried:
        peak = row.peak_bytes if row.ran else None
        return Tried(row.size, row.status == "safe", peak, row.samples_per_s, row.status == "failed")

    # Learning rates.

    def _run_s(self, steps: int) -> float:
        """What a run with growing learning rates takes."""
        return self._setup_s + self._step_s * (steps + 1)

    def _rates(self, child: Child) -> None:
        """Let the learning rate grow, with several seeds."""
        report = self.report
        if report.rates_reason:
            return
        size, report.rates_size = None, report.own
        if (own := report.row(report.own or 0)) is not None and not own.ran:
            if report.largest is None:
                report.rates_reason = "no batch size fits"
                return
            report.rates_size = size = report.largest.size
            self._step_s = self._guess_s(size)
        left_s = self._until_s - time.monotonic() - _ENDS_S - (0.0 if child.alive else self._start_s)
        fits = next((one for one in _RUNS if one[0] * self._run_s(one[1]) < left_s), None)
        if fits is None:
            return
        runs, steps = fits
        for index in range(runs):
            self._doing(f"learning rates, run {index + 1} of {runs}")
            made = self._curve(child, self._options.seed + index, steps, size)
            if made is None:
                return
            report.curves.append(made)
            self._combine()
        self._combine(last=True)

    def _curve(self, child: Child, seed: int, steps: int, size: int | None) -> RateCurve | None:
        """One run; None where none can be made, which the report then says."""
        report = self.report
        if self._total is not None:
            steps = min(steps, self._total - 1)
        if steps < _LEAST_STEPS:
            report.rates_reason = (
                f"the cell makes {steps + 1} steps, and learning rates need {_LEAST_STEPS + 1}"
            )
            return None
        rates = curve.growing(steps)
        job = Job(
            steps=steps + 1,
            most=steps + 1,
            size=size,
            skip=self._skip,
            limit_bytes=self._allowed_bytes,
            rates=rates,
            seed=seed,
        )
        outcome = child.ask(job)
        if outcome.status == "ended" and outcome.num_turns <= steps and self._total is None:
            self._total = outcome.num_turns
            return self._curve(child, seed, steps, size)
        if outcome.status in {"memory", "killed"}:
            return RateCurve(seed, (), (), (), reason=outcome.error)
        return curve_of(seed, rates, outcome)

    def _combine(self, *, last: bool = False) -> None:
        report = self.report
        found = [one.found for one in report.curves if one.found is not None]
        report.rates = curve.together(found) if found else None
        if last and not found:
            report.rates_reason = report.curves[0].reason
        if last and 0 < len(found) < len(report.curves):
            other = next(one for one in report.curves if one.found is None)
            report.notes.append(f"with seed {other.seed}: {other.reason}")
        if last and len(report.curves) > 1 and len({one.losses for one in report.curves}) == 1:
            report.notes.append("all runs are the same: the cell sets its own seed")
        self._told(report)


def curve_of(seed: int, rates: tuple[float, ...], outcome: Outcome) -> RateCurve:
    """What a run was like. A loss is what the step before it has led to."""
    losses = [one.loss for one in outcome.turns[1:] if one.loss is not None][: len(rates)]
    smooth = curve.smoothed(losses)
    told = rates[: len(losses)]
    found = curve.found(told, losses, smooth)
    reason = found if isinstance(found, str) else ""
    if curve.diverged(losses) and not reason:
        reason = f"diverged at {number(told[-1])}"
    num = len(losses)
    while num and not math.isfinite(losses[num - 1]):
        num -= 1
    return RateCurve(
        seed,
        told[:num],
        tuple(losses[:num]),
        tuple(smooth[:num]),
        None if isinstance(found, str) else found,
        reason if outcome.status != "failed" else outcome.error,
    )


def interval(seconds: Collection[float]) -> tuple[float, float]:
    """95 % interval of a median, from the order of the values; of less than 6 the least and the greatest."""
    ordered = sorted(seconds)
    num = len(ordered)
    skip = max(0, math.floor((num - 1.96 * math.sqrt(num)) / 2)) if num >= 6 else 0
    return ordered[skip], ordered[num - 1 - skip]


def _median_s(turns: Collection[Turn]) -> float:
    return statistics.median(one.seconds for one in turns)
