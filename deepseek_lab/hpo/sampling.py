"""Optuna's samplers, told what the schedule thinks of each configuration.

A sampler sees a study of its own in memory: the best and the latest configurations, each with one value. So its cost
does not grow with the number of trials, and small trials and whole ones can be put in one order.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
import random
import warnings
from collections.abc import Sequence
from typing import Literal

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from deepseek_lab.base.errors import MissingPackageError
from deepseek_lab.hpo import nearby
from deepseek_lab.hpo.record import distribution
from deepseek_lab.hpo.spaces import Plain, Space

SAMPLERS = ("tpe", "gp", "cmaes", "random")
DEAR_S = 5.0
"""A trial that takes longer is worth a Gaussian process, whose choice takes a quarter of a second."""
MAX_GP = 200
_MOST, _BEST, _LATEST = 240, 60, 120
_STARTS = 10
"""Configurations at random before the sampler has enough to go by."""
NEAR = 0.5
"""Of configurations, the part that is a step from one of the best."""
ELITE = 0.1
"""The best of those that are known, as a part of them."""
_MOST_ELITE = 30
_ATTEMPTS = 4
"""At a step to where nobody has been."""
_VIOLATION = "violation"


@dataclasses.dataclass(frozen=True)
class Judged:
    """A configuration as a sampler sees it."""

    config: str
    params: dict[str, Plain]
    values: tuple[float, ...] | None
    """None for one that failed."""
    violation: float = 0.0
    """By how much it breaks its constraints; 0 where it meets them."""


class Draw:
    """A configuration that is being chosen, value by value."""

    def __init__(self, config: str, study: optuna.Study, wanted: dict[str, Plain] | None = None) -> None:
        self.config, self.study = config, study
        self.wanted = wanted
        """What it is to be before anybody has asked for it; None where that is left to the sampler."""
        self.trial = study.ask()
        self.params: dict[str, Plain] = {}

    def suggest(self, name: str, space: Space) -> Plain:
        """A value for one name."""
        if name not in self.params:
            self.params[name] = self._suggest(name, space)
        return self.params[name]

    def _suggest(self, name: str, space: Space) -> Plain:
        match space.kind:
            case "log" | "uniform":
                log, step = space.kind == "log", space.step or None
                return self.trial.suggest_float(name, space.low, space.high, step=step, log=log)
            case "integer" | "log-integer":
                log, whole = space.kind == "log-integer", int(space.step)
                return self.trial.suggest_int(name, int(space.low), int(space.high), step=whole, log=log)
            case _:
                return self.trial.suggest_categorical(name, space.labels)


class Sampling:
    """A sampler and what it goes by.

    Args:
        name: One of :data:`SAMPLERS`.
        seed: Of its choices.
        directions: ``min`` or ``max`` for each value.
        near: Whether every other configuration is a step from one of the best instead of what the sampler chooses.
        first: Values of configurations that come before all others; where a range has no such value, it is chosen.
    """

    def __init__(
        self,
        name: str,
        seed: int,
        directions: Sequence[str],
        *,
        near: bool = False,
        first: Sequence[dict[str, Plain]] = (),
    ) -> None:
        self.name, self._seed, self._steps = name, seed, near and len(directions) == 1
        self.first = list(first)
        """What is left of these."""
        self._draw = random.Random(seed)
        self._ranges: frozenset[str] | None = None
        self._grouped = False
        """Whether each set of ranges that are asked for together is chosen from by itself, which takes longer."""
        self._size = 0
        """Trials of the study."""
        self._directions: list[Literal["minimize", "maximize"]] = [
            "maximize" if one == "max" else "minimize" for one in directions
        ]
        self._sampler = self._made(name, seed)
        self._spaces: dict[str, Space] = {}
        self._known: dict[str, Judged] = {}
        self._running: dict[str, Draw] = {}
        self._places: dict[str, int] = {}
        """Trials that stand for running ones, which were drawn from a study that was put aside."""
        self._study = self._new_study()

    def _made(self, name: str, seed: int) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            match name:
                case "tpe":
                    return optuna.samplers.TPESampler(
                        n_startup_trials=_STARTS,
                        multivariate=True,
                        group=self._grouped,
                        constant_liar=True,
                        seed=seed,
                    )
                case "gp":
                    return optuna.samplers.GPSampler(seed=seed, n_startup_trials=_STARTS)
                case "cmaes":
                    try:
                        __import__("cmaes")
                    except ImportError:
                        raise MissingPackageError(
                            "cmaes", extra="hpo", needed_for="--sampler cmaes"
                        ) from None
                    return optuna.samplers.CmaEsSampler(seed=seed)
                case _:
                    return optuna.samplers.RandomSampler(seed=seed)

    def _new_study(self) -> optuna.Study:
        return optuna.create_study(
            storage=optuna.storages.InMemoryStorage(), directions=self._directions, sampler=self._sampler
        )

    def reseed(self, seed: int) -> None:
        """Go on with other random numbers."""
        self._seed = seed
        self._draw = random.Random(seed)
        self._study.sampler = self._sampler = self._made(self.name, seed)

    def draw(self, config: str) -> Draw:
        """Begin to choose a configuration."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            if (wanted := self._first() or self._near()) is not None:
                self._study.enqueue_trial(wanted)
            made = Draw(config, self._study, wanted)
        self._size += 1
        self._running[config] = made
        return made

    def _first(self) -> dict[str, Plain] | None:
        """The next of those that come first and have not been tried, as far as the ranges have such values."""
        while self.first and self._spaces:  # not before a trial has shown them
            given = self.first.pop(0).items()
            wanted = {
                name: one for name, one in given if name in self._spaces and self._spaces[name].holds(one)
            }
            tried = [one.params for one in self._known.values()]
            tried += [draw.wanted or draw.params for draw in self._running.values()]
            if wanted and not any(wanted.items() <= one.items() for one in tried):
                return wanted
        return None

    def _near(self) -> dict[str, Plain] | None:
        """Every now and then a step from one of the best."""
        if not self._steps or self._draw.random() >= NEAR:
            return None
        known = [one for one in self._known.values() if one.values is not None]
        if not known:
            return None
        best = self._ordered(known, min(_MOST_ELITE, math.ceil(ELITE * len(known))))
        taken = [one.params for one in known]
        taken += [draw.wanted or draw.params for draw in self._running.values()]
        for _ in range(_ATTEMPTS):
            found = nearby.step(self._draw.choice(best).params, self._spaces, self._draw)
            if found not in taken:
                return found
        return None

    def add(self, one: Judged, spaces: dict[str, Space]) -> None:
        """Take up a configuration that has ended."""
        self._spaces = spaces
        again = self._known.get(one.config)
        self._known[one.config] = one
        if self._depends(one) or (self.name != "cmaes" and (self._size > _MOST or again not in (None, one))):
            self._rebuild(list(self._known.values()))
        elif again is None:
            draw = self._running.pop(one.config, None)
            if draw is not None and draw.study is self._study:
                self._tell(draw, one)
            else:
                self._clear(one.config)
                self._study.add_trial(self._frozen(one))
                self._size += 1

    def judge(self, found: Sequence[Judged], spaces: dict[str, Space]) -> None:
        """Take up what is thought of all configurations that have ended, in the order in which they came."""
        self._spaces = spaces
        self._known = {one.config: one for one in found}
        for one in found:
            self._depends(one)
        self._rebuild(found)

    def _depends(self, one: Judged) -> bool:
        """Whether it shows for the first time that ranges depend on each other: not all of them were asked for."""
        if self._ranges is None:
            self._ranges = frozenset(one.params)
        if self._grouped or one.values is None or self._ranges == frozenset(one.params):
            return False
        self._grouped = True
        if self.name == "tpe":
            self._sampler = self._made(self.name, self._seed + 1)
        return True

    def _tell(self, draw: Draw, one: Judged) -> None:
        draw.trial.set_constraint(_VIOLATION, one.violation)
        if one.values is None:
            self._study.tell(draw.trial, state=TrialState.FAIL)
        else:
            self._study.tell(draw.trial, list(one.values))

    def forget(self, config: str) -> None:
        """A configuration that was drawn will not be judged."""
        draw = self._running.pop(config, None)
        if draw is not None and draw.study is self._study:
            self._study.tell(draw.trial, state=TrialState.FAIL)
        self._clear(config)

    def _clear(self, config: str) -> None:
        if config in self._places:
            self._study.tell(self._places.pop(config), state=TrialState.FAIL)

    def importances(self) -> dict[str, float]:
        """Share of the variance of what it is told that each range explains (PED-ANOVA, arXiv 2304.10255)."""
        done = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(done) < _STARTS:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = optuna.importance.get_param_importances(
                    self._study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
                )
            except (ValueError, RuntimeError):  # all are equal, or no range is in all trials
                return {}
        return {name: float(one) for name, one in found.items() if math.isfinite(one)}

    def _rebuild(self, found: Sequence[Judged]) -> None:
        for one in found:
            self._running.pop(one.config, None)
        self._study = self._new_study()
        kept = [one for one in found if one.values is not None]
        if len(kept) > _BEST + _LATEST:
            best = self._best(kept)
            latest = {one.config for one in kept[-_LATEST:]}
            kept = [one for one in kept if one.config in latest or one.config in best]
        self._study.add_trials([self._frozen(one) for one in kept])
        self._size = len(kept)
        self._places = {}
        for draw in self._running.values():
            self._places[draw.config] = self._size
            self._size += 1
            self._study.add_trial(
                create_trial(
                    state=TrialState.RUNNING,
                    params=draw.params,
                    distributions={name: distribution(self._spaces[name]) for name in draw.params},
                )
            )

    def _best(self, kept: Sequence[Judged]) -> set[str]:
        if len(self._directions) > 1:
            return set()
        return {one.config for one in self._ordered(kept, _BEST)}

    def _ordered(self, kept: Sequence[Judged], num: int) -> list[Judged]:
        """So many by the first value, the best first."""
        sign = -1.0 if self._directions[0] == "maximize" else 1.0
        return heapq.nsmallest(
            num, kept, key=lambda one: (one.violation, sign * (one.values or (math.inf,))[0])
        )

    def _frozen(self, one: Judged) -> FrozenTrial:
        return create_trial(
            state=TrialState.FAIL if one.values is None else TrialState.COMPLETE,
            values=None if one.values is None else list(one.values),
            params=one.params,
            distributions={name: distribution(self._spaces[name]) for name in one.params},
            constraints={_VIOLATION: one.violation},
        )


def suits(small_s: float, num_trials: int | None, spaces: dict[str, Space]) -> str:
    """The sampler for trials that take so long each.

    Trees of Parzen estimators (arXiv 2304.11127) where trials are cheap or many or ranges depend on each other, a
    Gaussian process where each is dear.
    """
    dear = small_s > DEAR_S and (num_trials or MAX_GP + 1) <= MAX_GP
    return "gp" if dear and 0 < len(spaces) <= 20 else "tpe"
