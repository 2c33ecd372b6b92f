"""One step that is looked at closely: what every module returns, the gradients that come back, and the update."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from deepseek_lab.inspector import statistics
from deepseek_lab.inspector.seen import InputSeen, ModelSeen, ModuleSeen, Sample
from deepseek_lab.inspector.sites import own_site
from deepseek_lab.inspector.thresholds import MIN_SEEN

MAX_CALLS = 3
"""Calls of a model that are looked at in one step; an accumulation of gradients has many that are alike."""
_MASKS = 5
"""Samples over which a unit must have been active once."""
_SAMPLED = 1024
"""Values of a weight that its update is measured at."""
_MIN_UNITS = 8
_FIRST_LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase, nn.RNNCellBase)


class Collector:
    """Takes the numbers of one step of one model.

    Args:
        model: What it is about.
        failed: Told of an error of ours; the user's step goes on.
    """

    def __init__(self, model: ModelSeen, failed: Callable[[Exception], None]) -> None:
        self.model, self.step, self._failed = model, model.step, failed
        self.spent_s = 0.0
        self.num_calls = 0
        self._readings = statistics.Readings()
        self._refreshed = False
        self._begin()

    def _begin(self) -> None:
        self._done: set[int] = set()
        self._known: set[Any] = set()
        self._hooked: set[Any] = set()
        self._source: ModuleSeen | None = None
        self._units_first = False
        self._anything = False

    def forget(self) -> None:
        """The call has returned: hold nothing of its graph."""
        self._known, self._hooked = set(), set()

    def again(self) -> bool:
        """One more call of the model in the same step; whether it is looked at too."""
        self._begin()
        self.num_calls += 1
        return self.num_calls < MAX_CALLS

    # -- forward --------------------------------------------------------------------------------------

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        """A module has returned."""
        start = time.perf_counter()
        try:
            self._look(module, args, result)
        except Exception as error:
            self._failed(error)
        self.spent_s += time.perf_counter() - start

    def _look(self, module: nn.Module, args: Any, result: Any) -> None:
        seen = self._seen(module)
        if seen is None or id(module) in self._done:
            return
        self._done.add(id(module))
        if seen.order < 0:
            self.model.called(seen, own_site(3))
        if seen.is_leaf and args and isinstance(args[0], Tensor):
            self._given(seen, module, args[0])
        out = _first(result)
        if out is None or not statistics.readable(out):
            return
        node = out.grad_fn
        if not seen.is_leaf:
            self._between(seen, out)
        if seen.is_leaf or (node is not None and node not in self._known):
            self._record(seen, out)
        self._known.add(node)
        if seen.is_leaf and seen.num_parameters:
            self._units_first = seen.units_first
            if seen.has_weights:
                self._source = seen
        self._anything |= seen.is_leaf and seen.num_parameters > 0

    def _seen(self, module: nn.Module) -> ModuleSeen | None:
        seen = self.model.modules.get(id(module))
        if (seen is None or seen.module() is not module) and not self._refreshed:
            self._refreshed = True
            self.model.modules.pop(id(module), None)
            self.model.refresh()
            seen = self.model.modules.get(id(module))
        return seen

    def _given(self, seen: ModuleSeen, module: nn.Module, value: Tensor) -> None:
        """What a module was given, where that is news: an activation that is no module, or the loop's own input."""
        if not statistics.readable(value):
            return
        if not self._anything and isinstance(module, _FIRST_LAYERS) and value.grad_fn is None:
            self._input(seen, value)
        self._between(seen, value)

    def _between(self, seen: ModuleSeen, value: Tensor) -> None:
        """Activations that are functions, on the way from what modules have returned to this tensor."""
        source = self._source
        if source is None or value.grad_fn is None or value.grad_fn in self._known:
            return
        owner = source.module()
        if owner is None:
            return
        for kind, result in statistics.functional(value, self._known):
            if result is value and not seen.is_leaf:
                continue  # what a module returns is its own
            key = (kind, source.path)
            activation = self.model.functional.get(key)
            if activation is None:
                activation = self.model.functional[key] = ModuleSeen(source.path, owner)
                activation.is_function = True
                activation.type_name = f"{kind} after {source.type_name}"
                activation.site, activation.has_weights = source.site, False
                activation.order = source.order
            self._record(activation, result, kind)

    def _input(self, seen: ModuleSeen, value: Tensor) -> None:
        rows = statistics.rows_of(value)
        found = InputSeen(self.step, seen, int(rows.shape[0]) if rows.dim() > 1 else 1)
        norm, scale = statistics.rms(rows)
        self._readings.add(norm, lambda read: setattr(found, "rms", read * scale))
        if found.num_rows > 1:
            spread = (rows - rows[:1]).abs().amax()
            self._readings.add(spread, lambda read: setattr(found, "spread", read))
        self.model.inputs.append(found)

    def _record(self, seen: ModuleSeen, out: Tensor, kind: str = "") -> None:
        sample = seen.sample(self.step)
        value = statistics.rows_of(out)
        norm, scale = statistics.rms(value)
        self._readings.add(norm, functools.partial(_put, sample, "activation_rms", scale))
        kind = seen.kind = kind or statistics.kind_of(out)
        if kind:
            seen.source = self._source
            if kind == "relu" and value.dim() > 1:
                unit = 1 if self._units_first and value.dim() > 2 else -1
                if value.shape[unit] >= _MIN_UNITS:
                    sample.alive, sample.num_seen = statistics.alive(value, unit)
            share = statistics.ends(value, kind)
            if share is not None:
                self._readings.add(share, functools.partial(_put, sample, "saturated", 1.0))
        if out.requires_grad and out.grad_fn is not None and out.grad_fn not in self._hooked:
            self._hooked.add(out.grad_fn)
            out.register_hook(functools.partial(self._flowed, sample))

    def _flowed(self, sample: Sample, gradient: Tensor) -> None:
        start = time.perf_counter()
        try:
            if statistics.readable(gradient):
                norm, scale = statistics.rms(statistics.rows_of(gradient))
                self._readings.add(norm, functools.partial(_put, sample, "gradient_rms", scale))
        except Exception as error:
            self._failed(error)
        self.spent_s += time.perf_counter() - start

    # -- the step of an optimiser -----------------------------------------------------------------------

    def before(self, optimizer: torch.optim.Optimizer) -> None:
        """The optimiser is about to step."""
        start = time.perf_counter()
        self._weights: list[tuple[ModuleSeen, nn.Parameter, Tensor]] = []
        known = self.model.parameters
        grouped: dict[tuple[torch.device, torch.dtype], list[tuple[ModuleSeen, bool, Tensor]]] = {}
        for parameter in _parameters(optimizer):
            one = known.get(id(parameter))
            if one is None or one.parameter() is not parameter:
                continue
            is_weight = parameter.dim() > 1
            if is_weight and statistics.readable(parameter):
                self._weights.append((one.owner, parameter, _some(parameter).clone()))
            gradient = parameter.grad
            if gradient is None:
                continue
            gradient = gradient._values() if gradient.is_sparse else gradient.detach()
            if statistics.readable(gradient):
                grouped.setdefault((gradient.device, gradient.dtype), []).append(
                    (one.owner, is_weight, gradient)
                )
        for group in grouped.values():
            norms = torch._foreach_norm([gradient for _, _, gradient in group])
            for (owner, is_weight, _), norm in zip(group, norms, strict=True):
                sample = owner.sample(self.step)
                self._readings.add(norm, functools.partial(_join, sample, "own_gradient"))
                if is_weight:
                    self._readings.add(norm, functools.partial(_join, sample, "weight_gradient"))
        self.spent_s += time.perf_counter() - start

    def after(self) -> None:
        """It has stepped."""
        start = time.perf_counter()
        weights, self._weights = getattr(self, "_weights", []), []
        by_kind: dict[tuple[torch.device, torch.dtype], list[tuple[ModuleSeen, nn.Parameter, Tensor]]] = {}
        for one in weights:
            by_kind.setdefault((one[2].device, one[2].dtype), []).append(one)
        for group in by_kind.values():
            before = [values for _, _, values in group]
            changes = torch._foreach_sub([_some(parameter) for _, parameter, _ in group], before)
            for (owner, parameter, values), change, size in zip(
                group, torch._foreach_norm(changes), torch._foreach_norm(before), strict=True
            ):
                sample = owner.sample(self.step)
                grow = (parameter.numel() / values.numel()) ** 0.5
                self._readings.add(size * grow, functools.partial(_join, sample, "weight_norm"))
                self._readings.add(change * grow, functools.partial(_join, sample, "update_ratio"))
        self.spent_s += time.perf_counter() - start

    # -- afterwards -----------------------------------------------------------------------------------

    def finish(self) -> None:
        """Read everything, and make shares and ratios of it."""
        start = time.perf_counter()
        self._readings.read()
        total = 0.0
        for seen in [*self.model.modules.values(), *self.model.functional.values()]:
            if not seen.samples or seen.samples[-1].step != self.step:
                continue
            sample = seen.samples[-1]
            if sample.update_ratio is not None:
                sample.update_ratio = sample.update_ratio / sample.weight_norm if sample.weight_norm else None
            if sample.own_gradient is not None:
                total = math.hypot(total, sample.own_gradient)
            if sample.alive is not None:
                self._count_dead(seen, sample)
        if total or math.isnan(total):
            self.model.totals.append((self.step, total))
        self.spent_s += time.perf_counter() - start

    @staticmethod
    def _count_dead(seen: ModuleSeen, sample: Sample) -> None:
        assert sample.alive is not None
        masks = seen.last(_MASKS + 1)
        for old in masks[:-_MASKS]:
            old.alive = None
        sample.inactive = 1.0 - float(sample.alive.float().mean())
        same = [one for one in masks if one.alive is not None and one.alive.shape == sample.alive.shape]
        if sum(one.num_seen for one in same) < MIN_SEEN:
            return
        ever = torch.stack([one.alive for one in same if one.alive is not None]).any(0)
        sample.dead = 1.0 - float(ever.float().mean())


def _put(sample: Sample, name: str, scale: float, read: float) -> None:
    setattr(sample, name, read * scale)


def _join(sample: Sample, name: str, read: float) -> None:
    """Norms of parts make the norm of the whole."""
    setattr(sample, name, math.hypot(getattr(sample, name) or 0.0, read))


def _parameters(optimizer: torch.optim.Optimizer) -> Iterable[nn.Parameter]:
    return (one for group in optimizer.param_groups for one in group["params"])


def _some(parameter: Tensor) -> Tensor:
    """A view of at most about a thousand values, the same ones each time."""
    value = parameter.detach()
    if not value.is_contiguous():
        value = value.permute(*sorted(range(value.dim()), key=value.stride, reverse=True))
    flat = value.reshape(-1)
    return flat[:: max(1, flat.numel() // _SAMPLED)]


def _first(result: Any) -> Tensor | None:
    """The first tensor of a result, which for everything that PyTorch has is the main one."""
    if isinstance(result, Tensor):
        return result
    if isinstance(result, dict):
        result = list(result.values())
    if isinstance(result, list | tuple):
        for one in result:
            found = _first(one)
            if found is not None:
                return found
    return None
