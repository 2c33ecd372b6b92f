"""What sharding puts on a module (a class, hooks, attributes), taken off and put on again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import nn


class Dress:
    """What sharding has put on a module: a class, hooks, attributes.

    Args:
        module: As it is now.
        kind: The class that it had.
        before: Its :func:`attributes` at that time.
    """

    def __init__(self, module: nn.Module, kind: type, before: Mapping[str, set[Any]]) -> None:
        self._module, self._kind = module, kind
        now = attributes(module)
        self._added = now.keys() - before.keys()
        self._hooks = {name: more for name, keys in before.items() if (more := now[name] - keys)}

    @property
    def hooks(self) -> set[Any]:
        """Keys of the hooks that were put on: no other hook has them but those of copies."""
        return {key for keys in self._hooks.values() for key in keys}

    def take_off(self) -> Callable[[], None]:
        """Leave the module as it was; gives what puts everything on again."""
        module, own, kind = self._module, vars(self._module), type(self._module)
        kept = {name: own[name] for name in [*self._added, *self._hooks]}
        for name in self._added:
            del own[name]
        for name, keys in self._hooks.items():
            rest = [(key, hook) for key, hook in kept[name].items() if key not in keys]
            own[name] = type(kept[name])(rest)
        module.__class__ = self._kind

        def put_on() -> None:
            own.update(kept)
            module.__class__ = kind

        return put_on


def undressed(module: nn.Module, hooks: set[Any], names: Collection[str]) -> Callable[[], None] | None:
    """Take hooks and attributes off a copy of a module that has them; gives what puts them on again, if it had any."""
    own = vars(module)
    held = {
        name: value
        for name, value in own.items()
        if name in names or ("_hooks" in name and isinstance(value, dict) and hooks & value.keys())
    }
    for name, value in held.items():
        if name in names:
            del own[name]
        else:
            own[name] = type(value)((key, hook) for key, hook in value.items() if key not in hooks)
    return (lambda: own.update(held)) if held else None


def attributes(module: nn.Module) -> dict[str, set[Any]]:
    """Names of a module's attributes, with the keys of those that are hooks."""
    return {
        name: set(value) if "_hooks" in name and isinstance(value, dict) else set()
        for name, value in vars(module).items()
    }
