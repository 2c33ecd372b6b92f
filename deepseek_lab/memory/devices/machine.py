"""A described machine: how many devices, what each holds, and what its maker says about its speed."""

from __future__ import annotations

import dataclasses
import re

from deepseek_lab.base.errors import UsageError, nearest

_PART = re.compile(r"(?:(\d+)\s*[xX×*]\s*)?(.+)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?B)", re.IGNORECASE)
UNITS = {
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}


@dataclasses.dataclass(frozen=True)
class Device:
    """One device. Rates are the maker's peaks, in one second."""

    name: str
    memory_bytes: int
    flops: float
    """bfloat16 (float16 where there is none) on matrix units, dense."""
    memory_bandwidth: float
    link_bandwidth: float
    """To other devices, one way."""
    source: str = ""


def _device(name: str, memory: float, flops: float, bandwidth: float, link: float, source: str) -> Device:
    return Device(name, int(memory), flops * 1e12, bandwidth * 1e9, link * 1e9, source)


_GIB = 2**30
DEVICES = {
    one.name.lower(): one
    for one in (
        _device("V100-16GB", 16 * _GIB, 125, 900, 150, "NVIDIA V100 datasheet, SXM2"),
        _device("V100-32GB", 32 * _GIB, 125, 900, 150, "NVIDIA V100 datasheet, SXM2"),
        _device("T4", 16 * _GIB, 65, 320, 16, "NVIDIA T4 datasheet, PCIe"),
        _device("A10G", 24 * _GIB, 70, 600, 32, "NVIDIA A10G datasheet, PCIe"),
        _device("L4", 24 * _GIB, 121, 300, 32, "NVIDIA L4 datasheet, PCIe"),
        _device("RTX3090", 24 * _GIB, 71, 936, 32, "NVIDIA Ampere GA102 whitepaper, PCIe"),
        _device("RTX4090", 24 * _GIB, 165, 1008, 32, "NVIDIA Ada whitepaper, PCIe"),
        _device("A6000", 48 * _GIB, 155, 768, 32, "NVIDIA RTX A6000 datasheet, PCIe"),
        _device("L40S", 48 * _GIB, 362, 864, 32, "NVIDIA L40S datasheet, PCIe"),
        _device("A100-40GB", 40 * _GIB, 312, 1555, 300, "NVIDIA A100 datasheet, SXM4"),
        _device("A100-80GB", 80 * _GIB, 312, 2039, 300, "NVIDIA A100 datasheet, SXM4"),
        _device("H100", 80 * _GIB, 989, 3350, 450, "NVIDIA H100 datasheet, SXM5"),
        _device("H200", 141 * 10**9, 989, 4800, 450, "NVIDIA H200 datasheet, SXM5"),
        _device("B200", 180 * 10**9, 2250, 8000, 900, "NVIDIA DGX B200 datasheet"),
        _device("MI250X", 128 * _GIB, 383, 3277, 100, "AMD Instinct MI250X datasheet"),
        _device("MI300X", 192 * _GIB, 1307, 5300, 64, "AMD Instinct MI300X datasheet"),
    )
}
"""Devices by name. Sizes and rates are what the datasheets state."""
ALIASES = {"v100": "v100-16gb", "a100": "a100-80gb", "3090": "rtx3090", "4090": "rtx4090"}
UNKNOWN = DEVICES["a100-80gb"]
"""Whose rates stand for those of a device of which only the size is said."""


@dataclasses.dataclass(frozen=True)
class Machine:
    """Groups of equal devices."""

    groups: tuple[tuple[int, Device], ...]

    @property
    def num_devices(self) -> int:
        """All of them."""
        return sum(count for count, _ in self.groups)

    @property
    def smallest(self) -> Device:
        """The device that an even partition must fit."""
        return min((device for _, device in self.groups), key=lambda one: one.memory_bytes)

    @property
    def is_mixed(self) -> bool:
        """Whether devices differ in size."""
        return len({device.memory_bytes for _, device in self.groups}) > 1

    def __str__(self) -> str:
        return ", ".join(f"{count} x {device.name}" for count, device in self.groups)

    @classmethod
    def parse(cls, text: str) -> Machine:
        """From ``8x80GB``, ``4x24GiB``, ``16xV100`` or ``2x80GB,4x40GB``. GB are 10**9 bytes, GiB 2**30.

        Raises:
            UsageError: a part is neither a size nor a known device.
        """
        groups: list[tuple[int, Device]] = []
        for part in filter(None, (piece.strip() for piece in text.split(","))):
            match = _PART.fullmatch(part)
            assert match is not None
            count = int(match[1] or 1)
            if count < 1:
                raise UsageError(f"{part!r} describes no device", hint="--devices 8x80GB")
            groups.append((count, _named(match[2].strip(), part)))
        if not groups:
            raise UsageError("--devices describes no device", hint="--devices 8x80GB")
        return cls(tuple(groups))


def _named(name: str, part: str) -> Device:
    size = _SIZE.fullmatch(name)
    if size is not None:
        num_bytes = int(float(size[1]) * UNITS[size[2].lower()])
        if num_bytes < 2**20:
            raise UsageError(f"{part!r}: {name} holds no model", hint="--devices 8x80GB")
        return dataclasses.replace(UNKNOWN, name=name, memory_bytes=num_bytes, source="")
    key = re.sub(r"[\s_]", "", name.lower())
    key = ALIASES.get(key, key)
    if key in DEVICES:
        return DEVICES[key]
    near = nearest(key, [*DEVICES, *ALIASES])
    raise UsageError(
        f"{name!r} is neither a size such as 80GB nor a device of the table "
        f"({', '.join(one.name for one in DEVICES.values())})",
        hint=f"--devices {part.replace(name, DEVICES[ALIASES.get(near, near)].name)}"
        if near
        else "--devices 8x80GB",
    )


def parse_bytes(text: str, flag: str) -> int:
    """Bytes of ``80GB`` or ``1.5TiB``.

    Raises:
        UsageError: the text is no size.
    """
    size = _SIZE.fullmatch(text.strip())
    if size is None:
        raise UsageError(f"{text!r} is no size for --{flag}", hint=f"--{flag} 512GB")
    return int(float(size[1]) * UNITS[size[2].lower()])
