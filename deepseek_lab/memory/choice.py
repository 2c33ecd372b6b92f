"""What may be changed in a step so that it holds less; each field is one way."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from deepseek_lab.memory.recompute import Keep


@dataclasses.dataclass(frozen=True)
class Choice:
    """How a step runs; with nothing in it, as the user wrote it."""

    keeps: Mapping[str, Keep | None] = dataclasses.field(default_factory=dict)
    """For each part what is kept, by path; parts that are not named stay as they are."""
    defers: bool = False
    """Whether logits are left out."""
    fused: bool = False
    """Whether optimisers take their fused form."""
    in_backward: bool = False
    """Whether the optimiser steps in the backward pass."""
    eight_bit: bool = False
    """Whether its moments take a byte a value."""


class NotRehearsed(Exception):
    """A step can't be run without values; says why."""
