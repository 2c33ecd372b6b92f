"""Values as int8 codes with one scale for each group of 256: what is sent of a gradient over a slow link.

What the codes do not hold stays behind as an error and is added to the values of the next time (error feedback: Seide
et al., "1-bit stochastic gradient descent and its application to data-parallel distributed training of speech DNNs",
Interspeech 2014; Karimireddy et al., "Error feedback fixes SignSGD", ICML 2019).
"""

from __future__ import annotations

import torch
from torch import Tensor

GROUP = 256
SMALLEST = 1e-30
"""A group whose largest value is smaller is zero."""


def encode(values: Tensor, error: Tensor | None, codes: Tensor, scale: Tensor) -> None:
    """Write the codes of values + error, and into `error` what they do not hold.

    Args:
        values: [n] float32; n need not be a multiple of 256.
        error: [n] float32, or None where nothing is fed back.
        codes: [n] int8, written.
        scale: [ceil(n / 256)] float32, written. Infinite or NaN where a value of the group is; codes are 1 there.
    """
    total = values if error is None else values + error
    padded = torch.nn.functional.pad(total, (0, -total.numel() % GROUP)).view(-1, GROUP)
    magnitude = padded.abs()
    largest = magnitude.amax(1)  # NaN where there is one
    finite = largest.isfinite()
    step = torch.where(largest < SMALLEST, 0.0, largest / 127)
    inverse = torch.where(step > 0, 127 / largest, 0.0)
    rounded = (padded * inverse[:, None]).round()
    rest = padded - rounded * step[:, None]
    rounded[~finite] = 1.0
    rest[~finite] = 0.0
    codes.copy_(rounded.view(-1)[: total.numel()])
    scale.copy_(torch.where(finite, step, largest))
    if error is not None:
        error.copy_(rest.view(-1)[: total.numel()])


def decode(codes: Tensor, scale: Tensor, out: Tensor, *, add: bool = False) -> None:
    """Write codes * scale of each group into `out` [n] float32, or add them to it."""
    each = codes.float() * scale.repeat_interleave(GROUP)[: codes.numel()]
    if add:
        out += each
    else:
        out.copy_(each)
