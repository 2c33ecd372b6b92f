"""What one device computes in a step, worked out from the operators of a pass over tensors without content."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from deepseek_lab.distributed.scaling.predict import Compute

UPDATE_BYTES = 28
"""A parameter that AdamW updates in one pass: itself, its gradient and two moments are read, three are written."""


@dataclasses.dataclass(frozen=True)
class Rates:
    """What a device reaches in a second: its maker's peaks by the part of them that is used."""

    flops: float
    bandwidth: float
    value_bytes: int = 4
    """Of a value of an activation: 2 where passes compute in 16 bits."""


def work_out(model: nn.Module, loss: Callable[[], Tensor], rates: Rates, mode: FakeTensorMode) -> Compute:
    """The step of one device: each operator takes as long as its arithmetic or its bytes, whichever is longer.

    Source of that rule: Williams, Waterman and Patterson, Roofline, CACM 52(4), 2009.

    Args:
        model: Its tensors are fake.
        loss: Gives its loss.
        rates: Of the device.
        mode: Of the model's tensors.
    """
    clock = Clock(rates)
    trained = [each for each in model.parameters() if each.requires_grad]
    came = [0.0] * len(trained)

    def note(at: int) -> Callable[[Tensor], None]:
        def hook(_: Tensor) -> None:
            came[at] = clock.seconds

        return hook

    for at, each in enumerate(trained):
        each.register_post_accumulate_grad_hook(note(at))
    with mode, clock:
        value = loss()
        forward_s = clock.seconds
        value.backward()
    backward_s = clock.seconds - forward_s
    ready = tuple(max(0.0, one - forward_s) / backward_s if backward_s else 1.0 for one in came)
    update_s = UPDATE_BYTES * sum(each.numel() for each in trained) / rates.bandwidth
    return Compute(forward_s, backward_s, update_s, ready)


class Clock(TorchDispatchMode):
    """Adds up what operators take."""

    def __init__(self, rates: Rates) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rates = rates
        self.seconds = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.is_view or func.namespace == "prim":  # which tell of a tensor
            return result
        count = flop_registry.get(func._overloadpacket)
        flops = count(*args, **(kwargs or {}), out_val=result) if count is not None else 0
        leaves = [one for one in tree_leaves((args, kwargs, result)) if isinstance(one, Tensor)]
        moved = sum(one.numel() * self._size(one) for one in leaves)
        self.seconds += max(flops / self._rates.flops, moved / self._rates.bandwidth)
        return result

    def _size(self, one: Tensor) -> int:
        return (
            min(one.element_size(), self._rates.value_bytes)
            if one.is_floating_point()
            else one.element_size()
        )
