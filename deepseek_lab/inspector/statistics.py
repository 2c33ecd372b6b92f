"""Numbers of a tensor in one pass each, without a copy that outlives the step, and read all at once.

Nothing here looks at a value: what is computed stays a tensor of one element until :meth:`Readings.read`, so that an
accelerator is waited for once a sample.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Iterator
from typing import Any

import torch
from torch import Tensor

from deepseek_lab.inspector.thresholds import SIGMOID_END, SOFTMAX_END, TANH_END

MAX_VALUES = 1 << 18
"""Of a larger tensor as many of its first rows are read as hold about so many values."""

_MAX_NODES = 24
"""Operators between two modules that are walked over."""

_KINDS = {
    "ReluBackward0": "relu",
    "ThresholdBackward0": "relu",
    "TanhBackward0": "tanh",
    "SigmoidBackward0": "sigmoid",
    "SoftmaxBackward0": "softmax",
    "HardtanhBackward0": "hardtanh",
    "HardsigmoidBackward0": "sigmoid",
}
"""By what autograd calls it: functions and modules alike have this name, in place or not."""


def kind_of(value: Tensor) -> str:
    """What activation a tensor is the result of; empty for none that has an end."""
    node = value.grad_fn
    return _KINDS.get(node.name(), "") if node is not None else ""


def functional(value: Tensor, known: Container[Any]) -> Iterator[tuple[str, Tensor]]:
    """Results of activations between known nodes of the graph and a tensor, as autograd keeps them for its own use.

    Nothing where hooks of the user's would be asked for what is kept.
    """
    if torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:
        return
    left, seen = [value.grad_fn], set(known) if isinstance(known, set) else set()
    for _ in range(_MAX_NODES):
        if not left:
            return
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        kind = _KINDS.get(node.name(), "")
        if kind:
            result: Any = value if node is value.grad_fn else getattr(node, "_saved_result", None)
            if readable(result):
                yield kind, result
        left.extend(following for following, _ in node.next_functions)


def readable(value: Any) -> bool:
    """Whether it is a plain tensor of numbers that can be computed with."""
    return (
        isinstance(value, Tensor)
        and type(value) in (Tensor, torch.nn.Parameter)
        and value.is_floating_point()
        and value.layout == torch.strided
        and value.device.type != "meta"
        and value.numel() > 0
    )


def rows_of(value: Tensor) -> Tensor:
    """The tensor without its history, or its first rows where it is large."""
    value = value.detach()
    if value.numel() > MAX_VALUES and value.dim() > 1 and value.shape[0] > 1:
        return value[: max(1, MAX_VALUES * value.shape[0] // value.numel())]
    return value


def rms(value: Tensor) -> tuple[Tensor, float]:
    """Norm, and what to multiply it with."""
    return torch.linalg.vector_norm(value), value.numel() ** -0.5


def ends(value: Tensor, kind: str) -> Tensor | None:
    """Share of values at the end of the activation's range; None where it has none."""
    match kind:
        case "tanh":
            return (value.abs() > TANH_END).float().mean()
        case "sigmoid":
            return ((value - 0.5).abs() > 0.5 - SIGMOID_END).float().mean()
        case "softmax":
            return (value.amax(-1) > SOFTMAX_END).float().mean()
    return None


def alive(value: Tensor, unit_dim: int) -> tuple[Tensor, int]:
    """For each unit whether any value was above zero, and how many values each was seen at."""
    others = tuple(dim for dim in range(value.dim()) if dim != unit_dim % value.dim())
    most = value.amax(others) if others else value
    return most > 0, value.numel() // max(1, most.numel())


@dataclasses.dataclass
class Readings:
    """Numbers that wait to be read together."""

    _waiting: list[tuple[Tensor, Callable[[float], None]]] = dataclasses.field(default_factory=list)

    def add(self, value: Tensor, told: Callable[[float], None]) -> None:
        """Tell it when they are read."""
        self._waiting.append((value, told))

    def read(self) -> None:
        """Read all, device by device."""
        waiting, self._waiting = self._waiting, []
        by_device: dict[torch.device, list[tuple[Tensor, Callable[[float], None]]]] = {}
        for one in waiting:
            by_device.setdefault(one[0].device, []).append(one)
        for group in by_device.values():
            values = torch.stack([value.to(torch.float32) for value, _ in group]).tolist()
            for value, (_, told) in zip(values, group, strict=True):
                told(value)
