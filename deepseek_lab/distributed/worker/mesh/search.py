"""Which layers of a model can be split: found from a forward pass, by what runs between them.

A linear layer can be split by columns where all that its output runs through acts on each column or head by itself,
until linear layers that can be split by rows (Megatron-LM; Shoeybi et al., arXiv:1909.08053, section 3). An attention
of PyTorch's own is such a group by itself. Embeddings with many words are split by words, and so is a linear layer with
many outputs, whose parts are put together.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torch.utils._pytree import tree_leaves

from deepseek_lab.distributed.worker.mesh.attention import allows
from deepseek_lab.distributed.worker.mesh.slices import Cut, Origins, Slice, Stop
from deepseek_lab.distributed.worker.mesh.styles import transposed

_WIDE = 8
"""A table is split that has so many times more words than columns: what it gives is much smaller than it is."""
_LEAST = 4096
"""Values of a table that is worth a message."""
_MOST_PASSES = 12


@dataclasses.dataclass(frozen=True)
class Group:
    """Layers that are split together, by their names in the model.

    ``columns`` are with how many blocks each has. ``heads`` are attentions of PyTorch's own, ``tables`` embeddings, and
    ``wide`` linear layers that stand alone.
    """

    columns: tuple[tuple[str, int], ...] = ()
    rows: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    wide: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Of all layers in it."""
        return (*(name for name, _ in self.columns), *self.rows, *self.heads, *self.tables, *self.wide)

    def __str__(self) -> str:
        if self.columns:
            blocks = [f"{name} ({count} blocks)" if count > 1 else name for name, count in self.columns]
            return f"{', '.join(blocks)} by columns, then {', '.join(self.rows)} by rows"
        how = {"by heads": self.heads, "by words": self.tables, "by columns, put together": self.wide}
        return "; ".join(f"{', '.join(names)} {words}" for words, names in how.items() if names)


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search has found."""

    groups: tuple[Group, ...]
    reasons: dict[str, str]
    """Why other linear layers, attentions and tables cannot be split, by name."""


def search(root: nn.Module, call: Callable[[], Any], num: int) -> Found:
    """Look for layers that so many ranks can share; ``call`` makes the same forward pass each time."""
    shared = _shared(root)
    layers = [
        (name, one)
        for name, one in root.named_modules()
        if linear(one) and not any(id(each) in shared for each in one.parameters(recurse=False))
    ]
    inside = {f"{name}.out_proj" for name, one in root.named_modules() if _own_attention(one)}
    walk = _Walk([one for one in layers if one[0] not in inside], num)
    groups = walk.groups(call)
    reasons = dict(walk.reasons)
    for name, one in root.named_modules():
        if _own_attention(one) and one in walk.called:
            why = allows(one, num) or ("its weights are shared" if _shares(one, shared) else "")
            if why:
                reasons[name] = why
            else:
                groups.append(Group(heads=(name,)))
    taken = {name for group in groups for name in group.names}
    groups += _tables(root, walk.called, taken)
    taken = {name for group in groups for name in group.names}
    reasons = {name: why for name, why in reasons.items() if name not in taken}
    return Found(tuple(groups), reasons)


def linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer, and nothing more."""
    plain = isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward
    return plain or transposed(module)


def _own_attention(module: nn.Module) -> bool:
    return isinstance(module, nn.MultiheadAttention) and (
        type(module).forward is nn.MultiheadAttention.forward
    )


def sizes(module: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a linear layer."""
    rows, columns = module.weight.shape  # type: ignore[misc]
    return (rows, columns) if transposed(module) else (columns, rows)


def _shared(root: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Parameters that several modules have, with these."""
    owners: dict[int, list[tuple[nn.Module, str]]] = collections.defaultdict(list)
    for module in root.modules():
        for name, one in module._parameters.items():
            if one is not None:
                owners[id(one)].append((module, name))
    return {key: found for key, found in owners.items() if len(found) > 1}


def _shares(module: nn.Module, shared: dict[int, Any]) -> bool:
    return any(id(one) in shared for one in module.parameters())


def _tables(root: nn.Module, called: set[nn.Module], taken: set[str]) -> list[Group]:
    """Embeddings and wide layers that nothing else is known of; those that share a weight go together."""
    names = {module: name for name, module in root.named_modules()}
    owners: dict[int, list[nn.Module]] = collections.defaultdict(list)
    for module in root.modules():
        for one in module._parameters.values():
            if one is not None and one is getattr(module, "weight", None):
                owners[id(one)].append(module)
    shared = _shared(root)
    groups = []
    for modules in owners.values():
        kinds = [_table(one) or (linear(one) and not transposed(one)) for one in modules]
        if not all(kinds) or any(one not in called or names[one] in taken for one in modules):
            continue
        rows, columns = modules[0].weight.shape  # type: ignore[misc]
        others = [
            one for module in modules for one in module._parameters.values() if one is not module.weight
        ]
        wide = rows >= _WIDE * columns and rows * columns >= _LEAST
        if not wide or any(id(one) in shared for one in others if one is not None):
            continue
        groups.append(
            Group(
                tables=tuple(names[one] for one in modules if _table(one)),
                wide=tuple(names[one] for one in modules if not _table(one)),
            )
        )
    return groups


def _table(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Embedding)
        and type(module).forward is nn.Embedding.forward
        and module.max_norm is None
        and module.padding_idx is None
        and not module.scale_grad_by_freq
        and not module.sparse
    )


class _Walk(Cut):
    """Forward passes, each with fewer layers that may be split, until nothing has to be made whole.

    Args:
        layers: Linear layers by name.
        num: Ranks that are to share them.
    """

    def __init__(self, layers: list[tuple[str, nn.Module]], num: int) -> None:
        super().__init__(num)
        self._layers = layers
        self.reasons: dict[str, str] = {}
        self.called: set[nn.Module] = set()
        self._ways: dict[int, int] = {}
        """By layer, which of several ways of falling into blocks is tried."""
        self._out: set[int] = set()
        """Layers that are not split by columns."""
        self._begin()

    def _begin(self) -> None:
        self._stops: dict[int, str] = {}
        self._sets: list[Origins] = []
        self._blocks: dict[int, int] = {}
        self._doubts: dict[int, str] = {}
        self._left: dict[int, int] = {}
        """Ways that are left to try."""
        self._roles: dict[int, set[str]] = collections.defaultdict(set)
        self._reached: dict[int, Origins] = {}
        """Layers by rows, with what they are given comes from."""

    # What slices tell.

    def stopped(self, origins: Origins, why: str) -> None:
        """Something was made whole."""
        for one in origins:
            self._stops.setdefault(one, why)

    def met(self, origins: Origins) -> None:
        """What came from these layers is in one tensor."""
        if len(origins) > 1:
            self._sets.append(origins)

    def resolve(self, origins: Origins, blocks: int) -> None:
        """Columns of these layers are so many blocks."""
        for one in origins:
            if self._blocks.setdefault(one, blocks) != blocks:
                self.stopped(Origins([one]), "its outputs are taken apart in several ways")

    def doubted(self, origins: Origins, why: str) -> None:
        """What was taken as blocks may have been heads."""
        for one in origins:
            self._doubts[one] = why

    def choose(self, origins: Origins, blocks: list[int]) -> int:
        """The way that is to be tried now."""
        at = max(self._ways.get(one, 0) for one in origins) if origins else 0
        at = min(at, len(blocks) - 1)
        for one in origins:
            self._left[one] = max(self._left.get(one, 0), len(blocks) - 1 - at)
        return blocks[at]

    # Passes.

    def groups(self, call: Callable[[], Any]) -> list[Group]:
        """What can be split by columns and then by rows."""
        for _ in range(_MOST_PASSES):
            self._begin()
            with self._watched():
                made = call()
            for one in tree_leaves(made):
                if isinstance(one, Slice):
                    self.stopped(one.origins, "the model gives it")
            together = self._together()
            again = False
            for columns in together:
                again |= self._judge(columns)
            if not again:
                return self._made(together)
        return []

    def _together(self) -> list[set[int]]:
        """Layers by columns whose outputs meet, in one tensor or one layer."""
        columns = [one for one, roles in self._roles.items() if "column" in roles]
        found = [{one} for one in columns]
        for origins in [*self._sets, *self._reached.values()]:
            touched = [group for group in found if group & origins]
            rest = [group for group in found if not group & origins]
            found = [*rest, set[int]().union(*touched)] if touched else rest
        return found

    def _judge(self, columns: set[int]) -> bool:
        """Take layers out that cannot be split, or try another way; gives whether that changed anything."""
        rows = [one for one, origins in self._reached.items() if origins & columns]
        stop = next((self._stops[one] for one in sorted(columns) if one in self._stops), None)
        mixed = next((one for one in [*columns, *rows] if len(self._roles[one]) > 1), None)
        if mixed is not None:
            stop = f"{self._layers[mixed][0]} is called in several ways"
            self._out.add(mixed)
        if stop is None and not rows:
            stop = "no linear layer follows that could be split by rows"
        if stop is None:
            return False
        if mixed is None and any(self._left.get(one, 0) for one in columns):
            for one in columns:
                self._ways[one] = self._ways.get(one, 0) + 1
            return True
        for one in columns:
            self.reasons[self._layers[one][0]] = self._doubts.get(one, stop)
        self._out |= columns
        return True

    def _made(self, together: list[set[int]]) -> list[Group]:
        groups = []
        for columns in sorted(together, key=min):
            rows = sorted(one for one, origins in self._reached.items() if origins & columns)
            groups.append(
                Group(
                    columns=tuple(
                        (self._layers[one][0], self._blocks.get(one, 1)) for one in sorted(columns)
                    ),
                    rows=tuple(self._layers[one][0] for one in rows),
                )
            )
        return groups

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        numbers = {module: number for number, (_, module) in enumerate(self._layers)}

        def before(module: nn.Module, inputs: Any) -> Any:
            self.called.add(module)
            number = numbers.get(module)
            return None if number is None else self._before(number, inputs)

        def after(module: nn.Module, inputs: Any, output: Any) -> Any:
            number = numbers.get(module)
            return None if number is None else self._after(number, output)

        handles = [
            nn.modules.module.register_module_forward_pre_hook(before),
            nn.modules.module.register_module_forward_hook(after),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _before(self, number: int, inputs: Any) -> Any:
        roles = self._roles[number]
        if len(inputs) != 1:
            roles.add("with names")
            self.reasons.setdefault(self._layers[number][0], "its input is given by name")
            return None
        (one,) = inputs
        if not isinstance(one, Slice):
            columns = sizes(self._layers[number][1])[1]
            if number in self._out or columns % self.num:
                roles.add("plain")
                if columns % self.num:
                    self.reasons[self._layers[number][0]] = (
                        f"{columns} outputs cannot be shared by {self.num} ranks"
                    )
            else:
                roles.add("column")
            return None
        if one.at != len(one.sizes) - 1:
            roles.add("by heads")
            return None
        if one.blocks not in {None, 1}:
            self.stopped(one.origins, self._layers[number][0])
            return (one.whole(),)
        try:
            part = one.part
        except Stop as stop:
            self.stopped(one.origins, str(stop))
            return (one.whole(),)
        roles.add("row")
        if one.blocks is None:
            self.resolve(one.origins, 1)
        self._reached[number] = self._reached.get(number, Origins()) | one.origins
        return (part,)

    def _after(self, number: int, output: Any) -> Any:
        roles = self._roles[number]
        if "column" not in roles or isinstance(output, Slice):
            return None
        if "row" in roles or "by heads" in roles:
            return None
        return Slice.of(output, -1, self, blocks=None, origins=Origins([number]))
