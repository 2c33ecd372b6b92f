"""What was seen of a loop that trains: findings and the numbers behind them, plain records only."""

from __future__ import annotations

import dataclasses
from typing import Any

KINDS = {
    "nonfinite": "NaN or infinity",
    "vanishing gradient": "gradients fade on the way back",
    "exploding gradient": "gradients grow on the way back, or from step to step",
    "dead units": "units that nothing activates any more",
    "saturation": "units held at the end of their range",
    "update ratio": "steps too large or too small for the weights",
    "loss spike": "the loss jumps",
    "loss not falling": "the loss stays where it began",
    "frozen": "parameters that need no gradient",
    "unused": "parameters that no gradient reaches",
    "optimizer": "parameters that no optimiser holds, or an optimiser of other parameters",
    "input": "inputs out of range",
    "label": "labels out of range",
}
"""Every kind of finding, in the order in which they explain each other: the first may be the cause of the rest."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """A fix tried on copies of the model and the optimiser, on batches of the loop's own.

    Attributes:
        num_steps: Steps that were made with it and without it.
        loss_without, loss_with: Mean loss of the last of them; NaN where it was none.
        loss_before: What the same batches gave before the first of them.
        gradient_without, gradient_with: Norm of the named module's gradient after them; None without a module.
        failed: Why it could not be tried; empty where it was.
    """

    num_steps: int = 0
    loss_before: float = float("nan")
    loss_without: float = float("nan")
    loss_with: float = float("nan")
    gradient_without: float | None = None
    gradient_with: float | None = None
    failed: str = ""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a training, or at least worth a look."""

    kind: str
    """A key of :data:`KINDS`."""
    module: str
    """Where, as a path from a name of the notebook: ``model.layers.3``."""
    since: int
    """The first step that shows it; steps of the model's optimiser count from 0."""
    text: str
    evidence: str
    """What was measured."""
    fix: str = ""
    code: str = ""
    """The fix as Python."""
    file: str = ""
    line: int = 0
    """Line of the user's that called the module."""
    model: str = ""
    """Name of the model."""
    affected: tuple[str, ...] = ()
    """Other modules that show the same."""
    is_note: bool = False
    """Whether this may well be meant so."""
    trial: Trial | None = None


@dataclasses.dataclass(frozen=True)
class ModuleRecord:
    """A module as it was last seen; None where something was not measured."""

    path: str
    type_name: str = ""
    model: str = ""
    file: str = ""
    line: int = 0
    activation_rms: float | None = None
    gradient_rms: float | None = None
    """Of the loss's gradient by the module's output."""
    weight_rms: float | None = None
    weight_gradient: float | None = None
    """Norm of the gradient of its own parameters, as its optimiser got it."""
    update_ratio: float | None = None
    """Size of one step's change of its weights, in sizes of the weights."""
    dead_share: float | None = None
    saturated_share: float | None = None


@dataclasses.dataclass(frozen=True)
class Curve:
    """A number over steps."""

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Inspection:
    """One loop that was watched."""

    findings: tuple[Finding, ...] = ()
    modules: tuple[ModuleRecord, ...] = ()
    losses: tuple[Curve, ...] = ()
    """One for each line that calls ``backward``."""
    gradients: tuple[Curve, ...] = ()
    """By module, over the steps that were sampled: the RMS of the gradient by its output."""
    num_steps: int = 0
    num_samples: int = 0
    wall_s: float = 0.0
    spent_s: float = 0.0
    """Seconds of these that looking took, as far as it timed itself."""
    error: str = ""
    """Type of the exception that ended the cell."""
    notes: tuple[str, ...] = ()

    def of_kind(self, kind: str) -> list[Finding]:
        """Findings of one kind."""
        return [one for one in self.findings if one.kind == kind]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; numbers that are not finite become their names."""
        data = _plain(dataclasses.asdict(self))
        assert isinstance(data, dict)
        return data


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return value
