"""A captured graph as a tree of modules, with repeated blocks folded into one.

Every node of the graph is in exactly one :class:`Op` of the tree. Where sibling subtrees have the same
structure, only the first stays and its operations list the nodes of every copy, so counts add up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from deepseek_lab.base.events import GraphNode

MAX_DEPTH = 12
"""Levels of a module path that are told apart; deeper ones belong to the last of these."""
MAX_PERIOD = 8
"""Longest run of siblings that is tried as the unit of a repetition."""


@dataclasses.dataclass(slots=True)
class Op:
    """One operation; after folding, the same operation of every copy."""

    nodes: list[int]
    """Indices into the graph; the first is the one to show."""
    attached: list[int]
    """Parameters that only these nodes read."""
    label: str = ""
    """Path of the module that holds nothing but this operation, from the group around it."""
    repeat: int = 1
    signature: int = 0

    @property
    def size(self) -> int:
        return len(self.nodes) + len(self.attached)


@dataclasses.dataclass(slots=True)
class Group:
    """A module, or a run of siblings, with what happens in it."""

    label: str
    path: str
    items: list[Item] = dataclasses.field(default_factory=list)
    repeat: int = 1
    last_label: str = ""
    """Label of the last copy where ``repeat`` is more than one."""
    size: int = 0
    signature: int = 0


Item = Op | Group


def members(item: Item) -> Iterator[int]:
    """Indices of every node under ``item``, folded copies and parameters included."""
    if isinstance(item, Op):
        yield from item.nodes
        yield from item.attached
    else:
        for child in item.items:
            yield from members(child)


def producers(nodes: Sequence[GraphNode]) -> list[tuple[int, ...]]:
    """For each node the indices of the nodes that it reads; names that nothing defines are left out."""
    index: dict[str, int] = {}
    for position, node in enumerate(nodes):
        index.setdefault(node.name, position)
    return [tuple(index[name] for name in node.inputs if name in index) for node in nodes]


def build(nodes: Sequence[GraphNode], marks: Mapping[str, str] | None = None) -> Group:
    """Group ``nodes`` by module path and fold repeated blocks.

    ``marks`` (name to mark) keeps blocks apart that differ in what became of their nodes.
    """
    return _Builder(nodes, marks or {}).root()


def _joined(outer: str, inner: str) -> str:
    return f"{outer}.{inner}" if outer and inner else outer or inner


class _Builder:
    def __init__(self, nodes: Sequence[GraphNode], marks: Mapping[str, str]) -> None:
        self.nodes, self.marks = nodes, marks
        self.reads = producers(nodes)
        self.rank: dict[int, int] = {}
        self.interned: dict[object, int] = {}

    def root(self) -> Group:
        root = Group("", "")
        stack: list[Group] = [root]
        parts: list[str] = []
        attached = self._attached()
        of_owner: dict[int, list[int]] = {}
        for parameter, owner in sorted(attached.items()):
            of_owner.setdefault(owner, []).append(parameter)
        for position, node in enumerate(self.nodes):
            if position in attached:
                continue
            wanted = node.module.split(".")[:MAX_DEPTH] if node.module else []
            same = 0
            while same < min(len(parts), len(wanted)) and parts[same] == wanted[same]:
                same += 1
            del stack[same + 1 :]
            for level in range(same, len(wanted)):
                group = Group(wanted[level], ".".join(wanted[: level + 1]))
                stack[-1].items.append(group)
                stack.append(group)
            parts = wanted
            self.rank[position] = len(self.rank)
            stack[-1].items.append(Op([position], of_owner.get(position, [])))
        return self._fold(root)

    def _attached(self) -> dict[int, int]:
        """Parameter to the one node that reads it; a shared parameter stays a node of its own."""
        readers: dict[int, set[int]] = {}
        for position, reads in enumerate(self.reads):
            for source in reads:
                if self.nodes[source].op == "parameter" and self.nodes[position].op != "parameter":
                    readers.setdefault(source, set()).add(position)
        return {source: next(iter(users)) for source, users in readers.items() if len(users) == 1}

    def _fold(self, group: Group) -> Group:
        for position, item in enumerate(group.items):
            if isinstance(item, Op):
                node = self.nodes[item.nodes[0]]
                parameters = tuple(self.nodes[p].shape for p in item.attached)
                mark = self.marks.get(node.name, "")
                item.signature = self._intern((node.op, node.shape, node.dtype, parameters, mark))
            else:
                group.items[position] = self._inlined(self._fold(item))
        group.items = self._repeats(group.items)
        group.size = sum(item.size for item in group.items)
        group.signature = self._intern(tuple((i.label, i.signature, i.repeat) for i in group.items))
        return group

    def _inlined(self, group: Group) -> Item:
        """A module that holds one thing only is drawn as that thing."""
        if len(group.items) != 1:
            return group
        only = group.items[0]
        only.label = _joined(group.label, only.label)
        if isinstance(only, Group):
            only.last_label = _joined(group.label, only.last_label) if only.last_label else ""
            only.path = only.path or group.path
        return only

    def _repeats(self, items: list[Item]) -> list[Item]:
        signatures = [item.signature for item in items]
        folded: list[Item] = []
        start = 0
        while start < len(items):
            best, period, count = 0, 1, 1
            for trial in range(1, min(MAX_PERIOD, (len(items) - start) // 2) + 1):
                if signatures[start] != signatures[start + trial]:
                    continue
                times = self._times(items, signatures, start, trial)
                unit = items[start : start + trial]
                saved = (times - 1) * sum(item.size for item in unit)
                blocks = any(isinstance(item, Group) for item in unit)
                if saved > best and saved >= 4 and times >= (2 if blocks else 4):
                    best, period, count = saved, trial, times
            folded.extend(self._merged(items, start, period, count))
            start += period * count
        return folded

    def _times(self, items: list[Item], signatures: list[int], start: int, period: int) -> int:
        """How often the unit of ``period`` items at ``start`` follows on itself, wiring included."""
        unit = signatures[start : start + period]
        times, at = 1, start + period
        wiring: list[tuple[int, ...]] | None = None
        while signatures[at : at + period] == unit:
            wiring = wiring or self._wiring(items[start : start + period])
            if self._wiring(items[at : at + period]) != wiring:
                break
            times, at = times + 1, at + period
        return times

    def _wiring(self, unit: list[Item]) -> list[tuple[int, ...]]:
        """Who reads whom inside of the unit, by position; -1 for values from outside."""
        ranks = sorted((self.rank[n], n) for item in unit for n in members(item) if n in self.rank)
        first = ranks[0][0]
        return [
            tuple(
                self.rank[source] - first if first <= self.rank[source] < first + len(ranks) else -1
                for source in self.reads[node]
                if source in self.rank
            )
            for _, node in ranks
        ]

    def _merged(self, items: list[Item], start: int, period: int, count: int) -> list[Item]:
        unit = items[start : start + period]
        if count == 1:
            return unit
        first, last = unit[0].label, items[start + period * count - 1].label
        for at in range(start + period, start + period * count, period):
            for kept, copy in zip(unit, items[at : at + period], strict=True):
                _absorb(kept, copy)
        if period == 1 and unit[0].repeat == 1:
            unit[0].repeat = count
            if isinstance(unit[0], Group):
                unit[0].last_label = last
            return unit
        wrapped = Group(first, "", unit, count, last, sum(item.size for item in unit))
        wrapped.signature = self._intern(("run", count, tuple((i.label, i.signature) for i in unit)))
        return [wrapped]

    def _intern(self, key: object) -> int:
        return self.interned.setdefault(key, len(self.interned))


def _absorb(kept: Item, copy: Item) -> None:
    """Add the nodes of ``copy``, a subtree of the same structure, to ``kept``."""
    if isinstance(kept, Op) and isinstance(copy, Op):
        kept.nodes.extend(copy.nodes)
        kept.attached.extend(copy.attached)
    elif isinstance(kept, Group) and isinstance(copy, Group):
        kept.size += copy.size
        for ours, theirs in zip(kept.items, copy.items, strict=True):
            _absorb(ours, theirs)
