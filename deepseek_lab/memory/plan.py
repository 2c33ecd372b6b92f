"""A plan: what a model recomputes, and whether its logits are left out, so that a step stays within a limit."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from deepseek_lab.memory.operations import Operation
from deepseek_lab.memory.recompute import ALL_AGAIN
from deepseek_lab.memory.rehearsal import Choice, NotRehearsed, Part, Rehearsal, Rehearsed
from deepseek_lab.memory.solve import Option, options, solve

MARGIN = 0.03
"""Share of a limit that is left free: kernels take memory of their own, which no rehearsal sees."""
MAX_REHEARSALS = 8
CLOSE = 0.015
"""A plan whose peak is nearer to what it may be than this share needs no better one."""


@dataclasses.dataclass(frozen=True)
class Chosen:
    """One part of a model, and how it runs."""

    path: str
    option: Option
    plain_bytes: int
    operations: tuple[str, ...] = ()
    """Names of all of its operations, where some are kept."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a model trains within a limit, and what that is predicted to take."""

    choice: Choice
    rehearsed: Rehearsed
    plain: Rehearsed
    """The same step with nothing changed."""
    parts: tuple[Chosen, ...] = ()
    extra_s: float = 0.0
    """What recomputation adds to a step, from measured times of its operations."""
    fits: bool = True

    @property
    def is_plain(self) -> bool:
        """Whether nothing is changed."""
        return (
            not self.choice.defers
            and not self.choice.fused
            and not any(keep is not None for keep in self.choice.keeps.values())
        )


class Planner:
    """Finds the plan that costs least time.

    Args:
        rehearsal: The step.
        seconds: Measured seconds of each part's operations, by path, in order.
        can_defer: Whether there are logits to leave out.
        can_fuse: Whether optimisers have a fused form that they don't use.
        stopped: Whether to stop looking for something better.
    """

    def __init__(
        self,
        rehearsal: Rehearsal,
        seconds: Mapping[str, Sequence[tuple[str, float]]],
        *,
        can_defer: bool,
        can_fuse: bool,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._rehearsal, self._seconds = rehearsal, seconds
        self._can_defer, self._can_fuse, self._stopped = can_defer, can_fuse, stopped

    def find(self, limit_bytes: float) -> Plan:
        """The plan for a limit; where none fits, the one that takes least, with ``fits`` false.

        Raises:
            NotRehearsed: The step can't be run without values.
        """
        allowed = limit_bytes * (1 - MARGIN)
        plain = self._rehearsal.run(Choice(), look=True)
        if plain.peak_bytes <= allowed:
            return Plan(Choice(), plain, plain)
        parts = _with_seconds(plain.parts, self._seconds)
        for changed in self._changes():
            one = self._rehearsal.run(changed)
            if one.peak_bytes <= allowed:
                return Plan(changed, one, plain)
            least = dataclasses.replace(changed, keeps={part.path: ALL_AGAIN for part in parts})
            smallest = self._rehearsal.run(least)
            if smallest.peak_bytes <= allowed:
                return self._best(parts, changed, least, smallest, plain, allowed)
        chosen = [Option(ALL_AGAIN, 0, sum(op.seconds for op in part.operations)) for part in parts]
        return self._plan(parts, chosen, least, smallest, plain, fits=False)

    def _changes(self) -> list[Choice]:
        """What else may be changed, in the order in which it is tried: least first."""
        found = [Choice(defers=True)] if self._can_defer else [Choice()]
        if self._can_fuse:
            found.append(dataclasses.replace(found[0], fused=True))
        return found

    def _best(
        self,
        parts: Sequence[Part],
        changed: Choice,
        least: Choice,
        smallest: Rehearsed,
        plain: Rehearsed,
        allowed: float,
    ) -> Plan:
        menus = [options(part.operations, part.bytes, policy_s()) for part in parts]
        smallest_options = [menu[0] for menu in menus]
        best = self._plan(parts, smallest_options, least, smallest, plain)
        budget, tried = allowed - smallest.peak_bytes, set[tuple[int, ...]]()
        too_much = float("inf")
        for _ in range(MAX_REHEARSALS):
            if self._stopped():
                break
            picked = solve(menus, budget)
            if picked is None:
                break
            key = tuple(menu.index(one) for menu, one in zip(menus, picked, strict=True))
            if key in tried:
                break
            tried.add(key)
            keeps = {part.path: one.keep for part, one in zip(parts, picked, strict=True)}
            choice = dataclasses.replace(changed, keeps=keeps)
            found = self._rehearsal.run(choice)
            if found.peak_bytes <= allowed:
                plan = self._plan(parts, picked, choice, found, plain)
                if plan.extra_s < best.extra_s:
                    best = plan
                if allowed - found.peak_bytes <= CLOSE * allowed:
                    break
                step = allowed - found.peak_bytes
                budget = min(budget + step, (budget + too_much) / 2)
            else:
                too_much = budget
                budget -= max(found.peak_bytes - allowed, 0.02 * abs(budget))
        return best

    def _plan(
        self,
        parts: Sequence[Part],
        picked: Sequence[Option],
        choice: Choice,
        found: Rehearsed,
        plain: Rehearsed,
        *,
        fits: bool = True,
    ) -> Plan:
        chosen = tuple(
            Chosen(
                part.path,
                one,
                part.bytes,
                tuple(operation.name for operation in part.operations) if one.keep else (),
            )
            for part, one in zip(parts, picked, strict=True)
            if one.keep is not None
        )
        return Plan(choice, found, plain, chosen, sum(one.seconds for one in picked), fits)


def _with_seconds(parts: Sequence[Part], seconds: Mapping[str, Sequence[tuple[str, float]]]) -> list[Part]:
    """The parts with their operations' measured times; alike parts share one mean, which is the steadier figure."""
    alike: dict[tuple[object, ...], list[Sequence[float]]] = {}
    keys = []
    for part in parts:
        key = tuple((one.name, one.bytes) for one in part.operations)
        keys.append(key)
        measured = seconds.get(part.path, ())
        if [name for name, _ in measured] == [one.name for one in part.operations]:
            alike.setdefault(key, []).append([value for _, value in measured])
    found = []
    for part, key in zip(parts, keys, strict=True):
        times = alike.get(key, [])
        operations = [
            Operation(one.name, one.bytes, one.keepable, _middle([row[index] for row in times]))
            for index, one in enumerate(part.operations)
        ]
        if not times:  # it did something else on real values: only all or nothing of it can be judged
            total = sum(value for _, value in seconds.get(part.path, ()))
            operations = [Operation("all", 0, False, total)]
        found.append(Part(part.path, operations, part.bytes))
    return found


def _middle(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else 0.0


@functools.cache
def policy_s() -> float:
    """Seconds that a policy takes for one operation on this machine, measured once."""
    one = torch.zeros(8)
    repeats = 200

    def timed() -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            torch.add(one, 1.0)
        return time.perf_counter() - start

    plain = min(timed() for _ in range(3))
    caching, _ = create_selective_checkpoint_contexts(
        lambda *args, **kwargs: CheckpointPolicy.PREFER_RECOMPUTE
    )
    with caching:
        watched = min(timed() for _ in range(3))
    return max(watched - plain, 0.0) / repeats


__all__ = ["Chosen", "NotRehearsed", "Plan", "Planner"]
