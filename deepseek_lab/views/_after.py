"""The graph as it runs, packed as what differs from the captured one; ``js/src/core/graph/after.ts`` reads it.

A node of the plan that has the name of a captured one is that node but for what is written anew: words that are its own
begin with a plus, lines are distances, and inputs are listed where they are not those of the captured node. So a plan
that changed little takes little, although the page shows both graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from deepseek_lab.base.events import GraphNode
from deepseek_lab.views import _overlays, _tree
from deepseek_lab.views._diff import Diff
from deepseek_lab.views._overlays import Overlay
from deepseek_lab.views._packed import Packer

_FACTS: dict[str, Callable[[GraphNode], str]] = {
    "op": lambda node: node.op,
    "module": lambda node: node.module,
    "shape": lambda node: ",".join(map(str, node.shape)),
    "dtype": lambda node: node.dtype.removeprefix("torch."),
    "file": lambda node: node.file,
}


def packed(
    before: Sequence[GraphNode], after: Sequence[GraphNode], diff: Diff, overlays: Sequence[Overlay] = ()
) -> str:
    """The nodes of the plan as a table beside that of the captured nodes."""
    rows = _rows(before)
    same = [rows.get(node.name) for node in after]
    now: dict[int, int] = {}
    for row, counterpart in enumerate(same):
        if counterpart is not None:
            now.setdefault(counterpart, row)
    was = [before[row] if row is not None else None for row in same]
    reads, read_before = _tree.producers(after), _tree.producers(before)
    copied = [
        row is not None and reads[at] == tuple(now.get(one, -1) for one in read_before[row])
        for at, row in enumerate(same)
    ]
    packer = Packer(len(after))
    packer.integers("same", [0 if row is None else row + 1 for row in same])
    packer.names("name", ["" if old else node.name for node, old in zip(after, was, strict=True)])
    for name, fact in _FACTS.items():
        own = [
            "" if old and fact(old) == fact(node) else f"+{fact(node)}"
            for node, old in zip(after, was, strict=True)
        ]
        packer.text(name, own)
    packer.integers(
        "line", [node.line - (old.line if old else 0) for node, old in zip(after, was, strict=True)]
    )
    packer.integers("rewired", [0 if one else 1 for one in copied])
    packer.references("inputs", [() if one else read for one, read in zip(copied, reads, strict=True)])
    packer.text("mark", [diff.after.get(node.name, "") for node in after])
    _overlays.pack(packer, overlays)
    return packer.base64()


def becomes(before: Sequence[GraphNode], after: Sequence[GraphNode], diff: Diff) -> list[int]:
    """For each captured node one more than the row of the node that computes it now; 0 where none does."""
    rows = _rows(after)
    return [rows.get(diff.fused_into.get(node.name, node.name), -1) + 1 for node in before]


def _rows(nodes: Sequence[GraphNode]) -> dict[str, int]:
    """Row by name, the first where several have one name."""
    found: dict[str, int] = {}
    for row, node in enumerate(nodes):
        found.setdefault(node.name, row)
    return found
