"""A DataLoader's own samples in its own order, in batches of the size that is wanted now.

The contract: an update sees the samples that it would see if the loader had been made with ``batch_size`` of an update,
the last ones of an epoch and ``drop_last`` included.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler

from deepseek_lab.base.errors import TargetError


@dataclasses.dataclass(frozen=True)
class Batch:
    """One batch that a loader gives.

    Attributes:
        num_samples: How many.
        asked: How many were asked for.
        ends: Whether an update is due with it, as the epoch ends.
    """

    num_samples: int
    asked: int
    ends: bool = False


class Asked(Protocol):
    """Who says how large batches are to be."""

    goal: int
    several: bool
    """Whether several loaders feed one step, each with batches of its own size."""

    @property
    def knows_loader(self) -> bool:
        """Whether a loader is known whose batches are trained with."""

    def next_size(self, gathered: int, own: int) -> int:
        """The size of the next batch, where so many samples were given towards an update."""

    def remaining(self) -> int:
        """Samples that wait for an update now."""

    def is_trained_with(self, loader: DataLoader[Any]) -> bool:
        """Whether a loader's batches are trained with."""

    def batch_begins(self, batch: Batch | None, loader: DataLoader[Any]) -> None:
        """A loader gives a batch to the loop."""

    def batch_asked(self) -> None:
        """The loop asks for the next batch."""

    def pass_ended(self, loader: DataLoader[Any]) -> None:
        """A loader has given its last batch."""


def why_not(loader: DataLoader[Any]) -> str:
    """Why a loader's batches stay as they are; empty where they can be of another size."""
    if type(loader).__iter__ is not DataLoader.__iter__:
        return f"{type(loader).__name__} makes its batches itself"
    if (
        isinstance(loader.dataset, IterableDataset)
        or loader.batch_size is None
        or loader.batch_sampler is None
        or type(loader.batch_sampler) is not BatchSampler
    ):
        return "its batches are made by its dataset or by a sampler of its own"
    if loader.persistent_workers and loader.num_workers:
        return "its workers persist"
    return ""


class Loaders:
    """While open, loaders whose batches are trained with give them in the size that is asked for."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._before: Any = None
        self._own: Any = None

    def open(self) -> Loaders:
        """Begin."""
        before = self._before = DataLoader.__iter__

        def iterate(loader: DataLoader[Any]) -> Iterator[Any]:
            if self._before is None or why_not(loader):
                return before(loader)
            return _Pass(loader, self._asked, before)

        self._own = iterate
        setattr(DataLoader, "__iter__", iterate)  # noqa: B010 - put back by close()
        return self

    def close(self) -> None:
        """End; a pass under way goes on."""
        if self._before is not None and DataLoader.__iter__ is self._own:
            setattr(DataLoader, "__iter__", self._before)  # noqa: B010
        self._before = None


class _Pass:
    """One pass over a loader."""

    def __init__(
        self, loader: DataLoader[Any], asked: Asked, iterate: Callable[[Any], Iterator[Any]]
    ) -> None:
        self._loader, self._asked = loader, asked
        self._given: deque[Batch] = deque()
        own = copy.copy(loader)
        own.__dict__["batch_sampler"] = _Sizes(loader, asked, self._given)
        self._inner = iterate(own)

    def __iter__(self) -> _Pass:
        return self

    def __next__(self) -> Any:
        self._asked.batch_asked()
        try:
            data = next(self._inner)
        except StopIteration:
            self._asked.pass_ended(self._loader)
            raise
        self._asked.batch_begins(self._given.popleft() if self._given else None, self._loader)
        return data

    def __len__(self) -> int:
        return len(self._loader)


class _Sizes:
    """The indices of one pass, batch by batch; takes the place of the loader's own batch sampler."""

    def __init__(self, loader: DataLoader[Any], asked: Asked, given: deque[Batch]) -> None:
        self._loader, self._asked, self._given = loader, asked, given

    def __len__(self) -> int:
        return math.ceil(len(self._loader.sampler) / (self._loader.batch_size or 1))  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[list[int]]:
        loader, asked, goal = self._loader, self._asked, self._asked.goal
        # Until one is known, a loader that shuffles is taken for the one that is trained with.
        likely = isinstance(loader.sampler, RandomSampler) and not asked.knows_loader
        own, num_given, trains = loader.batch_size or 1, 0, False
        indices: Iterator[int] = iter(loader.sampler)
        gathered = asked.remaining()
        ahead = next(indices, None)
        while ahead is not None:
            if not trains and (likely or asked.is_trained_with(loader)):
                trains = True
                if loader.drop_last and not asked.several:
                    whole = self._whole(num_given, gathered)
                    if not whole:
                        return
                    indices = itertools.islice(indices, whole - 1)
            size = asked.next_size(gathered, own) if trains else own
            chosen = [ahead, *itertools.islice(indices, size - 1)]
            ahead = next(indices, None)
            if (asked.several or not trains) and loader.drop_last and len(chosen) < own:
                return
            num_given += len(chosen)
            gathered = (gathered + len(chosen)) % goal
            self._given.append(Batch(len(chosen), size, ends=ahead is None))
            yield chosen

    def _whole(self, num_given: int, gathered: int) -> int:
        """How many of the samples that are left make whole updates."""
        num_samples, goal = len(self._loader.sampler), self._asked.goal  # type: ignore[arg-type]
        whole = (gathered + num_samples - num_given) // goal * goal - gathered
        if whole <= 0 and not num_given:
            raise TargetError(
                f"an update over {goal:,} samples is more than the {num_samples:,} that the loader has, and it drops "
                "its last batch (drop_last)",
                hint=f"--effective-batch {num_samples}, or a DataLoader without drop_last",
            )
        return max(whole, 0)
