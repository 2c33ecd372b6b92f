"""How much memory a training may take: what the device has."""

from __future__ import annotations

import torch
from torch import nn

from deepseek_lab.base.errors import DeepseekError
from deepseek_lab.measure.room import free_bytes

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
    return free_bytes()


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
