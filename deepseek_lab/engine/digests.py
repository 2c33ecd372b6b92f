"""Digests of weights, taken while Dynamo captures: that work is Python's, and leaves a processor idle."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deepseek_lab.engine.guards import WeightGuard


def tensor_digest(tensor: Tensor) -> bytes:
    """Digest of a tensor's values, shape and dtype. Releases the interpreter lock while it reads."""
    digest = hashlib.blake2b(digest_size=16)
    plain = tensor.detach()
    if plain.device.type != "cpu":
        plain = plain.cpu()
    if not plain.is_contiguous():
        plain = plain.contiguous()
    digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
    if plain.numel():
        data: Any = plain.reshape(-1).view(torch.uint8).numpy()
        digest.update(data)
    return digest.digest()


def weights_digest(weights: Sequence[Tensor], known: Ahead | None = None) -> str:
    """Digest of the weights' values, in order; those that ``known`` has are not read again."""
    digest = hashlib.blake2b(digest_size=16)
    found = known.take(weights) if known is not None else {}
    for weight in weights:
        digest.update(found.get(id(weight)) or tensor_digest(weight))
    return digest.hexdigest()


class Ahead:
    """Digests of a target's weights, started before it is known which of them a graph will take."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = False
        self._weights: tuple[Tensor, ...] = ()
        self._guard: WeightGuard | None = None
        self._digests: dict[int, bytes] = {}

    def start(self, weights: Sequence[Tensor]) -> None:
        """Begin with these weights, in place of any before."""
        self.drop()
        with self._lock:
            self._stop, self._digests = False, {}
            self._weights = tuple(weight for weight in weights if weight.device.type == "cpu")
            self._guard = WeightGuard(self._weights)
            self._thread = threading.Thread(
                target=self._work, args=(self._weights, self._digests), name="deepseek-digests", daemon=True
            )
            self._thread.start()

    def _work(self, weights: Sequence[Tensor], digests: dict[int, bytes]) -> None:
        for weight in weights:
            if self._stop:
                return
            digests[id(weight)] = tensor_digest(weight)

    def take(self, weights: Sequence[Tensor]) -> dict[int, bytes]:
        """The digests that are still those of ``weights``, by the tensor's id; lets go of the rest."""
        with self._lock:
            thread, guard, held = self._thread, self._guard, self._weights
            wanted = {id(weight) for weight in weights}
            if thread is None or guard is None or not wanted & {id(weight) for weight in held}:
                return {}
            thread.join()
            unchanged = guard.changed(held) is None
            found = dict(self._digests) if unchanged else {}
            self._thread, self._guard, self._weights, self._digests = None, None, (), {}
            return {key: digest for key, digest in found.items() if key in wanted}

    def drop(self) -> None:
        """Let go of everything."""
        self._stop = True
        thread = self._thread
        if thread is not None:
            thread.join()
        with self._lock:
            self._thread, self._guard, self._weights, self._digests = None, None, (), {}
