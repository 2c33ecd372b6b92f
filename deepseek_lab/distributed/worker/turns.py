"""Where a training cell can go on when a rank has died: the turns of the loops at its top level.

Between two turns everything that the cell has made stands in its names, and in the objects that it was sent. That, and
where random numbers and data loaders are, is saved every so often; a run that goes on begins at the loop, skips the
turns that are done, and computes what the first one would have computed.
"""

from __future__ import annotations

import ast
import dataclasses
import pickle
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from deepseek_lab.distributed.worker.loaders import Shares

_OVER, _AGAIN = "__deepseek_over__", "__deepseek_again__"
_LOOK_S, _AHEAD_S = 0.2, 0.5
"""How often the rank that leads looks whether it is time to save, and how long it takes to tell the others."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Between two turns of a loop."""

    statement: int
    """Of the cell."""
    turn: int
    """How many of the loop's are done."""


class Turns:
    """The loops of one run of a cell.

    Args:
        shares: Where data loaders are.
        every_s: About how often to save.
        announce: Called on the rank that leads with the place at which all are to save next. Not agreed upon by a
            collective: ranks need not turn equally often in a loop that trains nothing.
        save: Called at that place, with where random numbers and loaders are.
        place: Where to go on, and ``state`` what was saved there; None begins at the beginning.
    """

    def __init__(
        self,
        shares: Shares,
        every_s: float,
        announce: Callable[[Place], None] | None,
        save: Callable[[Place, bytes], None],
        place: Place | None = None,
        state: bytes = b"",
    ) -> None:
        self._shares, self._every_s, self._save = shares, every_s, save
        self._leads, self._announce = announce is not None, announce or (lambda _: None)
        self._place = place
        self._state: dict[str, Any] = pickle.loads(state) if place is not None else {}
        self.save_at: Place | None = None
        self._said: Place | None = None
        self._num = self._looked_num = 0
        self._turns: dict[int, int] = {}
        self._looked_s = self._saved_s = time.monotonic()

    def change(self, tree: ast.Module) -> None:
        """Have the loops at the top level tell of their turns; begin with the one in which to go on."""
        for index, statement in enumerate(tree.body):
            if isinstance(statement, ast.For):
                # A lambda: a loader that is looped over may draw its order where the expression is evaluated.
                nothing = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
                statement.iter = _call(
                    _OVER, statement.iter, ast.Lambda(nothing, statement.iter), ast.Constant(index)
                )
            elif isinstance(statement, ast.While):
                again = _call(_AGAIN, statement.test, ast.Constant(index))
                statement.test = ast.copy_location(
                    ast.BoolOp(ast.And(), [again, statement.test]), statement.test
                )
        if self._place is not None:
            del tree.body[: self._place.statement]
        ast.fix_missing_locations(tree)

    def names(self) -> dict[str, Any]:
        """What the changed cell calls."""
        return {_OVER: self._over, _AGAIN: self._again}

    def tell(self, place: dict[str, int]) -> None:
        """Save at that place; called from another thread."""
        self.save_at = Place(**place)

    def _over(self, items: Callable[[], Any], statement: int) -> Iterator[Any]:
        place, turn = self._place, 0
        goes_on = place is not None and place.statement == statement
        start = self._state["start"] if goes_on else self._shares.state()
        if goes_on:
            self._shares.restore(start)
        left = iter(items())
        if place is not None and goes_on:
            for _ in range(place.turn):
                next(left, None)
            turn = place.turn
            self._arrive()
        for item in left:
            yield item
            turn += 1
            self._turned(Place(statement, turn), start)

    def _again(self, statement: int) -> bool:
        if self._place is not None and self._place.statement == statement:
            self._turns[statement] = self._place.turn
            self._arrive()
        else:
            self._turns[statement] = turn = self._turns.get(statement, 0) + 1
            self._turned(Place(statement, turn), {"epochs": {}, "generators": {}})
        return True

    def _arrive(self) -> None:
        state, self._place = self._state, None
        self._shares.restore(state["now"])
        torch.set_rng_state(state["torch"])
        random.setstate(state["python"])
        np.random.set_state(state["numpy"])

    def _turned(self, place: Place, start: dict[str, Any]) -> None:
        self._num += 1
        if self.save_at == place:
            state = {
                "start": start,
                "now": self._shares.state(),
                "torch": torch.get_rng_state(),
                "python": random.getstate(),
                "numpy": np.random.get_state(),
            }
            self._save(place, pickle.dumps(state))
            self._saved_s = time.monotonic()
        if self._leads and time.monotonic() - self._looked_s > _LOOK_S:
            self._look(place)

    def _look(self, place: Place) -> None:
        """Where it is time to save, say at which of the turns to come."""
        now = time.monotonic()
        a_turn_s = max(1e-6, (now - self._looked_s) / (self._num - self._looked_num))
        said = self._said
        waits = said is not None and said.statement == place.statement and place.turn < said.turn
        if now - self._saved_s >= self._every_s and not waits:
            self._said = Place(place.statement, place.turn + max(1, min(1000, int(_AHEAD_S / a_turn_s))))
            self._announce(self._said)
        self._looked_s, self._looked_num = now, self._num


def _call(name: str, at: ast.expr, *arguments: ast.expr) -> ast.Call:
    return ast.copy_location(ast.Call(ast.Name(name, ast.Load()), list(arguments), []), at)
