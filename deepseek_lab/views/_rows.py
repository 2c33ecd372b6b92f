"""Which parts of the tree are shown open, as a list of rows: boxes, and frames that open and close.

A row is what every way of showing a graph agrees on: the drawing gives it a place, the printed form a line.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from deepseek_lab.base.events import GraphNode
from deepseek_lab.views import _words
from deepseek_lab.views._diff import Focus
from deepseek_lab.views._tree import Group, Item, Op, members


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """A box (``op``, ``end`` or ``fold``), or the ``open`` or ``close`` of a frame around rows."""

    kind: str
    depth: int
    text: str
    label: str = ""
    detail: str = ""
    where: str = ""
    """Line of the cell, in words."""
    mark: str = ""
    repeat: int = 1
    size: int = 0
    """Nodes in the box or frame, folded copies and parameters included."""
    node: GraphNode | None = None
    nodes: tuple[int, ...] = ()
    """Indices of those nodes; empty for frames."""
    copies: int = 1
    """How many equal operations a box of kind ``op`` or ``end`` stands for."""


def where(nodes: Sequence[GraphNode]) -> Callable[[GraphNode], str]:
    """How a node's line is written: ``line 4``, with the file's name where the graph has several."""
    several = len({node.file for node in nodes if node.line}) > 1

    def words(node: GraphNode) -> str:
        if not node.line:
            return ""
        name = node.file.replace("\\", "/").rsplit("/", 1)[-1]
        return _words.clip(name, 18) + f":{node.line}" if several and name else f"line {node.line}"

    return words


def _named(label: str, around: str) -> str:
    """``label``, with the module's around it where it is only a number."""
    return f"{around.rsplit('.', 1)[-1]}.{label}" if label.split(".")[0].isdigit() and around else label


def title(group: Group, around: str = "") -> str:
    """``h.0 … h.11 × 12`` for a repeated block, else the module's path from the frame ``around`` it."""
    label = _named(group.label, around)
    if group.repeat == 1:
        return label
    last = _named(group.last_label, around)
    between = f"{label} … {last} " if label and last else label + " " if label else ""
    return f"{between}× {group.repeat:,}"


def rows(
    root: Group,
    nodes: Sequence[GraphNode],
    *,
    max_boxes: int,
    marks: Mapping[str, str] | None = None,
    focus: Focus | None = None,
) -> list[Row]:
    """Open as much of the tree as ``max_boxes`` allows, outer levels first.

    With ``focus`` only its modules open, and in them runs of nodes out of focus are folded.
    """
    return _Opening(nodes, marks or {}, focus).rows(root, max(max_boxes, 1))


class _Opening:
    def __init__(self, nodes: Sequence[GraphNode], marks: Mapping[str, str], focus: Focus | None) -> None:
        self.nodes, self.marks, self.focus = nodes, marks, focus
        self.where = where(nodes)
        self.shown: dict[int, list[Item]] = {}
        self.marked: dict[int, bool] = {}

    def rows(self, root: Group, max_boxes: int) -> list[Row]:
        count = self._show(root, max_boxes)
        waiting = collections.deque(self.shown[id(root)])
        tight: list[Group] = []
        while waiting:
            item = waiting.popleft()
            if not isinstance(item, Group) or not self._may_open(item):
                continue
            room = max_boxes - count + 1
            if len(item.items) > room:
                tight.append(item)
                continue
            count += self._show(item, room) - 1
            waiting.extend(self.shown[id(item)])
        for item in tight:
            room = max_boxes - count + 1
            if room >= 7:
                count += self._show(item, room) - 1
        return list(self._emit(self.shown[id(root)], 0))

    def _may_open(self, group: Group) -> bool:
        if not group.path and not group.repeat > 1:
            return False
        return self.focus is None or group.path in self.focus.paths or self._is_marked(group)

    def _is_marked(self, item: Item) -> bool:
        if id(item) not in self.marked:
            self.marked[id(item)] = any(self.nodes[n].name in self.marks for n in members(item))
        return self.marked[id(item)]

    def _in_focus(self, item: Item, focus: Focus) -> bool:
        return any(self.nodes[n].name in focus.names for n in members(item))

    def _show(self, group: Group, room: int) -> int:
        items = group.items
        marked = [at for at, item in enumerate(items) if self._is_marked(item)] if self.marks else []
        if self.focus is not None:
            kept = {at for at, item in enumerate(items) if self._in_focus(item, self.focus)}
            items = _folded(items, kept, shortest=3)
            marked = [at for at, item in enumerate(items) if self._is_marked(item)]
        if len(items) > room:
            some = marked[: max(room - 3, 0) // 4]
            ends = room - 2 * len(some) - 1
            head = ends - ends // 3
            kept = {*range(head), *range(len(items) - ends // 3, len(items)), *some}
            items = _folded(items, kept, shortest=1)
        self.shown[id(group)] = items
        return len(items)

    def _emit(self, items: Iterable[Item], depth: int, around: str = "") -> Iterator[Row]:
        for item in items:
            if isinstance(item, Op):
                yield self._op(item, depth, around)
            elif id(item) in self.shown:
                name = title(item, around)
                yield Row("open", depth, name, repeat=item.repeat, size=item.size)
                yield from self._emit(self.shown[id(item)], depth + 1, item.label or around)
                yield Row("close", depth, name)
            else:
                yield self._closed(item, depth, around)

    def _op(self, item: Op, depth: int, around: str) -> Row:
        node = self.nodes[item.nodes[0]]
        kind = "end" if node.op in {"input", "output", "parameter"} else "op"
        named = node.name if node.name.rstrip("0123456789").rstrip("_") != node.op else ""
        return Row(
            kind, depth, node.op, _named(item.label, around) or named, _words.shape(node), self.where(node),
            self.marks.get(node.name, ""), item.repeat, item.size, node, (*item.nodes, *item.attached),
            len(item.nodes),
        )  # fmt: skip

    def _closed(self, item: Group, depth: int, around: str) -> Row:
        inside = tuple(members(item))
        marks = collections.Counter(self.marks[m] for n in inside if (m := self.nodes[n].name) in self.marks)
        counts = collections.Counter(self.nodes[n].op for n in inside if self.nodes[n].op != "parameter")
        common = ", ".join(
            _words.clip(op, 40) + (f" ×{count:,}" if count > 1 else "") for op, count in counts.most_common(4)
        )
        more = ", …" if len(counts) > 4 else ""
        name = title(item, around) or ("unchanged" if self.focus is not None and not marks else "folded")
        mark = marks.most_common(1)[0][0] if marks else ""
        count = _words.plural(len(inside), "node")
        return Row(
            "fold", depth, name, count, common + more, "", mark, item.repeat, len(inside), nodes=inside
        )  # fmt: skip


def _folded(items: list[Item], kept: set[int], shortest: int) -> list[Item]:
    """Replace each run of ``shortest`` or more items that are not ``kept`` by one closed group."""
    result: list[Item] = []
    gap: list[Item] = []
    for at, item in enumerate([*items, None]):
        if item is not None and at not in kept:
            gap.append(item)
            continue
        if len(gap) >= max(shortest, 2):
            result.append(Group("", "", gap, size=sum(part.size for part in gap)))
        else:
            result.extend(gap)
        gap = []
        if item is not None:
            result.append(item)
    return result
