"""How many bytes tensors hold, now and at most: of real tensors and of fake ones alike."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

ALIGNMENT = 64
"""PyTorch's CPU allocator gives blocks of a multiple of so many bytes (c10/core/alignment.h)."""


def block_bytes(tensor: Tensor) -> int:
    """Bytes of the block that a tensor's storage takes."""
    return -(-tensor.untyped_storage().nbytes() // ALIGNMENT) * ALIGNMENT


class Meter(TorchDispatchMode):
    """Counts the bytes of every storage that an operation makes, from when it is made until it is freed.

    What a kernel takes for itself while it runs is not seen. Storages that were there before count from the moment that
    :meth:`hold` is told of them.
    """

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now_bytes = self.peak_bytes = 0
        self._blocks: dict[int, int] = {}
        self._finalizers: list[weakref.finalize[Any, Any]] = []

    def hold(self, tensors: Iterable[Tensor | None]) -> None:
        """Count these from now on."""
        for tensor in tensors:
            if tensor is not None:
                self._add(tensor)

    def _add(self, tensor: Tensor) -> None:
        try:
            storage = tensor.untyped_storage()
        except (NotImplementedError, RuntimeError):  # of a sparse tensor, or a wrapper without one
            return
        key = storage._cdata
        if key in self._blocks:
            return
        size = self._blocks[key] = -(-storage.nbytes() // ALIGNMENT) * ALIGNMENT
        self.now_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.now_bytes)
        # The finalizer must not hold the meter's mode alive for as long as a weight lives.
        self._finalizers.append(weakref.finalize(storage, _gone, weakref.ref(self), key))
        if len(self._finalizers) > 2 * len(self._blocks) + 1000:
            self._finalizers = [one for one in self._finalizers if one.alive]

    def release(self) -> None:
        """Count nothing any more."""
        for one in self._finalizers:
            one.detach()
        self._finalizers, self._blocks = [], {}

    def __torch_dispatch__(self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if type(result) is Tensor:
            self._add(result)
        else:
            for one in tree_iter(result):
                if isinstance(one, Tensor):
                    self._add(one)
        return result


def _gone(meter: weakref.ref[Meter], key: int) -> None:
    one = meter()
    if one is not None:
        one.now_bytes -= one._blocks.pop(key, 0)


def unique_bytes(tensors: Iterable[Tensor | None]) -> int:
    """Bytes of the blocks that these tensors take together, each storage once."""
    seen: dict[int, int] = {}
    for tensor in tensors:
        if tensor is not None and tensor.layout == torch.strided:
            seen[tensor.untyped_storage()._cdata] = block_bytes(tensor)
    return sum(seen.values())
