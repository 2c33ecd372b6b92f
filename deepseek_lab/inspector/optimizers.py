"""Which optimiser trains which model."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence

import torch

from deepseek_lab.base.inspection import Finding
from deepseek_lab.inspector import rules
from deepseek_lab.inspector.seen import ModelSeen
from deepseek_lab.inspector.sites import Site, own_site


class Optimizers:
    """Finds the models of an optimiser that steps.

    Args:
        models: Those that were called; it grows.
    """

    def __init__(self, models: Sequence[ModelSeen]) -> None:
        self._models = models
        self._known: dict[int, tuple[weakref.ref[torch.optim.Optimizer], int, list[ModelSeen]]] = {}
        self._num_known = 0
        """Models that there were when an optimiser's were looked for."""
        self._strangers: dict[int, tuple[weakref.ref[torch.optim.Optimizer], int, Site]] = {}
        """Optimisers that hold no parameter of any model that was called, with how often they stepped."""

    def __len__(self) -> int:
        return len(self._known)

    @property
    def any_strange(self) -> bool:
        """Whether one stepped that holds no parameter of a model that was called."""
        return bool(self._strangers)

    def stepped(self, optimizer: torch.optim.Optimizer) -> list[ModelSeen]:
        """Models of one that has stepped, of which :meth:`trained_by` was asked before most steps."""
        known = self._known.get(id(optimizer))
        if known is not None and known[2] and self._num_known == len(self._models):
            return known[2]
        models = self.trained_by(optimizer)
        if not models:
            reference, count, site = self._strangers.get(
                id(optimizer), (weakref.ref(optimizer), 0, own_site(4))
            )
            self._strangers[id(optimizer)] = (reference, count + 1, site)
        return models

    def trained_by(self, optimizer: torch.optim.Optimizer) -> list[ModelSeen]:
        """Models that it holds parameters of."""
        known = self._known.get(id(optimizer))
        count = len(self._models)
        for group in optimizer.param_groups:
            count += 1000 * len(group["params"])
        if known is not None and known[0]() is optimizer and known[1] == count:
            return known[2]
        held = {id(one) for group in optimizer.param_groups for one in group["params"]}
        self._num_known = len(self._models)
        models = [model for model in self._models if not held.isdisjoint(model.parameters)]
        for model in models:
            if all(reference() is not optimizer for reference in model.optimizers):
                model.optimizers.append(weakref.ref(optimizer))
        if models:
            self._strangers.pop(id(optimizer), None)
        self._known[id(optimizer)] = (weakref.ref(optimizer), count, models)
        return models

    def strangers(self) -> Iterator[Finding]:
        """An optimiser that trains nothing that was called, beside a model that nothing trains."""
        idle = [one for one in self._models if not one.optimizers and (one.differentiated or one.step > 0)]
        for reference, count, site in self._strangers.values():
            optimizer = reference()
            if optimizer is None or count < rules.NO_GRADIENT_LOOKS or not idle:
                continue
            parameters = [one for group in optimizer.param_groups for one in group["params"]]
            if any(one.grad is not None for one in parameters):
                continue
            model = idle[0]
            yield Finding(
                kind="optimizer",
                module=model.name,
                since=0,
                text=f"the optimiser that steps holds none of {model.name}'s parameters",
                evidence=f"{count:,} steps of {type(optimizer).__name__} over {len(parameters)} parameters without "
                f"a gradient; {len(model.parameters)} parameters of {model.name} in no optimiser",
                fix="make the optimiser after the model, from the model that is called",
                code=f"optimizer = torch.optim.{type(optimizer).__name__}({model.name}.parameters(), "
                f"lr={optimizer.param_groups[0].get('lr', 1e-3)})",
                file=site[0],
                line=site[1],
                model=model.name,
            )


def note_gradients(model: ModelSeen, optimizer: torch.optim.Optimizer) -> None:
    """Which parameters have a gradient, and are the optimiser's."""
    held = {id(one) for group in optimizer.param_groups for one in group["params"]}
    for key, one in model.parameters.items():
        parameter = one.parameter()
        if parameter is None:
            continue
        one.num_looks += 1
        one.in_optimizer |= key in held
        one.had_gradient |= parameter.grad is not None
