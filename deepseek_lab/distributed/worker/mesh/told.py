"""What a training on a mesh is going to do, told before it does it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from deepseek_lab.distributed.mesh import Mesh
from deepseek_lab.distributed.worker import shards
from deepseek_lab.distributed.worker.mesh.averages import here
from deepseek_lab.distributed.worker.mesh.pipeline import Placed
from deepseek_lab.distributed.worker.mesh.tensor import Split
from deepseek_lab.distributed.worker.mesh.tensor import told as reasons_told

_STATES = {
    "Adadelta": 2,
    "Adagrad": 1,
    "Adam": 2,
    "AdamW": 2,
    "Adamax": 2,
    "NAdam": 2,
    "RAdam": 2,
    "RMSprop": 1,
    "Rprop": 2,
}
"""Tensors that PyTorch's optimizers keep for each parameter."""
_MOST = 8


@dataclasses.dataclass(frozen=True)
class Held:
    """What one rank holds."""

    rank: int
    place: dict[str, int]
    blocks: tuple[str, ...]
    """Of its stage."""
    parameter_bytes: int
    state_bytes: int | None
    """Of optimizers; None where one is not known."""


@dataclasses.dataclass(frozen=True)
class Told:
    """The plan for one model."""

    model: str
    mesh: str
    micro_batches: int
    bubble: float
    """The part of an update in which a stage waits."""
    costs: tuple[float, ...]
    """The part of a pass that each stage computes."""
    groups: tuple[str, ...]
    """Layers that are split."""
    whole: dict[str, str]
    """Layers that could be split and are not, and why."""
    layers_bytes: int
    """Added up over ranks that share layers in an update."""
    stages_bytes: int
    """Sent from stage to stage in an update."""
    copies_bytes: int
    """Of gradients, averaged over copies in an update."""
    pass_s: float
    """Forward and backward pass of the whole model on one rank, as it was tried."""
    update_s: float
    """The same as it is expected on the mesh."""
    ranks: tuple[Held, ...]
    means: bool = False
    """Whether numbers that the model gives are means over micro-batches."""

    def data(self) -> dict[str, Any]:
        """Plain data."""
        found: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return found

    def __str__(self) -> str:
        lines = [f"{self.model} on {self.mesh}"]
        for held in self.ranks:
            place = ", ".join(f"{name} {index}" for name, index in held.place.items())
            blocks = f": {_listed(held.blocks)}" if held.blocks else ""
            states = "?" if held.state_bytes is None else _size(held.state_bytes)
            lines.append(
                f"  rank {held.rank} ({place}){blocks}; parameters {_size(held.parameter_bytes)}, optimizer states "
                f"{states}"
            )
        if self.groups:
            word = "group" if len(self.groups) == 1 else "groups"
            shown = "; ".join(self.groups[:2])
            lines.append(f"  split in {len(self.groups)} {word}: {shown}{_more(self.groups[2:])}")
        if self.whole:
            lines.append(f"  not split{reasons_told(self.whole)}".replace("\n", "\n  "))
        if self.costs:
            costs = ", ".join(f"{cost:.0%}" for cost in self.costs)
            lines.append(
                f"  {self.micro_batches} micro-batches; stages compute {costs} of a pass, and wait {self.bubble:.0%} "
                "of the time if they take equally long"
            )
        if self.means:
            lines.append(
                "  numbers that the model gives, such as a loss, are means over micro-batches by samples; where "
                "samples count unequally, compute the loss from what the model gives"
            )
        moved = {"added up within layers": self.layers_bytes, "sent between stages": self.stages_bytes}
        moved["averaged over copies"] = self.copies_bytes
        sent = ", ".join(f"{_size(count)} {words}" for words, count in moved.items() if count)
        lines.append(f"  in an update {sent}" if sent else "  nothing goes between ranks")
        lines.append(
            f"  passes of the whole model took {self.pass_s:.2g} s on a rank; on the mesh {self.update_s:.2g} s are "
            "expected"
        )
        return "\n".join(lines)


def _more(rest: tuple[str, ...]) -> str:
    return f"; and {len(rest)} more" if rest else ""


def _listed(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:_MOST])
    return f"{shown} and {len(names) - _MOST} more" if len(names) > _MOST else shown


def _size(count: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count} B"


def held(rank: int, mesh: Mesh, root: nn.Module, placed: Placed | None, optimizers: list[Optimizer]) -> Held:
    """What this rank holds of a model that is placed."""
    place = mesh.place(rank)
    mine = list(root.parameters())
    count, _ = shards.num_bytes(mine)
    states: int | None = 0
    for optimizer in optimizers:
        own = [
            one
            for group in optimizer.param_groups
            for one in group["params"]
            if any(one is each for each in mine)
        ]
        more = _states(optimizer)
        states = None if more is None or states is None else states + more * _local(own)
    shown = {name: index for name, index in place.items() if getattr(mesh, name) > 1}
    blocks = placed.names[place["pipeline"]] if placed is not None else ()
    return Held(rank, shown, blocks, count, states)


def _local(parameters: list[Tensor]) -> int:
    found = [here(one) for one in parameters if one.requires_grad]
    return sum(one.numel() * one.element_size() for one in found if one is not None)


def _states(optimizer: Optimizer) -> int | None:
    name, defaults = type(optimizer).__name__, optimizer.defaults
    if name == "SGD":
        return int(bool(defaults.get("momentum")))
    known = _STATES.get(name)
    if known is None:
        return None
    extra = bool(defaults.get("amsgrad")) + bool(defaults.get("centered"))
    return known + extra + (name == "RMSprop" and bool(defaults.get("momentum")))


def plan(
    mesh: Mesh,
    root: nn.Module,
    *,
    split: Split | None,
    placed: Placed | None,
    ranks: tuple[Held, ...],
    pass_s: float,
    tried_s: float | None,
) -> Told:
    """The plan for a model, as the first rank tells it."""
    factor = 2 * (mesh.data - 1) / mesh.data
    update_s = pass_s if tried_s is None else tried_s
    if placed is not None:
        update_s *= max(placed.costs) / (1 - mesh.bubble)
    gradients = max(one.parameter_bytes for one in ranks)
    return Told(
        model=type(root).__name__,
        mesh=str(mesh),
        micro_batches=mesh.micro_batches,
        bubble=mesh.bubble,
        costs=placed.costs if placed is not None else (),
        groups=tuple(map(str, split.groups)) if split is not None else (),
        whole=split.reasons if split is not None else {},
        layers_bytes=split.num_bytes if split is not None else 0,
        stages_bytes=placed.num_bytes if placed is not None else 0,
        copies_bytes=round(factor * gradients),
        pass_s=pass_s,
        update_s=update_s,
        ranks=ranks,
        means=placed is not None and placed.means,
    )
