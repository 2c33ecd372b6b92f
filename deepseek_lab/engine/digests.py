"""What weights are needed for, begun while Dynamo captures: that work is Python's, and leaves a processor idle."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepseek_lab.engine.background import stand_back
from deepseek_lab.engine.guards import WeightGuard
from deepseek_lab.engine.problem import PLAIN
from deepseek_lab.engine.tensors import save_tensors

WEIGHTS = "weights.bin"


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


def _is_plain(weight: Tensor) -> bool:
    """Whether a weight is memory to read: not one that is sparse, of a class of its own or not made yet.

    No graph that takes another one has a candidate.
    """
    return type(weight) in PLAIN and weight.device.type == "cpu" and weight.layout == torch.strided


class Ahead:
    """What a target's weights are needed for, started before it is known which of them a graph will take.

    While Dynamo captures they are digested, and saved for the builder unless they were seen before: a program for
    them is then likely to be in the store.
    """

    def __init__(self) -> None:
        self._batch: _Batch | None = None

    @property
    def total(self) -> str:
        """Digest of all weights together; empty while it is not known."""
        batch = self._batch
        return batch.total if batch is not None else ""

    def start(
        self, weights: Sequence[Tensor], folder: Callable[[str], Path | None] = lambda total: None
    ) -> None:
        """Begin with these weights, in place of any before. Waits for nothing.

        ``folder`` makes the folder to save them in, from the digest of all; None where they need not be saved.
        """
        self.drop()
        self._batch = _Batch([weight for weight in weights if _is_plain(weight)], folder)

    def take(self, weights: Sequence[Tensor]) -> dict[int, bytes]:
        """The digests that are still those of ``weights``, by the tensor's id."""
        batch = self._batch
        return batch.digests_of(weights) if batch is not None else {}

    def finish(self, weights: Sequence[Tensor]) -> None:
        """Wait until what was begun with these weights is done."""
        batch = self._batch
        if batch is not None and batch.is_about(weights):
            batch.finish()

    def claim(self, weights: Sequence[Tensor], directory: Path) -> tuple[int, ...] | None:
        """Put the file of saved weights into ``directory`` as :data:`WEIGHTS`.

        Returns:
            Which of its tensors ``weights`` are; None where they are not all in it, or not as they are now.
        """
        batch = self._batch
        return batch.claim(weights, directory) if batch is not None else None

    def stand_back(self) -> None:
        """The capture is over: what is left is done in the processor time that nobody else wants."""
        batch = self._batch
        if batch is not None:
            batch.stand_back()

    def release(self, weights: Sequence[Tensor]) -> None:
        """Let go of everything, if it is about these weights; a capture since then may have begun with others."""
        batch = self._batch
        if batch is not None and batch.is_about(weights):
            self.drop()

    def drop(self) -> None:
        """Let go of everything."""
        batch, self._batch = self._batch, None
        if batch is not None:
            batch.abandon()


class _Batch:
    """The weights of one capture, and the thread that works on them."""

    def __init__(self, weights: Sequence[Tensor], folder: Callable[[str], Path | None]) -> None:
        self.total = ""
        self._weights, self._guard = tuple(weights), WeightGuard(weights)
        self._digests: dict[int, bytes] = {}
        self._digested, self._abandoned = threading.Event(), threading.Event()
        self._folder: Path | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(
            target=self._work, args=(folder,), name="deepseek-digests", daemon=True
        )
        self._thread.start()

    def _work(self, folder: Callable[[str], Path | None]) -> None:
        try:
            for weight in self._weights:
                if self._abandoned.is_set():
                    return
                self._digests[id(weight)] = tensor_digest(weight)
            both = b"".join(self._digests[id(weight)] for weight in self._weights)
            self.total = hashlib.blake2b(both, digest_size=16).hexdigest()
        finally:
            self._digested.set()
        with contextlib.suppress(OSError):  # a full disk is told by the job that needs the file
            made = folder(self.total)
            if made is not None:
                save_tensors(made / WEIGHTS, self._weights)
                with self._lock:
                    self._folder = made
            if self._abandoned.is_set():
                self._remove()

    def is_about(self, weights: Sequence[Tensor]) -> bool:
        return bool({id(weight) for weight in weights} & {id(weight) for weight in self._weights})

    def digests_of(self, weights: Sequence[Tensor]) -> dict[int, bytes]:
        if not self.is_about(weights):
            return {}
        wanted = {id(weight) for weight in weights}
        self._digested.wait()
        if self._guard.changed(self._weights) is not None:
            return {}
        return {key: digest for key, digest in self._digests.items() if key in wanted}

    def claim(self, weights: Sequence[Tensor], directory: Path) -> tuple[int, ...] | None:
        place = {id(weight): index for index, weight in enumerate(self._weights)}
        if any(id(weight) not in place for weight in weights):
            return None
        self._thread.join()
        with self._lock:
            folder, self._folder = self._folder, None
        if folder is None:
            return None
        try:
            if self._guard.changed(self._weights) is not None:
                return None
            for path in folder.iterdir():
                path.replace(directory / path.name)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return tuple(place[id(weight)] for weight in weights)

    def finish(self) -> None:
        self._thread.join()

    def stand_back(self) -> None:
        if self._thread.native_id is not None and self._thread.is_alive():
            stand_back(self._thread.native_id)

    def abandon(self) -> None:
        self._abandoned.set()
        self.stand_back()
        if not self._thread.is_alive():
            self._remove()

    def _remove(self) -> None:
        with self._lock:
            folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
