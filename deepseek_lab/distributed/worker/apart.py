"""Ranks that train apart from each other between means of their parameters: when they meet, and how often.

Between two means the parameters of ranks differ. So that a cell does not see that, ranks also meet where it evaluates,
after its loops and at its end; and they go apart for shorter where the loss does not fall any more, as in AdaComm (Wang
& Joshi, MLSys 2019, arXiv:1810.08313): far apart is fast at first, and close together is low in the end.
"""

from __future__ import annotations

import contextlib
import math
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from deepseek_lab.base.errors import TargetError
from deepseek_lab.distributed.worker import states
from deepseek_lab.distributed.worker.exchange import Exchange
from deepseek_lab.distributed.worker.local_steps import LocalSteps

SHORTEST = 2
"""Updates between two means at least, where they are found by measuring: fewer are what gradients are for."""
_BLOCK = 64
"""Updates whose mean loss, over all ranks, is to be lower than that of as many before."""
_LOOK, _CALL, _PLACE, _ROUND = 0, 1, 2, 3
"""Why a rank comes: it evaluates, it is about to be in a collective of all, all come to that place of the cell, or a
round of an optimizer (and its number) ends.
"""


class Apart:
    """All that ranks train apart; any optimizer that has made its updates calls for a mean of everything.

    Args:
        exchange: Over which means are found.
        every: Updates of an optimizer between two means.
        loss: Gives the last loss of this rank, where there was one.
        num_updates: That were made before.
        outer: Step from mean to mean with momentum (DiLoCo).
        adapts: Whether ``every`` is halved when the loss does not fall.
        velocity: Of a training that goes on, by the number of the parameter.
    """

    def __init__(
        self,
        exchange: Exchange,
        every: int,
        loss: Callable[[], float | None],
        num_updates: int = 0,
        *,
        outer: bool = False,
        adapts: bool = False,
        velocity: Mapping[int, Tensor] | None = None,
    ) -> None:
        self.every = every
        self._loss, self._outer, self._adapts = loss, outer, adapts
        self._steps = LocalSteps(exchange, velocity)
        self._numbers: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()
        """Of optimizers, as they came; when others end that a cell replaces, ranks need not notice at once."""
        self._counts: dict[int, int] = {}
        """Updates since the last mean, by the number of an optimizer."""
        self._trained: dict[int, set[int]] = {}
        """Identities of what it updates."""
        self._num_updates = num_updates
        self._losses: list[float] = []
        """Of this rank, since the last mean."""
        self._block: list[float] = []
        """By update, over all ranks; updates between two means have their mean."""
        self._loss_at_mean, self._loss_before = math.nan, math.inf
        """Over all ranks, up to the last mean and since the one before; of the last block."""
        self._means: list[float] = []
        """Seconds of each, since they were asked for."""
        self._meets = False

    # Updates.

    @property
    def numbers(self) -> set[int]:
        """Of all optimizers that have come."""
        return set(self._counts)

    def begins(self, optimizer: Optimizer, number: int, trained: Iterable[Tensor]) -> None:
        """An optimizer is about to update parameters; those that are new are the same on all ranks.

        ``number`` is its own, on all ranks. One that takes the place of another goes on with its round.
        """
        trained = list(trained)
        mine = set(map(id, trained))
        self._numbers[optimizer] = number
        if number not in self._counts:
            before = (self._counts[one] for one, theirs in self._trained.items() if theirs & mine)
            self._counts[number] = max(before, default=0)
        self._trained[number] = mine
        self._steps.add(trained)

    def stepped(self, optimizer: Optimizer, buffers: Callable[[], Iterable[Tensor]]) -> None:
        """It has.

        Raises:
            TargetError: a mean is due, and not all ranks have come there.
        """
        number = self._numbers.get(optimizer)
        if number is None:
            return
        self._num_updates += 1
        others = max((count for one, count in self._counts.items() if one != number), default=0)
        self._counts[number] += 1
        if self._counts[number] > others:
            loss = self._loss()
            self._losses.append(math.nan if loss is None else loss)
        if self._counts[number] >= self.every:
            with self._mean(_ROUND + number):
                self._steps.agree(outer=self._outer, buffers=buffers())

    @property
    def differ(self) -> bool:
        """Whether ranks may have other parameters than each other."""
        return any(self._counts.values())

    @property
    def sees_losses(self) -> bool:
        """Whether all ranks had them, up to the last mean."""
        return math.isfinite(self._loss_at_mean)

    def means(self) -> tuple[float, int]:
        """Seconds that means have taken, and how many, since this was asked last."""
        told = sum(self._means), len(self._means)
        self._means.clear()
        return told

    # Meeting.

    def agree(self, buffers: Callable[[], Iterable[Tensor]], *, looks: bool = False) -> None:
        """Be at the mean, in the middle of a round too. Called by all ranks after the same update.

        Args:
            buffers: Gives those of the model, which are averaged too.
            looks: The cell evaluates. A rank that does so alone goes on with what it has, and the others wait for it.

        Raises:
            TargetError: not all ranks have come there.
        """
        if looks and (self._outer or not self.differ):
            return  # a step with momentum needs a whole round, which no look is to end
        with self._mean(_LOOK if looks else _PLACE) as together:
            if together:
                self._steps.agree(buffers=buffers())

    def wait(self) -> None:
        """This rank is about to be in a collective of all ranks: those that evaluate alone are waited for."""
        if self.differ and not self._meets:
            with torch.inference_mode(False):
                self._meet(_CALL)

    @contextlib.contextmanager
    def _mean(self, why: int) -> Iterator[bool]:
        """Inside all ranks have come to the same mean; gives whether they have, and it is not what they have."""
        began_s = time.perf_counter()
        # What means are found in is changed in other threads.
        with torch.inference_mode(False), torch.no_grad():
            together = self._meet(why)
            yield together
            if together:
                self._trained = {one: ids for one, ids in self._trained.items() if self._counts[one]}
                self._counts = dict.fromkeys(self._counts, 0)
                self._means.append(time.perf_counter() - began_s)
                self._adapt()

    def _meet(self, why: int) -> bool:
        """Wait until all ranks have come to the same place; gives whether they have, and are not at the mean there."""
        loss = sum(self._losses) / len(self._losses) if self._losses else math.nan
        told = [self._num_updates, why, self.differ, loss, len(self._losses)]
        mine = torch.tensor(told, dtype=torch.float64)
        came = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        while True:
            self._meets = True
            try:
                dist.all_gather(came, mine)
            finally:
                self._meets = False
            rows = [one.tolist() for one in came]
            if all(row[:2] == rows[0][:2] for row in rows) or all(row[1] == _PLACE for row in rows):
                self._go_on(rows)
                return any(row[2] for row in rows)
            earliest = min(row[0] for row in rows)
            if why == _LOOK and self._num_updates == earliest:
                return False
            if all(row[1] != _LOOK for row in rows if row[0] == earliest):
                raise _lost([int(row[0]) for row in rows])

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
        by_number = {number: optimizer for optimizer, number in self._numbers.items()}
        states.agree(self._steps, dict(sorted(by_number.items())))

    @property
    def velocity(self) -> dict[int, Tensor]:
        """Of means that move with momentum, by the number of the parameter."""
        return self._steps.velocity


def _lost(counts: Sequence[int]) -> TargetError:
    if len(set(counts)) > 1:
        said = f"the ranks have made different numbers of updates ({', '.join(map(str, counts))})"
    else:
        said = f"after {counts[0]} updates the ranks are at different places of the cell"
    return TargetError(
        f"{said}: something that they do not share ended a loop of the cell, or left updates out",
        hint="end the loop by the number of updates, or by the loss of data that all ranks see",
    )
