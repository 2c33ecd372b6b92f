"""What runs a graph that trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

Program = Callable[[Sequence[Tensor]], tuple[Tensor, ...]]
"""``program(arguments) -> outputs``: the graph's arguments in order; differentiable."""
