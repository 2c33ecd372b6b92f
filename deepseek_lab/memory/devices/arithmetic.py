"""How much each device holds at the worst moment of a training step: FSDP2's course in closed form.

The moments are those at which PyTorch 2.13's FSDP2 has most alive (``torch/distributed/fsdp/_fully_shard``): a unit is
gathered into one buffer and copied out of it; in the forward pass the buffer lives on until the next unit is copied
out; in the backward pass the next unit is gathered ahead, and a unit's gradients wait in the reduction's type until
the next unit has its own. :mod:`~deepseek_lab.memory.devices.simulate` checks it against PyTorch's own tracker.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from deepseek_lab.base.devices import Holding
from deepseek_lab.memory.devices.anatomy import Anatomy
from deepseek_lab.memory.devices.footprint import Ends, Step
from deepseek_lab.memory.devices.way import Recompute, Way

COMPUTE = 2
"""Bytes of a value in bfloat16, in which units compute."""
SLAB = 1 << 22
"""Values that 8-bit AdamW updates at once."""
SLAB_BYTES = 16
"""Most that it needs for each of them; a test counts it."""


class Measured(Protocol):
    """Steps and ends as they were measured."""

    def step(self, how: Recompute, kind: int) -> Step:
        """Of a kind of block, recomputed so."""

    def ends(self, chunk: int) -> Ends:
        """With the loss in chunks of so many tokens."""


def reduce_bytes(way: Way) -> int:
    """Bytes of a gradient while it is added up over the devices: in the parameters' own type."""
    return 2 if way.bf16_parameters else 4


def moment_bytes(way: Way) -> float:
    """AdamW's moments, bytes a parameter."""
    return 2 + 8 / 256 if way.eight_bit else 2.0 * (2 if way.bf16_parameters else 4)


def worst(anatomy: Anatomy, measured: Measured, way: Way, num_devices: int) -> Holding:
    """The moment of a step at which a device holds most."""
    return max(moments(anatomy, measured, way, num_devices), key=lambda one: one.peak)


def moments(anatomy: Anatomy, measured: Measured, way: Way, num_devices: int) -> Iterator[Holding]:
    """Everything that could be the worst moment, in the order of a step."""
    n = num_devices
    own = 2 if way.bf16_parameters else 4
    reduced = reduce_bytes(way)
    ends = measured.ends(way.chunk)
    sizes = [block.num_parameters for block in anatomy.blocks]
    ways = way.recompute(len(sizes))
    steps = [measured.step(how, block.kind) for how, block in zip(ways, anatomy.blocks, strict=True)]
    total, rest = anatomy.num_parameters, anatomy.num_rest
    on_host = way.offload
    parameters = 0 if on_host else own * total // n
    states = 0 if on_host else int(moment_bytes(way) * total / n)
    buffers = anatomy.buffer_bytes + ends.input_bytes
    cast = 0 if way.bf16_parameters and not on_host else COMPUTE + (own if on_host else 0)

    def holding(
        moment: str, gradients: float, gathered: float, activations: float, working: float
    ) -> Holding:
        return Holding(
            moment, parameters, 0 if on_host else int(gradients), states, int(gathered), int(activations),
            int(working) + buffers,
        )  # fmt: skip

    root = COMPUTE * rest
    saved = float(ends.start_saved)
    previous = rest
    yield holding("gathering the rest", 0, 2 * root + cast * rest / n, 0, 0)
    yield holding("the start", 0, 2 * root, 0, ends.start_peak)
    for size, step in zip(sizes, steps, strict=True):
        yield holding("gathering a block", 0, root + COMPUTE * (previous + size) + cast * size / n, saved, 0)
        yield holding("forward pass", 0, root + 2 * COMPUTE * size, saved, step.forward_peak)
        saved += step.saved
        previous = size
    last = sizes[-1]
    yield holding("the loss", 0, root + COMPUTE * last + cast * last / n, saved, ends.end_peak)
    extra = float(ends.end_saved)
    gradients, waiting = 0.0, 0.0
    for at in range(len(sizes) - 1, -1, -1):
        size, step = sizes[at], steps[at]
        ahead = sizes[at - 1] if at else 0
        gathered = root + COMPUTE * (size + ahead) + reduced * waiting
        yield holding("gathering ahead", gradients, gathered + cast * ahead / n, saved + extra, 0)
        yield holding("backward pass", gradients, gathered, saved + extra, step.backward_peak)
        saved -= step.saved
        shard = reduced * size / n
        yield holding(
            "reducing gradients",
            gradients,
            root
            + COMPUTE * (size + ahead)
            + reduced * size
            + (0 if not way.step_in_backward else shard - COMPUTE * size),
            saved + extra,
            0 if not way.step_in_backward else _slab(way, anatomy.blocks[at].largest, n),
        )
        gradients += 0 if way.step_in_backward else own * size / n
        waiting = size
    yield holding("the start again", gradients, root + reduced * waiting, 0, ends.start_backward_peak)
    shard = reduced * rest / n
    yield holding("reducing the rest", gradients, (COMPUTE + reduced) * rest, 0, 0)
    yield holding(
        "stepping the rest", gradients, reduced * rest + shard, 0, _slab(way, anatomy.largest_of_rest, n)
    )
    gradients += 0 if way.step_in_backward else own * rest / n
    largest = max(anatomy.largest_of_rest, *(block.largest for block in anatomy.blocks))
    yield holding("optimizer step", gradients, 0, 0, _slab(way, largest, n))


def _slab(way: Way, size: int, n: int) -> int:
    return SLAB_BYTES * min(SLAB, size // n) if way.eight_bit else 0
