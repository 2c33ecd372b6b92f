"""What runs in another way in a model that trains within a limit: its parts, and its logits."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import nn

from deepseek_lab.memory.choice import Choice
from deepseek_lab.memory.logits import Head, find_heads
from deepseek_lab.memory.operations import Operations
from deepseek_lab.memory.recompute import Recomputed
from deepseek_lab.memory.units import Unit, division, every, find_units


class Parts:
    """The parts of one model.

    Args:
        model: The model.
        refused: Told which part is not recomputed, by path, and why.
    """

    def __init__(self, model: nn.Module, refused: Callable[[str, str], None]) -> None:
        self.heads = find_heads(model)
        self.units = find_units(model, [head.layer for head in self.heads])
        self.seconds: dict[str, list[tuple[str, float]]] = {}
        """Measured seconds of each part's operations, in order."""
        self._refused = refused
        self.all = [Recomputed(unit, self._refusing(unit.path)) for unit in every(self.units)]
        self._by_path = {one.unit.path: one for one in self.all}
        for unit in self.units:
            if unit.holds_blocks:  # finer parts of it may make the better plan
                for inner in unit.inner:
                    self._by_path[inner.path].asked = True

    def _refusing(self, path: str) -> Callable[[str], None]:
        return lambda reason: self._refused(path, reason)

    @property
    def _patches(self) -> list[Recomputed | Head]:
        wanted = [one for one in self.all if one.keep is not None or one.asked or one.watch is not None]
        return [*wanted, *self.heads]

    def install(self) -> None:
        """Run as was chosen last."""
        patches = self._patches
        for one in self.all:
            if one not in patches:
                one.remove()
        for patch in patches:
            patch.install()

    def remove(self) -> None:
        """The model's parts as they were."""
        for part in self.all:
            part.remove()
        for head in self.heads:
            head.remove()

    def choose(self, choice: Choice) -> None:
        """Run by a choice from now on."""
        for part in self.all:
            part.keep = choice.keeps.get(part.unit.path)
            part.asked = part.asked or part.keep is not None
        for head in self.heads:
            head.on = choice.defers
        self.install()

    def leave_alone(self, path: str, reason: str) -> None:
        """Never recompute this part."""
        self._by_path[path].leave_alone(reason)

    def copy_inputs(self) -> None:
        """Keep copies of what parts are given, where nobody could see whether it is written to."""
        for part in self.all:
            part.copies_inputs = True

    def usable(self, *, trusting: bool = False) -> list[Recomputed]:
        """Parts that have shown that they can be recomputed; all that were not refused, if trusting."""
        return [one for one in self.all if one.usable or (trusting and not one.reason)]

    def divided(self, levels: Sequence[int]) -> list[Unit]:
        """The parts at these levels that were not refused."""
        return division(self.units, levels, lambda one: not self._by_path[one.path].reason)

    def labelled_share(self) -> float:
        """Share of the rows of logits that had a label, at most."""
        rows = sum(head.num_rows for head in self.heads)
        return sum(head.most_labelled for head in self.heads) / rows if rows else 1.0

    # -- how long its operations take -------------------------------------------------------------------

    def watch(self) -> None:
        """Measure the time of each operation in the next forward pass."""
        for part in self.all:
            if part.usable:
                part.watch = self._timing(part.unit.path)
        self.install()

    def _timing(self, path: str) -> Callable[..., Any]:
        def watch(before: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            with Operations(timed=True) as operations:
                result = before(*args, **kwargs)
            self.seconds[path] = [(one.name, one.seconds) for one in operations.found]
            return result

        return watch

    @contextlib.contextmanager
    def unwatched(self) -> Iterator[None]:
        """The model is copied without what watches its parts."""
        watches = [one.watch for one in self.all]
        for one in self.all:
            one.watch = None
        try:
            yield
        finally:
            for one, watch in zip(self.all, watches, strict=True):
                one.watch = watch
