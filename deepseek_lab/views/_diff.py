"""What became of each node when a graph was rewritten."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from deepseek_lab.base.events import GraphNode

MARKS = {
    "removed": ("R", "not in the plan"),
    "fused": ("F", "part of one fused operation"),
    "changed": ("C", "another operation, shape or type"),
    "added": ("A", "new in the plan"),
}
"""Mark: its letter, and what it means."""


@dataclasses.dataclass(frozen=True)
class Focus:
    """What both sides of a comparison leave unfolded, so that they stay aligned."""

    names: frozenset[str]
    """Nodes with a mark on either side, and their neighbours."""
    paths: frozenset[str]
    """Modules around nodes with a mark."""


@dataclasses.dataclass(frozen=True)
class Diff:
    """Marks by node name; a node that stayed as it was has none."""

    before: dict[str, str]
    after: dict[str, str]
    fused_into: dict[str, str]
    """Node of the captured graph to the node of the plan that computes it now."""
    focus: Focus


CONTEXT = 2
"""Operations that stay visible before and after one with a mark."""


def _focus(sides: Sequence[tuple[Sequence[GraphNode], dict[str, str]]]) -> Focus:
    names: set[str] = set()
    paths: set[str] = set()
    for nodes, marks in sides:
        steps = [node for node in nodes if node.op != "parameter"]
        marked = [at for at, node in enumerate(steps) if node.name in marks]
        names.update(node.name for at in marked for node in steps[max(at - CONTEXT, 0) : at + CONTEXT + 1])
        for module in {node.module for node in nodes if node.name in marks}:
            parts = module.split(".")
            paths.update(".".join(parts[:end]) for end in range(1, len(parts) + 1))
    return Focus(frozenset(names), frozenset(paths - {""}))


def compare(before: Sequence[GraphNode], after: Sequence[GraphNode]) -> Diff:
    """Match nodes by name, then follow the wiring to tell fused from removed.

    A new node of the plan stands for the node whose place it takes in a consumer that stayed. What only
    led up to that node, and is gone, was fused into the new one.
    """
    old = {node.name: node for node in before}
    new = {node.name: node for node in after}
    marks_before = {name: "removed" for name in old if name not in new}
    marks_after = {name: "added" for name in new if name not in old}
    for name, node in new.items():
        if name in old and _meaning(node) != _meaning(old[name]):
            marks_before[name] = marks_after[name] = "changed"
    stands_for = _counterparts(old, new)
    fused_into: dict[str, str] = {}
    for name, mark in list(marks_after.items()):
        origin = name if mark == "changed" else stands_for.get(name)
        if origin is None:
            continue
        waiting = [origin] if mark == "added" else list(old[origin].inputs)
        gone: list[str] = []
        while waiting:
            source = waiting.pop()
            if marks_before.get(source) == "removed" and source not in fused_into:
                fused_into[source] = name
                gone.append(source)
                waiting.extend(old[source].inputs)
        if gone:
            marks_after[name] = "fused"
            if mark == "changed":
                marks_before[origin] = "fused"
                fused_into[origin] = name
    marks_before.update((name, "fused") for name in fused_into)
    focus = _focus([(before, marks_before), (after, marks_after)])
    return Diff(marks_before, marks_after, fused_into, focus)


def _meaning(node: GraphNode) -> tuple[str, tuple[int, ...], str]:
    return node.op, node.shape, node.dtype


def _counterparts(old: dict[str, GraphNode], new: dict[str, GraphNode]) -> dict[str, str]:
    """New node to the gone node whose place it takes, read off consumers that kept their operation."""
    found: dict[str, str] = {}
    for name in reversed(new):
        reader = new[name]
        origin = old.get(name if name in old else found.get(name, ""))
        if origin is None or origin.op != reader.op or len(origin.inputs) != len(reader.inputs):
            continue
        for now, then in zip(reader.inputs, origin.inputs, strict=True):
            if now in new and now not in old and then in old and then not in new:
                found.setdefault(now, then)
    return found
