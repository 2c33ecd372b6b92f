"""From a model and a machine to the whole answer."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import nn

from deepseek_lab.base.devices import DevicePlan, Largest, Outcome
from deepseek_lab.base.errors import TargetError, UsageError
from deepseek_lab.memory.devices.anatomy import anatomy
from deepseek_lab.memory.devices.code import to_code
from deepseek_lab.memory.devices.cost import ASSUMED
from deepseek_lab.memory.devices.footprint import Inputs
from deepseek_lab.memory.devices.grow import Family
from deepseek_lab.memory.devices.inputs import find_inputs, in_words, loss_in_words
from deepseek_lab.memory.devices.machine import UNKNOWN, Device, Machine, parse_bytes
from deepseek_lab.memory.devices.planner import (
    CHUNK,
    MAX_DEPTH,
    RESERVED,
    Allowed,
    Choice,
    Growth,
    Planner,
    host_bytes,
    usable,
)
from deepseek_lab.memory.devices.way import PLAIN, Way

MAX_DEVICES = 1 << 14


def plan_devices(
    model: nn.Module,
    devices: str,
    *,
    name: str = "model",
    batch: int | None = None,
    sequence: int | None = None,
    example: Any = None,
    precision: str | None = None,
    host_memory: str | None = None,
) -> DevicePlan:
    """How ``model`` trains on ``devices``, computed without allocating it.

    Args:
        model: Real, or on the meta device; its values are never looked at.
        devices: Such as ``8x80GB``, ``4x24GiB``, ``16xV100``.
        name: What the answer calls it.
        batch: Samples on each device at a time.
        sequence: Tokens a sample.
        example: What the model can be called with, where its configuration does not say.
        precision: ``bf16`` allows bfloat16 parameters without a float32 master copy.
        host_memory: What the hosts of all devices have for it together, such as ``1TB``; without it, nothing is
            offloaded.

    Raises:
        UsageError: ``devices`` or a size is not understood, or nothing says what the model takes.
        TargetError: it is no model with repeated blocks, or cannot be called.

    >>> from torch import nn
    >>> layer = nn.TransformerEncoderLayer(64, 4, batch_first=True)
    >>> plan = plan_devices(nn.TransformerEncoder(layer, 4), "2x1GB", example=torch.zeros(1, 16, 64))
    >>> plan.plain.fits
    True
    """
    if not isinstance(model, nn.Module):
        raise TargetError(f"{name} is a {type(model).__name__}, not a model", hint="the name of an nn.Module")
    if precision not in (None, "bf16"):
        raise UsageError(
            f"--precision {precision} is nothing that a training plan can use", hint="--precision bf16"
        )
    machine = Machine.parse(devices)
    host = parse_bytes(host_memory, "host-memory") if host_memory else 0
    allowed = Allowed(precision == "bf16", host)
    anatomy(model)  # says first where there is nothing to plan
    inputs = find_inputs(model, batch=batch, sequence=sequence, example=example)
    planner = Planner(model, inputs, machine, allowed)
    plain, chosen = planner.choice(PLAIN), planner.cheapest()
    smallest = planner.smallest()
    count, family = len(planner.seen.blocks), Family(model)
    words = in_words(inputs)
    told = DevicePlan(
        model=name,
        class_name=planner.seen.class_name,
        num_parameters=planner.seen.num_parameters,
        num_blocks=count,
        block_class=planner.seen.block_class,
        devices=str(machine),
        num_devices=machine.num_devices,
        limit_bytes=usable(machine),
        inputs=words,
        precision="bf16" if allowed.bf16_parameters else "float32 master weights",
        plain=_outcome(plain, planner, count),
        chosen=_outcome(chosen, planner, count) if chosen else None,
        smallest=_outcome(smallest, planner, count),
        largest=_ladder(family, inputs, machine, allowed),
        remedies=() if chosen else tuple(_remedies(planner, batch, sequence, example)),
        assumptions=tuple(_assumptions(inputs, machine, family.by_depth_alone)),
    )
    if chosen is None:
        return told
    most = f"{chosen.holding.peak / 2**30:.1f} GiB"
    about = f"{told.num_parameters:,} parameters, {words} on each device; at most {most} there, as computed."
    return dataclasses.replace(
        told, code=to_code(model, inputs, chosen.way, str(machine), machine.num_devices, about)
    )


def _outcome(choice: Choice, planner: Planner, count: int) -> Outcome:
    return Outcome(
        choice.way.words(count), choice.holding, choice.host_bytes, choice.slowdown, planner.fits(choice)
    )


def _ladder(family: Family, inputs: Inputs, machine: Machine, allowed: Allowed) -> tuple[Largest, ...]:
    """The largest model with one means after the other."""
    growth = Growth(family, inputs, machine)
    chunk = CHUNK if inputs.head else 0
    means: list[dict[str, Any]] = [
        {},
        {"full": True, "chunk": chunk},
        {"eight_bit": True},
        {"step_in_backward": True},
    ]
    means += [{"bf16_parameters": True}] * allowed.bf16_parameters + [{"offload": True}] * bool(
        allowed.host_bytes
    )
    found: list[Largest] = []
    taken: dict[str, Any] = {}
    base = 0
    for more in means:
        taken = taken | more

        def way(depth: int, taken: dict[str, Any] = taken) -> Way:
            rest = {key: value for key, value in taken.items() if key != "full"}
            return Way(num_full=depth if taken.get("full") else 0, **rest)

        known = max((one.num_blocks for one in found if one.width), default=0)
        most = growth.largest(way, allowed.host_bytes, known)
        if most is None:
            continue
        size, seen = most
        base = base or (seen.num_parameters if not more else 0)
        peak, _ = growth.peak(size, way(size.depth))
        found.append(
            Largest(
                way(size.depth).words(size.depth),
                seen.num_parameters,
                size.depth,
                size.width,
                peak,
                host_bytes(seen, way(size.depth)),
                seen.num_parameters / base if base else math.nan,
            )
        )
    return tuple(found)


def _remedies(planner: Planner, batch: int | None, sequence: int | None, example: Any) -> list[str]:
    """What would make it fit, each tried."""
    found = []
    allowed, machine = planner.allowed, planner.machine
    if not allowed.bf16_parameters and planner.cheapest(dataclasses.replace(allowed, bf16_parameters=True)):
        found.append("--precision bf16: bfloat16 parameters")
    rows = next(
        (
            v.shape[0]
            for v in (*planner.inputs.args, *planner.inputs.kwargs.values())
            if isinstance(v, torch.Tensor)
        ),
        1,
    )
    if rows > 1:
        fewer = find_inputs(planner.model, batch=1, sequence=sequence, example=example)
        if Planner(planner.model, fewer, machine, allowed).cheapest():
            found.append("--batch 1: one sample on each device at a time")
    if not allowed.host_bytes and (choice := planner.cheapest(Allowed(allowed.bf16_parameters, 1 << 62))):
        need = math.ceil(choice.host_bytes / 1e9)
        found.append(f"--host-memory {need}GB: parameters and moments on the hosts")
    elif allowed.host_bytes and (choice := planner.cheapest(Allowed(allowed.bf16_parameters, 1 << 62))):
        found.append(
            f"--host-memory {math.ceil(choice.host_bytes / 1e9)}GB instead of {allowed.host_bytes / 1e9:.0f}GB"
        )
    more = machine.num_devices
    while (more := 2 * more) <= MAX_DEVICES:
        device: Device = machine.smallest
        if planner.cheapest(machine=Machine(((more, device),))):
            low = more // 2
            while more - low > 1:
                middle = (low + more) // 2
                fits = planner.cheapest(machine=Machine(((middle, device),))) is not None
                low, more = (low, middle) if fits else (middle, more)
            found.append(f"--devices {more}x{device.name}: more of the same devices")
            break
    needed = planner.smallest().holding.peak / (1 - RESERVED)
    unit, size = ("GB", 1e9) if needed >= 1e10 else ("MB", 1e6)
    found.append(f"--devices {machine.num_devices}x{math.ceil(needed / size)}{unit}: larger devices")
    return found


def _assumptions(inputs: Inputs, machine: Machine, by_depth_alone: bool) -> list[str]:
    known = [device for _, device in machine.groups if device.source]
    rates = (
        "; ".join(dict.fromkeys(device.source for device in known))
        or f"those of {UNKNOWN.name} ({UNKNOWN.source})"
    )
    made = [
        f"{RESERVED:.0%} of each device is left to the driver, to communication libraries and to fragmentation",
        f"loss: {loss_in_words(inputs)}; units compute in bfloat16 and add gradients up in the parameters' type; AdamW",
        "plain FSDP2: every block a unit, resharded after its forward pass, fused AdamW, no recomputation",
        f"time is estimated, nothing ran: {ASSUMED}; rates of {rates}",
        "the optimizer step inside the backward pass allows neither clipping by the global norm nor accumulation",
    ]
    if by_depth_alone:
        made.append(
            f"larger models are deeper, not wider, and {MAX_DEPTH:,} blocks are the most that is tried"
        )
    if machine.is_mixed:
        made.append("shards are equal, so the smallest device sets the limit for all")
    return made
