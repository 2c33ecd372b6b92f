"""The same plan on PyTorch's own FSDP2 with fake tensors, watched by PyTorch's own tracker: what the arithmetic is
checked against. For a process of its own, in which no process group exists.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.utils._pytree import tree_leaves

from deepseek_lab.base.errors import TargetError
from deepseek_lab.memory.devices.anatomy import block_paths, skeleton
from deepseek_lab.memory.devices.arithmetic import SLAB
from deepseek_lab.memory.devices.footprint import Inputs, fake, fused_attention
from deepseek_lab.memory.devices.runtime.adamw8bit import AdamW8bit
from deepseek_lab.memory.devices.runtime.loss import WithLoss
from deepseek_lab.memory.devices.runtime.shard import shard, step_in_backward
from deepseek_lab.memory.devices.way import Way


@contextlib.contextmanager
def pretended(num_devices: int) -> Iterator[DeviceMesh]:
    """A process group whose other members are not there.

    Raises:
        TargetError: there is a real one.
    """
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if dist.is_initialized():
        raise TargetError(
            "a process group exists in this process, and a simulation needs one of its own",
            hint="simulate in a new process",
        )
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=num_devices)
    try:
        yield init_device_mesh("cpu", (num_devices,))
    finally:
        dist.destroy_process_group()


class LocalAdamW(torch.optim.Optimizer):
    """PyTorch's fused AdamW on this rank's parts: on DTensors the tracker would count the whole tensors that their
    rules make up under fake tensors.
    """

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})
        self._parts = {p: p.to_local().detach() for group in self.param_groups for p in group["params"]}
        self._inner = torch.optim.AdamW(self._parts.values(), fused=True)

    def step(self, closure: Any = None) -> Any:
        """One step."""
        for parameter, part in self._parts.items():
            part.grad = None if parameter.grad is None else parameter.grad.to_local()
        self._inner.step()
        for part in self._parts.values():
            part.grad = None


def simulate(model: nn.Module, inputs: Inputs, way: Way, mesh: DeviceMesh, num_steps: int = 2) -> int:
    """The most bytes that a rank holds in training steps."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    made, _ = skeleton(model, mode, torch.bfloat16 if way.bf16_parameters else None, whole=True)
    paths = block_paths(made)
    with mode:
        whole = WithLoss(made, inputs.kind, inputs.head, way.chunk)
        shard(
            whole,
            [made.get_submodule(path) for path in paths],
            mesh,
            way.recompute(len(paths)),
            torch.bfloat16,
            torch.bfloat16 if way.bf16_parameters else torch.float32,
        )
        parameters = [each for each in whole.parameters() if each.requires_grad]

        def make(some: list[nn.Parameter]) -> torch.optim.Optimizer:
            return AdamW8bit(some, slab=SLAB) if way.eight_bit else LocalAdamW(some)

        optimizers = step_in_backward(parameters, make) if way.step_in_backward else [make(parameters)]
        args, kwargs, labels = (
            fake(each, mode) for each in (inputs.args, dict(inputs.kwargs), inputs.labels)
        )
        tracker = FSDPMemTracker(whole, None if way.step_in_backward else optimizers[0])
        tracker.track_inputs(
            tuple(leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor))
        )
        with fused_attention(), tracker:
            for _ in range(num_steps):
                loss = whole(labels, *args, **kwargs)
                loss.backward()
                del loss
                if not way.step_in_backward:
                    optimizers[0].step()
                    optimizers[0].zero_grad()
                tracker.reset_mod_stats()
        snapshot = tracker.get_tracker_snapshot("peak")
    simulate.last = snapshot  # type: ignore[attr-defined]
    return sum(int(kinds["Total"]) for kinds in snapshot.values())
