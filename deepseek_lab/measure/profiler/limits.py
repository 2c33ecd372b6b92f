"""What this machine does at best: the roof of a roofline, measured here and now."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import torch

from deepseek_lab.base.costs import Limits

_SIZE = 1024
_COPIED = 2**26
_REPEATS = 5


def limits() -> Limits:
    """The limits of this process with its number of threads; takes a fifth of a second the first time."""
    return _limits(torch.get_num_threads())


@functools.cache
def _limits(num_threads: int) -> Limits:
    with torch.no_grad():
        a = torch.ones(_SIZE, _SIZE)
        b, c = torch.ones(_SIZE, _SIZE), torch.empty(_SIZE, _SIZE)
        product_s = _best(lambda: torch.mm(a, b, out=c))
        source, target = torch.zeros(_COPIED // 4), torch.zeros(_COPIED // 4)
        copy_s = _best(lambda: target.copy_(source))
    return Limits(2 * _SIZE**3 / product_s, 2 * _COPIED / copy_s, num_threads)


def _best(call: Callable[[], object]) -> float:
    call()
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)
