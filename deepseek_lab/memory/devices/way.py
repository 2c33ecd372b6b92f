"""One way to train a model on several devices: what a plan decides."""

from __future__ import annotations

import dataclasses
from typing import Literal

Recompute = Literal["none", "selective", "full"]
RECOMPUTE: tuple[Recompute, ...] = ("none", "selective", "full")
"""What is kept of a block's forward pass: everything, matrix products and attention, nothing."""


@dataclasses.dataclass(frozen=True)
class Way:
    """Every choice at its plainest is FSDP2 as its documentation shows it, without recomputation."""

    num_selective: int = 0
    """Blocks, the last ones but those below, that keep their matrix products only."""
    num_full: int = 0
    """Blocks, the last ones, of which nothing but the input is kept."""
    chunk: int = 0
    """Tokens that the last projection and the loss take at once; 0 is all."""
    eight_bit: bool = False
    """AdamW's moments in one byte each."""
    step_in_backward: bool = False
    bf16_parameters: bool = False
    """bfloat16 parameters without a float32 master copy."""
    offload: bool = False
    """Parameters, gradients and moments in the host's memory."""

    def recompute(self, num_blocks: int) -> tuple[Recompute, ...]:
        """For each block what is recomputed; the last blocks first, whose inputs are freed soonest."""
        full = min(self.num_full, num_blocks)
        selective = min(self.num_selective, num_blocks - full)
        kept = num_blocks - full - selective
        parts: tuple[tuple[Recompute, int], ...] = (("none", kept), ("selective", selective), ("full", full))
        return tuple(how for how, number in parts for _ in range(number))

    def words(self, num_blocks: int) -> str:
        """What differs from plain FSDP2."""
        ways = self.recompute(num_blocks)
        parts = []
        for how in ("selective", "full"):
            if count := ways.count(how):
                some = "" if count == num_blocks else f" of {count} of {num_blocks} blocks"
                parts.append(f"{how} recomputation{some}")
        parts += ["loss in chunks"] * bool(self.chunk)
        parts += ["bfloat16 parameters"] * self.bf16_parameters
        parts += ["8-bit AdamW"] * self.eight_bit
        parts += ["optimizer step inside backward"] * self.step_in_backward
        parts += ["parameters and moments on the host"] * self.offload
        return ", ".join(parts) or "plain FSDP2"


PLAIN = Way()
