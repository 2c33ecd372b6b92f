"""What an entry of the list is: a seeded model of an architecture and inputs of real shapes for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A small model of one architecture with random weights; nothing is downloaded.

    ``build()`` gives the same weights each time, in evaluation mode; ``model(**inputs(seed))`` runs it.
    """

    name: str
    family: str
    make: Callable[[], nn.Module]
    make_inputs: Callable[[torch.Generator], dict[str, Tensor]]

    def build(self) -> nn.Module:
        """The model in evaluation mode, float32, on the CPU; the caller's random state is left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.make().eval()

    def inputs(self, seed: int) -> dict[str, Tensor]:
        """Keyword arguments of the model's forward, drawn from ``seed``."""
        return self.make_inputs(torch.Generator().manual_seed(seed))


def model(cls: type[nn.Module], config: type[Any], **options: Any) -> Callable[[], nn.Module]:
    """A model of ``cls`` from a configuration that differs from its defaults by ``options``."""

    def make() -> nn.Module:
        return cls(config(**options))

    return make


def tokens(
    vocabulary: int, length: int, batch: int = 1, **more: tuple[int, int]
) -> Callable[[torch.Generator], dict[str, Tensor]]:
    """``input_ids`` of shape (batch, length) with an all-ones mask; ``more`` names further id tensors."""

    def make(generator: torch.Generator) -> dict[str, Tensor]:
        shapes = {"input_ids": (batch, length), **more}
        # Ids below 10 are left to the special tokens of the configurations.
        ids = {
            name: torch.randint(10, vocabulary, shape, generator=generator) for name, shape in shapes.items()
        }
        return {**ids, "attention_mask": torch.ones(batch, length, dtype=torch.int64)}

    return make


def floats(name: str, *shape: int) -> Callable[[torch.Generator], dict[str, Tensor]]:
    """One normally distributed float32 tensor."""

    def make(generator: torch.Generator) -> dict[str, Tensor]:
        return {name: torch.randn(shape, generator=generator)}

    return make


def outputs(result: Any) -> dict[str, Tensor]:
    """The tensors of a transformers output by name; caches and other objects are left out."""
    assert isinstance(result, transformers.utils.ModelOutput)
    return {name: value for name, value in result.items() if isinstance(value, Tensor)}
