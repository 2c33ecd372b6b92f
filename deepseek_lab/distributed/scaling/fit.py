"""How much of a link the exchange of buckets reaches, from what a few of them took.

Ranks that send to several others are not done at the same time, which leaves a part of the link unused; so do
acknowledgements that wait behind data (Zhang, Shenker and Clark, SIGCOMM 1991), and ranks that share cores, whose turns
to encode come when others wait for them. How much that is, depends on all of these together: the share of the link is
taken with which the simulation of these buckets takes as long as they took.
"""

from __future__ import annotations

from collections.abc import Callable

from deepseek_lab.distributed.scaling.predict import Setting
from deepseek_lab.distributed.scaling.step import Job, Phase, simulate
from deepseek_lab.distributed.scaling.ways import Bucket, Shares, Way

_IN_A_ROW = 4
_LEAST, _ROUNDS = 0.05, 40
"""Of the link; halvings of what lies between that and all of it."""


def in_a_row(num_values: int) -> tuple[list[int], list[int]]:
    """Sizes of the buckets that two threads exchange, as many values each.

    Buckets are of different sizes, so that two under way do not begin their messages at the same time.
    """
    half = num_values // 2
    return [num_values] * _IN_A_ROW, [half, *[num_values] * (_IN_A_ROW - 1), num_values - half]


def fit(way: Way, num_values: int, alone_s: float, pair_s: float, setting: Setting) -> Shares:
    """Shares with which buckets of :func:`in_a_row` take as long as they took.

    Args:
        way: How they were exchanged.
        num_values: Of a bucket.
        alone_s: Seconds that the first thread took, alone.
        pair_s: That both took together.
        setting: Where, with the arithmetic of the way.
    """
    first, second = in_a_row(num_values)
    alone = _share(alone_s, lambda share: _seconds(way, [first], (share, share), setting))
    return Shares(
        exchange=(
            alone,
            _share(pair_s, lambda share: _seconds(way, [first, second], (alone, share), setting)),
        )
    )


def _seconds(way: Way, lanes: list[list[int]], share: tuple[float, float], setting: Setting) -> float:
    """As simulated."""
    longest = max(map(len, lanes))
    jobs = []
    for at in range(longest):
        for lane in lanes:  # one for each lane in turn, as buckets go
            phases: tuple[Phase, ...] = ()
            if at < len(lane):
                bucket = Bucket(((lane[at],),))
                phases = way.phases(bucket, setting.network, setting.arithmetic, Shares(exchange=share))
            jobs.append(Job(0.0, phases))
    made = simulate(0.0, 0.0, 0.0, jobs, link=setting.network.port, host=setting.host, num_lanes=len(lanes))
    return made.step_s


def _share(taken_s: float, seconds: Callable[[float], float]) -> float:
    low, high = _LEAST, 1.0
    if seconds(high) >= taken_s:
        return high
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        low, high = (middle, high) if seconds(middle) > taken_s else (low, middle)
    return (low + high) / 2
