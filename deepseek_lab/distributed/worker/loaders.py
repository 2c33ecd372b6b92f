"""Data loaders of a cell that give each rank its own share of the data while the cell runs.

What is shared out is one global batch after the other, so that a training can go on with another number of ranks in the
middle of an epoch: the order is the same, the global batches that were given are those that were given, and the rest
is shared out anew.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, IterableDataset

from deepseek_lab.base.errors import TargetError

Groups = list[tuple[int, int]]
"""How what was given so far was grouped into global batches: how many of them, of how many items each."""


class Shares:
    """While it is open, loops over a ``DataLoader`` that train see every ``size``-th sample.

    The order is the loader's own, drawn alike on all ranks. Where samples do not come out even, the first ones are
    taken again. With ``batch``, and where gradients can be weighed, none is: shares differ by a sample, and gradients
    count by samples (:attr:`weight`). Loops under ``torch.no_grad()`` see everything.

    Args:
        rank: This one.
        size: How many ranks.
        seed: Of the orders.
        batch: Samples of an update over all ranks; None takes each loader's own batch on each rank.
        names: Of the cell; a loader that has one is known by it when training goes on in another process.
        weighs: Whether gradients are multiplied by :attr:`weight` before their mean is found.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        seed: int,
        batch: int | None,
        names: Mapping[str, Any],
        *,
        weighs: bool = False,
    ) -> None:
        self._rank, self._size, self._seed, self._batch, self._names = rank, size, seed, batch, names
        self._weighs = weighs
        self._twins: dict[int, tuple[DataLoader[Any], DataLoader[Any]]] = {}
        self._keys: dict[int, str] = {}
        self._epochs: dict[str, int] = {}
        self._generators: dict[str, torch.Tensor] = {}
        """States that loaders' own generators are to have when they are looped over the next time."""
        self._before: dict[tuple[str, int], Groups] = {}
        """What was given in passes that are begun again."""
        self._passes: list[_Pass] | None = None
        """Takes the passes that are begun now."""
        self._begins: _Pass | None = None
        self.weight = 1.0
        """Of this rank's gradients, by its samples of the batch that was drawn last; the mean over all ranks is 1."""
        self.global_batches: set[int] = set()
        """Sizes of the global batches of what was looped over."""
        self.num_shared = 0
        self.num_samples = 0
        """Samples that this rank has drawn; workers of a loader draw ahead."""
        self._plain_iter = DataLoader.__iter__
        self._plain_len = DataLoader.__len__

    def __enter__(self) -> Shares:
        shares = self

        def __iter__(loader: DataLoader[Any]) -> Any:  # noqa: N807
            return shares._iterate(loader)

        def __len__(loader: DataLoader[Any]) -> int:  # noqa: N807
            return shares._length(loader)

        DataLoader.__iter__ = __iter__  # type: ignore[method-assign]
        DataLoader.__len__ = __len__  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        DataLoader.__iter__ = self._plain_iter  # type: ignore[method-assign]
        DataLoader.__len__ = self._plain_len  # type: ignore[method-assign]

    def state(self) -> dict[str, Any]:
        """How often each loader was looped over, and where its own generator of random numbers is."""
        generators = {
            self._key(loader): loader.generator.get_state()
            for loader, _ in self._twins.values()
            if loader.generator is not None
        }
        return {"epochs": dict(self._epochs), "generators": {**self._generators, **generators}}

    def restore(self, state: dict[str, Any], given: Mapping[tuple[str, int], Groups] | None = None) -> None:
        """Go on where :meth:`state` was asked for, in this process or another.

        Args:
            state: What it gave.
            given: What :func:`given` told of the passes that are begun again from there; other numbers of ranks and
                other batches may have been at work.
        """
        self._epochs, self._generators = dict(state["epochs"]), dict(state["generators"])
        self._before = dict(given or {})

    def follow(self, items: Callable[[], Iterable[Any]], passes: list[_Pass]) -> Iterator[Any]:
        """What an expression gives that a loop is over; passes over loaders in it are added to ``passes``."""
        self._passes = passes
        for item in items():
            self._passes = None
            yield item
            self._passes = passes
        self._passes = None

    def _key(self, loader: DataLoader[Any]) -> str:
        if id(loader) not in self._keys:
            named = sorted(name for name, value in self._names.items() if value is loader)
            self._keys[id(loader)] = named[0] if named else f"#{len(self._keys)}"
        return self._keys[id(loader)]

    def _whole(self, loader: DataLoader[Any]) -> bool:
        ours = any(loader is twin for _, twin in self._twins.values())
        distributed = isinstance(getattr(loader, "sampler", None), DistributedSampler)
        return ours or distributed or not torch.is_grad_enabled()

    def _length(self, loader: DataLoader[Any]) -> int:
        if self._whole(loader):
            return self._plain_len(loader)
        if isinstance(loader.dataset, IterableDataset):
            return self._plain_len(loader) // self._size
        return self._plain_len(self._twin(loader))

    def _iterate(self, loader: DataLoader[Any]) -> Any:
        if self._whole(loader):
            return self._plain_iter(loader)
        self.num_shared += 1
        key = self._key(loader)
        state = self._generators.pop(key, None)
        if state is not None and loader.generator is not None:
            loader.generator.set_state(state)
        begun = _Pass(key)
        if self._passes is not None:
            self._passes.append(begun)
        if isinstance(loader.dataset, IterableDataset):
            size = loader.batch_size or 1
            self.global_batches.add(size * self._size)
            self._begin(begun, self._size)
            return _Given(self, self._turns(self._plain_iter(loader), size, begun), begun)
        twin = self._twin(loader)
        share = twin.sampler if twin.batch_sampler is None else twin.batch_sampler
        assert isinstance(share, _Share)
        self.global_batches.add(share.group)
        self._begins = begun  # for the share, whose order is drawn when the first batch is
        return _Given(self, self._plain_iter(twin), begun)

    def _begin(self, begun: _Pass, group: int) -> None:
        """Another pass over a loader has begun; ``group`` items are a global batch."""
        number = self._epochs[begun.key] = self._epochs.get(begun.key, -1) + 1
        begun.begin(number, self._before.pop((begun.key, number), []), group)

    def _turns(self, batches: Iterator[Any], size: int, begun: _Pass) -> Iterator[Any]:
        """Of as many batches as there are ranks, the one that is this rank's; of the last ones nobody's."""
        for together, num in begun.grouped(batches):
            if len(together) < num:
                return
            self.num_samples += size
            yield together[self._rank % num]

    def _twin(self, loader: DataLoader[Any]) -> DataLoader[Any]:
        kept = self._twins.get(id(loader))
        if kept is not None:
            return kept[1]
        options: dict[str, Any] = {
            "num_workers": loader.num_workers,
            "collate_fn": loader.collate_fn,
            "pin_memory": loader.pin_memory,
            "timeout": loader.timeout,
            "worker_init_fn": loader.worker_init_fn,
            "multiprocessing_context": loader.multiprocessing_context,
            "generator": loader.generator,
            "prefetch_factor": loader.prefetch_factor,
            "persistent_workers": loader.persistent_workers,
        }
        if loader.batch_sampler is None:
            share = _Share(self, loader, loader.sampler)
            twin = DataLoader(loader.dataset, batch_size=None, sampler=share, **options)
        elif type(loader.batch_sampler) is BatchSampler:
            share = _Share(self, loader, loader.sampler, self._batch or self._size * (loader.batch_size or 1))
            twin = DataLoader(loader.dataset, batch_sampler=share, **options)
        else:
            share = _Share(self, loader, loader.batch_sampler)
            twin = DataLoader(loader.dataset, batch_sampler=share, **options)
        self._twins[id(loader)] = loader, twin
        return twin

    @contextlib.contextmanager
    def _drawn_alike(self, number: int) -> Iterator[None]:
        """Random numbers that are the same on all ranks, and others in each pass."""
        python, numpy = random.getstate(), np.random.get_state()
        with torch.random.fork_rng(devices=[]):
            seed = (self._seed + 1_000_003 * number) % 2**32
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)
            try:
                yield
            finally:
                random.setstate(python)
                np.random.set_state(numpy)


def require_shareable(batch: int | None, size: int, *, weighs: bool) -> None:
    """See that an effective batch can be shared by so many ranks: evenly, unless the ranks' gradients are weighed.

    Raises:
        TargetError: it cannot.
    """
    if batch is not None and (batch < size or (batch % size and not weighs)):
        raise TargetError(
            f"an effective batch of {batch} cannot be shared by {size} ranks",
            hint=f"--effective-batch {batch - batch % size or size}",
        )


def given(passes: Sequence[_Pass]) -> dict[tuple[str, int], Groups]:
    """What :meth:`Shares.restore` needs to begin these again."""
    return {(one.key, one.number): one.groups for one in passes if one.number >= 0}


class _Pass:
    """One pass over a loader."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.number = -1
        """Of the passes over this loader; negative until the first item was asked for."""
        self.num_given = 0
        """Global batches."""
        self.weights: collections.deque[float] = collections.deque()
        """Of those that were drawn and not given yet; where there are none, 1."""
        self._before: Groups = []
        self._group = 1

    def begin(self, number: int, before: Groups, group: int) -> None:
        """The first item is asked for."""
        self.number, self._before, self._group = number, before, group

    @property
    def groups(self) -> Groups:
        """What was given so far."""
        found: Groups = []
        left = self.num_given
        for num, group in self._before:
            found.append((min(num, left), group))
            left -= found[-1][0]
        return [*found, (left, self._group)] if left else found

    def grouped(self, items: Iterable[Any]) -> Iterator[tuple[list[Any], int]]:
        """Global batches: those that were given before as they were, then those of now; each with how many it has
        unless the items end.
        """
        left = iter(items)
        sizes = itertools.chain(
            *(itertools.repeat(group, num) for num, group in self._before), itertools.repeat(self._group)
        )
        for size in sizes:
            if not (group := list(itertools.islice(left, size))):
                return
            yield group, size

    @property
    def num_before(self) -> int:
        """Global batches that were given before the pass was begun again."""
        return sum(num for num, _ in self._before)


class _Given:
    """An iterator of a loader that counts what it gives."""

    def __init__(self, shares: Shares, iterator: Iterator[Any], begun: _Pass) -> None:
        self._shares, self._iterator, self._begun = shares, iterator, begun

    def __iter__(self) -> _Given:
        return self

    def __next__(self) -> Any:
        item = next(self._iterator)
        begun = self._begun
        begun.num_given += 1
        self._shares.weight = begun.weights.popleft() if begun.weights else 1.0
        return item

    def __len__(self) -> int:
        return len(self._iterator)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._iterator, name)

    def __reduce__(self) -> Any:
        raise TypeError("an iterator of a DataLoader cannot be pickled")


class _Share:
    """What one rank takes of a sampler.

    Args:
        shares: Of the rank.
        loader: The user's own.
        sampler: Gives samples, or batches of them.
        group: Samples of a global batch, where this is to give lists of samples; None gives each item by itself.
    """

    def __init__(
        self, shares: Shares, loader: DataLoader[Any], sampler: Any, group: int | None = None
    ) -> None:
        self._shares, self._loader, self._sampler = shares, loader, sampler
        self._lists = group is not None
        self.group = shares._size if group is None else group
        if self._lists:
            require_shareable(shares._batch, shares._size, weighs=shares._weighs)
        self._drops = self._lists and bool(loader.drop_last)
        self._weighs = self._lists and shares._weighs and shares._batch is not None
        self._gives_batches = sampler is loader.batch_sampler

    def __iter__(self) -> Iterator[Any]:
        begun = self._shares._begins
        assert begun is not None
        return self._drawn(begun)

    def _drawn(self, begun: _Pass) -> Iterator[Any]:
        shares = self._shares
        shares._begin(begun, self.group)
        with shares._drawn_alike(begun.number):
            order = list(self._sampler)
        for number, (group, size) in enumerate(begun.grouped(order)):
            exact = self._weighs or number < begun.num_before
            if not exact:
                group += itertools.islice(itertools.cycle(order), -len(group) % shares._size)
            if self._drops and len(group) < size:
                return
            mine = group[shares._rank :: shares._size]
            begun.weights.append(len(mine) * shares._size / len(group) if self._weighs else 1.0)
            shares.num_samples += sum(len(one) for one in mine) if self._gives_batches else len(mine)
            mine = mine or group[:1]  # every rank takes part in every update, if with nothing
            yield mine if self._lists else mine[0]

    def __len__(self) -> int:
        num, size = len(self._sampler), self._shares._size
        if not self._weighs:
            num += -num % size
        return num // self.group if self._drops else -(-num // self.group)
