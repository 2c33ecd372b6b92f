"""Statistics of a tensor's elements, piece by piece, so that what is widened stays in the processor's cache."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deepseek_lab.base.profile import Statistics

_PIECE = 1 << 17


def statistics_of(tensor: Tensor) -> Statistics | None:
    """Mean, standard deviation, largest magnitude and share of NaN and infinity, computed in float64.

    None for a tensor without elements, one that is not floating point and one that is not strided.

    Pieces are put together as Chan, Golub and LeVeque do, "Updating formulae and a pairwise algorithm for computing
    sample variances", 1979.
    """
    if tensor.layout != torch.strided or not tensor.is_floating_point() or not tensor.numel():
        return None
    count, mean, squares, largest = 0, 0.0, 0.0, 0.0
    for piece in tensor.detach().reshape(-1).split(_PIECE):
        wide = piece.double()
        bounds = torch.aminmax(wide)
        low, high = float(bounds.min), float(bounds.max)
        if not math.isfinite(high - low):
            wide = wide[torch.isfinite(wide)]
            if not wide.numel():
                continue
            bounds = torch.aminmax(wide)
            low, high = float(bounds.min), float(bounds.max)
        largest = max(largest, -low, high)
        centre = float(wide.mean())
        apart = wide - centre
        here, step = wide.numel(), centre - mean
        count += here
        mean += step * here / count
        squares += float(torch.dot(apart, apart)) + step * step * here * (count - here) / count
    nonfinite = 1.0 - count / tensor.numel()
    if not count:
        return Statistics(math.nan, math.nan, math.nan, nonfinite)
    return Statistics(mean, math.sqrt(squares / count), largest, nonfinite)
