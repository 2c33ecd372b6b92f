"""Where a training cell can go on when a rank has died: the turns of its loops, of those that stand in a loop too.

Between two turns everything that the cell has made stands in its names, and in the objects that it was sent. That, and
where random numbers and data loaders are, is saved every so often, when an update is complete; a run that goes on
begins at the loop, skips the turns that are done, and computes what the first one would have computed.
"""

from __future__ import annotations

import ast
import dataclasses
import pickle
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from deepseek_lab.distributed.worker.loaders import Shares, given

_OVER, _AGAIN, _DUE = "__deepseek_over__", "__deepseek_again__", "__deepseek_due__"
_LOOK_S, _AHEAD_S, _MOST_AHEAD_S = 0.2, 0.5, 8.0
"""How often the rank that leads looks whether it is time to save, and how long it takes to tell the others: at first,
and at most, where that was too late.
"""
Path = tuple[int, ...]
"""A loop: the number of its statement in the cell, or after that of the loop around it, in that one's body."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Between two turns of a loop."""

    path: Path
    turns: tuple[int, ...]
    """How many turns are done, of each loop from the outermost one on."""

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Place:
        """From plain data."""
        return cls(tuple(fields["path"]), tuple(fields["turns"]))


class Updates:
    """Updates by all optimizers, as long as it is open.

    Args:
        num_backwards: Gives how many backward passes there were.
    """

    def __init__(self, num_backwards: Callable[[], int]) -> None:
        self._num_backwards = num_backwards
        self._num_used = 0
        self.count = 0

    def __enter__(self) -> Updates:
        self._handle = register_optimizer_step_post_hook(self._stepped)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    @property
    def complete(self) -> bool:
        """Whether no gradients wait for an update, which nobody saves; where optimizers make none, nobody knows."""
        return not self.count or self._num_backwards() == self._num_used

    def _stepped(self, *_: object) -> None:
        self.count += 1
        self._num_used = self._num_backwards()


@dataclasses.dataclass
class _Loop:
    """One that runs, or has run last."""

    done: int = 0
    num_skipped: int = 0
    num_updates: int = 0
    """Before its last turn."""
    start: dict[str, Any] = dataclasses.field(default_factory=lambda: {"epochs": {}, "generators": {}})
    """Where the loaders were before it."""
    passes: list[Any] = dataclasses.field(default_factory=list)
    began_s: float = dataclasses.field(default_factory=time.monotonic)

    @property
    def turn_s(self) -> float:
        """How long a turn takes."""
        return max(1e-6, (time.monotonic() - self.began_s) / max(1, self.done - self.num_skipped))


class Turns:
    """The loops of one run of a cell.

    Args:
        shares: Where data loaders are.
        updates: Those of the run.
        names: Of the cell; they hold what was saved.
        every_s: About how often to save.
        announce: Called on the rank that leads with the place at which all are to save next. Not agreed upon by a
            collective: ranks need not turn equally often in a loop that trains nothing.
        save: Called at that place, or the first one after it at which no gradients wait for an update, with where
            random numbers and loaders are.
        place: Where to go on, and ``state`` what was saved there; None begins at the beginning.
        fresh: Whether the random numbers of ``state`` are those of another rank, so that this one keeps its own.
    """

    def __init__(
        self,
        shares: Shares,
        updates: Updates,
        names: dict[str, Any],
        every_s: float,
        announce: Callable[[Place], None] | None,
        save: Callable[[Place, bytes], None],
        place: Place | None = None,
        state: bytes = b"",
        *,
        fresh: bool = False,
    ) -> None:
        self._shares, self._updates, self._names = shares, updates, names
        self._every_s, self._save, self._fresh = every_s, save, fresh
        self._leads, self._announce = announce is not None, announce or (lambda _: None)
        self._place = place
        self._state: dict[str, Any] = pickle.loads(state) if place is not None else {}
        self._loops: dict[Path, _Loop] = {}
        self._lengths: dict[Path, int] = {}
        """How many turns a loop in a loop took the last time."""
        self._bound: dict[Path, dict[str, Any]] = {}
        """What the targets of loops stood for where it goes on, by the loop in their body where that is."""
        self.save_at: Place | None = None
        self._told: Place | None = None
        """The last place that was told."""
        self._verdict: queue.SimpleQueue[bool] = queue.SimpleQueue()
        """Whether to save there."""
        self._ahead_s = _AHEAD_S
        self._lock = threading.Lock()
        """Held where a turn is counted, so that a place is told either before it is passed or after."""
        self._said: Place | None = None
        self._looked_s = self._saved_s = time.monotonic()

    def change(self, tree: ast.Module) -> None:
        """Have the loops tell of their turns; begin with the one in which to go on."""
        place = self._place
        self._follow(tree.body, ())
        if place is not None:
            del tree.body[: place.path[0]]
            around = tree.body[0]
            for depth in range(1, len(place.path)):
                assert isinstance(around, ast.For | ast.While)
                at, path = place.path[depth], place.path[: depth + 1]
                targets = ast.walk(around.target) if isinstance(around, ast.For) else ()
                self._bound[path] = {
                    one.id: self._names[one.id]
                    for one in targets
                    if isinstance(one, ast.Name) and one.id in self._names
                }
                # Whatever stands before the loop was done in the turn that is gone on with, and is in those to come.
                before = around.body[:at] or [ast.copy_location(ast.Pass(), around)]
                due = ast.copy_location(ast.If(_call(_DUE, around, _constant(path)), before, []), around)
                around.body[:at] = [due]
                around = around.body[1]
        ast.fix_missing_locations(tree)

    def names(self) -> dict[str, Any]:
        """What the changed cell calls."""
        return {_OVER: self._over, _AGAIN: self._again, _DUE: self._due}

    def tell(self, place: Mapping[str, Any]) -> bool:
        """Save at that place if all ranks can, which :meth:`decide` will say; called from another thread.

        Returns:
            Whether it is still to come. Saving may be something that ranks do together, so all do it or none.
        """
        at = Place.of(place)
        with self._lock:
            if not self._is_ahead(at):
                return False
            self.save_at = self._told = at
            self._verdict = queue.SimpleQueue()
            return True

    def decide(self, place: Mapping[str, Any] | None, *, go: bool) -> None:
        """All ranks have said whether a place is still to come; None is whatever is waited for. From another thread."""
        if place is None or Place.of(place) == self._told:
            self._verdict.put(go)

    def _follow(self, body: list[ast.stmt], around: Path) -> None:
        for index, statement in enumerate(body):
            path = (*around, index)
            if isinstance(statement, ast.For):
                # A lambda: a loader that is looped over may draw its order where the expression is evaluated.
                nothing = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
                lazy = ast.Lambda(nothing, statement.iter)
                statement.iter = _call(_OVER, statement.iter, lazy, _constant(path))
            elif isinstance(statement, ast.While) and not around:
                again = _call(_AGAIN, statement.test, _constant(path))
                statement.test = ast.copy_location(
                    ast.BoolOp(ast.Or(), [again, statement.test]), statement.test
                )
            else:
                continue
            self._follow(statement.body, path)

    # What the changed cell calls.

    def _over(self, items: Callable[[], Any], path: Path) -> Iterator[Any]:
        loop = self._loops[path] = _Loop(num_updates=self._updates.count)
        place = self._goes_on(path)
        if place is None:
            loop.start = self._shares.state()
            left = self._shares.follow(items, loop.passes)
        else:
            depth = len(path)
            loop.start, passes = self._state["loops"][depth - 1]
            self._shares.restore(loop.start, passes)
            left = self._shares.follow(items, loop.passes)
            loop.done = loop.num_skipped = place.turns[depth - 1]
            for _ in range(loop.done):
                next(left, None)
            if depth == len(place.path):
                self._arrive()
        try:
            for item in left:
                yield item
                self._turned(path)
        finally:
            self._lengths[path] = loop.done

    def _again(self, path: Path) -> bool:
        """Called before the test of a loop; whether the test was passed already."""
        place = self._goes_on(path)
        if place is None:
            self._loops.setdefault(path, _Loop())
            self._turned(path)
            return False
        done = place.turns[0]
        self._loops[path] = _Loop(done=done, num_skipped=done)
        if len(place.path) > 1:
            return True
        self._arrive()
        return False

    def _due(self, path: Path) -> bool:
        """Whether what stands before a loop is still to be done in this turn of the loop around it."""
        if self._place is None:
            return True
        self._names |= self._bound[path]
        return False

    # Going on.

    def _goes_on(self, path: Path) -> Place | None:
        place = self._place
        return place if place is not None and place.path[: len(path)] == path else None

    def _arrive(self) -> None:
        state, self._place = self._state, None
        self._shares.restore(state["now"])
        if not self._fresh:
            torch.set_rng_state(state["torch"])
            random.setstate(state["python"])
            np.random.set_state(state["numpy"])

    # Saving.

    def _turned(self, path: Path) -> None:
        loop, count = self._loops[path], self._updates.count
        with self._lock:
            loop.done += 1
            here = self.save_at is not None and self.save_at == self._at(path)
        updated, loop.num_updates = count > loop.num_updates, count
        # In a loop that is a part of an update there is more than what can be saved.
        whole = updated or len(path) == 1
        if here and not (whole and self._updates.complete):
            self.save_at = self._ahead(path, 1)
        elif here:
            if self._verdict.get():
                self._save_here(self._at(path))
            else:
                self._ahead_s = min(2 * self._ahead_s, _MOST_AHEAD_S)
            self.save_at = None
        if self._leads and whole and time.monotonic() - self._looked_s > _LOOK_S:
            self._look(path)

    def _at(self, path: Path) -> Place:
        return Place(path, tuple(self._loops[path[: depth + 1]].done for depth in range(len(path))))

    def _ahead(self, path: Path, num: int) -> Place:
        """So many turns on."""
        *outer, done = self._at(path).turns
        return Place(path, (*outer, done + num))

    def _save_here(self, place: Place) -> None:
        loops = [self._loops[place.path[: depth + 1]] for depth in range(len(place.path))]
        state = {
            "loops": [(one.start, given(one.passes)) for one in loops],
            "now": self._shares.state(),
            "torch": torch.get_rng_state(),
            "python": random.getstate(),
            "numpy": np.random.get_state(),
        }
        self._save(place, pickle.dumps(state))
        self._saved_s = time.monotonic()

    def _look(self, path: Path) -> None:
        """Where it is time to save, say at which of the turns to come."""
        now = self._looked_s = time.monotonic()
        waits = self._waits(self._said, path) or self._waits(self.save_at, path)
        if now - self._saved_s >= self._every_s and not waits:
            self._said = self._soon(path)
            self._announce(self._said)

    def _is_ahead(self, place: Place) -> bool:
        """Whether a place is still to come, for certain."""
        for depth, turn in enumerate(place.turns):
            loop = self._loops.get(place.path[: depth + 1])
            if loop is None or loop.done < turn:
                return True
            if loop.done > turn:
                return False
        return False

    def _waits(self, said: Place | None, path: Path) -> bool:
        """Whether a place is still to come, as far as the loop and those around it tell."""
        if said is None or path[: len(said.path)] != said.path:
            return False
        *outer, done = self._at(said.path).turns
        return tuple(outer) == said.turns[:-1] and done < said.turns[-1]

    def _soon(self, path: Path) -> Place:
        """A place that all ranks hear of before they come to it."""
        num = max(1, min(1000, int(self._ahead_s / self._loops[path].turn_s)))
        length = self._lengths.get(path, 0)
        if len(path) > 1 and length and self._loops[path].done + num > length:
            return self._soon(path[:-1])
        return self._ahead(path, num)


def _call(name: str, at: ast.expr | ast.stmt, *arguments: ast.expr) -> ast.Call:
    return ast.copy_location(ast.Call(ast.Name(name, ast.Load()), list(arguments), []), at)


def _constant(path: Path) -> ast.expr:
    return ast.Tuple([ast.Constant(one) for one in path], ast.Load())
