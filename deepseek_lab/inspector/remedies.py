"""What to try, in words, as code, and as a change of copies."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from deepseek_lab.base.inspection import Finding

GOOD_UPDATE = 1e-3
"""Karpathy, CS231n: about what the size of an update should be in sizes of the weights."""


@dataclasses.dataclass
class Copies:
    """What a remedy may change: copies of the user's."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    name: str
    """Name of the model, which module paths begin with."""
    clip: float | None = None
    """Norm to which gradients are clipped before each step."""
    change_inputs: Callable[[Any], Any] | None = None

    def module(self, path: str) -> nn.Module | None:
        """The copy of the module of that path."""
        inner = path.removeprefix(self.name).removeprefix(".")
        try:
            return self.model.get_submodule(inner)
        except AttributeError:
            return None

    def replace(self, path: str, module: nn.Module) -> None:
        """Put another module in its place."""
        parent, _, name = path.removeprefix(self.name).removeprefix(".").rpartition(".")
        setattr(self.model.get_submodule(parent), name, module)

    def scale_lr(self, factor: float) -> None:
        """Change every learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr"] * factor


Remedy = Callable[[Finding, Copies], bool]
"""Changes the copies; False where it has nothing to change."""


def _layers(copies: Copies, paths: tuple[str, ...]) -> Iterator[nn.Module]:
    for path in dict.fromkeys(paths):
        module = copies.module(path)
        if module is not None and any(one.dim() > 1 for one in module.parameters(recurse=False)):
            yield module


def _start_anew(module: nn.Module) -> None:
    """He's initialisation of matrices, zero for the rest."""
    with torch.no_grad():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.dim() > 1:
                nn.init.kaiming_normal_(parameter, nonlinearity="relu")
            elif "bias" in name:
                parameter.zero_()


def restart_layers(finding: Finding, copies: Copies) -> bool:
    """Draw the layers of a finding anew, with activations that have no end between them."""
    changed = False
    for module in _layers(copies, (finding.module, *finding.affected)):
        _start_anew(module)
        changed = True
    if changed and finding.kind == "vanishing gradient" and len(finding.affected) > 1:
        for path, module in list(copies.model.named_modules()):
            if path and isinstance(module, nn.Sigmoid | nn.Tanh):
                copies.replace(f"{copies.name}.{path}", nn.ReLU())
    return changed


def leak(finding: Finding, copies: Copies) -> bool:
    """Let the activation pass a little of what is below zero, and draw what feeds it anew."""
    module = copies.module(finding.module)
    if isinstance(module, nn.ReLU | nn.ReLU6 | nn.Threshold):
        copies.replace(finding.module, nn.LeakyReLU(0.01))
    return restart_layers(finding, copies) or isinstance(module, nn.ReLU)


def clip(finding: Finding, copies: Copies) -> bool:
    """Clip the norm of the gradient, and draw layers that make it grow anew."""
    copies.clip = 1.0
    for module in _layers(copies, (finding.module, *finding.affected)):
        weight = next(one for one in module.parameters(recurse=False) if one.dim() > 1)
        if weight.std() > 3.0 / math.sqrt(max(1, weight[0].numel())):
            _start_anew(module)
    return True


def only_clip(finding: Finding, copies: Copies) -> bool:
    """Clip the norm of the gradient."""
    copies.clip = 1.0
    return True


def right_lr(finding: Finding, copies: Copies) -> bool:
    """Scale the learning rate to updates of a thousandth."""
    factor = lr_factor(finding)
    if factor is None:
        return False
    copies.scale_lr(factor)
    return True


def lr_factor(finding: Finding) -> float | None:
    """What the evidence says to multiply the learning rate with."""
    for word in finding.evidence.split():
        try:
            value = float(word)
        except ValueError:
            continue
        if value > 0:
            return 10.0 ** round(math.log10(GOOD_UPDATE / value))
    return None


def more_lr(finding: Finding, copies: Copies) -> bool:
    """Ten times the learning rate; a tenth where the loss rises."""
    copies.scale_lr(0.1 if "rises" in finding.text else 10.0)
    return True


def train(finding: Finding, copies: Copies) -> bool:
    """Let the parameters be trained, and hand them to the optimiser."""
    module = copies.module(finding.module)
    if module is None:
        return False
    held = {id(one) for group in copies.optimizer.param_groups for one in group["params"]}
    new = [one.requires_grad_(True) for one in module.parameters()]
    missing = [one for one in new if id(one) not in held]
    if missing:
        copies.optimizer.add_param_group({"params": missing})
    return True


def normalise(finding: Finding, copies: Copies) -> bool:
    """Give the model inputs of mean 0 and deviation 1."""

    def changed(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            return (value - value.mean()) / value.std().clamp(min=1e-6)
        return value

    copies.change_inputs = changed
    return True


REMEDIES: dict[str, Remedy] = {
    "vanishing gradient": restart_layers,
    "exploding gradient": clip,
    "dead units": leak,
    "saturation": restart_layers,
    "update ratio": right_lr,
    "loss spike": only_clip,
    "loss not falling": more_lr,
    "frozen": train,
    "optimizer": train,
    "input": normalise,
}
"""What can be tried without the user's code being changed, by the kind of finding."""
