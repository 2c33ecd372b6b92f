"""Making a call again without the user noticing."""

from __future__ import annotations

import copy
import threading
from typing import Any

import torch
from torch import Tensor


def hook_tables(module: torch.nn.Module | None) -> list[Any]:
    """The tables in which hooks of a module, of its children and of all modules are kept."""
    if module is None:
        return []
    shared = vars(torch.nn.modules.module)
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    tables = [shared[f"_global{name}"] for name in names]
    return tables + [getattr(child, name) for child in module.modules() for name in names]


class Replaying:
    """While a call is repeated: no random number of the user's is drawn, and nested calls stay eager."""

    def __init__(self, local: threading.local) -> None:
        self._local = local

    def __enter__(self) -> None:
        self._local.inside = True
        self._random = torch.get_rng_state()

    def __exit__(self, *exc: object) -> None:
        self._local.inside = False
        torch.set_rng_state(self._random)


def copied(value: Any) -> Any:
    """A copy of containers and unknown objects; tensors among plain arguments are shared, caches are not."""
    if isinstance(value, Tensor | int | float | bool | str | None):
        return value
    if isinstance(value, tuple | list):
        return type(value)(copied(item) for item in value)
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return copy.deepcopy(value)
