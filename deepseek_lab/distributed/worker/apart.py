"""Ranks that train apart from each other between means of their parameters: when they meet, and how often.

Between two means the parameters of ranks differ. So that a cell does not see that, ranks also meet where it evaluates,
after its loops and at its end; and they go apart for shorter where the loss does not fall any more, as in AdaComm (Wang
& Joshi, MLSys 2019, arXiv:1810.08313): far apart is fast at first, and close together is low in the end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from deepseek_lab.base.errors import TargetError
from deepseek_lab.distributed.worker.exchange import Exchange
from deepseek_lab.distributed.worker.local_steps import LocalSteps

SHORTEST = 2
"""Updates between two means at least, where they are found by measuring: fewer are what gradients are for."""
_BLOCK = 64
"""Updates whose mean loss, over all ranks, is to be lower than that of as many before."""
_LOOK, _PLACE, _ROUND = 0, 1, 2
"""Why a rank comes: it evaluates, all come to that place, or a round of an optimizer (and its number) ends."""
_ROUNDED = {"momentum_buffer": "int8", "exp_avg": "int8", "exp_avg_sq": "bf16", "square_avg": "bf16"}
"""How means of what optimizers keep may be found, by its name in PyTorch's; exactly where nothing is said."""


class Apart:
    """All that ranks train apart, with each of their optimizers.

    Args:
        exchange: Over which means are found.
        every: Updates between two means.
        loss: Gives the last loss of this rank, where there was one.
        outer: Step from mean to mean with momentum (DiLoCo).
        adapts: Whether ``every`` is halved when the loss does not fall.
        velocity: Of a training that goes on, by the numbers of optimizer and parameter.
    """

    def __init__(
        self,
        exchange: Exchange,
        every: int,
        loss: Callable[[], float | None],
        *,
        outer: bool = False,
        adapts: bool = False,
        velocity: dict[tuple[int, ...], Tensor] | None = None,
    ) -> None:
        self.every = every
        self._exchange, self._loss, self._outer, self._adapts = exchange, loss, outer, adapts
        self._velocity = velocity or {}
        self._steps: dict[int, LocalSteps] = {}
        """By optimizer."""
        self._optimizers: list[torch.optim.Optimizer] = []
        """Those of ``_steps``, held so that no other takes their place."""
        self._num_updates = 0
        self._losses: list[float] = []
        """Of this rank, since the last mean."""
        self._block: list[float] = []
        """By update, over all ranks; updates between two means have their mean."""
        self._loss_at_mean, self._loss_before = math.nan, math.inf
        """Over all ranks, up to the last mean and since the one before; of the last block."""

    # Updates.

    def __contains__(self, optimizer: torch.optim.Optimizer) -> bool:
        return id(optimizer) in self._steps

    def add(self, optimizer: torch.optim.Optimizer, trained: Sequence[Tensor]) -> None:
        """An optimizer is about to update parameters, which are the same on all ranks, for the first time."""
        number = len(self._steps)
        velocity = [self._velocity.pop((number, at), None) for at in range(len(trained))]
        known = [one for one in velocity if one is not None]
        fits = [one.shape for one in known] == [one.shape for one in trained]
        self._steps[id(optimizer)] = LocalSteps(self._exchange, number, trained, known if fits else ())
        self._optimizers.append(optimizer)

    def stepped(self, optimizer: torch.optim.Optimizer, buffers: Callable[[], Iterable[Tensor]]) -> float:
        """It has; gives the seconds that a mean took, where one was due.

        Raises:
            TargetError: not all ranks have come there.
        """
        steps = self._steps.get(id(optimizer))
        if steps is None:
            return 0.0
        steps.count += 1
        self._num_updates += 1
        first = optimizer is self._optimizers[0]
        if first:
            loss = self._loss()
            self._losses.append(math.nan if loss is None else loss)
        if steps.count < self.every:
            return 0.0
        began_s = time.perf_counter()
        self._meet(_ROUND + self._optimizers.index(optimizer))
        steps.agree(outer=self._outer and steps.count == self.every, buffers=buffers() if first else ())
        if first:
            self._adapt()
        return time.perf_counter() - began_s

    @property
    def differ(self) -> bool:
        """Whether ranks may have other parameters than each other."""
        return any(one.count for one in self._steps.values())

    @property
    def sees_losses(self) -> bool:
        """Whether all ranks had them, up to the last mean."""
        return math.isfinite(self._loss_at_mean)

    # Meeting.

    def agree(self, buffers: Callable[[], Iterable[Tensor]], *, looks: bool = False) -> float:
        """Be at the mean, in the middle of a round too; gives the seconds. Called by all ranks after the same update.

        Args:
            buffers: Gives those of the model, which are averaged too.
            looks: The cell evaluates. A rank that does so alone goes on with what it has, and the others wait for it.

        Raises:
            TargetError: not all ranks have come there.
        """
        if not self._steps or (looks and (self._outer or not self.differ)):
            return 0.0  # a step with momentum needs a whole round, which no look is to end
        began_s = time.perf_counter()
        if self._meet(_LOOK if looks else _PLACE):
            for number, one in enumerate(self._steps.values()):
                one.agree(buffers=() if number else buffers())
        return time.perf_counter() - began_s

    def _meet(self, why: int) -> bool:
        """Wait until all ranks have come to the same mean; gives whether they have, and it is not what they have."""
        loss = sum(self._losses) / len(self._losses) if self._losses else math.nan
        told = [self._num_updates, why, self.differ, loss, len(self._losses)]
        mine = torch.tensor(told, dtype=torch.float64)
        came = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        while True:
            dist.all_gather(came, mine)
            rows = [one.tolist() for one in came]
            if all(row[:2] == rows[0][:2] for row in rows) or all(row[1] == _PLACE for row in rows):
                self._go_on(rows)
                return any(row[2] for row in rows)
            earliest = min(row[0] for row in rows)
            if why == _LOOK and self._num_updates == earliest:
                return False
            if all(row[1] != _LOOK for row in rows if row[0] == earliest):
                counts = ", ".join(f"{row[0]:.0f}" for row in rows)
                raise TargetError(
                    f"the ranks have made different numbers of updates ({counts}): something that they do not share "
                    "ended a loop of the cell, or left updates out",
                    hint="end the loop by the number of updates, or by the loss of data that all ranks see",
                )

    def _go_on(self, rows: Sequence[Sequence[float]]) -> None:
        """All ranks have come, which counts as after as many updates, and have had as many losses."""
        self._num_updates = int(max(row[0] for row in rows))
        self._losses.clear()
        if num_losses := int(rows[0][4]):
            self._loss_at_mean = sum(row[3] for row in rows) / len(rows)
            self._block += [self._loss_at_mean] * num_losses

    def _adapt(self) -> None:
        if not self._adapts or len(self._block) < _BLOCK:
            return
        loss = sum(self._block) / len(self._block)
        if loss >= self._loss_before:
            self.every = max(SHORTEST, self.every // 2)
        self._loss_before = loss
        self._block.clear()

    # The end.

    def leave(self, buffers: Callable[[], Iterable[Tensor]]) -> None:
        """Have all ranks be the same: parameters, buffers and what optimizers keep are their means."""
        self.agree(buffers)
        for optimizer, steps in zip(self._optimizers, self._steps.values(), strict=True):
            kept: dict[str, list[Tensor]] = {}
            for state in optimizer.state.values():
                for name, one in state.items():
                    if isinstance(one, Tensor) and one.is_floating_point() and one.numel() > 1:
                        kept.setdefault(_ROUNDED.get(name, "plain"), []).append(one)
            for way, tensors in sorted(kept.items()):
                steps.mean_of(tensors, way)
        self._steps.clear()
        self._optimizers.clear()

    @property
    def velocity(self) -> dict[tuple[int, ...], Tensor]:
        """Of means that move with momentum, by the numbers of optimizer and parameter."""
        return {
            (number, at): one
            for number, steps in enumerate(self._steps.values())
            for at, one in enumerate(steps.velocity)
        }
