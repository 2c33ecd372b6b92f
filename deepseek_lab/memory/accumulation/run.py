"""A run: gradients of a cell's loop are accumulated until an update has seen as many samples as were asked for."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from deepseek_lab.base import events as ev
from deepseek_lab.base.errors import TargetError, UsageError
from deepseek_lab.base.sizes import parse_limit
from deepseek_lab.capture.observe import ModuleObserver
from deepseek_lab.engine.training.steps import steps
from deepseek_lab.memory.accumulation.gates import Gates
from deepseek_lab.memory.accumulation.gradients import Gradients, batch_size
from deepseek_lab.memory.accumulation.loaders import Batch, Loaders, why_not
from deepseek_lab.memory.accumulation.reduction import Reduction, reduction_of
from deepseek_lab.memory.accumulation.trial import Trial


class Accumulation:
    """Accumulates what the loops of this process do, while open.

    Args:
        num_samples: Samples of an update.
        limit_bytes: What parameters, gradients, optimiser state and a step's activations may hold together. Without
            one, most of what the device has.
        settled: Told once the size of the micro-batches is known.

    Raises:
        UsageError: The number of samples is not positive.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        limit_bytes: int | None = None,
        settled: Callable[[], None] = lambda: None,
    ) -> None:
        if num_samples < 1:
            raise UsageError(f"an update cannot see {num_samples} samples", hint="--effective-batch 256")
        self.goal = num_samples
        self.notes: list[str] = []
        self.own_size = 0
        """Samples of the loop's own batches."""
        self.num_micro_batches = 0
        self._settled, self._limit = settled, limit_bytes
        self._trial = Trial(num_samples, limit_bytes, self._used, self._tell)
        self._choice = self._trial.choice
        self._gates, self._loaders = Gates(self), Loaders(self)
        self._observer = ModuleObserver(lambda module: None, self._called)
        self._models: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._gradients: dict[int, Gradients] = {}
        self._training: weakref.WeakSet[DataLoader[Any]] = weakref.WeakSet()
        self._loader: weakref.ref[DataLoader[Any]] | None = None
        self._batch: Batch | None = None
        self._samples: int | None = None
        self._feeding: weakref.WeakSet[DataLoader[Any]] = weakref.WeakSet()
        """Those that gave a batch since the last backward pass, and have more."""
        self.several = False
        """Whether more than one feeds a step: a size of its own would change how they are mixed."""
        self._number = 0
        """Of the batch under way."""
        self._differentiated = True
        self._reduction = Reduction()
        self._searched = self._told = self._open = False
        self._updating: list[torch.optim.Optimizer] = []
        self._deferred: torch.optim.Optimizer | None = None

    def open(self) -> Accumulation:
        """Accumulate from now on."""
        self._open = True
        self._observer.open()
        self._gates.open()
        self._loaders.open()
        steps.listen(self)
        return self

    def close(self) -> None:
        """Leave everything as it was. What was gathered towards an update that did not come is let go of."""
        if not self._open:
            return
        self._open = False
        self._trial.batch_ends()
        self._observer.close()
        self._loaders.close()
        self._gates.close()
        steps.leave(self)
        left = self.remaining()
        if left:
            self._note(
                f"the loop ended with the gradients of {left:,} samples, fewer than the {self.goal:,} of an update; "
                "no update was made of them"
            )
        for one in self._gradients.values():
            one.release()

    def __enter__(self) -> Accumulation:
        return self.open()

    def __exit__(self, *error: object) -> None:
        self.close()

    # -- what there is to say ------------------------------------------------------------------------

    @property
    def num_updates(self) -> int:
        """Updates that were made."""
        return sum(one.num_updates for one in self._gradients.values())

    @property
    def is_settled(self) -> bool:
        """Whether the size of the micro-batches is known."""
        return self._told

    def event(self, run: str) -> ev.BatchAccumulated:
        """What was chosen and done, as an event of a run."""
        choice, ratio = self._choice, self._choice.ratio
        size = choice.best or self.own_size
        return ev.BatchAccumulated(
            run=run,
            num_samples=self.goal,
            micro_batch=size,
            own_batch=self.own_size,
            reduction=self._reduction.kind,
            num_updates=self.num_updates,
            num_micro_batches=self.num_micro_batches,
            speedup=ratio.speedup if ratio is not None else None,
            speedup_ci95=ratio.ci95 if ratio is not None else None,
            tried=tuple(
                ev.MicroBatch(
                    size=one.size, samples_per_s=one.samples_per_s or None, peak_bytes=one.peak_bytes or None
                )
                for one in sorted(choice.tried.values(), key=lambda one: one.size)
                if one.seconds or one.peak_bytes
            ),
            reason=choice.reason,
            notes=tuple(self.notes),
        )

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            self._warn_of_batch_norm()
            self._settled()

    def _warn_of_batch_norm(self) -> None:
        size = self._choice.best or self.own_size
        if size < self.goal and any(
            isinstance(part, _BatchNorm) and part.training
            for model in self._models
            for part in model.modules()
        ):
            self._note(
                f"batch norm normalises each micro-batch of {size:,} by its own statistics; those of {self.goal:,} "
                "samples at once would differ"
            )

    # -- loaders ----------------------------------------------------------------------------------------

    def next_size(self, gathered: int, own: int) -> int:
        """The size of the next batch, where so many samples were given towards an update."""
        self.own_size = self.own_size or own
        if self.several:
            return own
        if (
            not self._training and self._limit is None
        ):  # the first batch tells whether one loader feeds a step
            return min(own, self.goal - gathered)
        self._trial.begin(own)
        return self._choice.next_size(gathered)

    @property
    def knows_loader(self) -> bool:
        """Whether a loader is known whose batches are trained with."""
        return len(self._training) > 0

    def remaining(self) -> int:
        """Samples that wait for an update now."""
        return int(max((one.num_samples for one in self._gradients.values()), default=0))

    def is_trained_with(self, loader: DataLoader[Any]) -> bool:
        """Whether a loader's batches are trained with."""
        return loader in self._training

    def batch_begins(self, batch: Batch | None, loader: DataLoader[Any]) -> None:
        """A loader gives a batch to the loop."""
        self._batch, self._loader = None if self.several else batch, weakref.ref(loader)
        self._feeding.add(loader)
        self._number += 1
        if self._open:
            self._trial.batch_begins(self._batch)

    def batch_asked(self) -> None:
        """The loop asks for the next batch."""
        self._trial.batch_ends()

    def pass_ended(self, loader: DataLoader[Any]) -> None:
        """A loader has given its last batch."""
        self._feeding.discard(loader)

    def _used(self) -> list[Gradients]:
        return [one for one in self._gradients.values() if one.used]

    # -- calls and backward passes ------------------------------------------------------------------------

    def _called(self, module: nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        """The loop calls a model."""
        if not torch.is_grad_enabled() or not module.training:
            return
        self._models.add(module)
        if not self._differentiated:
            return
        self._samples = batch_size(args, kwargs)
        self._differentiated = False
        if self._batch is not None:
            return
        self._number += 1
        if self._samples is None:
            return
        self.own_size = self.own_size or self._samples
        if self._samples > self.goal:
            loader = self._loader() if self._loader is not None else None
            why = f", and {why_not(loader)}" if loader is not None and why_not(loader) else ""
            raise TargetError(
                f"the loop's batches have {self._samples:,} samples, more than the {self.goal:,} of an update{why}",
                hint=f"--effective-batch {self._samples}, or more; a DataLoader's batches are made smaller where "
                "it has a batch_size",
            )

    def backward_begins(self, losses: Any) -> None:
        """A backward pass is about to begin."""
        loss = losses if isinstance(losses, Tensor) else next(iter(losses), None)
        self._reduction = _reduction(loss)
        if not self._searched:
            self._searched = True
            self._find_optimizers()
        for one in self._gradients.values():
            one.backward_begins()

    def backward_ended(self) -> None:
        """It has ended, without an error."""
        self._differentiated = True
        self._look_for_several()
        samples, ends = self._now()
        weight = self._reduction.weight(samples)
        reached = [
            one
            for one in self._gradients.values()
            if one.backward_ended(self._number, samples, weight, self._reduction)
        ]
        if not reached:
            return
        if self._reduction.doubt:
            self._note(self._reduction.doubt)
        if not self._reduction.agrees(samples):
            self._note("the loss adds means over different numbers of values; they are weighed by samples")
        loader = self._loader() if self._loader is not None else None
        if loader is not None and self._batch is not None:
            self._training.add(loader)
        self._trial.backward_ended()
        for one in reached:
            if ends or one.gathered >= self.goal:
                one.merge()

    def _look_for_several(self) -> None:
        if len(self._feeding) > 1 and not self.several:
            self.several, self._batch = True, None
            self._note("several loaders feed a step; their batches stay as they are")
        self._feeding.clear()

    def _now(self) -> tuple[float, bool]:
        """Samples of the batch under way, and whether an update is due with it as an epoch ends."""
        if self._batch is not None:
            return float(self._batch.num_samples), self._batch.ends
        return float(self._samples or 1), False

    def _find_optimizers(self) -> None:
        for one in gc.get_objects():
            # By type: a proxy answers for another object, with a warning.
            if issubclass(type(one), torch.optim.Optimizer):
                self._know(one)

    def _know(self, optimizer: torch.optim.Optimizer) -> Gradients:
        found = self._gradients.get(id(optimizer))
        if found is None:
            found = self._gradients[id(optimizer)] = Gradients(optimizer)
        return found

    # -- what the gates and the optimisers ask -----------------------------------------------------------

    def is_deferred(self, optimizer: Any) -> bool:
        """Whether an optimiser's last step was none; of any where none is named."""
        if optimizer is None:
            return any(one.deferred for one in self._gradients.values())
        found = self._gradients.get(id(optimizer))
        return found is not None and found.deferred

    def updates_of(self, optimizer: Any) -> int:
        """How often an optimiser has really stepped."""
        found = self._gradients.get(id(optimizer))
        return found.num_updates if found is not None else 0

    def divided(self, optimizer: Any, scale: float) -> None:
        """A scaler has divided an optimiser's gradients."""
        if (found := self._gradients.get(id(optimizer))) is not None:
            found.divided_by = scale

    def skipped(self, optimizer: Any) -> None:
        """A scaler has found infinite gradients: the batch begins anew, with another scale."""
        if (found := self._gradients.get(id(optimizer))) is not None:
            found.drop()
            self._note("gradients overflowed and their batch was left out, as the scaler would have it")

    def is_partial(self, parameters: Sequence[Tensor]) -> bool:
        """Whether the gradients of these parameters are a part of a batch's only."""
        given = set(map(id, parameters))
        _, ends = self._now()
        return any(
            not ends and one.gathered < self.goal and any(id(p) in given for p in one.parameters())
            for one in self._gradients.values()
        )

    def trains(self, parameters: frozenset[int]) -> bool:
        """Every optimiser's steps are of interest."""
        return True

    def step_begins(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimiser is about to step: have it find nothing, unless its batch is whole."""
        if isinstance(optimizer, torch.optim.LBFGS):
            self._note("LBFGS computes its gradients itself; its steps are not accumulated")
            return
        one = self._know(optimizer)
        if not one.gathered and not any(p.grad is not None for p in one.parameters()):
            return
        if not one._pending_samples:  # gradients that no backward pass has brought
            samples, _ = self._now()
            one._pending_samples, one._pending_weight = samples, self._reduction.weight(samples)
        _, ends = self._now()
        if ends or one.gathered >= self.goal:
            one.merge()
            self._updating.append(optimizer)
        else:
            one.defer()
        self.num_micro_batches += 1

    def step_ended(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimiser has stepped, or has found nothing to do."""
        one = self._gradients.get(id(optimizer))
        if one is None:
            return
        one.show_again()
        if optimizer in self._updating:
            self._updating.remove(optimizer)
            one.updated()
        if self._batch is None and not self._told:
            self._tell()  # the loop makes its batches itself


def _reduction(loss: Any) -> Reduction:
    with contextlib.suppress(Exception):  # what autograd's nodes save differs between versions
        if isinstance(loss, Tensor):
            return reduction_of(loss)
    return Reduction(doubt="the loss could not be read; it was taken for a mean over samples")


def effective_batch(num_samples: int, *, memory_limit: str | None = None) -> Accumulation:
    """Update the weights once per so many samples: your own loop, with the gradients of smaller batches added up.

    Within the ``with`` block optimisers find no gradients until their batch is whole, schedulers count updates,
    clipping clips the whole batch's gradient, and a gradient scaler keeps one scale for it. Gradients are those of
    one batch of that size, whether the loss is a mean or a sum, over samples or over labelled tokens only. A
    ``DataLoader`` with a ``batch_size`` gives its samples in its own order, in micro-batches of the size that runs
    fastest and fits; at the end of an epoch it is as if its ``batch_size`` were ``num_samples``. Other loops keep
    their batches.

    What sees more than one sample at a time sees a micro-batch: batch norm, and losses that compare samples with one
    another, such as contrastive ones.

    Args:
        num_samples: Samples of an update.
        memory_limit: What parameters, gradients, optimiser state and a micro-batch may hold together, e.g. ``6GiB``.

    Returns:
        What is accumulated, closed at the end of its ``with`` block; :meth:`~Accumulation.event` says what was chosen.

    Raises:
        UsageError: The number of samples is not positive, or the limit is no amount of memory.
        TargetError: In the loop, which makes larger batches than that itself.

    Example:
        >>> with deepseek_lab.effective_batch(256):
        ...     train(model, loader)
    """
    limit = None if memory_limit is None else parse_limit(memory_limit)
    return Accumulation(num_samples, limit_bytes=limit)
