"""Does it train there, how cheaply, and how large could it be."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import torch
from torch import nn

from deepseek_lab.base.devices import Holding
from deepseek_lab.memory.devices.anatomy import Anatomy, anatomy
from deepseek_lab.memory.devices.arithmetic import Measured, worst
from deepseek_lab.memory.devices.cost import estimate
from deepseek_lab.memory.devices.footprint import Ends, Inputs, Step, measure
from deepseek_lab.memory.devices.grow import Family, Size
from deepseek_lab.memory.devices.machine import Machine
from deepseek_lab.memory.devices.way import PLAIN, Recompute, Way

RESERVED = 0.05
"""Part of each device that a plan leaves to the driver, to communication libraries and to fragmentation."""
CHUNK = 1024
"""Tokens of the loss at once."""
MAX_DEPTH = 4096
"""No deeper model is tried."""
MAX_EXACT_SLOWDOWN = 1.5
"""Up to here what changes no arithmetic is preferred to 8-bit moments and bfloat16 parameters."""


@dataclasses.dataclass(frozen=True)
class Allowed:
    """What the user gives away or has."""

    bf16_parameters: bool = False
    host_bytes: int = 0


@dataclasses.dataclass(frozen=True)
class Choice:
    """A way and what comes of it."""

    way: Way
    holding: Holding
    host_bytes: int
    slowdown: float
    """Estimated time of a step, that of plain FSDP2 being 1."""


class Measurements:
    """Steps and ends of one model, each measured when it is first asked for: a fraction of a second of fake tensors."""

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        self._model, self._inputs = model, inputs
        self._found: dict[tuple[Recompute, int], tuple[dict[int, Step], Ends]] = {}

    def _of(self, how: Recompute, chunk: int) -> tuple[dict[int, Step], Ends]:
        if (how, chunk) not in self._found:
            self._found[how, chunk] = measure(self._model, self._inputs, how, chunk, torch.bfloat16)
        return self._found[how, chunk]

    def step(self, how: Recompute, kind: int) -> Step:
        """Of a kind of block; the loss makes no difference to it."""
        chunk = next((chunk for known, chunk in self._found if known == how), 0)
        return self._of(how, chunk)[0][kind]

    def ends(self, chunk: int) -> Ends:
        """With the loss in chunks; recomputation makes no difference to them."""
        how: Recompute = next((how for how, known in self._found if known == chunk), "full")
        return self._of(how, chunk)[1]


def usable(machine: Machine) -> int:
    """Bytes of the smallest device that a plan may fill."""
    return int(machine.smallest.memory_bytes * (1 - RESERVED))


def host_bytes(seen: Anatomy, way: Way) -> int:
    """What the hosts of all devices hold together."""
    if not way.offload:
        return 0
    own = 2 if way.bf16_parameters else 4
    moments = 2.03125 if way.eight_bit else 2 * own
    return int(seen.num_parameters * (own + moments + (0 if way.step_in_backward else own)))


class Planner:
    """Plans for one model on one machine."""

    def __init__(self, model: nn.Module, inputs: Inputs, machine: Machine, allowed: Allowed) -> None:
        self.model, self.inputs, self.machine, self.allowed = model, inputs, machine, allowed
        self.seen = anatomy(model)
        self.measured: Measured = Measurements(model, inputs)

    def choice(self, way: Way) -> Choice:
        """What comes of a way."""
        return _choice(self.seen, self.measured, way, self.machine)

    def fits(self, choice: Choice) -> bool:
        """Whether no device and no host is asked for more than it has."""
        return choice.holding.peak <= usable(self.machine) and choice.host_bytes <= self.allowed.host_bytes

    def cheapest(self, allowed: Allowed | None = None, machine: Machine | None = None) -> Choice | None:
        """Plain FSDP2 where it fits, else the way with the least estimated time that does. What changes no arithmetic
        comes first where it costs at most :data:`MAX_EXACT_SLOWDOWN`. None where nothing fits.
        """
        allowed, machine = allowed or self.allowed, machine or self.machine
        plain = _choice(self.seen, self.measured, PLAIN, machine)
        if plain.holding.peak <= usable(machine):
            return plain
        fitting = list(self._fitting(allowed, machine))
        return min(fitting, key=self._order, default=None)

    @staticmethod
    def _order(choice: Choice) -> tuple[bool, float, int]:
        way = choice.way
        exact = not (way.eight_bit or way.bf16_parameters)
        changes = sum(map(bool, dataclasses.astuple(way)))
        return not (exact and choice.slowdown <= MAX_EXACT_SLOWDOWN), round(choice.slowdown, 3), changes

    def _fitting(self, allowed: Allowed, machine: Machine) -> Iterator[Choice]:
        limit = usable(machine)
        count = len(self.seen.blocks)

        def peak(way: Way) -> int:
            return worst(self.seen, self.measured, way, machine.num_devices).peak

        for base in _bases(allowed, bool(self.inputs.head)):
            if host_bytes(self.seen, base) > allowed.host_bytes:
                continue
            for full in sorted({0, count, *range(0, count, max(1, count // 12))}):
                way = dataclasses.replace(base, num_full=full)

                def fits(selective: int, way: Way = way) -> bool:
                    return peak(dataclasses.replace(way, num_selective=selective)) <= limit

                if fits(count - full):
                    way = dataclasses.replace(way, num_selective=_least(fits, count - full))
                    yield _choice(self.seen, self.measured, way, machine)

    def smallest(self, allowed: Allowed | None = None) -> Choice:
        """The way that needs the least."""
        allowed = allowed or self.allowed
        return min(map(self.choice, thrifty(allowed, len(self.seen.blocks), bool(self.inputs.head))),
                   key=lambda one: one.holding.peak)  # fmt: skip


def _choice(seen: Anatomy, measured: Measured, way: Way, machine: Machine) -> Choice:
    plain = estimate(seen, measured, PLAIN, machine).total_s
    return Choice(
        way,
        worst(seen, measured, way, machine.num_devices),
        host_bytes(seen, way),
        estimate(seen, measured, way, machine).total_s / plain,
    )


def _bases(allowed: Allowed, has_head: bool) -> Iterator[Way]:
    for chunk, eight, step, bf16, offload in itertools.product(
        (0, CHUNK) if has_head else (0,),
        (False, True),
        (False, True),
        (False, True) if allowed.bf16_parameters else (False,),
        (False, True) if allowed.host_bytes else (False,),
    ):
        if bf16 and not eight:
            continue  # without stochastic rounding small updates of bfloat16 parameters are lost
        yield Way(chunk=chunk, eight_bit=eight, step_in_backward=step, bf16_parameters=bf16, offload=offload)


def thrifty(allowed: Allowed, num_blocks: int, has_head: bool) -> Iterator[Way]:
    """Every combination with all blocks recomputed alike."""
    for base in _bases(allowed, has_head):
        yield base
        yield dataclasses.replace(base, num_selective=num_blocks)
        yield dataclasses.replace(base, num_full=num_blocks)


def _least(good: Callable[[int], bool], most: int) -> int:
    """The smallest number from 0 to ``most`` that is good; ``most`` is known to be, and so is all above a good one."""
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        if good(middle):
            high = middle
        else:
            low = middle + 1
    return low


class Growth:
    """The largest model of a family that trains on a machine."""

    def __init__(self, family: Family, inputs: Inputs, machine: Machine) -> None:
        self.family, self.inputs, self.machine = family, inputs, machine
        self._measured: dict[int, Measured] = {}

    def peak(self, size: Size, way: Way) -> tuple[int, Anatomy]:
        """Bytes on a device, and the model."""
        made, seen = self.family.member(size)
        if size.width not in self._measured:
            self._measured[size.width] = Measurements(made, self.inputs)
        return worst(seen, self._measured[size.width], way, self.machine.num_devices).peak, seen

    def largest(
        self, way: Callable[[int], Way], host: int = 0, depth: int = 0
    ) -> tuple[Size, Anatomy] | None:
        """In the usual proportion as far as it goes, then deeper at that width; ``way`` is asked by depth, ``depth`` is
        where to look first.
        """
        limit = usable(self.machine)

        def load(size: Size) -> float:
            peak, seen = self.peak(size, way(size.depth))
            needed = host_bytes(seen, way(size.depth))
            return max(peak / limit, needed / host if host else float(needed > 0) * 2)

        depth = _most(lambda n: load(self.family.proportionate(n)), depth, 3)
        if depth == 0:
            return None
        width = self.family.proportionate(depth).width
        size = Size(_most(lambda n: load(Size(n, width)), depth, 1), width)
        return size, self.peak(size, way(size.depth))[1]


def _most(load: Callable[[int], float], guess: int, power: int) -> int:
    """The largest number with a load of at most 1; 0 where there is none. The load grows with the number, about as its
    ``power``, which saves looking at most of those in between.
    """
    low, high, at = 0, MAX_DEPTH + 1, max(1, guess)
    while high - low > 1:
        found = load(at)
        low, high = (at, high) if found <= 1 else (low, at)
        near = int(at * found ** (-1 / power)) if found > 0 else 2 * at
        at = min(max(near, low + 1), high - 1, max(4 * at, 4))
    return low
