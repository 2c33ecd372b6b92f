"""Ranks that train by themselves for a number of updates, and then go on from the mean of where they have come to.

Local SGD (Stich, ICLR 2019, arXiv:1805.09767) and, with an optimizer for the mean itself, DiLoCo (Douillard et al.,
arXiv:2311.08105). How far each rank has come is sent as int8 codes with error feedback; where ranks share hosts it is
added up on each of them first, and codes go between hosts alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from deepseek_lab.distributed.worker.exchange import Exchange
from deepseek_lab.distributed.worker.hosts import NAME

EVERY = 8
"""Updates between two means, where nothing else is said."""
OUTER_LR, OUTER_MOMENTUM = 0.7, 0.9
"""DiLoCo's, with Nesterov's momentum."""
_CHUNK = 4_000_000
"""Values that go at once: large enough for the link, small enough that two threads share the work."""
_OTHERS = {"plain": 1_000_000, "bf16": 2_000_000, "int8": 3_000_000}
"""Chunks of others than parameters are numbered from there on, by way."""


class LocalSteps:
    """What all optimizers of a rank update, and where all ranks were together.

    Args:
        exchange: Over which means are found.
        velocity: Of a training that goes on, by the number of the parameter; the same on all ranks.
    """

    def __init__(self, exchange: Exchange, velocity: Mapping[int, Tensor] | None = None) -> None:
        self._exchange = exchange
        self._parameters: list[Tensor] = []
        self._known: set[int] = set()
        """Identities of these."""
        self._anchor: list[Tensor] = []
        self._velocity: list[Tensor] = []
        """Of the mean, by parameter; of fewer until it has moved with momentum."""
        self._given = dict(velocity or {})

    def add(self, parameters: Iterable[Tensor]) -> None:
        """Parameters that are the same on all ranks, unless they are known already."""
        for one in parameters:
            if id(one) not in self._known:
                self._known.add(id(one))
                self._parameters.append(one)
                self._anchor.append(one.detach().clone())

    @property
    def velocity(self) -> dict[int, Tensor]:
        """Of the mean, by the number of the parameter; no copy."""
        return self._given | dict(enumerate(self._velocity))

    @torch.no_grad()
    def agree(self, *, outer: bool = False, buffers: Iterable[Tensor] = ()) -> None:
        """Go on from the mean over all ranks.

        Args:
            outer: Step from the last mean with Nesterov's momentum, for a whole round; else be at the mean itself.
            buffers: Averaged too, as they are.
        """
        deltas = [one - at for one, at in zip(self._parameters, self._anchor, strict=True)]
        self._mean(deltas, "int8", 0)
        if outer and deltas:
            velocity = self._moved()
            torch._foreach_mul_(velocity, OUTER_MOMENTUM)
            torch._foreach_add_(velocity, deltas)
            torch._foreach_add_(deltas, velocity, alpha=OUTER_MOMENTUM)
            torch._foreach_mul_(deltas, OUTER_LR)
        if deltas:
            torch._foreach_add_(self._anchor, deltas)
        for one, at in zip(self._parameters, self._anchor, strict=True):
            _write(one, at)
        self.mean_of([one for one in buffers if one.is_floating_point()])

    def _moved(self) -> list[Tensor]:
        """The velocity of all parameters."""
        for at in range(len(self._velocity), len(self._anchor)):
            given = self._given.pop(at, None)
            fits = given is not None and given.shape == self._anchor[at].shape
            self._velocity.append(given if given is not None and fits else torch.zeros_like(self._anchor[at]))
        return self._velocity

    def mean_of(self, tensors: Sequence[Tensor], way: str = "plain") -> None:
        """Replace others than the parameters by their means over all ranks, found that way."""
        self._mean(tensors, way, _OTHERS[way])

    @torch.no_grad()
    def _mean(self, tensors: Sequence[Tensor], way: str, first: int) -> None:
        """Replace tensors by their means over all ranks; chunks of one type go on all threads at once."""
        chunks: list[list[Tensor]] = []
        for one in tensors:
            fits = chunks and chunks[-1][0].dtype == one.dtype
            if not fits or sum(part.numel() for part in chunks[-1]) + one.numel() > _CHUNK:
                chunks.append([])
            chunks[-1].append(one)
        flats = [torch.cat([one.reshape(-1) for one in chunk]) for chunk in chunks]
        if self._exchange.layered:
            way = NAME if way == "plain" else f"{NAME}-{way}"
        futures = [self._exchange.put(way, (-2, first + index), flat) for index, flat in enumerate(flats)]
        for future, flat, chunk in zip(futures, flats, chunks, strict=True):
            future.wait()
            for one, part in zip(chunk, flat.split([one.numel() for one in chunk]), strict=True):
                _write(one, part.view(one.shape))


def _write(one: Tensor, values: Tensor) -> None:
    """A backward pass may still be to come whose forward pass was before, of a generator say: it goes on from here.

    Its gradients are then those of weights as far away as the mean is, once; PyTorch would refuse it altogether if it
    saw the change.
    """
    one.data.copy_(values)
