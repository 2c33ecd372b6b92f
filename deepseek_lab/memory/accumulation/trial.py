"""A choice of the micro-batches' size, fed from the loop's own steps: what they hold, and how long they take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils._pytree import tree_leaves

from deepseek_lab.memory.accumulation.choice import Choice
from deepseek_lab.memory.accumulation.gradients import Gradients
from deepseek_lab.memory.accumulation.loaders import Batch
from deepseek_lab.memory.limit import AUTO_SHARE, available_bytes
from deepseek_lab.memory.meter import Meter, unique_bytes

FIRST_BY_LIMIT = 4
"""Samples of the first micro-batch where a limit is to be kept."""
_NUM_STATES = {"SGD": 1, "RMSprop": 1, "Adagrad": 1}
"""Tensors of a parameter's size that an optimiser holds for it, where they are not the two of Adam."""


class Trial:
    """Looks at the batches that a loader gives a loop, until the size that is fastest and fits is known.

    Args:
        goal: Samples of an update.
        limit_bytes: What a step may hold together; None for most of what the device has.
        used: The gradients of the optimisers whose parameters backward passes have reached.
        settled: Told once the size is known.
    """

    def __init__(
        self,
        goal: int,
        limit_bytes: int | None,
        used: Callable[[], Sequence[Gradients]],
        settled: Callable[[], None],
    ) -> None:
        self.choice = Choice(goal, self._room)
        self._limit, self._used, self._settled = limit_bytes, used, settled
        self._batch: Batch | None = None
        self._trained = False
        self._begun: float | None = None
        self._meter: Meter | None = None

    def begin(self, own: int) -> None:
        """The loop's own batches have this size."""
        if not self.choice.best:
            self.choice.begin(own if self._limit is None else min(own, FIRST_BY_LIMIT))

    def batch_begins(self, batch: Batch | None) -> None:
        """The loop is given a batch."""
        self._batch, self._trained = batch, False
        choice = self.choice
        if batch is None or choice.settled or not choice.best or batch.num_samples != batch.asked:
            return
        if not choice.is_weighed(batch.num_samples) and _get_current_dispatch_mode() is None:
            self._meter = Meter()
            self._meter.hold(self._lasting())
            self._meter.__enter__()  # type: ignore[no-untyped-call]
        self._begun = time.perf_counter()

    def backward_ended(self) -> None:
        """The batch under way is trained with; its first backward pass has ended."""
        begun, self._begun, self._trained = self._begun, None, True
        batch = self._batch
        if begun is None or batch is None or self._meter is not None:
            return
        if self.choice.is_weighed(batch.num_samples):
            self.choice.timed(batch.num_samples, time.perf_counter() - begun)
            self._look()

    def batch_ends(self) -> None:
        """The loop asks for the next batch, or has ended."""
        self._begun = None
        meter, self._meter = self._meter, None
        if meter is None:
            return
        if _get_current_dispatch_mode() is meter:
            meter.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        peak = meter.peak_bytes + self._state_to_come()
        meter.release()
        if self._batch is not None and self._trained:
            self.choice.weighed(self._batch.num_samples, peak)
            self._look()

    def _look(self) -> None:
        if self.choice.settled:
            self._settled()

    def _room(self) -> int | None:
        if self._limit is not None:
            return self._limit
        device = next((one.device for grad in self._used() for one in grad.parameters()), torch.device("cpu"))
        free = available_bytes(device)
        return None if free is None else int(AUTO_SHARE * (free + unique_bytes(self._lasting())))

    def _lasting(self) -> Iterator[Tensor]:
        for one in self._used():
            for parameter in one.parameters():
                yield parameter
                if parameter.grad is not None:
                    yield parameter.grad
            yield from one.held()
            for state in one.optimizer.state.values():
                yield from (value for value in tree_leaves(state) if isinstance(value, Tensor))

    def _state_to_come(self) -> int:
        """Bytes of the state that optimisers will hold and don't yet: of the parameters' own size each."""
        missing = 0
        for one in self._used():
            if not one.optimizer.state:
                tensors = _NUM_STATES.get(type(one.optimizer).__name__, 2)
                if "momentum" in one.optimizer.defaults and not one.optimizer.defaults["momentum"]:
                    tensors -= 1
                missing += max(tensors, 0) * unique_bytes(one.parameters())
        return missing
