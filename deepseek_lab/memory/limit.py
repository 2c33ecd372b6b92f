"""How much memory a training may take: what the device has."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from deepseek_lab.base.errors import DeepseekError

AUTO_SHARE = 0.9
"""Share of what is available that ``auto`` aims at."""


class MemoryLimitError(DeepseekError):
    """No plan keeps a training within the limit."""


def available_bytes(device: torch.device) -> int | None:
    """What more can be had on a device now; None where the system does not say.

    On a CPU that is what the system calls available, or what is left below the limits of the process's control groups.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = []
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    except OSError:
        return None
    found += [room for room in map(_room, _groups()) if room is not None]
    return min(found) if found else None


def share_of_device(model: nn.Module, held_bytes: int) -> int:
    """What ``auto`` aims at: a share of what a model's device has, with what the training holds already.

    Raises:
        MemoryLimitError: The system does not say what there is.
    """
    device = next((one.device for one in model.parameters()), torch.device("cpu"))
    room = available_bytes(device)
    if room is None:
        raise MemoryLimitError(
            f"this system does not say how much memory {device} has", hint="--memory-limit 6GiB"
        )
    return int(AUTO_SHARE * (room + held_bytes))


def _groups() -> list[tuple[Path, Path]]:
    """Files with the limit and the usage of each control group that this process is in."""
    root = Path("/sys/fs/cgroup")
    found = []
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    for line in lines:
        _, kinds, path = line.split(":", 2)
        base, limit, usage = (
            (root, "memory.max", "memory.current")
            if not kinds
            else (root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
        )
        if kinds and "memory" not in kinds.split(","):
            continue
        place = base / path.lstrip("/")
        for folder in (place, *place.parents):
            if folder == base.parent:
                break
            found.append((folder / limit, folder / usage))
    return found


def _room(files: tuple[Path, Path]) -> int | None:
    try:
        limit, usage = (one.read_text(encoding="ascii").strip() for one in files)
        return max(int(limit) - int(usage), 0) if limit != "max" else None
    except (OSError, ValueError):
        return None
