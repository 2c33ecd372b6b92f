"""What is remembered of a model that is watched: numbers, and weak references."""

from __future__ import annotations

import dataclasses
import math
import statistics
import weakref
from collections import deque
from typing import Any

import torch
from torch import Tensor, nn

from deepseek_lab.inspector.sites import NOWHERE, Site

MAX_SAMPLES = 512
_CONVOLUTIONS = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.InstanceNorm2d)


@dataclasses.dataclass
class Sample:
    """One module in one sampled step."""

    step: int
    activation_rms: float | None = None
    gradient_rms: float | None = None
    weight_norm: float | None = None
    weight_gradient: float | None = None
    own_gradient: float | None = None
    """Norm of the gradient of all of its own parameters; None where none had one."""
    update_ratio: float | None = None
    saturated: float | None = None
    alive: Tensor | None = None
    """For each unit whether it was active; ours, and as small as the layer is wide."""
    num_seen: int = 0
    inactive: float | None = None
    """Share of units that were inactive in this sample."""
    dead: float | None = None
    """Share of units that were inactive in this sample and those before it."""


class ModuleSeen:
    """One module of a model."""

    def __init__(self, path: str, module: nn.Module) -> None:
        self.path = path
        self.type_name = type(module).__name__
        self.module = weakref.ref(module)
        self.is_leaf = next(module.children(), None) is None
        self.order = -1
        """Place among the modules in the order of their first calls; -1 for one that was never called."""
        self.site: Site = NOWHERE
        self.kind = ""
        """The activation that its output was last seen to be."""
        self.is_function = False
        """Whether it is an activation that is no module, under the module that it follows."""
        self.source: ModuleSeen | None = None
        """The module with weights that an activation follows."""
        self.units_first = isinstance(module, _CONVOLUTIONS)
        self.samples: deque[Sample] = deque(maxlen=MAX_SAMPLES)
        self.has_weights = any(one.dim() > 1 for one in module.parameters(recurse=False))
        self.num_parameters = sum(1 for _ in module.parameters(recurse=False))

    def sample(self, step: int) -> Sample:
        """The sample of this step, made where there is none."""
        if not self.samples or self.samples[-1].step != step:
            self.samples.append(Sample(step))
        return self.samples[-1]

    def last(self, count: int = 1) -> list[Sample]:
        """The newest samples."""
        return list(self.samples)[-count:]

    def __repr__(self) -> str:
        return f"<{self.path} {self.type_name}>"


@dataclasses.dataclass
class InputSeen:
    """What the first layer with weights was given in one sampled step."""

    step: int
    layer: ModuleSeen
    num_rows: int
    rms: float | None = None
    spread: float | None = None
    """Largest distance of any row from the first."""


@dataclasses.dataclass
class ParameterSeen:
    """One parameter of a model."""

    path: str
    owner: ModuleSeen
    parameter: weakref.ref[nn.Parameter]
    had_gradient: bool = False
    in_optimizer: bool = False
    num_looks: int = 0
    """Steps of an optimiser before which its gradient was looked at."""

    @property
    def is_weight(self) -> bool:
        """Whether it is a matrix or larger: biases and scales are small, and their gradients are for other reasons."""
        found = self.parameter()
        return found is not None and found.dim() > 1


class ModelSeen:
    """A module that the loop calls itself, with everything in it."""

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name = name
        self.module = weakref.ref(module)
        self.is_compiled = hasattr(module, "_orig_mod")
        self.step = 0
        """Steps that its optimiser has made."""
        self.num_calls = 0
        self.optimizers: list[weakref.ref[torch.optim.Optimizer]] = []
        self.stepped = False
        """Whether an optimiser of its has stepped since the last call."""
        self.differentiated = False
        self.random = False
        """Whether a call draws random numbers."""
        self.random_state: Tensor | None = None
        self.call: tuple[nn.Module, Any, Any] | None = None
        """Module and arguments of the call that is not yet through its backward pass."""
        self.probes: list[weakref.ref[Tensor]] = []
        """Parameters whose gradients are looked at in every step, the first of them in any case."""
        self.site: Site = NOWHERE
        self.modules: dict[int, ModuleSeen] = {}
        self.parameters: dict[int, ParameterSeen] = {}
        self.functional: dict[tuple[str, str], ModuleSeen] = {}
        """Activations that are no modules, by what they are and the path of the module that they follow."""
        self.totals: deque[tuple[int, float]] = deque(maxlen=MAX_SAMPLES)
        """Norm of the whole gradient, by sampled step."""
        self.inputs: deque[InputSeen] = deque(maxlen=MAX_SAMPLES)
        self.large_updates: deque[tuple[int, float, tuple[str, ...]]] = deque(maxlen=MAX_SAMPLES)
        """Sampled steps whose update was large for most layers: step, size in the median layer, layers."""
        self.small_updates: deque[tuple[int, float, tuple[str, ...]]] = deque(maxlen=MAX_SAMPLES)
        self.num_updates = 0
        """Sampled steps whose updates were measured."""
        self._num_ordered = 0
        self.refresh()

    def refresh(self) -> None:
        """Look at what it is made of."""
        root = self.module()
        if root is None:
            return
        for inner, module in root.named_modules():
            if id(module) not in self.modules:
                path = ".".join(part for part in inner.split(".") if part and part != "_orig_mod")
                self.modules[id(module)] = ModuleSeen(f"{self.name}.{path}" if path else self.name, module)
            seen = self.modules[id(module)]
            for name, parameter in module.named_parameters(recurse=False):
                if id(parameter) not in self.parameters:
                    self.parameters[id(parameter)] = ParameterSeen(
                        f"{seen.path}.{name}", seen, weakref.ref(parameter)
                    )

    def called(self, seen: ModuleSeen, site: Site) -> None:
        """A module was called for the first time."""
        seen.order, seen.site = self._num_ordered, site
        self._num_ordered += 1

    @property
    def ordered(self) -> list[ModuleSeen]:
        """Modules that were called, in the order of their first calls."""
        return sorted((one for one in self.modules.values() if one.order >= 0), key=lambda one: one.order)

    @property
    def layers(self) -> list[ModuleSeen]:
        """Those with a matrix of weights of their own."""
        return [one for one in self.ordered if one.has_weights]


class LossSeen:
    """What one line of the user's differentiates, step by step."""

    WINDOW = 20

    def __init__(self, site: Site, model: str) -> None:
        self.site, self.model = site, model
        self.first: list[float] = []
        """The first values."""
        self.recent: deque[float] = deque(maxlen=50)
        """The last ones."""
        self.count = 0
        self.lowest = float("inf")
        self.num_raised = 0
        """Last steps in a row that stood out above the others."""
        self.steps: list[int] = []
        self.values: list[float] = []
        self._every = 1
        self.chance: float | None = None
        """What a constant prediction would cost, where the loss function tells; None where it does not."""

    def add(self, step: int, value: float) -> None:
        """One more; of a long run every second, fourth, … value is kept for the curve."""
        if self.count < self.WINDOW:
            self.first.append(value)
        if self.count % self._every == 0:
            self.steps.append(step)
            self.values.append(value)
            if len(self.values) >= 2000:
                del self.steps[1::2], self.values[1::2]
                self._every *= 2
        self.count += 1
        self.recent.append(value)
        if value < self.lowest:
            self.lowest = value

    def ends(self) -> tuple[float, float] | None:
        """Medians of as many values at the beginning and at the end; None where there are too few."""
        width = min(self.WINDOW, self.count // 3)
        if width < 5:
            return None
        return statistics.median(self.first[:width]), statistics.median(list(self.recent)[-width:])

    @property
    def is_falling(self) -> bool | None:
        """Whether it fell by a hundredth at least and by more than its noise, also below the very first value, which
        no update has spoiled yet; None where it is too early to say.
        """
        found = self.ends()
        if found is None or not all(map(math.isfinite, found)):
            return None if found is None else False
        width = min(self.WINDOW, self.count // 3)
        last = list(self.recent)[-width:]
        noise = 2.5 * statistics.pstdev(last) / width**0.5  # of a median, at 95 %
        return all(found[1] < one - max(0.01 * abs(one), noise) for one in (found[0], self.first[0]))
