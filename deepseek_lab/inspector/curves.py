"""Losses line by line: values that are not finite, that jump or that do not fall, and the labels they are made of."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from torch import Tensor

from deepseek_lab.inspector import blame, labels, rules
from deepseek_lab.inspector.budget import Budget
from deepseek_lab.inspector.ledger import Ledger
from deepseek_lab.inspector.losses import LossCall
from deepseek_lab.inspector.seen import LossSeen, ModelSeen
from deepseek_lab.inspector.sites import Site

_EVERY, _JUDGING = 25, 0.1
"""Steps after which losses are judged without a sample, and the part of the share that this may take."""


class Curves:
    """The losses of one loop.

    Args:
        models: Those that were called; it grows.
        ledger: Where findings go.
    """

    def __init__(self, models: Sequence[ModelSeen], ledger: Ledger, budget: Budget) -> None:
        self._models, self._ledger, self._budget = models, ledger, budget
        self.series: dict[Site, LossSeen] = {}
        self.blamed: set[int] = set()
        """Models of which it is told already where NaN comes from: of what follows everything may be said."""
        self._labels: dict[str, labels.LabelsSeen] = {}
        self.call: LossCall | None = None
        """The loss function that was called since the last backward pass, in a step that is looked at."""
        self.num_calls = 0
        self._judged_s = self._judging_s = 0.0
        """When they were judged, and what it took at least."""

    def called(self, call: LossCall) -> None:
        """A loss function has returned."""
        self.call = call
        self.num_calls += 1

    def differentiated(self) -> None:
        """What it was called for is done."""
        self.num_calls, self.call = 0, None

    def add(self, model: ModelSeen, loss: Tensor, site: Site, *, sampled: bool) -> None:
        """A loss is about to be differentiated on this line."""
        value = loss.item()
        series = self.series.get(site)
        if series is None:
            series = self.series[site] = LossSeen(site, model.name)
        if not math.isfinite(value):
            if id(model) not in self.blamed:
                self.blamed.add(id(model))
                finding = blame.of_loss(model, loss, value, site, self.call)
                if finding is not None:
                    self._ledger.add(finding)
        elif evidence := rules.spike(series, value):
            self._ledger.add(rules.spiked(model, evidence, site))
        if sampled and self.call is not None and self.num_calls == 1:
            name = self.call.name
            series.chance = self._labels.get(name, labels.LabelsSeen()).chance(name)
        series.add(model.step, value)

    def look_at_labels(self, call: LossCall, model: ModelSeen | None) -> None:
        """What the labels say that a loss function was given."""
        name, step = (model.name, model.step) if model is not None else ("", 0)
        finding = labels.check(call, step, name)
        if finding is not None:
            self._ledger.add(blame.with_output(finding, model))
            return
        seen = self._labels.setdefault(call.name, labels.LabelsSeen())
        seen.add(call)
        only = seen.only()
        if only is not None:
            self._ledger.add(labels.all_the_same(only, seen, call, step, name))

    def may_judge(self, step: int) -> bool:
        """Whether it is time for that, and it takes no more than its part of the share."""
        if step % _EVERY:
            return False
        return time.perf_counter() - self._judged_s >= self._judging_s / (_JUDGING * self._budget.share)

    def judge(self) -> None:
        """Whether they fall as they should."""
        start = time.perf_counter()
        self._judge_each()
        self._judged_s = time.perf_counter()
        took = self._judged_s - start
        self._judging_s = min(self._judging_s, took) if self._judging_s else took

    def _judge_each(self) -> None:
        alone = len(self.series) == 1 and len(self._models) == 1
        for loss in self.series.values():
            model = next((one for one in self._models if one.name == loss.model), None)
            if model is not None and id(model) not in self.blamed:
                series = [one for one in self.series.values() if one.model == model.name]
                self._ledger.add_all(rules.updates(model, series))
                finding = rules.not_falling(model, loss, alone=alone)
                if finding is not None:
                    self._ledger.add(finding)
                elif loss.is_falling:
                    self._ledger.drop("loss not falling", model.name)
