"""Models that the loop calls, by the names that the notebook has for them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from deepseek_lab.inspector.copies import plain
from deepseek_lab.inspector.names import name_of
from deepseek_lab.inspector.seen import ModelSeen


class Models:
    """Knows each model once, whichever of its modules is called.

    Args:
        namespace: Where models have their names.
        only: Modules to watch; empty watches every one that is called.
        note: Told what is not seen.
    """

    def __init__(
        self, namespace: Mapping[str, Any], only: Sequence[nn.Module], note: Callable[[str], object]
    ) -> None:
        self._namespace, self._only, self._note = namespace, tuple(only), note
        self._by_module: dict[int, tuple[weakref.ref[nn.Module], ModelSeen | None]] = {}
        """By the identity of the module that the loop calls; None for one without parameters."""
        self.all: list[ModelSeen] = []

    def find(self, module: nn.Module) -> ModelSeen | None:
        """The model that a module is, or is a part of; None for one that is not watched."""
        known = self._by_module.get(id(module))
        if known is not None and known[0]() is module:
            return known[1]
        made: ModelSeen | None = None
        if self._wanted(module) and next(module.parameters(), None) is not None:
            name, root = name_of(module, self._namespace)
            made = next((one for one in self.all if one.module() is root), None)
            if made is None:
                made = ModelSeen(self._unique(name), root)
                self.all.append(made)
                if made.is_compiled:
                    self._note(
                        f"{name} is compiled: what its modules return is not seen, and so no dead or saturated units"
                    )
        self._by_module[id(module)] = (weakref.ref(module), made)
        return made

    def _unique(self, name: str) -> str:
        """Models that follow each other under one name (a loop over seeds) are told apart by a number."""
        same = sum(one.name.partition("#")[0] == name for one in self.all)
        return f"{name}#{same + 1}" if same else name

    def _wanted(self, module: nn.Module) -> bool:
        return not self._only or any(
            module is one or plain(one) is module or any(inner is module for inner in one.modules())
            for one in self._only
        )
