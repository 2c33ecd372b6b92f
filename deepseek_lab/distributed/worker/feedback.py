"""What gradients have left out on their way, and where it is kept for a training that goes on.

It is written to a file at each place from which the training can go on: in the folder of ``--checkpoint-to``, else in
one without a name, which ends with the process. So keeping it takes no memory, and nothing of it goes over a link.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import pickle
import tempfile
from pathlib import Path
from typing import IO, Any

import torch
import torch.distributed as dist
from torch import Tensor

PREFIX = "feedback-"
Key = tuple[int, ...]


class Feedback:
    """What a way of exchanging gradients keeps from one update to the next."""

    def __init__(self) -> None:
        self.own: dict[Key, Tensor] = {}
        """Of this rank alone: what was left out of its gradients."""
        self.common: dict[Key, Tensor] = {}
        """The same on all ranks."""


@dataclasses.dataclass
class State:
    """All that a rank keeps, by way."""

    own: dict[str, dict[Key, Tensor]] = dataclasses.field(default_factory=dict)
    common: dict[str, dict[Key, Tensor]] = dataclasses.field(default_factory=dict)
    hosts: tuple[int, ...] = ()
    """Where the ranks were: most of ``own`` is of parts of tensors that depend on it."""

    def __bool__(self) -> bool:
        return bool(self.own or self.common)


def take_up(state: State | None) -> tuple[State, bool]:
    """What this rank goes on with; what is the same on all ranks comes from one that has it. Called by all ranks.

    Returns:
        That, and whether any rank has kept something of its own.
    """
    state = state or State()
    have: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(have, (bool(state.own), sorted(state.common)))
    for name in sorted({name for _, names in have for name in names}):
        if not all(name in names for _, names in have):
            source = next(rank for rank, (_, names) in enumerate(have) if name in names)
            state.common[name] = _sent(state.common.get(name, {}), source)
    return state, any(owns for owns, _ in have)


def _sent(tensors: dict[Key, Tensor], source: int) -> dict[Key, Tensor]:
    """Tensors of one rank, on all."""
    what: list[Any] = [[(key, one.shape, one.dtype, one.device.type) for key, one in tensors.items()]]
    dist.broadcast_object_list(what, source)
    found: dict[Key, Tensor] = {}
    for key, shape, dtype, device in what[0]:
        found[key] = tensors[key] if key in tensors else torch.empty(shape, dtype=dtype, device=device)
        dist.broadcast(found[key], source)
    return found


class Kept:
    """States of the last places of a training, on one rank."""

    def __init__(self) -> None:
        self._files: dict[str, IO[bytes] | Path] = {}
        """By place, from the oldest on."""
        self.failed = ""
        """Why the last state could not be kept."""

    def put(self, place: str, state: State, folder: Path | None, rank: int) -> None:
        """Keep a state; two places back another one may have been saved last by all ranks."""
        self._files.pop(place, None)
        if not state:
            return
        try:
            self._files[place] = _write(place, state, folder, rank)
            self.failed = ""
        except (OSError, RuntimeError) as error:  # the latter is what torch.save makes of a full disk
            self.failed = str(error).splitlines()[0]
        while len(self._files) > 2:
            self._drop(next(iter(self._files)))

    def get(self, place: str, folder: Path | None, rank: int, device: str) -> State | None:
        """What was kept at a place, by this process or, in a folder, by one before it that had this number."""
        file = self._files.get(place)
        if file is None and folder is not None:
            file = _path(place, folder, rank)
        if file is None:
            return None
        try:
            if not isinstance(file, Path):
                file.seek(0)
            return State(**torch.load(file, map_location=device, weights_only=True))
        except (OSError, RuntimeError, TypeError, EOFError, pickle.UnpicklingError):
            return None

    def clear(self) -> None:
        """The training is over, or another one begins."""
        for place in list(self._files):
            self._drop(place)

    def _drop(self, place: str) -> None:
        file = self._files.pop(place)
        if isinstance(file, Path):
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)
        else:
            file.close()


def _path(place: str, folder: Path, rank: int) -> Path:
    return folder / f"{PREFIX}{rank}-{hashlib.sha256(place.encode()).hexdigest()[:16]}"


def _write(place: str, state: State, folder: Path | None, rank: int) -> IO[bytes] | Path:
    parts = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    if folder is None:
        file = tempfile.TemporaryFile()  # noqa: SIM115 - closed when it is dropped
        torch.save(parts, file)
        return file
    folder.mkdir(parents=True, exist_ok=True)
    path = _path(place, folder, rank)
    new = path.with_suffix(".new")
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            torch.save(parts, out)
        new.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        raise
    return path
