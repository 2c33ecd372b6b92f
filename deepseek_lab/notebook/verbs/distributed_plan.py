"""``distributed plan``: how a model would train data-parallel on devices that are described and not there."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from deepseek_lab.base.errors import TargetError, UsageError
from deepseek_lab.base.scaling import ScalingPlan
from deepseek_lab.notebook.host import Host, view_of
from deepseek_lab.notebook.parse import Command
from deepseek_lab.notebook.plan import Plan, checked, resolve
from deepseek_lab.notebook.show import Shown
from deepseek_lab.notebook.verbs.memory_plan import example_of

if TYPE_CHECKING:
    from deepseek_lab.distributed.mesh import Mesh
    from deepseek_lab.distributed.scaling.plan import Cluster

USED_FLOPS, USED_BANDWIDTH = 0.5, 0.8
"""The part of a maker's peaks that a step is taken to reach."""
LINK = "100Gbit/s"


class ShownScaling(Shown):
    """A plan: its fields are this object's own."""

    def __init__(self, plan: ScalingPlan, *, view: str = "auto") -> None:
        from deepseek_lab import views

        html_text = "" if view == "text" else views.scaling_html(plan)
        super().__init__(views.scaling_text(plan), html_text=html_text, data=plan.to_dict())
        self.plan = plan

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "plan":
            raise AttributeError(name)
        return getattr(self.plan, name)


def run(plan: Plan, host: Host) -> Shown:
    """Plan for one model."""
    command = plan.command
    name, model = _model(plan, host)
    devices = command.text("devices")
    if devices is None:
        raise UsageError(
            "distributed plan needs --devices: how many of what",
            hint=f"%deepseek distributed plan --model {name} --devices 16xV100",
        )
    for flag in ("batch", "sequence", "node-size"):
        value = command.number(flag)
        if value is not None and value < 1:
            raise UsageError(f"--{flag} cannot be {value:.0f}", hint=f"--{flag} 1")
    step_s = command.number("step-time")
    if step_s == 0:
        raise UsageError("--step-time cannot be 0", hint="--step-time SECONDS, as measured on one device")
    from torch._subclasses.fake_tensor import FakeTensorMode

    from deepseek_lab.distributed.scaling import plan as planning
    from deepseek_lab.distributed.scaling import record
    from deepseek_lab.distributed.scaling.predict import scaled
    from deepseek_lab.distributed.scaling.work import Rates, work_out
    from deepseek_lab.memory.devices.anatomy import skeleton

    cluster, source = _cluster(command, devices)
    mesh = _mesh(command, cluster.num_ranks)
    rates = Rates(USED_FLOPS * cluster.flops, USED_BANDWIDTH * cluster.memory_bandwidth, 2)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    made, _ = skeleton(model, mode, whole=True)
    loss, inputs, words = _loss(made, mode, command, host)
    compute = work_out(made, loss, rates, mode)
    if step_s is not None:
        compute = scaled(compute, step_s)
        told = f"a step of one device takes {step_s:g} s, as given; how it is divided was worked out from operators"
    else:
        told = (
            f"a step of one device was worked out: {USED_FLOPS:.0%} of the peak on matrix units in 16 bits, "
            f"{USED_BANDWIDTH:.0%} of the memory bandwidth ({source}); --step-time SECONDS takes a measured one"
        )
    assumed: tuple[str, ...] = (told, words)
    meshes = []
    if mesh is not None:
        from deepseek_lab.distributed.scaling import mesh as meshing

        num_values = sum(each.numel() for each in model.parameters() if each.requires_grad)
        layout = meshing.lay_out(made, loss, mesh, mode, next(made.parameters()).device)
        meshes.append(meshing.predicted(layout, compute, cluster, mesh, num_values))
        assumed += meshing.ASSUMED
    answer = planning.plan(
        [tuple(each.shape) for each in model.parameters() if each.requires_grad],
        compute,
        cluster,
        model=name,
        class_name=type(model).__name__,
        inputs=inputs,
        assumptions=assumed,
        checked=record.kept(),
    )
    return ShownScaling(dataclasses.replace(answer, meshes=tuple(meshes)), view=view_of(command))


def _model(plan: Plan, host: Host) -> tuple[str, Any]:
    """What to plan for: an operand, or what ``--model`` names."""
    command = plan.command
    named = command.text("model")
    if command.operands and named is not None:
        raise UsageError(
            f"both {command.operands[0]} and --model {named} are named", hint=f"--model {named} alone"
        )
    name = command.operands[0] if command.operands else named
    if name is None:
        raise UsageError(
            "distributed plan needs a model", hint="%deepseek distributed plan --model NAME --devices 16xV100"
        )
    model = plan.objects[name] if command.operands else checked(name, resolve(name, host.namespace))
    from torch import nn

    if not isinstance(model, nn.Module):
        raise TargetError(f"{name} is a {type(model).__name__}, not a model", hint="the name of an nn.Module")
    if not any(each.requires_grad for each in model.parameters()):
        raise TargetError(f"{name} has no parameters to train", hint="a model with parameters")
    return name, model


def _mesh(command: Command, size: int) -> Mesh | None:
    """What is to be planned beside data parallelism.

    Raises:
        UsageError: it is not for so many devices.
    """
    from deepseek_lab.distributed.mesh import mesh_of

    text, parts = command.text("mesh"), command.number("micro-batches")
    if text is None and parts is None:
        return None
    if text is None:
        raise UsageError(
            "--micro-batches are what goes through the stages of a --mesh", hint=f"--mesh pipeline={size}"
        )
    mesh = mesh_of(None, text, None if parts is None else int(parts), None)
    if mesh is not None and mesh.size != size:
        named = command.text("devices") or ""
        raise UsageError(
            f"--mesh {mesh} is for {mesh.size} devices, and --devices {named} are {size}",
            hint=f"--devices {mesh.size}x{named.partition('x')[2]}",
        )
    return mesh


def _cluster(command: Command, text: str) -> tuple[Cluster, str]:
    """The devices and links that were described, and where their figures come from."""
    from deepseek_lab.distributed.scaling.network import parse_rate
    from deepseek_lab.distributed.scaling.plan import NODE_SIZE, Cluster
    from deepseek_lab.memory.devices import Machine

    machine = Machine.parse(text)
    if len({device.name for _, device in machine.groups}) > 1:
        raise UsageError(
            f"{machine}: a plan for ranks needs equal devices", hint=f"--devices {machine.num_devices}xV100"
        )
    device = machine.smallest
    size = command.number("node-size")
    made = Cluster(
        num_ranks=machine.num_devices,
        device=device.name,
        memory_bytes=device.memory_bytes,
        memory_bandwidth=device.memory_bandwidth,
        flops=device.flops,
        inside_bandwidth=device.link_bandwidth,
        between_bandwidth=parse_rate(command.text("link") or LINK),
        node_size=int(size) if size is not None else NODE_SIZE,
    )
    return made, device.source or "rates of an A100, as only the size was said"


def _loss(made: Any, mode: Any, command: Command, host: Host) -> tuple[Any, str, str]:
    """What gives the loss of a model of fake tensors, the inputs in words, and a sentence on the loss."""
    from deepseek_lab.memory.devices.footprint import fake, fused_attention
    from deepseek_lab.memory.devices.inputs import find_inputs, in_words, loss_in_words
    from deepseek_lab.memory.devices.runtime.loss import WithLoss

    batch, sequence = command.number("batch"), command.number("sequence")
    found = find_inputs(
        made,
        batch=int(batch) if batch else None,
        sequence=int(sequence) if sequence else None,
        example=example_of(command.text("inputs"), host),
    )

    def loss() -> Any:
        args, kwargs, labels = (fake(each, mode) for each in (found.args, dict(found.kwargs), found.labels))
        with fused_attention():
            return WithLoss(made, found.kind)(labels, *args, **kwargs)

    return loss, in_words(found), f"loss: {loss_in_words(found)}; float32 master weights, AdamW"
