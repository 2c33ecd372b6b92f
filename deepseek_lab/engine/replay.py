"""Making a call again without the user noticing."""

from __future__ import annotations

import copy
import threading
import types
from collections.abc import Container
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


class Methods:
    """Which Python a module and its children are made of, which Dynamo takes for as fixed as their classes.

    A notebook may assign ``Block.forward`` anew, and IPython's autoreload puts other code into the methods there are.
    What a capture has not gone through is called for real, and needs no watching.
    """

    def __init__(self, module: torch.nn.Module | None) -> None:
        self._classes = [] if module is None else list({type(child): None for child in module.modules()})
        self._places: list[tuple[types.MappingProxyType[str, Any], str]] = []
        self._methods: list[Any] = []
        self._codes: list[types.CodeType] = []
        self._known: set[tuple[type, str]] = set()
        self._forwards = [one.forward for one in self._classes]

    def watch(self, traced: Container[types.CodeType]) -> None:
        """Watch from now on the methods whose code a capture has gone through, beside those of earlier captures.

        Those stay as they were then: a later capture does not make an earlier graph right again.
        """
        owners = dict.fromkeys(owner for one in self._classes for owner in one.__mro__)
        for owner in owners:
            for name, value in vars(owner).items():
                place = (owner, name)
                if (
                    isinstance(value, types.FunctionType)
                    and value.__code__ in traced
                    and place not in self._known
                ):
                    self._known.add(place)
                    self._places.append((vars(owner), name))
                    self._methods.append(value)
                    self._codes.append(value.__code__)

    def changed(self) -> bool:
        """Whether a method that is watched was replaced or got another code since."""
        return (
            [table.get(name) for table, name in self._places] != self._methods
            or [method.__code__ for method in self._methods] != self._codes
            or [one.forward for one in self._classes] != self._forwards
        )


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
    """A copy of plain containers and of all other objects; tensors among plain arguments are shared, caches are not."""
    if isinstance(value, Tensor | int | float | bool | str | None):
        return value
    if type(value) in (tuple, list):  # of its own class, a container is made in a way of its own
        return type(value)(copied(item) for item in value)
    if type(value) is dict:
        return {key: copied(item) for key, item in value.items()}
    return copy.deepcopy(value)
