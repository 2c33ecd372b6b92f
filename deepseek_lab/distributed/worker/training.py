"""A training cell on a rank: data-parallel, on its share of the data, and what has become of it sent back."""

from __future__ import annotations

import random
import zlib
from typing import Any

import numpy as np
import torch

from deepseek_lab.distributed.channel import Message
from deepseek_lab.distributed.travel import Returning
from deepseek_lab.distributed.worker import cells
from deepseek_lab.distributed.worker.loaders import Shares
from deepseek_lab.distributed.worker.replicas import Replicas


def train(rank: int, message: Message, names: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """Run the cell; rank 0 sends back what the cell's names stand for.

    Raises:
        CellFailed: the cell raised.
    """
    wanted = message.fields
    size, seed = int(wanted["size"]), int(wanted["seed"])
    returning = Returning(message.payload, names, names.get("device", "cpu"))
    torch.manual_seed(seed + rank)
    random.seed(seed + rank)
    np.random.seed((seed + rank) % 2**32)
    with Replicas(wanted["way"]) as replicas, Shares(rank, size, seed, wanted["batch"]) as shares:
        value = cells.run_cell(wanted["source"], wanted["file"], names)
        modules, way = replicas.modules, replicas.way
    fields: dict[str, Any] = {
        "value": cells.value_text(value),
        "modules": [type(module).__name__ for module in modules],
        "checksum": checksum([one for module in modules for one in module.parameters()]),
        "num_steps": replicas.num_steps,
        "way": way,
        "step_s": replicas.race.seconds if replicas.race is not None else {},
        "num_shared": shares.num_shared,
        "global_batches": sorted(shares.global_batches),
    }
    payload: list[Any] = []
    if rank == 0:
        payload, fields["left"] = returning.pack(wanted["back"])
    return fields, payload


def checksum(parameters: list[torch.nn.Parameter]) -> int:
    """The same number for the same values, bit by bit."""
    total = 0
    for one in parameters:
        values: Any = one.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
        total = zlib.crc32(values, total)
    return total
