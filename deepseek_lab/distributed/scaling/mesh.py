"""The step of ranks that share layers or are stages of a pipeline, from the model's own operators.

Layers and blocks are those that ``%%deepseek distributed`` would find
(:mod:`deepseek_lab.distributed.worker.mesh.search`, :mod:`deepseek_lab.distributed.worker.mesh.stages`), on tensors
without content.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from deepseek_lab.base.errors import TargetError
from deepseek_lab.base.scaling import MeshOutcome
from deepseek_lab.distributed.mesh import Mesh
from deepseek_lab.distributed.scaling.network import Link, Network, all_reduce
from deepseek_lab.distributed.scaling.plan import Cluster
from deepseek_lab.distributed.scaling.predict import Compute
from deepseek_lab.distributed.worker.mesh import trial
from deepseek_lab.distributed.worker.mesh.search import Group, search
from deepseek_lab.distributed.worker.mesh.stages import balanced, course

_ACTIVATION_BYTES = 2
"""Of a value, at most: passes compute in 16 bits."""
ASSUMED = (
    "each copy of the model has the samples of all its devices; layers that T devices share take 1/T of their time",
    "layers take time by the number of their values; sums in them are waited for, with a message for each micro-batch",
    "P stages take (M + P - 1) / M times their share of the passes with M micro-batches (GPipe, arXiv:1811.06965)",
    "activations go between stages while others are computed, but for the first; copies' gradients go after the passes",
)


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a mesh does to a model, for the samples of one device."""

    shared: float
    """The part of its values that are in layers that ranks share."""
    num_groups: int
    layers_bytes: int
    """Added up within layers in a forward and its backward pass, and in how many messages."""
    num_messages: int
    costs: tuple[float, ...]
    """The part of a pass that each stage computes."""
    values: tuple[float, ...]
    """The part of the model's values that each stage has."""
    border_bytes: int
    """That the largest border of two stages is crossed by in a forward pass."""


def lay_out(
    model: nn.Module, loss: Callable[[], Tensor], mesh: Mesh, mode: FakeTensorMode, device: torch.device
) -> Layout:
    """Find layers and stages.

    Args:
        model: Its tensors are fake.
        loss: Gives its loss.
        mesh: Ranks by dimension.
        mode: Of the model's tensors.
        device: That they are on.

    Raises:
        TargetError: there is nothing to be shared, or there are too few blocks.
    """
    total = sum(one.numel() for one in model.parameters()) or 1
    groups: tuple[Group, ...] = ()
    costs: tuple[float, ...] = (1.0,)
    values: tuple[float, ...] = (1.0,)
    shared, sent, messages, border = 0.0, 0, 0, 0
    with mode, trial.unchanged(model):
        if mesh.tensor > 1:
            with torch.enable_grad():
                groups = search(model, loss, mesh.tensor).groups
                if not groups:
                    raise TargetError(
                        f"no layers of {type(model).__name__} can be shared by {mesh.tensor} devices",
                        hint=f"--mesh data={mesh.size}, or pipeline={mesh.tensor}",
                    )
                sent, messages = _sent(model, loss, groups)
            names = {name for group in groups for name in group.names}
            split = {
                id(one): one.numel()
                for name, part in model.named_modules()
                if name in names
                for one in part.parameters()
            }
            shared = sum(split.values()) / total
        if mesh.pipeline > 1:
            found = course(model, loss, mesh.pipeline, mesh.micro_batches, device)
            stages = balanced([block.cost_s for block in found.blocks], mesh.pipeline)
            whole = sum(block.cost_s for block in found.blocks) or 1.0
            costs = tuple(
                sum(
                    block.cost_s for block, stage in zip(found.blocks, stages, strict=True) if stage == number
                )
                / whole
                for number in range(mesh.pipeline)
            )
            values = tuple(
                sum(
                    one.numel()
                    for block, stage in zip(found.blocks, stages, strict=True)
                    if stage == number
                    for one in block.module.parameters()
                )
                / total
                for number in range(mesh.pipeline)
            )
            pairs = zip(found.blocks, stages, stages[1:], strict=False)
            border = max(block.num_bytes for block, stage, following in pairs if stage != following)
    return Layout(shared, len(groups), sent, messages, costs, values, _halved(border))


def _halved(num_bytes: int) -> int:
    """Of float32, as activations are 16 bits."""
    return num_bytes * _ACTIVATION_BYTES // 4


def _sent(model: nn.Module, loss: Callable[[], Tensor], groups: tuple[Group, ...]) -> tuple[int, int]:
    """Bytes that are added up within these layers in both passes, and in how many messages."""
    modules = dict(model.named_modules())
    enter = {modules[name] for group in groups for name, _ in group.columns[:1]}
    leave = {modules[name] for group in groups for name in (*group.rows, *group.tables)}
    both = {modules[name] for group in groups for name in (*group.heads, *group.wide)}
    counts = [0, 0]

    def count(values: Any) -> None:
        first = next((one for one in tree_leaves(values) if isinstance(one, Tensor)), None)
        if first is not None:
            counts[0] += first.numel() * min(first.element_size(), _ACTIVATION_BYTES)
            counts[1] += 1

    def called(module: nn.Module, inputs: Any, output: Any) -> None:
        if module in enter or module in both:
            count(inputs)
        if module in leave or module in both:
            count(output)

    handle = nn.modules.module.register_module_forward_hook(called)
    try:
        loss()
    finally:
        handle.remove()
    return counts[0], counts[1]


def predicted(layout: Layout, compute: Compute, cluster: Cluster, mesh: Mesh, num_values: int) -> MeshOutcome:
    """The step on a mesh, beside one of as many devices that need not exchange anything.

    Args:
        layout: What the mesh does to the model.
        compute: A step of one device with its samples.
        cluster: Devices and links; the mesh has all of them.
        mesh: Ranks by dimension.
        num_values: Parameters that are trained.
    """
    copy = mesh.tensor * mesh.pipeline
    """Devices of a copy, and how many times the samples of a device it has."""
    whole = 1 - layout.shared + layout.shared / mesh.tensor
    worst = max(layout.costs)
    passes_s = copy * (compute.forward_s + compute.backward_s) * whole * worst
    inside = cluster.network(1).inside
    layers_s = 0.0
    if mesh.tensor > 1:
        network = cluster.network(mesh.tensor)
        messages = max(1.0, layout.num_messages * worst * mesh.micro_batches)
        sent = all_reduce(copy * layout.layers_bytes * worst, network)
        layers_s = messages * sent.delay_s + sent.num_bytes / network.port.bandwidth
    stages_s = fill_s = 0.0
    if mesh.pipeline > 1:
        link = inside if copy <= cluster.node_size else _port(cluster, mesh.tensor)
        part = copy * layout.border_bytes / mesh.micro_batches
        fill_s = 2 * (mesh.pipeline - 1) * (link.latency_s + part / link.bandwidth)
    stages_s = (passes_s + layers_s) / (1 - mesh.bubble) + fill_s
    held = num_values * whole * max(layout.values)
    copies_s = 0.0
    if mesh.data > 1:
        together = max(1, cluster.node_size // copy)
        network = Network(mesh.data, together, inside, _port(cluster, min(copy, cluster.node_size)))
        gradients = all_reduce(4 * held, network)
        copies_s = gradients.delay_s + gradients.num_bytes / network.port.bandwidth
    update_s = compute.update_s * held / max(1, num_values)
    step_s = stages_s + copies_s + update_s
    return MeshOutcome(
        mesh=str(mesh),
        micro_batches=mesh.micro_batches if mesh.pipeline > 1 else 0,
        typed=f"--mesh {mesh}" + (f" --micro-batches {mesh.micro_batches}" if mesh.pipeline > 1 else ""),
        num_groups=layout.num_groups,
        shared=layout.shared,
        held_bytes=round(16 * held),
        layers_s=layers_s,
        copies_s=copies_s,
        bubble=mesh.bubble,
        step_s=step_s,
        efficiency=compute.total_s / step_s,
    )


def _port(cluster: Cluster, num_sharing: int) -> Link:
    """A network card that so many devices of a node share."""
    between = cluster.network(2 * cluster.node_size).between
    return Link(between.bandwidth / max(1, num_sharing), between.latency_s)
