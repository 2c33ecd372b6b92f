"""Has a weight changed since an artefact was made from it?

Three questions, cheapest first: is it the same object with the same storage, has its version counter
moved (optimisers, ``load_state_dict`` and in-place operations bump it), and do a few sampled words of
its memory still read the same (``p.data.mul_(2)`` moves no counter).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

_SAMPLES = 4
_WORDS: dict[int, Any] = {4: ctypes.c_uint32, 2: ctypes.c_uint16, 1: ctypes.c_uint8}


class WeightGuard:
    """Snapshot of weights' identity, version and a sampled fingerprint."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self._weights = tuple(weights)
        self._counted = [weight for weight in weights if not weight.is_inference()]
        self._versions = [weight._version for weight in self._counted]
        self._pointers = [weight.data_ptr() for weight in weights]
        samples = [sample for weight in weights for sample in _samples(weight)]
        self._sampled_anew = _changed_words(samples)

    def changed(self, weights: Sequence[Tensor]) -> str | None:
        """Why the weights are no longer those of the snapshot, or None."""
        for number, (new, old) in enumerate(zip(weights, self._weights, strict=True)):
            if new is not old:
                return f"weight {number} was replaced"
        if [weight._version for weight in self._counted] != self._versions:
            return "a weight was updated in place"
        if [weight.data_ptr() for weight in weights] != self._pointers:
            return "a weight's storage was replaced"  # and what was sampled may not be there any more
        return "a weight was updated through .data" if self._sampled_anew() else None


def _samples(weight: Tensor) -> list[tuple[int, int]]:
    """Addresses and widths of a few words of a weight."""
    if weight.device.type != "cpu":
        return []
    start, size = weight.data_ptr(), _span_bytes(weight)
    # An odd view need not start at a whole word, and a narrow scalar does not fill one.
    width = next((width for width in _WORDS if start % width == 0 and size >= width), 0)
    if not start or not width:
        return []
    count = size // width
    return [(start + width * at, width) for at in sorted({_position(count, i) for i in range(_SAMPLES)})]


def _changed_words(samples: Sequence[tuple[int, int]]) -> Callable[[], bool]:
    """Says whether a word reads otherwise than now.

    Hundreds of reads that miss every cache take half a millisecond one after the other and a tenth of it in a loop
    that is compiled, where they overlap.
    """
    words = [_WORDS[width].from_address(address) for address, width in samples]
    seen = [word.value for word in words]
    library, count = _library(), len(samples)
    if library is None:
        return lambda: [word.value for word in words] != seen
    addresses = (ctypes.c_uint64 * count)(*[address for address, _ in samples])
    widths = (ctypes.c_uint8 * count)(*[width for _, width in samples])
    held = (ctypes.c_uint32 * count)(*seen)
    first_changed = library.deepseek_first_changed
    return lambda: bool(first_changed(addresses, held, widths, count) >= 0)


def _library() -> ctypes.CDLL | None:
    """Our compiled library, where there is one."""
    from deepseek_lab._kernels.cpu import library

    library.status()
    return library.active()


def _span_bytes(tensor: Tensor) -> int:
    """Bytes from the first element to the end of the last, inside the tensor's storage."""
    if not tensor.numel():
        return 0
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size()


def _position(count: int, index: int) -> int:
    """Spread sample positions over ``count`` words, both ends included."""
    return min(count - 1, (count * index) // (_SAMPLES - 1)) if _SAMPLES > 1 else 0
