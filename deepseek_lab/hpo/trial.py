"""One trial: the cell run once, with values that somebody else chooses, whole or as a small part of itself."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from deepseek_lab.base.errors import UsageError
from deepseek_lab.hpo import spaces
from deepseek_lab.hpo.spaces import Plain, Space
from deepseek_lab.processes.cells import CellFailed, run_cell

_TURNS = "__deepseek_turns__"
_DRAW = 20_231
"""Seed of the rows that a share of the data has, and of the halves of validation data: the same in all trials."""


class Hopeless(BaseException):
    """A trial ends here as it will not be among the best. No ``Exception``: the cell's own handlers let it pass."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What a process is to run."""

    number: int
    seed: int
    turns: float = 1.0
    """Of the turns of the training loop, this share."""
    share: float = 1.0
    """Of the training data, this share."""
    final: bool = False
    """Whether it looks at the half of the validation data that the search does not."""
    keep: bool = False
    """Whether what the cell made may be asked for."""

    @property
    def whole(self) -> bool:
        """Whether it is the cell as it stands."""
        return self.turns >= 1.0 and self.share >= 1.0


@dataclasses.dataclass
class Outcome:
    """What became of a trial; numbers and words only."""

    status: str
    """``complete``, ``stopped`` (hopeless), ``failed`` or ``interrupted``."""
    values: list[float] = dataclasses.field(default_factory=list)
    """Of the metrics, in their order."""
    final: float | None = None
    """Of the metric on data that the search does not see."""
    curve: list[tuple[int, float]] = dataclasses.field(default_factory=list)
    """Steps and what was reported at them."""
    constraints: list[float] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    num_turns: int = 0
    """Of the training loop when it runs whole; 0 where none was found."""
    loads: bool = False
    """Whether training data was read in a way that a share of it can be taken."""
    halves: bool = False
    """Whether validation data was divided."""
    error: str = ""
    """In one line."""
    text: str = ""
    """Traceback of the cell."""
    printed: str = ""
    """The end of what was printed."""
    line: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return dataclasses.asdict(self)


Ask = Callable[[str, Space], Plain]
Report = Callable[[int, float], bool]
"""Says whether the trial may go on."""


class Run:
    """A trial under way in this process.

    Args:
        job: What to run.
        metrics: Names that the cell binds.
        final: Name of a metric on data that the search does not see.
        ask: Chooses values.
        report: Told of what is reached.
    """

    def __init__(self, job: Job, metrics: Sequence[str], final: str | None, ask: Ask, report: Report) -> None:
        self._job, self._metrics, self._final_name = job, tuple(metrics), final
        self._ask, self._told = ask, report
        self._names: dict[str, Any] = {}
        self._values: dict[str, list[tuple[Space, Plain]]] = {}
        self._by_hand = False
        self.outcome = Outcome("complete")

    def cell(self, source: str, file: str, names: dict[str, Any]) -> Outcome:
        """Run the cell's text in a dictionary of names of its own.

        Raises:
            KeyboardInterrupt: it was interrupted.
        """
        self._names = names
        names[_TURNS] = lambda items: self.turns(items, reports=True)
        seed_all(self._job.seed)
        began_s = time.perf_counter()
        before, spaces.current = spaces.current, self
        try:
            with _Loaders(self):
                run_cell(source, file, names, self._change)
            self._read()
        except CellFailed as failed:
            self._fail(failed)
        finally:
            spaces.current = before
            names.pop(_TURNS, None)
        self.outcome.seconds = time.perf_counter() - began_s
        return self.outcome

    def _fail(self, failed: CellFailed) -> None:
        cause = failed.__cause__
        if isinstance(cause, Hopeless):
            self.outcome.status = "stopped"
            return
        self.outcome.status, self.outcome.line = "failed", failed.line
        self.outcome.error = f"{failed.name}: {failed}".splitlines()[0]
        self.outcome.text = failed.text

    def _read(self) -> None:
        """Take the metrics off the cell's names."""
        outcome = self.outcome
        try:
            outcome.values = [self._metric(name) for name in self._metrics]
            if self._final_name is not None:
                outcome.final = self._metric(self._final_name)
        except ValueError as error:
            outcome.status, outcome.error = "failed", str(error)
            outcome.values = []

    def _metric(self, name: str) -> float:
        if name not in self._names:
            raise ValueError(f"the cell ended without binding {name}")
        value = number(name, self._names[name])
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}")
        return value

    def _change(self, tree: ast.Module) -> None:
        """Have the loops in which the metric is assigned report after each turn."""
        for loop in _loops(tree.body, self._metrics[0]):
            call = ast.Call(ast.Name(_TURNS, ast.Load()), [loop.iter], [])
            loop.iter = ast.copy_location(call, loop.iter)
        ast.fix_missing_locations(tree)

    # What the functions of a cell ask.

    def value(self, name: str, space: Space) -> Plain:
        """What the sampler chose; asked twice for the same, it is the same."""
        for known, value in self._values.setdefault(name, []):
            if known.same_range(space):
                return value
        chosen = self._ask(name, space)
        self._values[name].append((space, chosen))
        return chosen

    def report(self, step: int, value: Any) -> None:
        """The cell itself says how far it is."""
        self._by_hand = True
        self._reached(int(step), number("what is reported", value))

    def _reached(self, step: int, value: float) -> None:
        if not math.isfinite(value):
            self.outcome.error = f"{self._metrics[0]} is {value} at step {step}"
            raise Hopeless
        self.outcome.curve.append((step, value))
        if not self._told(step, value):
            raise Hopeless

    def turns(self, items: Iterable[Any], *, reports: bool) -> Iterator[Any]:
        """A training loop's turns, as many as this trial has."""
        total = _length(items)
        allowed = None if total is None else max(1, math.ceil(total * self._job.turns - 1e-9))
        self.outcome.num_turns = max(self.outcome.num_turns, total or 0)
        for turn, item in enumerate(items):
            yield item
            if reports and not self._by_hand and self._metrics[0] in self._names:
                self._reached(turn, number(self._metrics[0], self._names[self._metrics[0]]))
            if turn + 1 == allowed:
                return

    def batches(self, loader: DataLoader[Any], plain: Callable[[DataLoader[Any]], Any]) -> Any:
        """A loop over a loader that trains: a share of its batches."""
        self.outcome.loads = True
        batches = plain(loader)
        if self._job.share >= 1.0:
            return batches
        return itertools.islice(batches, max(1, round(len(batches) * self._job.share)))

    def subset(self, data: tuple[Any, ...]) -> tuple[Any, ...]:
        """Rows of training data."""
        self.outcome.loads = True
        if self._job.share >= 1.0:
            return data
        size = _rows(data)
        return _taken(data, _order(size)[: max(1, round(size * self._job.share))])

    def validation(self, data: tuple[Any, ...]) -> tuple[Any, ...]:
        """One half of validation data."""
        self.outcome.halves = True
        order = _order(_rows(data))
        return _taken(data, order[1::2] if self._job.final else order[::2])

    def constrain(self, value: Any) -> None:
        """A constraint, met where it is at most 0."""
        self.outcome.constraints.append(number("a constraint", value))


class _Loaders:
    """While it is open, loops over a ``DataLoader`` with gradients see a trial's share of it."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._plain = DataLoader.__iter__

    def __enter__(self) -> None:
        run, plain = self._run, self._plain

        def __iter__(loader: DataLoader[Any]) -> Any:  # noqa: N807
            return run.batches(loader, plain) if torch.is_grad_enabled() else plain(loader)

        DataLoader.__iter__ = __iter__  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        DataLoader.__iter__ = self._plain  # type: ignore[method-assign]


def seed_all(seed: int) -> None:
    """Set every random stream of this process."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def number(what: str, value: Any) -> float:
    """A metric as a number; a tensor of one element on any device is one.

    Raises:
        ValueError: it is none.
    """
    try:
        if isinstance(value, str | bytes | bool | None):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        kind = type(value).__name__
        shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
        raise ValueError(f"{what} is a {kind}{shape}, not a number") from None


def _loops(body: Sequence[ast.stmt], metric: str) -> Iterator[ast.For]:
    """The outermost loops, outside of functions, in whose turns the metric is assigned."""
    for statement in body:
        match statement:
            case ast.For() if _assigns(statement, metric):
                yield statement
            case ast.If() | ast.With() | ast.Try():
                for inner in ("body", "orelse", "finalbody"):
                    yield from _loops(getattr(statement, inner, []), metric)
            case _:
                pass


def _assigns(loop: ast.For, metric: str) -> bool:
    return any(
        isinstance(node, ast.Name) and node.id == metric and isinstance(node.ctx, ast.Store)
        for statement in loop.body
        for node in ast.walk(statement)
    )


def _length(items: Iterable[Any]) -> int | None:
    try:
        return len(items)  # type: ignore[arg-type]
    except TypeError:
        return None


def _order(size: int) -> list[int]:
    return torch.randperm(size, generator=torch.Generator().manual_seed(_DRAW)).tolist()


def _rows(data: tuple[Any, ...]) -> int:
    sizes = {_length(one) for one in data}
    if None in sizes or len(sizes) != 1:
        kinds = ", ".join(f"{type(one).__name__} of {_length(one)}" for one in data)
        raise UsageError(f"data of different or unknown lengths ({kinds})", hint="data of one length")
    return sizes.pop() or 0


def _taken(data: tuple[Any, ...], rows: list[int]) -> tuple[Any, ...]:
    return tuple(_rows_of(one, rows) for one in data)


def _rows_of(data: Any, rows: list[int]) -> Any:
    if isinstance(data, torch.Tensor):
        return data[torch.tensor(rows, device=data.device)]
    if isinstance(data, Dataset):
        return Subset(data, rows)
    if isinstance(data, list | tuple):
        return type(data)(data[row] for row in rows)
    if hasattr(data, "iloc"):
        return data.iloc[rows]
    return data[rows]
