"""What one optimiser's gradients have added up to since its last update."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from deepseek_lab.memory.accumulation.reduction import Reduction


class Gradients:
    """The gradients of one optimiser's parameters, over as many samples as one update is to see.

    What the user's code finds in ``grad`` between two updates is the micro-batch's own gradient. Before the update
    takes place it is the whole batch's, so that clipping and logging see that.

    Args:
        optimizer: Whose parameters; held for as long as a cell runs.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.num_samples = 0.0
        """Of the micro-batches that were added since the last update."""
        self.num_updates = 0
        self.used = False
        """Whether a backward pass has reached its parameters."""
        self.deferred = False
        """Whether the last step was none."""
        self.reduction = Reduction()
        self.divided_by = 1.0
        """What a scaler has divided the pending gradients by; the sums hold them as backward passes brought them."""
        self._weight = 0.0
        self._batch = 0
        """The last one that a backward pass was over."""
        self._pending_samples = self._pending_weight = 0.0
        self._sums: dict[Tensor, Tensor] = {}
        self._fresh = True
        self._merged = 0.0
        """Weight of the pending gradients when the sums were added to them; 0 where they were not."""
        self._before: list[tuple[bool, int]] = []
        self._hidden: list[tuple[Tensor, Tensor]] = []

    def parameters(self) -> Iterator[Tensor]:
        """The optimiser's parameters."""
        for group in self.optimizer.param_groups:
            yield from group["params"]

    @property
    def gathered(self) -> float:
        """Samples that an update now would see."""
        return self.num_samples + self._pending_samples

    def held(self) -> Iterator[Tensor]:
        """The tensors that are held for the sums."""
        yield from self._sums.values()

    # -- a backward pass ---------------------------------------------------------------------------

    def backward_begins(self) -> None:
        """Remember which gradients there are."""
        self._before = [
            (one.grad is not None, one.grad._version if one.grad is not None else 0)
            for one in self.parameters()
        ]
        if not any(there for there, _ in self._before):
            self._pending_samples = self._pending_weight = self._merged = 0.0  # set aside by zero_grad
        elif self._merged:
            self._take_apart()

    def backward_ended(self, batch: int, num_samples: float, weight: float, reduction: Reduction) -> bool:
        """A pass over so many samples has ended. Returns whether it reached these parameters.

        ``batch`` is a number: what several losses of one batch bring is that of its samples once.
        """
        reached = any(
            one.grad is not None and (not there or one.grad._version != version)
            for one, (there, version) in zip(self.parameters(), self._before, strict=False)
        )
        if reached:
            self.used = True
            if not self._pending_samples or batch != self._batch:
                self._pending_samples += num_samples
                self._pending_weight += weight
            self._batch = batch
            self.reduction = reduction
        return reached

    # -- towards an update -------------------------------------------------------------------------

    @torch.no_grad()
    def merge(self) -> None:
        """Have ``grad`` be the whole batch's gradient."""
        if self._merged or not self._weight or not self._pending_weight:
            return
        mean = self.reduction.kind == "mean"
        total = self._weight + self._pending_weight if mean else 1.0
        own = self._pending_weight if mean else 1.0
        for one, added in self._there():
            grad = one.grad
            if grad is None:  # reached by other micro-batches only
                one.grad = (added / total).to(one.dtype)
            elif grad.is_sparse or added.is_sparse or added.dtype != grad.dtype:
                one.grad = ((grad.to(added.dtype) * own + added) / total).to(grad.dtype)
            else:
                grad.mul_(own / total).add_(added, alpha=1 / total)
        self._merged = self._pending_weight

    @torch.no_grad()
    def _take_apart(self) -> None:
        """The opposite: another backward pass belongs to the same update."""
        mean = self.reduction.kind == "mean"
        total = self._weight + self._merged if mean else 1.0
        own = self._merged if mean else 1.0
        for one, added in self._there():
            if one.grad is not None:
                one.grad = ((one.grad.to(added.dtype) * total - added) / own).to(one.grad.dtype)
        self._before = [
            (one.grad is not None, one.grad._version if one.grad is not None else 0)
            for one in self.parameters()
        ]
        self._merged = 0.0

    def _there(self) -> Sequence[tuple[Tensor, Tensor]]:
        return [] if self._fresh else list(self._sums.items())

    @torch.no_grad()
    def defer(self) -> None:
        """Add the gradients to the sums, and have the optimiser find none."""
        own = (self._pending_weight if self.reduction.kind == "mean" else 1.0) * self.divided_by
        for one in self.parameters():
            if one.grad is None:
                if self._fresh and one in self._sums:
                    del self._sums[one]
                continue
            self._add(one, one.grad, own)
            self._hidden.append((one, one.grad))
            one.grad = None
        self._fresh = False
        self.num_samples += self._pending_samples
        self._weight += self._pending_weight
        self._pending_samples = self._pending_weight = 0.0
        self.divided_by = 1.0
        self.deferred = True

    def _add(self, parameter: Tensor, grad: Tensor, weight: float) -> None:
        dtype = grad.dtype if grad.dtype in (torch.float32, torch.float64) else torch.float32
        before = self._sums.get(parameter)
        if grad.is_sparse or (before is not None and before.is_sparse):
            added = grad.to(dtype) * weight
            self._sums[parameter] = added if before is None or self._fresh else before + added
        elif before is None:
            self._sums[parameter] = grad.to(dtype) * weight
        elif self._fresh:
            torch.mul(grad, weight, out=before) if grad.dtype == dtype else before.copy_(grad).mul_(weight)
        else:
            before.add_(grad, alpha=weight)

    def show_again(self) -> None:
        """The step is over: what it was not to find is there again."""
        for one, grad in self._hidden:
            if one.grad is None:
                one.grad = grad
        self._hidden = []

    def updated(self) -> None:
        """The optimiser has updated its parameters: begin anew. What held the sums is kept for the next ones."""
        self.drop()
        self.num_updates += 1

    def drop(self) -> None:
        """Begin anew."""
        self.num_samples = self._weight = self._merged = 0.0
        self._pending_samples = self._pending_weight = 0.0
        self._fresh = True
        self.deferred = False
        self.divided_by = 1.0

    def release(self) -> None:
        """Hold nothing more."""
        self.show_again()
        self._sums, self._before = {}, []


def batch_size(args: Sequence[Any], kwargs: dict[str, Any]) -> int | None:
    """Samples in a call of a model: the length of the first tensor that has one."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor) and value.dim():
            return int(value.shape[0])
        if isinstance(value, dict) and (found := batch_size((), value)) is not None:
            return found
        if isinstance(value, list | tuple) and (found := batch_size(value, {})) is not None:
            return found
    return None
