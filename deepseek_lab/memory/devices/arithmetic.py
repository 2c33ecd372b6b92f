"""How much each device holds at the worst moment of a training step: FSDP2's course in closed form.

The moments are those at which PyTorch 2.13's FSDP2 has most alive (``torch/distributed/fsdp/_fully_shard``): a unit is
gathered into one buffer and copied out of it; in the forward pass the buffer lives on until the next unit is copied
out; in the backward pass the next unit is gathered ahead, and a unit's gradients wait in the reduction's type until
the next unit has its own. :mod:`~deepseek_lab.memory.devices.simulate` checks it against PyTorch's own tracker.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Protocol

from deepseek_lab.base.devices import Holding
from deepseek_lab.memory.devices.anatomy import Anatomy, Block
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
    runs = list(_runs(anatomy, measured, way))
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
    for run in runs:
        size, step = run.block.num_parameters, run.step
        for at in sorted({0, min(1, run.count - 1), run.count - 1}):
            before = saved + at * step.saved
            gathered = root + COMPUTE * ((size if at else previous) + size)
            yield holding("gathering a block", 0, gathered + cast * size / n, before, 0)
            yield holding("forward pass", 0, root + 2 * COMPUTE * size, before, step.forward_peak)
        saved += run.count * step.saved
        previous = size
    yield holding("the loss", 0, root + COMPUTE * previous + cast * previous / n, saved, ends.end_peak)
    saved += ends.end_saved
    gradients, waiting = 0.0, 0
    for place in range(len(runs) - 1, -1, -1):
        run = runs[place]
        size, step = run.block.num_parameters, run.step
        first = runs[place - 1].block.num_parameters if place else 0
        kept = 0 if way.step_in_backward else own * size / n
        for at in sorted({0, min(1, run.count - 1), max(0, run.count - 2), run.count - 1}):
            ahead = size if at < run.count - 1 else first
            units = root + COMPUTE * (size + ahead)
            before, summed = saved - at * step.saved, gradients + at * kept
            gathered = units + reduced * (size if at else waiting)
            yield holding("gathering ahead", summed, gathered + cast * ahead / n, before, 0)
            yield holding("backward pass", summed, gathered, before, step.backward_peak)
            stepped = (reduced / n - COMPUTE) * size if way.step_in_backward else 0
            slab = _slab(way, run.block.largest, n) if way.step_in_backward else 0
            yield holding(
                "reducing gradients", summed, units + reduced * size + stepped, before - step.saved, slab
            )
        saved -= run.count * step.saved
        gradients += run.count * kept
        waiting = size
    yield holding("the start again", gradients, root + reduced * waiting, 0, ends.start_backward_peak)
    shard = reduced * rest / n
    yield holding("reducing the rest", gradients, (COMPUTE + reduced) * rest, 0, 0)
    yield holding(
        "stepping the rest", gradients, reduced * rest + shard, 0, _slab(way, anatomy.largest_of_rest, n)
    )
    gradients += 0 if way.step_in_backward else own * rest / n
    largest = max(anatomy.largest_of_rest, *(run.block.largest for run in runs))
    yield holding("optimizer step", gradients, 0, 0, _slab(way, largest, n))


@dataclasses.dataclass(frozen=True)
class _Run:
    """Equal blocks in a row, whose worst is near one of its ends: all that changes in between grows evenly."""

    block: Block
    step: Step
    count: int


def _runs(anatomy: Anatomy, measured: Measured, way: Way) -> Iterator[_Run]:
    ways = zip(anatomy.blocks, way.recompute(len(anatomy.blocks)), strict=True)
    for (_, _, how), same in itertools.groupby(
        ways, lambda one: (one[0].kind, one[0].num_parameters, one[1])
    ):
        blocks = [block for block, _ in same]
        yield _Run(blocks[0], measured.step(how, blocks[0].kind), len(blocks))


def _slab(way: Way, size: int, n: int) -> int:
    return SLAB_BYTES * min(SLAB, size // n) if way.eight_bit else 0
