"""Small gradients of a few layers, in every step: a NaN on its way back reaches those that it passes."""

from __future__ import annotations

import math
import time
import weakref

import torch
from torch import Tensor

from deepseek_lab.inspector.budget import Budget
from deepseek_lab.inspector.seen import ModelSeen

_PROBES, _PROBED, _PROBING = 32, 1024, 0.375
"""Layers, and values of a gradient of each, that are looked at in every step, to know at once when one is not finite;
and the part of the share that this may take, or it is one layer only."""
_PROBE_EVERY = 16
"""Steps after which it is all of them in any case."""


class Probes:
    """Looks whether gradients are finite, for a part of what looking may cost."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._least_s = 0.0
        self.rest = 0
        """Steps of this model in which it need not be asked, for even one layer would be too much."""

    def are_finite(self, model: ModelSeen) -> bool:
        """Whether the gradients are finite that it looks at in this step, if any."""
        self.rest = 0
        if not model.probes:
            model.probes = _probes(model)
        start = time.perf_counter()
        affordable_s = _PROBING * self._budget.share * (start - self._budget.start_s) / (model.step + 1)
        whole = self._least_s <= affordable_s or model.step < 4 or not model.step % _PROBE_EVERY
        if not whole and self._least_s > affordable_s * len(model.probes):
            self.rest = _PROBE_EVERY - 1 - model.step % _PROBE_EVERY
            return True  # even one would be too much
        wanted = model.probes if whole else model.probes[:1]
        gradients = [
            one.grad if one.grad.numel() <= _PROBED else one.grad.reshape(-1)[:_PROBED]
            for reference in wanted
            if (one := reference()) is not None and one.grad is not None and not one.grad.is_sparse
        ]
        total = _sum(gradients) if gradients and gradients[0].is_cpu else 0.0
        if whole:  # the least that it took: the rest is what else the machine did
            took = time.perf_counter() - start
            self._least_s = min(self._least_s, took) if self._least_s else took
        return math.isfinite(total) or all(bool(torch.isfinite(one).all()) for one in gradients)


def _probes(model: ModelSeen) -> list[weakref.ref[Tensor]]:
    """The smallest parameter of each layer, those of the first layer first."""
    smallest: dict[int, tuple[int, int, Tensor]] = {}
    for one in model.parameters.values():
        parameter = one.parameter()
        if parameter is None or parameter.grad is None or parameter.grad.is_sparse:
            continue
        order = one.owner.order if one.owner.order >= 0 else 1 << 30
        entry = (order, parameter.numel(), parameter)
        if id(one.owner) not in smallest or entry[:2] < smallest[id(one.owner)][:2]:
            smallest[id(one.owner)] = entry
    ranked = sorted(smallest.values(), key=lambda one: one[:2])
    every = max(1, -(-len(ranked) // _PROBES))
    return [weakref.ref(parameter) for _, _, parameter in ranked[::every]]


def _sum(gradients: list[Tensor]) -> float:
    """Of all values, in as few operators as possible; it is not finite where one of them is not."""
    if len(gradients) == 1:
        return gradients[0].sum().item()
    flat = [one if one.dim() == 1 else one.reshape(-1) for one in gradients]
    return torch.cat(flat).sum().item()
