"""Has a weight changed since an artefact was made from it?

Three questions, cheapest first: is it the same object with the same storage, has its version counter
moved (optimisers, ``load_state_dict`` and in-place operations bump it), and do a few sampled words of
its memory still read the same (``p.data.mul_(2)`` moves no counter).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from torch import Tensor

_SAMPLES = 4
_WORDS: dict[int, Any] = {4: ctypes.c_uint32, 2: ctypes.c_uint16, 1: ctypes.c_uint8}


class WeightGuard:
    """Snapshot of weights' identity, version and a sampled fingerprint."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self._weights = tuple(weights)
        self._versions = [_version(weight) for weight in weights]
        self._pointers = [weight.data_ptr() for weight in weights]
        self._words: list[tuple[ctypes.Array[Any], int]] = []
        self._owners: list[int] = []
        for number, weight in enumerate(weights):
            if weight.device.type != "cpu":
                continue
            start, size = weight.data_ptr(), _span_bytes(weight)
            # An odd view need not start at a whole word, and a narrow scalar does not fill one.
            width = next((width for width in _WORDS if start % width == 0 and size >= width), 0)
            if not start or not width:
                continue
            word, count = _WORDS[width], size // width
            words = (word * count).from_address(start)
            for offset in sorted({_position(count, index) for index in range(_SAMPLES)}):
                self._words.append((words, offset))
                self._owners.append(number)
        self._sampled = [words[offset] for words, offset in self._words]

    def changed(self, weights: Sequence[Tensor]) -> str | None:
        """Why the weights are no longer those of the snapshot, or None."""
        for number, (new, old) in enumerate(zip(weights, self._weights, strict=True)):
            if new is not old:
                return f"weight {number} was replaced"
        if [_version(weight) for weight in weights] != self._versions:
            return "a weight was updated in place"
        if [weight.data_ptr() for weight in weights] != self._pointers:
            return "a weight's storage was replaced"
        if [words[offset] for words, offset in self._words] != self._sampled:
            return "a weight was updated through .data"
        return None


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def _span_bytes(tensor: Tensor) -> int:
    """Bytes from the first element to the end of the last, inside the tensor's storage."""
    if not tensor.numel():
        return 0
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size()


def _position(count: int, index: int) -> int:
    """Spread sample positions over ``count`` words, both ends included."""
    return min(count - 1, (count * index) // (_SAMPLES - 1)) if _SAMPLES > 1 else 0
