"""One lane for each kind of call of a target: what runs there now, and the live race that decides it.

Calls of a kind have the same ranks, dtypes and sizes to within a factor of two, the same mode of the module
and the same gradient mode. States, in order: ``new`` (never captured), ``building`` (captured, eager while the builder
works), ``racing`` (eager and the installed programs in turn, on the user's own calls), then ``fast`` or ``eager``.
The first program that the builder trusts is raced while it goes on building, and used where it wins; until the builder
is done such a lane is not ``final``.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deepseek_lab.engine.runtime import GraphRunner
from deepseek_lab.measure.race import BLOCK_S, Ratio, involuntary_switches, is_quiet

if TYPE_CHECKING:
    from deepseek_lab.engine.training.lane import TrainingLane

TOO_SHORT_S = 5e-5
"""Calls shorter than this in eager mode are left alone: what the checks of a call cost is about as much. Of longer ones
the race decides, whose times include them."""
LONG_S = 0.1
"""Calls longer than this are a block each."""
MIN_ROUNDS = 6
MAX_ROUNDS = 24
MAX_PAUSE_S = 0.2
USUAL = 1.05
"""A call's usual time, in times of the fastest one."""
MAX_DISTURBED = 24
"""Rounds that are left out because other processes took the processor away, before such rounds count too."""


def lane_key(args: tuple[Any, ...], kwargs: dict[str, Any], training: bool) -> tuple[Any, ...]:
    """The kind of a call: cheap, and coarse enough that a growing sequence stays in few lanes."""
    key: list[Any] = [training, torch.is_grad_enabled(), torch.is_inference_mode_enabled(), len(args)]
    for value in args:
        _add(key, value)
    for name, value in kwargs.items():
        key.append(name)
        _add(key, value)
    return tuple(key)


def _add(key: list[Any], value: Any) -> None:
    if isinstance(value, Tensor):
        key.append((value.dtype, value.device.type, tuple(size.bit_length() for size in value.shape)))
    elif isinstance(value, int | float | bool | str | None):
        key.append(value if isinstance(value, bool | str | None) else type(value))
    elif isinstance(value, list | tuple):
        for item in value:
            _add(key, item)
    elif isinstance(value, dict):
        for item in value.values():
            _add(key, item)
    else:
        key.append(type(value))


def exact_shapes(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """The sizes of the tensors among the arguments."""
    values = [*args, *kwargs.values()]
    return tuple(tuple(value.shape) for value in values if isinstance(value, Tensor))


def is_step(kwargs: dict[str, Any]) -> bool:
    """Whether a call is a step of a generation: it carries a cache of keys and values, which grows at every step.

    Transformers has called that argument ``past_key_values`` and, from 5.24 on, ``cache``; what it hands over says how
    long a sequence it holds, except for the tuples of old.
    """
    return kwargs.get("past_key_values") is not None or any(
        hasattr(type(value), "get_seq_length") for value in kwargs.values()
    )


@dataclasses.dataclass
class _Arm:
    """Times of one side of the race: finished blocks, and the calls of the block under way."""

    blocks_s: list[float] = dataclasses.field(default_factory=list)
    calls_s: list[float] = dataclasses.field(default_factory=list)

    def add(self, elapsed_s: float, *, drops_first: bool) -> bool:
        """Take one call in; True when that completes a block."""
        self.calls_s.append(elapsed_s)
        # The first call of a block may find another runtime's threads still spinning, which a long one outlasts.
        kept = self.calls_s if elapsed_s >= LONG_S and not drops_first else self.calls_s[1:]
        if len(kept) >= 1 and (sum(kept) >= BLOCK_S or len(kept) >= 200):
            kept.sort()
            self.blocks_s.append(kept[len(kept) // 4])
            self.calls_s.clear()
            return True
        return False


class LiveRace:
    """Interleaves two ways to make the same call, block by block, and says which is faster.

    Args:
        first: Which of them begins.
        drops_first: Leave out the first call of each block, however long: it pays for the change to the other way.
    """

    def __init__(self, first: str = "eager", *, drops_first: bool = False) -> None:
        self._drops_first = drops_first
        self.arms = {"eager": _Arm(), "fast": _Arm()}
        self._order = ("eager", "fast") if first == "eager" else ("fast", "eager")
        self._turn = 0
        self._switches = involuntary_switches()
        self._disturbed = 0
        self._seconds = 0.0

    @property
    def arm(self) -> str:
        """Which way the next call goes."""
        return self._order[self._turn]

    def add(self, elapsed_s: float) -> None:
        """Time of the call that went the way of :attr:`arm`."""
        self._seconds += elapsed_s
        if self.arms[self.arm].add(elapsed_s, drops_first=self._drops_first):
            self._turn += 1
            if self._turn == 2:
                self._turn, self._order = 0, self._order[::-1]
                self._judge_round()

    def _judge_round(self) -> None:
        """Leave out a round in which other processes took the processor away, while there are few of them."""
        before, self._switches = self._switches, involuntary_switches()
        seconds, self._seconds = self._seconds, 0.0
        quiet = is_quiet(self._switches - before, len(self.arms), seconds)
        if not quiet and self._disturbed < MAX_DISTURBED:
            self._disturbed += 1
            for arm in self.arms.values():
                arm.blocks_s.pop()

    def ratio(self) -> Ratio | None:
        """The result so far; None before the first complete round."""
        base, contender = self.arms["eager"].blocks_s, self.arms["fast"].blocks_s
        rounds = min(len(base), len(contender))
        return Ratio.of(base[:rounds], contender[:rounds]) if rounds else None

    def verdict(self, min_gain: float) -> Ratio | None:
        """The result once it is certain or the rounds are used up, else None."""
        ratio = self.ratio()
        if ratio is None or ratio.num_rounds < MIN_ROUNDS:
            return None
        low, high = ratio.ci95
        return ratio if low > min_gain or high < min_gain or ratio.num_rounds >= MAX_ROUNDS else None


@dataclasses.dataclass
class Lane:
    """State of one kind of call."""

    name: str
    state: str = "new"
    reason: str = ""
    runners: list[GraphRunner] = dataclasses.field(default_factory=list)
    race: LiveRace = dataclasses.field(default_factory=LiveRace)
    eager_s: float = 0.0
    """Fastest eager call seen, in seconds."""
    spent_s: float = 0.0
    """Seconds that calls have taken for which nothing was installed yet."""
    missed_s: float = 0.0
    """Seconds spent in eager mode because nothing that was captured fitted the call."""
    shapes: set[Any] = dataclasses.field(default_factory=set)
    sample: tuple[tuple[Any, ...], dict[str, Any]] | None = None
    num_captures: int = 0
    capture_s: float = 0.0
    num_breaks: int = 0
    ratio: Ratio | None = None
    final: bool = False
    """Whether the builder has decided all of the lane's graphs."""
    contender: tuple[str, ...] = ()
    """What the race under way is about."""
    judged: tuple[str, ...] = ()
    """What was installed when the lane was last raced to the end."""
    confirming: bool = False
    """Whether the race under way is about programs that have won in an earlier process."""
    repeatable: bool = False
    """Whether a call of a lane that is still ``new`` may be made again by ``wait``."""
    training: TrainingLane | None = None
    """What decides instead, where the results of such calls are differentiated."""

    @property
    def undecided(self) -> bool:
        """Whether there is still something to find out."""
        if self.training is not None:
            return self.training.phase == "searching"
        return self.state in ("new", "building", "racing") or (self.state == "fast" and not self.final)

    def settle(self, state: str, reason: str = "", ratio: Ratio | None = None) -> None:
        """End the search for this lane."""
        self.state, self.reason, self.ratio, self.sample = state, reason, ratio or self.ratio, None
        self.final = True

    def start_race(self) -> None:
        """Race what is installed now. What has won in an earlier process goes first."""
        self.confirming = all(runner.remembered for runner in self.runners if runner.installed)
        self.race = LiveRace("fast" if self.confirming else "eager")
        self.state, self.contender = "racing", self.installed

    def pause_s(self, elapsed_s: float, share: float) -> float:
        """How long to pause after a call so that both together take ``1 + share`` of what eager usually takes.

        A call that was slow by itself gives less, one that runs what was won no more than a share of its own time. The
        usual time is told from the fastest, as the builder's own work slows all others down.
        """
        usual = USUAL * (self.eager_s or elapsed_s)
        return max(0.0, min((1.0 + share) * usual - elapsed_s, share * min(usual, elapsed_s), MAX_PAUSE_S))

    @property
    def accelerated(self) -> bool:
        """Whether calls of this kind have what was won: here, or in an earlier process and confirmed meanwhile."""
        return self.state == "fast" or (self.state == "racing" and self.confirming)

    @property
    def installed(self) -> tuple[str, ...]:
        """Names of the programs in the lane's graphs."""
        return tuple(runner.installed.name for runner in self.runners if runner.installed is not None)

    def cannot_replay(self, module: torch.nn.Module | None) -> str | None:
        """Why repeating the last call could be seen; None where it could not."""
        if self.num_breaks or len(self.runners) != 1:
            return (
                "measured by the builder; repeating the call could be seen, it has Python between its graphs"
            )
        if any(runner.lasting_effects for runner in self.runners):
            return "measured by the builder; repeating the call could be seen, it changes objects that outlive it"
        if module is not None and any(
            one._forward_hooks or one._forward_pre_hooks for one in module.modules()
        ):
            return "measured by the builder; repeating the call would run your hooks"
        return None


def literals(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[int | str, Any]:
    """The plain values among a call's arguments, by position or name: a graph holds them."""
    given: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    return {at: one for at, one in given if one is None or type(one) in (bool, int, float, str)}


def timed(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, float]:
    """A call's value and its seconds."""
    __tracebackhide__ = True
    start = time.perf_counter()
    value = call(args, kwargs)
    return value, time.perf_counter() - start
