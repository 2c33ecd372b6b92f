"""What a rank's process measures: links, arithmetic, and a step without communication."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from deepseek_lab.distributed.scaling.fit import in_a_row
from deepseek_lab.distributed.scaling.network import Link
from deepseek_lab.distributed.scaling.predict import Compute
from deepseek_lab.distributed.scaling.ways import Arithmetic, Stages
from deepseek_lab.distributed.worker import exchange

SMALL_BYTES = (1 << 10, 4 << 10)
LARGE_S = 0.08
"""Messages that are timed: for the latency, and, twice and four times as large, for the bandwidth. The first of these
takes about so long, which is long beside what other programs take at a time."""
_ROUNDS = 3
_REST_S = 0.06
"""Before each message: a shaper by token bucket has filled up again."""
_TRIED_BYTES, _MOST_BYTES = 1 << 20, 16 << 20
_NUM_VALUES = 1 << 22


def measure_link(group: Any = None, large_s: float = LARGE_S) -> tuple[Link, float]:
    """A link, and seconds of a core for a byte that goes over it; all ranks of the group call it together.

    All-reduces of several sizes are timed. What a rank sends in a ring of n is 2 (n - 1) / n of the size, in 2 (n - 1)
    messages. The slope over the large ones, by least squares on relative errors, is the bandwidth.
    """
    size = dist.get_world_size(group)
    moved = 2 * (size - 1) / size
    first_s = torch.tensor(_timed_all_reduce(_TRIED_BYTES, group)[0])
    dist.all_reduce(first_s, group=group)
    base = int(min(_MOST_BYTES, max(1.0, size * large_s / float(first_s)) * _TRIED_BYTES))
    large = [base, 2 * base, 4 * base]
    times = {one: _timed_all_reduce(one, group) for one in (*SMALL_BYTES, *large)}
    latency_s = min(times[one][0] for one in SMALL_BYTES) / (2 * (size - 1))
    intercept_s, s_per_byte = _line([moved * one for one in large], [times[one][0] for one in large])
    if s_per_byte <= 0:  # a link so fast that other programs decide what a message takes
        intercept_s, s_per_byte = 0.0, times[large[-1]][0] / (moved * large[-1])
    # A burst is shorter than the messages that showed the bandwidth; what seems longer is noise.
    burst = min(max(0.0, (latency_s * 2 * (size - 1) - intercept_s) / s_per_byte), moved * base / 2)
    core = sum(times[one][1] for one in large) / sum(moved * one for one in large)
    found = torch.tensor([1 / s_per_byte, latency_s, burst, core], dtype=torch.float64)
    dist.all_reduce(found, group=group)
    bandwidth, latency_s, burst, core = (found / size).tolist()
    return Link(bandwidth, latency_s, burst, 1 / core if burst else 0.0), core


def time_means(way: str, groups: Sequence[Any], num_values: int) -> tuple[float, float]:
    """Seconds of means over all ranks as :func:`deepseek_lab.distributed.scaling.fit.fit` takes them: of one thread
    alone, and of two.

    Args:
        way: Its name.
        groups: Two, each of the same ranks.
        num_values: Of a bucket.
    """
    calls = [
        _means(exchange.make(way), at, group, sizes)
        for at, (group, sizes) in enumerate(zip(groups, in_a_row(num_values), strict=True))
    ]

    def together() -> None:
        threads = [threading.Thread(target=call) for call in calls]
        for one in threads:
            one.start()
        for one in threads:
            one.join()

    together()  # tries what is faster, and makes what is kept
    found = torch.tensor(
        [statistics.median(_samples(call, groups[0], _ROUNDS)[0]) for call in (calls[0], together)],
        dtype=torch.float64,
    )
    dist.all_reduce(found, group=groups[0])
    alone_s, pair_s = (found / dist.get_world_size(groups[0])).tolist()
    return alone_s, pair_s


def _means(way: exchange.Way, lane: int, group: Any, sizes: Sequence[int]) -> Callable[[], None]:
    values = [torch.randn(one) for one in sizes]

    def run() -> None:
        for at, one in enumerate(values):
            way.mean((lane, at), one, [one], group)

    return run


def measure_arithmetic(num_ranks: int, num_values: int = _NUM_VALUES, least_s: float = 0.3) -> Arithmetic:
    """What encoding, decoding and copying cost on this core, for an exchange between so many ranks.

    Means over at least ``least_s`` seconds each: a core that is shared is gone for longer than one encoding takes.
    """
    values = torch.randn(num_values)
    other = torch.empty_like(values)
    left, right = torch.randn(1024, 1024), torch.randn(1024, 4)
    stages = {
        name: _stages(make(), values, num_ranks, least_s)
        for name, make in exchange._MAKE.items()
        if isinstance(make, type) and issubclass(make, exchange.Shared)
    }
    copy_s = _mean_seconds(lambda: other.copy_(values), least_s / 4)
    product_s = _mean_seconds(lambda: left @ right, least_s / 4)
    return Arithmetic(stages, copy_s / (4 * num_values), product_s / (2 * 1024 * 1024 * 4))


def _stages(way: Any, values: Tensor, size: int, least_s: float) -> Stages:
    """The arithmetic of :meth:`Shared.mean` without its collectives."""
    turn, key = exchange.Turn(way, values, size, 0), (0, 0)
    times: list[tuple[float, float, float]] = []
    first = time.perf_counter()
    while not times or time.perf_counter() - first < least_s:
        began = time.perf_counter()
        turn.encode(key)
        before = time.perf_counter()
        turn.came.copy_(turn.sent)
        copied = time.perf_counter()
        turn.reduce(key)
        between = time.perf_counter()
        turn.came.copy_(turn.mine.expand_as(turn.came))
        gathered = time.perf_counter()
        turn.decode()
        after = time.perf_counter()
        times.append((before - began, between - copied, after - gathered))
    return Stages(*(statistics.mean(one) / values.numel() for one in zip(*times, strict=True)))


def _mean_seconds(call: Callable[[], object], least_s: float) -> float:
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < least_s:
        call()
        count += 1
    return (time.perf_counter() - began) / count


def measure_compute(
    forward: Callable[[], Tensor],
    parameters: Sequence[nn.Parameter],
    update: Callable[[], object] = lambda: None,
    num_rounds: int = _ROUNDS,
    warm_up: int = 1,
) -> Compute:
    """A step without communication, and when in its backward pass each gradient is there.

    Args:
        forward: Gives the loss; under DDP, call this within ``no_sync()``.
        parameters: Whose gradients are exchanged, in the model's order.
        update: What comes after the backward pass.
        num_rounds: Steps of which medians are taken.
        warm_up: Steps before them.
    """
    came = [0.0] * len(parameters)

    def note(at: int) -> Callable[[Tensor], None]:
        def hook(_: Tensor) -> None:
            came[at] = time.perf_counter()

        return hook

    handles = [one.register_post_accumulate_grad_hook(note(at)) for at, one in enumerate(parameters)]
    times, ready = [], []
    try:
        for _ in range(warm_up + num_rounds):
            began = time.perf_counter()
            loss = forward()
            middle = time.perf_counter()
            loss.backward()
            end = time.perf_counter()
            update()
            times.append((middle - began, end - middle, time.perf_counter() - end))
            ready.append([min(1.0, max(0.0, (one - middle) / (end - middle))) for one in came])
    finally:
        for handle in handles:
            handle.remove()
    forward_s, backward_s, update_s = (statistics.median(one) for one in zip(*times[warm_up:], strict=True))
    parts = tuple(statistics.median(one) for one in zip(*ready[warm_up:], strict=True))
    return Compute(forward_s, backward_s, update_s, parts)


def _timed_all_reduce(num_bytes: int, group: Any) -> tuple[float, float]:
    values = torch.zeros(max(1, num_bytes // 4))
    return _timed(lambda: dist.all_reduce(values, group=group), group)


def _timed(call: Callable[[], object], group: Any) -> tuple[float, float]:
    """Median seconds of a collective, and of this process's cores in it."""
    times, cores = _samples(call, group, _ROUNDS)
    return statistics.median(times), statistics.median(cores)


def _samples(call: Callable[[], object], group: Any, count: int) -> tuple[list[float], list[float]]:
    times, cores = [], []
    for _ in range(count):
        time.sleep(_REST_S)
        dist.barrier(group=group)
        core_s = time.process_time()
        times.append(_seconds(call))
        cores.append(time.process_time() - core_s)
    return times, cores


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Intercept and slope with the least relative errors."""
    points = torch.tensor(x, dtype=torch.float64)
    wanted = torch.tensor(y, dtype=torch.float64)
    columns = torch.stack([torch.ones_like(points), points], 1) / wanted[:, None]
    found = torch.linalg.lstsq(columns, torch.ones_like(wanted)[:, None]).solution[:, 0].tolist()
    return float(found[0]), float(found[1])
