"""Data loaders of a cell that give each rank its own share of the data while the cell runs."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, IterableDataset

from deepseek_lab.base.errors import TargetError


class Shares:
    """While it is open, loops over a ``DataLoader`` that train see every ``size``-th sample.

    The order is the loader's own, drawn alike on all ranks; where samples do not come out even, the first ones are
    taken again. Loops under ``torch.no_grad()`` see everything.

    Args:
        rank: This one.
        size: How many ranks.
        seed: Of the orders.
        batch: Samples of an update over all ranks; None takes each loader's own batch on each rank.
        names: Of the cell; a loader that has one is known by it when training goes on in another process.
    """

    def __init__(self, rank: int, size: int, seed: int, batch: int | None, names: Mapping[str, Any]) -> None:
        self._rank, self._size, self._seed, self._batch, self._names = rank, size, seed, batch, names
        self._twins: dict[int, tuple[DataLoader[Any], DataLoader[Any]]] = {}
        self._keys: dict[int, str] = {}
        self._epochs: dict[str, int] = {}
        self._generators: dict[str, torch.Tensor] = {}
        """States that loaders' own generators are to have when they are looped over the next time."""
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

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state` was asked for, in this process or another."""
        self._epochs, self._generators = dict(state["epochs"]), dict(state["generators"])

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
        state = self._generators.pop(self._key(loader), None)
        if state is not None and loader.generator is not None:
            loader.generator.set_state(state)
        if isinstance(loader.dataset, IterableDataset):
            size = loader.batch_size or 1
            self.global_batches.add(size * self._size)
            return self._turns(self._plain_iter(loader), size)
        twin = self._twin(loader)
        size = getattr(twin.batch_sampler, "batch_size", None) or 1
        self.global_batches.add(size * self._size)
        return self._plain_iter(twin)

    def _turns(self, batches: Iterator[Any], size: int) -> Iterator[Any]:
        """Of as many batches as there are ranks, the one that is this rank's; of the last ones nobody's."""
        while len(together := list(itertools.islice(batches, self._size))) == self._size:
            self.num_samples += size
            yield together[self._rank]

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
            batches = BatchSampler(
                _Share(self, loader, loader.sampler), self._batch_of(loader), loader.drop_last
            )
            twin = DataLoader(loader.dataset, batch_sampler=batches, **options)
        else:
            share = _Share(self, loader, loader.batch_sampler)
            twin = DataLoader(loader.dataset, batch_sampler=share, **options)
        self._twins[id(loader)] = loader, twin
        return twin

    def _batch_of(self, loader: DataLoader[Any]) -> int:
        if self._batch is None:
            return loader.batch_size or 1
        if self._batch % self._size:
            raise TargetError(
                f"an effective batch of {self._batch} cannot be shared by {self._size} ranks",
                hint=f"--effective-batch {self._batch - self._batch % self._size or self._size}",
            )
        return self._batch // self._size

    @contextlib.contextmanager
    def _drawn_alike(self, loader: DataLoader[Any]) -> Iterator[None]:
        """Random numbers that are the same on all ranks, and others each time."""
        key = self._key(loader)
        epoch = self._epochs[key] = self._epochs.get(key, -1) + 1
        python, numpy = random.getstate(), np.random.get_state()
        with torch.random.fork_rng(devices=[]):
            seed = (self._seed + 1_000_003 * epoch) % 2**32
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)
            try:
                yield
            finally:
                random.setstate(python)
                np.random.set_state(numpy)


class _Share:
    """What one rank takes of a sampler."""

    def __init__(self, shares: Shares, loader: DataLoader[Any], sampler: Any) -> None:
        self._shares, self._loader, self._sampler = shares, loader, sampler
        self._gives_batches = sampler is loader.batch_sampler

    def __iter__(self) -> Iterator[Any]:
        rank, size = self._shares._rank, self._shares._size
        with self._shares._drawn_alike(self._loader):
            order = list(self._sampler)
        missing = -len(order) % size if order else 0
        order += list(itertools.islice(itertools.cycle(order), missing))
        return self._counted(order[rank::size])

    def _counted(self, drawn: list[Any]) -> Iterator[Any]:
        for one in drawn:
            self._shares.num_samples += len(one) if self._gives_batches else 1
            yield one

    def __len__(self) -> int:
        return -(-len(self._sampler) // self._shares._size)
