"""Logs of searches that the tests and the benchmark of the views show: made by seed, without any training."""

from __future__ import annotations

import dataclasses
import math
import random

from deepseek_lab.base import events as ev
from deepseek_lab.base.search import SearchReport

RANGES = (
    ev.SpaceFound(run="r", name="lr", space="log", low=1e-4, high=1e-1, default="0.00316"),
    ev.SpaceFound(run="r", name="width", space="log-integer", low=16, high=512, default="64"),
    ev.SpaceFound(run="r", name="dropout", space="uniform", low=0.0, high=0.6, default="0.3"),
    ev.SpaceFound(
        run="r", name="activation", space="choice", labels=("relu", "gelu", "silu"), default="relu"
    ),
    ev.SpaceFound(run="r", name="layers", space="integer", low=1, high=5, default="3"),
    ev.SpaceFound(run="r", name="weight_decay", space="log", low=1e-6, high=1e-2, default="0.0001"),
    ev.SpaceFound(run="r", name="momentum", space="uniform", low=0.5, high=0.99, default="0.9"),
    ev.SpaceFound(run="r", name="batch", space="choice", labels=("16", "32", "64"), default="32"),
)
DEFAULTS: dict[str, float | str] = {
    "lr": 3.16e-3, "width": 64.0, "dropout": 0.3, "activation": "relu", "layers": 3.0, "weight_decay": 1e-4,
    "momentum": 0.9, "batch": "32",
}  # fmt: skip
IMPORTANCES = dict(zip(DEFAULTS, (0.6, 0.15, 0.1, 0.05, 0.04, 0.03, 0.02, 0.01), strict=True))


@dataclasses.dataclass
class Made:
    """A search that is made up event by event.

    Args:
        metrics: What is searched for.
        directions: ``min`` or ``max`` for each.
        word: Stands in every text that a notebook can set.
        seed: Of what is drawn.
    """

    metrics: tuple[str, ...] = ("accuracy",)
    directions: tuple[str, ...] = ("max",)
    word: str = ""
    seed: int = 0
    num_workers: int = 2

    def __post_init__(self) -> None:
        self.log = ev.EventLog()
        self.num = 0
        self.at_s = 1000.0
        self._source = random.Random(self.seed)

    def begin(self, num_trials: int | None = 60, limit_s: float | None = None) -> Made:
        """The search, its ranges, and the defaults, run whole."""
        self._emit(
            ev.SearchStarted(
                run="r", study="digits" + self.word, metrics=tuple(name + self.word for name in self.metrics),
                directions=self.directions, num_trials=num_trials, limit_s=limit_s, num_workers=self.num_workers,
                sampler="tpe",
            )
        )  # fmt: skip
        for space in RANGES:
            labels = tuple(label + self.word for label in space.labels)
            self._emit(dataclasses.replace(space, name=space.name + self.word, labels=labels))
        self.trial("defaults", DEFAULTS, purpose="defaults")
        return self

    def draw(self) -> dict[str, float | str]:
        """Values of all ranges."""
        source, found = self._source, dict[str, float | str]()
        for space in RANGES:
            match space.space:
                case "choice":
                    found[space.name] = source.choice(space.labels)
                case "log" | "log-integer":
                    value = math.exp(source.uniform(math.log(space.low), math.log(space.high)))
                    found[space.name] = float(round(value)) if space.space == "log-integer" else value
                case "integer":
                    found[space.name] = float(source.randint(int(space.low), int(space.high)))
                case _:
                    found[space.name] = source.uniform(space.low, space.high)
        return found

    def values(self, params: dict[str, float | str], cost: float) -> tuple[float, ...]:
        """What a trial gives: best at a learning rate of about 0.006; a small one less."""
        lr, width = float(params["lr"]), float(params["width"])
        quality = 0.93 - 0.03 * (math.log10(lr) + 2.2) ** 2 + 0.004 * math.log2(width / 64)
        quality += self._source.gauss(0, 0.004) - 0.1 * (1 - cost)
        first = quality if self.directions[0] == "max" else 2 * (1 - quality)
        return (first, *(0.5 + width / 100 * self._source.uniform(0.9, 1.1) for _ in self.metrics[1:]))

    def trial(
        self, config: str, params: dict[str, float | str], *, purpose: str = "search", cost: float = 1.0,
        status: str = "complete", error: str = "", allowed: bool = True, steps: int = 9,
    ) -> tuple[float, ...]:  # fmt: skip
        """One trial from its begin to its end; returns what it gave."""
        self._emit(ev.TrialBegan(run="r", trial=self.num, config=config, purpose=purpose, cost=cost))
        seconds = 3 * cost * self._source.uniform(0.8, 1.2)
        self.at_s += seconds / max(1, self.num_workers)
        values = self.values(params, cost)
        count = max(1, round(steps * cost))
        far = -0.3 if self.directions[0] == "max" else 1.0
        curve = tuple((step, values[0] + far * math.exp(-3 * (step + 1) / count)) for step in range(count))
        if status != "complete":
            values, curve = (), curve[: max(1, count // 2)]
        self._emit(
            ev.TrialEnded(
                run="r", trial=self.num, config=config, purpose=purpose, cost=cost, status=status,
                numbers={name + self.word: one for name, one in params.items() if not isinstance(one, str)},
                labels={name + self.word: one + self.word for name, one in params.items() if isinstance(one, str)},
                values=values, curve=curve, seconds=seconds, error=error + self.word if error else "",
                allowed=allowed,
            )
        )  # fmt: skip
        self.num += 1
        return values

    def search(self, num: int, *, small: bool = True) -> Made:
        """Some configurations; with ``small`` most run small first, and one of four goes on to be run whole."""
        waiting: list[tuple[float, str, dict[str, float | str]]] = []
        for at in range(num):
            config, params = f"config {self.num}-{at}", self.draw()
            if at % 19 == 18:
                error = "OutOfMemoryError: 512 MiB" if at % 2 else f"ValueError: loss is nan after {at} steps"
                self.trial(config, params, cost=1 / 9 if small else 1.0, status="failed", error=error)
            elif not small:
                self.trial(config, params, status="stopped" if at % 5 == 4 else "complete")
            else:
                waiting.append((self.trial(config, params, cost=1 / 9)[0], config, params))
                if len(waiting) % 4 == 0:
                    _, config, params = waiting.pop(max(range(len(waiting)), key=lambda one: waiting[one][0]))
                    self.trial(config, params)
        ranks = (ev.Rank(1 / 9, 0.83, 12),) if small else ()
        known = {name + self.word: value for name, value in IMPORTANCES.items()}
        self._emit(ev.SearchJudged(run="r", ranks=ranks, importances=known if len(self.metrics) == 1 else {}))
        return self

    def running(self, num: int = 2) -> Made:
        """Trials that have begun and said how far they are."""
        for at in range(num):
            self._emit(
                ev.TrialBegan(
                    run="r", trial=self.num, config=f"new {at}", purpose="search", cost=1.0 if at else 1 / 9
                )
            )
            for step in range(3):
                value = 0.5 + 0.1 * step + 0.01 * at
                self._emit(ev.TrialReported(run="r", trial=self.num, step=step, value=value))
            self.num += 1
        return self

    def compare(self, difference: float = 0.024, half: float | None = 0.005, *, unseen: bool = True) -> Made:
        """The best beside the defaults, on three seeds, or on one without an interval."""
        best = SearchReport.fold(self.log.since()).best
        assert best is not None
        defaults = (0.896, 0.897, 0.898) if half is not None else (0.897,)
        interval = None if half is None else (difference - half, difference + half)
        found = tuple(one + difference for one in defaults)
        compared = ev.Compared(best.config, defaults, found, difference, interval, unseen)
        for config, params in (("defaults", DEFAULTS), (best.config, self.draw())):
            self.trial(config, params, purpose="repeat")
        self._emit(ev.SearchCompared(run="r", compared=compared))
        return self

    def end(self, reason: str = "") -> Made:
        """Nothing more comes."""
        self._emit(ev.Noted(run="r", text="back in the notebook, of the best: model" + self.word))
        self._emit(ev.RunEnded(run="r", reason=reason))
        return self

    @property
    def report(self) -> SearchReport:
        """The fold of it."""
        return SearchReport.fold(self.log.since())

    def _emit(self, event: ev.Event) -> None:
        self.log.emit(dataclasses.replace(event, at_s=self.at_s))
