"""What a cell's training loop does, seen while it runs: its loaders, losses and optimizer steps."""

from __future__ import annotations

import dataclasses
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from deepseek_lab.hpo.limits.job import Seen, Turn


class Enough(BaseException):
    """The cell is left here. No ``Exception``: the cell's own handlers let it pass."""


class Watch:
    """Observes what runs while it is open.

    Loops over a ``DataLoader`` with gradients get batches of another size, and do not end as long as something is
    trained in them. A turn ends with a step of the optimizer that steps first.

    Args:
        size: Samples in a batch of the first loader; the others' change in the same proportion. None leaves them.
        seed: Of the loaders' own generators.
        skip: Loaders, in the order in which they are met, before the first one that something is trained with.
        turned: Called after each turn; where it gives False the cell is left.
        seen: Called when something new is known of the loop.
        rate: Gives the learning rate of the step of a turn, for the parameter group with the largest one; others keep
            their proportion to it. The optimizer's own rates stand again after the step.
    """

    def __init__(
        self,
        *,
        size: int | None,
        seed: int,
        skip: int = 0,
        turned: Callable[[Turn], bool],
        seen: Callable[[Seen], None] = lambda seen: None,
        rate: Callable[[int], float] | None = None,
    ) -> None:
        self._size, self._seed, self._turned, self._tell, self._rate = size, seed, turned, seen, rate
        self.seen = Seen(skip=skip)
        self.num_turns = 0
        self.num_backwards = 0
        self.first_loss: float | None = None
        """Before any update."""
        self._twins: dict[int, tuple[DataLoader[Any], DataLoader[Any]]] = {}
        self._first_loader: DataLoader[Any] | None = None
        self._first: torch.optim.Optimizer | None = None
        self._optimizers: dict[int, torch.optim.Optimizer] = {}
        self._before: dict[int, list[Any]] = {}
        """Learning rates that an optimizer's groups are to have again."""
        self._shares: dict[int, float] = {}
        """By group, of the largest learning rate."""
        self._losses: list[torch.Tensor] = []
        self._scaled: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        """Losses as a gradient scaler made them and as they were."""
        self._samples = 0
        self._at_s = 0.0
        self._undo: list[Callable[[], None]] = []

    def __enter__(self) -> Watch:
        self._at_s = time.perf_counter()
        plain_iter = self._plain_iter = DataLoader.__iter__
        plain_backward, plain_scale = torch.autograd.backward, torch.amp.GradScaler.scale
        plain_step = LRScheduler.step
        watch = self

        def __iter__(loader: DataLoader[Any]) -> Any:  # noqa: N807
            return watch._iterate(loader)

        def backward(tensors: Any, *arguments: Any, **options: Any) -> Any:
            watch._take(tensors)
            return plain_backward(tensors, *arguments, **options)

        def scale(scaler: Any, outputs: Any) -> Any:
            made = plain_scale(scaler, outputs)
            if isinstance(made, torch.Tensor):
                watch._scaled[id(made)] = made, outputs
            return made

        def step(scheduler: Any, *arguments: Any, **options: Any) -> None:
            try:
                plain_step(scheduler, *arguments, **options)
            except ValueError:
                if not hasattr(scheduler, "total_steps"):
                    raise  # else there are more steps than it was made for

        handles = [
            register_optimizer_step_pre_hook(self._steps),
            register_optimizer_step_post_hook(self._stepped),
        ]
        DataLoader.__iter__ = __iter__  # type: ignore[method-assign]
        torch.autograd.backward = backward
        torch.amp.GradScaler.scale = scale  # type: ignore[assignment, method-assign]
        LRScheduler.step = step  # type: ignore[assignment, method-assign]

        def undo() -> None:
            for handle in handles:
                handle.remove()
            DataLoader.__iter__ = plain_iter  # type: ignore[method-assign]
            torch.autograd.backward = plain_backward
            torch.amp.GradScaler.scale = plain_scale  # type: ignore[method-assign]
            LRScheduler.step = plain_step  # type: ignore[method-assign]

        self._undo.append(undo)
        return self

    def __exit__(self, *_: object) -> None:
        for undo in self._undo:
            undo()
        self._undo.clear()

    def _know(self, **facts: Any) -> None:
        self.seen = dataclasses.replace(self.seen, **facts)
        self._tell(self.seen)

    # Loaders.

    def _iterate(self, loader: DataLoader[Any]) -> Any:
        ours = any(loader is twin for _, twin in self._twins.values())
        if ours or not torch.is_grad_enabled():
            return self._plain_iter(loader)
        return _Endless(self, loader, self._twin(loader))

    def _twin(self, loader: DataLoader[Any]) -> DataLoader[Any]:
        """The loader with batches of the size that is wanted, and whole ones only."""
        if id(loader) in self._twins:
            return self._twins[id(loader)][1]
        fixed, own, index = why_fixed(loader), loader.batch_size, len(self._twins)
        if index < self.seen.skip:
            self._twins[id(loader)] = loader, loader
            return loader
        if self._first_loader is None:
            self._first_loader = loader
            self._know(own=own, num_samples=_num_samples(loader), fixed=fixed)
        if loader.generator is not None:
            loader.generator.manual_seed(self._seed)
        twin = loader
        if not fixed and own is not None:
            size, first = own, self.seen.own
            if self._size is not None and first:
                size = self._size if loader is self._first_loader else max(1, round(own * self._size / first))
            twin = resized(loader, size)
        self._twins[id(loader)] = loader, twin
        return twin

    def trained_nothing(self, loader: DataLoader[Any]) -> None:
        """A pass over a loader ended in which nothing was trained: it is not what the cell trains with."""
        if loader is self._first_loader:
            self._first_loader = None
            place = list(self._twins).index(id(loader))
            self._know(own=None, num_samples=None, fixed="", skip=place + 1)

    def drew(self, loader: DataLoader[Any], size: int) -> None:
        """A batch was drawn for a loop over a loader of the cell."""
        if loader is self._first_loader:
            self._samples += size

    # Losses.

    def _take(self, tensors: Any) -> None:
        self.num_backwards += 1
        found = [tensors] if isinstance(tensors, torch.Tensor) else list(tensors)
        for one in found:
            _, plain = self._scaled.get(id(one), (one, one))
            if plain.numel() == 1:
                self._losses.append(plain.detach())

    # Steps.

    def _steps(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        if id(optimizer) not in self._optimizers:
            self._optimizers[id(optimizer)] = optimizer
            self._met(optimizer)
        if self._rate is not None and not self.seen.rateless:
            self._set_rates(optimizer, self._rate(self.num_turns))

    def _met(self, optimizer: torch.optim.Optimizer) -> None:
        first = self._first is None
        if first:
            self._first = optimizer
        groups = optimizer.param_groups
        facts: dict[str, Any] = {"num_optimizers": len(self._optimizers)}
        if first:
            device = next((one.device for group in groups for one in group["params"]), torch.device("cpu"))
            facts |= {
                "optimizer": type(optimizer).__name__,
                "num_groups": len(groups),
                "device": str(device),
                "room_bytes": _room_bytes(device),
            }
        if rateless := why_rateless(optimizer):
            facts["rateless"] = rateless
        self._know(**facts)

    def _set_rates(self, optimizer: torch.optim.Optimizer, rate: float) -> None:
        groups = optimizer.param_groups
        if any(id(group) not in self._shares for group in groups):
            own = [float(group.get("initial_lr") or group["lr"]) for group in groups]
            top = max(own)
            for group, one in zip(groups, own, strict=True):
                self._shares[id(group)] = one / top if top > 0 else 1.0
        before = []
        for group in groups:
            lr = group["lr"]
            if isinstance(lr, torch.Tensor):
                before.append(lr.clone())
                lr.fill_(rate * self._shares[id(group)])
            else:
                before.append(lr)
                group["lr"] = rate * self._shares[id(group)]
        self._before[id(optimizer)] = before

    def _stepped(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        for group, lr in zip(optimizer.param_groups, self._before.pop(id(optimizer), []), strict=False):
            if isinstance(group["lr"], torch.Tensor) and isinstance(lr, torch.Tensor):
                group["lr"].copy_(lr)
            else:
                group["lr"] = lr
        if optimizer is not self._first:
            return
        losses = [float(one) for one in self._losses]  # waits for a GPU too
        if self.seen.device.startswith("cuda"):
            torch.cuda.synchronize()
        now = time.perf_counter()
        turn = Turn(now - self._at_s, self._samples, statistics.fmean(losses) if losses else None)
        if self.num_turns == 0:
            self.first_loss = turn.loss
        self._losses.clear()
        self._scaled.clear()
        self._samples, self._at_s = 0, now
        self.num_turns += 1
        if not self._turned(turn):
            raise Enough


class _Endless:
    """A pass over a loader that begins again at its end, if something was trained in it."""

    def __init__(self, watch: Watch, loader: DataLoader[Any], twin: DataLoader[Any]) -> None:
        self._watch, self._loader, self._twin = watch, loader, twin
        self._size = twin.batch_size if twin is not loader and twin.drop_last else None
        self._begin()

    def _begin(self) -> None:
        self._items: Iterator[Any] = self._watch._plain_iter(self._twin)
        self._backwards = self._watch.num_backwards

    def __iter__(self) -> _Endless:
        return self

    def __next__(self) -> Any:
        try:
            item = next(self._items)
        except StopIteration:
            if self._backwards == self._watch.num_backwards:
                self._watch.trained_nothing(self._loader)
                raise
            self._begin()
            item = next(self._items)
        self._watch.drew(self._loader, self._size or num_rows(item) or 1)
        return item

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._items, name)


def why_fixed(loader: DataLoader[Any]) -> str:
    """Why the batches of a loader cannot be made larger or smaller; empty where they can."""
    if loader.batch_sampler is not None and type(loader.batch_sampler) is not BatchSampler:
        return f"the loader's batches are made by a {type(loader.batch_sampler).__name__}, whose sizes only it knows"
    if loader.batch_size is None:
        return "the loader has batch_size=None: its data set makes the batches itself"
    return ""


def why_rateless(optimizer: torch.optim.Optimizer) -> str:
    """Why the learning rate of an optimizer cannot be searched for; empty where it can."""
    name = type(optimizer).__name__
    if isinstance(optimizer, torch.optim.LBFGS):
        return f"a step of {name} evaluates its closure several times, so that no learning rate can be tried in it"
    if any(not isinstance(group.get("lr"), int | float | torch.Tensor) for group in optimizer.param_groups):
        return f"the parameter groups of {name} have no lr"
    return ""


def _room_bytes(device: torch.device) -> int | None:
    """What a GPU has for this process; None for other devices."""
    if device.type != "cuda":
        return None
    return int(torch.cuda.mem_get_info(device)[0]) + torch.cuda.memory_reserved(device)


def resized(loader: DataLoader[Any], size: int) -> DataLoader[Any]:
    """A loader of the same data in the same order, with batches of another size; an incomplete one is left out."""
    options: dict[str, Any] = {
        "batch_size": size,
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
    if isinstance(loader.dataset, IterableDataset):
        return DataLoader(loader.dataset, drop_last=True, **options)
    num = _num_samples(loader)
    whole = num is None or num >= size
    return DataLoader(loader.dataset, sampler=loader.sampler, drop_last=whole, **options)


def _num_samples(loader: DataLoader[Any]) -> int | None:
    if isinstance(loader.dataset, IterableDataset):
        return None
    try:
        return len(loader.sampler)  # type: ignore[arg-type]
    except TypeError:
        return None


def num_rows(batch: Any) -> int | None:
    """Samples in a batch: the length of the first tensor or array in it, which may be in tuples, lists and mappings."""
    if isinstance(batch, torch.Tensor | np.ndarray):
        return len(batch) if batch.ndim else None
    parts: Sequence[Any] = ()
    if isinstance(batch, Mapping):
        parts = list(batch.values())
    elif isinstance(batch, list | tuple):
        parts = batch
    return next((found for one in parts if (found := num_rows(one)) is not None), None)


def seed_all(seed: int) -> None:
    """Set every random stream of this process."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
