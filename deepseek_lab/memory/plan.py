"""A plan: what a model recomputes, and whether its logits are left out, so that a step stays within a limit."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from deepseek_lab.memory.choice import Choice, NotRehearsed
from deepseek_lab.memory.operations import Operation
from deepseek_lab.memory.recompute import ALL_AGAIN, Keep
from deepseek_lab.memory.rehearsal import Part, Rehearsal, Rehearsed
from deepseek_lab.memory.solve import Option, options, solve
from deepseek_lab.memory.units import Unit, division

MARGIN = 0.015
"""Share of a limit that is left free: kernels take memory of their own, which no rehearsal sees."""
MAX_REHEARSALS = 8
DIVISIONS = ((0,), (1,), (0, 1), (0, 1, 2))
"""Levels of the tree of a model's parts that are recomputed, from the least work to the least memory."""
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
            and not self.choice.in_backward
            and not self.choice.eight_bit
            and not any(keep is not None for keep in self.choice.keeps.values())
        )


def recomputing(units: Sequence[Unit], base: Choice) -> Choice:
    """A choice in which these are recomputed as a whole."""
    return dataclasses.replace(base, keeps={one.path: ALL_AGAIN for one in units})


class Planner:
    """Finds the plan that costs least time.

    Args:
        rehearsal: The step.
        seconds: Measured seconds of each part's operations, by path, in order.
        units: The tree of the model's parts.
        can_defer: Whether there are logits to leave out.
        can_fuse: Whether optimisers have a fused form that they don't use.
        in_backward: Whether the optimiser may step in the backward pass.
        eight_bit: Whether its moments may take a byte a value.
        base: What holds already, and is not taken back.
        stopped: Whether to stop looking for something better.
    """

    def __init__(
        self,
        rehearsal: Rehearsal,
        seconds: Mapping[str, Sequence[tuple[str, float]]],
        *,
        units: Sequence[Unit] = (),
        can_defer: bool = False,
        can_fuse: bool = False,
        in_backward: bool = False,
        eight_bit: bool = False,
        base: Choice | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._rehearsal, self._seconds, self._units = rehearsal, seconds, units
        self._can_defer, self._can_fuse, self._stopped = can_defer, can_fuse, stopped
        self._in_backward, self._eight_bit = in_backward, eight_bit
        self._base = base if base is not None else Choice()
        self.declined = ""
        """Why the optimiser does not step in the backward pass although it may."""

    def find(self, limit_bytes: float) -> Plan:
        """The plan for a limit; where none fits, the one that takes least, with ``fits`` false.

        Raises:
            NotRehearsed: The step can't be run without values.
        """
        try:
            return self._find(limit_bytes)
        except NotRehearsed as error:
            if not self._in_backward or self._base.in_backward:
                raise
            self._in_backward, self.declined = False, str(error)
            return self._find(limit_bytes)

    def _find(self, limit_bytes: float) -> Plan:
        allowed = limit_bytes * (1 - MARGIN)
        plain = self._rehearsal.run(Choice(), look=True)
        base = self._base
        if plain.peak_bytes <= allowed and base == Choice():
            return Plan(Choice(), plain, plain)
        parts = {one.path: one for one in _with_seconds(plain.parts, self._seconds)}
        least: Plan | None = None
        for changed in self._changes():
            one = self._rehearsal.run(changed)
            if one.peak_bytes <= allowed:
                return Plan(changed, one, plain)
            found: list[Plan] = []
            for levels in DIVISIONS:
                menus = self._menus(parts, levels)
                try:
                    smallest = self._fixed(parts, menus, changed, plain)
                except NotRehearsed:
                    if levels == DIVISIONS[0]:
                        raise
                    continue
                if smallest.rehearsed.peak_bytes <= allowed:
                    best = self._best(parts, menus, changed, smallest, plain, allowed)
                    if (free := _first_free(parts, menus)) is not None:
                        best = self._best(parts, free, changed, smallest, plain, allowed, best)
                    found.append(best)
                    if len(levels) > 1 or levels == (1,):
                        break
                elif found:
                    break
                if least is None or smallest.rehearsed.peak_bytes < least.rehearsed.peak_bytes:
                    least = smallest
                if levels == (0,) and found and not any(one.holds_blocks for one in self._units):
                    break
            if found:
                return min(found, key=lambda one: one.extra_s)
        assert least is not None
        return dataclasses.replace(least, fits=False)

    def _changes(self) -> list[Choice]:
        """What else may be changed, in the order in which it is tried: least first."""
        found = [dataclasses.replace(self._base, keeps={})]
        if self._in_backward:  # it takes no time, and who allowed it wants it
            found = [dataclasses.replace(found[0], in_backward=True)]
        if self._can_defer:
            found = [dataclasses.replace(found[0], defers=True)]
        if self._can_fuse and not found[0].eight_bit:  # not before: it rounds otherwise
            found.append(dataclasses.replace(found[0], fused=True))
        if self._eight_bit and not found[0].eight_bit:
            found.append(dataclasses.replace(found[0], eight_bit=True))
        return found

    def _menus(self, parts: Mapping[str, Part], levels: tuple[int, ...]) -> dict[str, list[Option]]:
        """The ways to run each part of a division, from the fewest bytes to the most."""
        if len(levels) == 1:
            units = division(self._units, levels, lambda one: one.path in parts)
            return {
                one.path: options(parts[one.path].operations, parts[one.path].bytes, policy_s())
                for one in units
            }
        found = {}
        for unit in division(self._units, levels[:1], lambda one: one.path in parts):
            part = parts[unit.path]
            within = [
                one
                for one in division(unit.inner, levels[1:], lambda one: one.path in parts)
                if one.path in parts
            ]
            if not within:
                found[unit.path] = options(part.operations, part.bytes, policy_s())
                continue
            first = division(unit.inner, levels[1:2], lambda one: one.path in parts)
            whole = _seconds_of(part) + sum(_seconds_of(parts[one.path]) for one in within)
            menu = [Option(ALL_AGAIN, 0, whole, tuple(one.path for one in within))]
            results = sum(parts[one.path].result_bytes for one in first)
            if 0 < results < part.bytes:
                again = sum(_seconds_of(parts[one.path]) for one in first)
                menu.append(Option(None, results, again, tuple(one.path for one in first)))
            menu.append(Option(None, part.bytes, 0.0))
            found[unit.path] = menu
        return found

    def _fixed(
        self, parts: Mapping[str, Part], menus: Mapping[str, list[Option]], changed: Choice, plain: Rehearsed
    ) -> Plan:
        """The plan in which everything takes least."""
        picked = {path: menu[0] for path, menu in menus.items()}
        choice = dataclasses.replace(changed, keeps=_keeps(picked))
        return self._plan(parts, picked, choice, self._rehearsal.run(choice), plain)

    def _best(
        self,
        parts: Mapping[str, Part],
        menus: Mapping[str, list[Option]],
        changed: Choice,
        smallest: Plan,
        plain: Rehearsed,
        allowed: float,
        best: Plan | None = None,
    ) -> Plan:
        best = smallest if best is None else best
        budget, tried = allowed - smallest.rehearsed.peak_bytes, set[tuple[int, ...]]()
        too_much = float("inf")
        for _ in range(MAX_REHEARSALS):
            if self._stopped():
                break
            solved = solve(list(menus.values()), budget)
            if solved is None:
                break
            key = tuple(menu.index(one) for menu, one in zip(menus.values(), solved, strict=True))
            if key in tried:
                break
            tried.add(key)
            picked = dict(zip(menus, solved, strict=True))
            choice = dataclasses.replace(changed, keeps=_keeps(picked))
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
        parts: Mapping[str, Part],
        picked: Mapping[str, Option],
        choice: Choice,
        found: Rehearsed,
        plain: Rehearsed,
    ) -> Plan:
        chosen = tuple(
            Chosen(
                path,
                one,
                parts[path].bytes,
                tuple(operation.name for operation in parts[path].operations) if one.keep else (),
            )
            for path, one in picked.items()
            if one.keep is not None or one.within
        )
        return Plan(choice, found, plain, chosen, sum(one.seconds for one in picked.values()))


def _first_free(
    parts: Mapping[str, Part], menus: Mapping[str, list[Option]]
) -> dict[str, list[Option]] | None:
    """The ways with the part left as it is that the backward pass begins with, at no bytes.

    Where a step holds most then, the part is there as a whole in any case: recomputing it frees nothing.
    """
    large = max((parts[path].bytes for path in menus), default=0)
    last = next((path for path in reversed(list(menus)) if 2 * parts[path].bytes >= large > 0), None)
    if last is None or all(one.keep is not None or one.within for one in menus[last]):
        return None
    return {**menus, last: [Option(None, 0, 0.0)]}


def _keeps(picked: Mapping[str, Option]) -> dict[str, Keep | None]:
    keeps: dict[str, Keep | None] = {}
    for path, one in picked.items():
        keeps[path] = one.keep
        keeps |= dict.fromkeys(one.within, ALL_AGAIN)
    return keeps


def _seconds_of(part: Part) -> float:
    return sum(one.seconds for one in part.operations)


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
            if index < part.num_again
            else Operation(one.name, one.bytes, False, 0.0)
            for index, one in enumerate(part.operations)
        ]
        if not times:  # it did something else on real values: only all or nothing of it can be judged
            total = sum(value for _, value in seconds.get(part.path, ()))
            operations = [Operation("all", 0, False, total)]
        found.append(dataclasses.replace(part, operations=operations))
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


__all__ = ["DIVISIONS", "Chosen", "Plan", "Planner", "recomputing"]
