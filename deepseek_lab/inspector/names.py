"""What the notebook calls a module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


def name_of(module: nn.Module, namespace: Mapping[str, Any]) -> tuple[str, nn.Module]:
    """A name, and the module that has it: the one that was asked for, or a larger one that it is a part of.

    A part that the loop calls by itself (``model.encoder(x)``) belongs to the whole, so that paths and optimisers are
    those of the whole. Without a name in the notebook it is its class's, in small letters.
    """
    modules = {
        name: value
        for name, value in list(namespace.items())
        if isinstance(value, nn.Module) and not name.startswith("_")
    }
    for name, value in modules.items():
        if value is module:
            return name, module
    for name, value in modules.items():
        if any(inner is module for inner in value.modules()):
            return name, value
    return type(module).__name__.lower(), module
