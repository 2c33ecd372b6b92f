"""What memory held: from a recorded timeline, and by a tracker that follows tensors and not the allocator."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from deepseek_lab.base.timeline import MemoryTimeline


def walk(timeline: MemoryTimeline) -> list[dict[str, int]]:
    """Bytes of each category after each event."""
    held: defaultdict[str, int] = defaultdict(int)
    for row, freed in enumerate(timeline.frees):
        if freed < 0 and timeline.bytes[row] < 0:  # there before the recording
            held[timeline.category[row]] -= timeline.bytes[row]
    states = [dict(held)]
    for row, freed in enumerate(timeline.frees):
        owner = row if freed < 0 else freed
        held[timeline.category[owner]] += timeline.bytes[row]
        states.append(dict(held))
    return states


def peak(timeline: MemoryTimeline) -> dict[str, int]:
    return max(walk(timeline), key=lambda held: sum(held.values()))


def peak_bytes(timeline: MemoryTimeline) -> int:
    """Most bytes at once, of all categories."""
    return sum(peak(timeline).values())


class Storages(TorchDispatchMode):
    """Bytes of every storage that an operator has returned and that is still there."""

    def __init__(self, tensors: list[Tensor]) -> None:
        super().__init__()
        self.most = 0
        self._known: dict[int, tuple[StorageWeakRef, int]] = {}
        self._count(tensors)

    def _count(self, tensors: list[Tensor]) -> None:
        self._known = {key: one for key, one in self._known.items() if not one[0].expired()}
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._known[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.most = max(self.most, sum(size for _, size in self._known.values()))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._count([one for one in tree_leaves(result) if isinstance(one, Tensor)])
        return result
