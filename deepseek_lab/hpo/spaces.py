"""Ranges that stand in a cell where a value would.

Outside of a search each gives its default, so that the cell is ordinary Python. In a trial it gives what the sampler
has chosen. Importing this needs the standard library only.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from deepseek_lab.base.errors import UsageError
from deepseek_lab.hpo.naming import name_of_call

Plain = float | int | str
"""What a sampler chooses: a number, or of a ``choice`` the label."""


@dataclasses.dataclass(frozen=True)
class Space:
    """One range, as plain data."""

    kind: str
    """``log``, ``uniform``, ``integer``, ``log-integer`` or ``choice``."""
    low: float = 0.0
    high: float = 0.0
    step: float = 0.0
    """0 for a continuous one."""
    labels: tuple[str, ...] = ()
    """Of a choice: its options in words."""
    default: Plain = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return dataclasses.asdict(self) | {"labels": list(self.labels)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Space:
        """What :meth:`to_dict` gave, again."""
        return cls(**{**data, "labels": tuple(data["labels"])})

    def same_range(self, other: Space) -> bool:
        """Whether both allow the same values; their defaults may differ."""
        return dataclasses.replace(self, default=0.0) == dataclasses.replace(other, default=0.0)

    def holds(self, value: object) -> bool:
        """Whether this is one of its values."""
        if self.kind == "choice":
            return value in self.labels
        kinds = (int,) if "integer" in self.kind else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not self.low <= value <= self.high:
            return False
        place = (value - self.low) / self.step if self.step else 0.0
        return abs(place - round(place)) < 1e-6

    def __str__(self) -> str:
        if self.kind == "choice":
            return f"choice({', '.join(self.labels)})"
        step = f", step={self.step:g}" if self.step and (self.kind == "uniform" or self.step != 1) else ""
        logarithmic = ", log=True" if self.kind == "log-integer" else ""
        return f"{self.kind.removeprefix('log-')}({self.low:g}, {self.high:g}{step}{logarithmic})"


class Trial(Protocol):
    """What the functions of this file ask while a trial runs."""

    def value(self, name: str, space: Space) -> Plain: ...

    def report(self, step: int, value: Any) -> None: ...

    def turns(self, items: Iterable[Any], *, reports: bool) -> Iterator[Any]: ...

    def subset(self, data: tuple[Any, ...]) -> tuple[Any, ...]: ...

    def validation(self, data: tuple[Any, ...]) -> tuple[Any, ...]: ...

    def constrain(self, value: Any) -> None: ...


current: Trial | None = None
"""The trial that this process is running."""


def log(low: float, high: float, *, default: float | None = None, name: str | None = None) -> float:
    """A number between ``low`` and ``high`` (> 0), searched by its logarithm, e.g. a learning rate.

    Args:
        low: Its lower end, above 0.
        high: Its upper end.
        default: Without a search; by default the geometric mean.
        name: In reports; by default the name that it is assigned or passed to.

    Raises:
        UsageError: the range is none.
    """
    _check_range("log", low, high)
    if low <= 0:
        raise UsageError(
            f"log({low:g}, {high:g}) begins at {low:g}, which has no logarithm",
            hint=f"ds.log({high / 1e4:g}, {high:g}), or ds.uniform({low:g}, {high:g})",
        )
    middle = math.sqrt(low * high) if default is None else default
    return float(_ask(Space("log", low, high, default=_inside("log", low, high, middle)), name))


def uniform(
    low: float,
    high: float,
    *,
    step: float | None = None,
    default: float | None = None,
    name: str | None = None,
) -> float:
    """A number between ``low`` and ``high``, each as likely as the other.

    Args:
        low: Its lower end.
        high: Its upper end.
        step: From one to the next; none where any number will do.
        default: Without a search; by default the middle.
        name: In reports; by default the name that it is assigned or passed to.

    Raises:
        UsageError: the range is none.
    """
    _check_range("uniform", low, high)
    if step is not None and not 0 < step <= high - low:
        raise UsageError(
            f"a step of {step:g} does not fit between {low:g} and {high:g}",
            hint=f"step={(high - low) / 10:g}, or none",
        )
    middle = (low + high) / 2 if default is None else default
    if step is not None and default is None:
        middle = low + step * round((middle - low) / step)
    space = Space("uniform", low, high, step or 0.0, default=_inside("uniform", low, high, middle))
    return float(_ask(space, name))


def integer(
    low: int,
    high: int,
    *,
    step: int = 1,
    log: bool = False,
    default: int | None = None,
    name: str | None = None,
) -> int:
    """A whole number from ``low`` to ``high``, both included.

    Args:
        low: The least.
        high: The greatest.
        step: From one to the next.
        log: Search it by its logarithm; ``low`` is then at least 1 and ``step`` is 1.
        default: Without a search; by default the middle.
        name: In reports; by default the name that it is assigned or passed to.

    Raises:
        UsageError: the range is none.
    """
    _check_range("integer", low, high)
    if int(low) != low or int(high) != high or int(step) != step or step < 1:
        raise UsageError(
            f"integer({low}, {high}, step={step}) needs whole numbers",
            hint=f"ds.integer({math.floor(low)}, {math.ceil(high)}), or ds.uniform",
        )
    if log and (low < 1 or step != 1):
        raise UsageError(
            "with log=True a range begins at 1 or above and has no step",
            hint=f"ds.integer({max(1, low)}, {high})",
        )
    if default is None:
        middle = round(math.sqrt(low * high)) if log else low + step * round((high - low) / 2 / step)
        default = min(middle, high)
    kind = "log-integer" if log else "integer"
    return int(_ask(Space(kind, low, high, step, default=int(_inside("integer", low, high, default))), name))


_UNSET = object()


def choice(*options: Any, default: Any = _UNSET, name: str | None = None) -> Any:
    """One of the options, which may be anything: numbers, words, functions, classes.

    Args:
        options: At least one; told apart by what they are called (``__name__``) or their ``repr``.
        default: Without a search, one of the options; by default the first.
        name: In reports; by default the name that it is assigned or passed to.

    Raises:
        UsageError: there is no option, the default is none of them, or two have the same words.
    """
    if not options:
        raise UsageError("choice() has nothing to choose from", hint="ds.choice(64, 128, 256)")
    if len(options) == 1 and isinstance(options[0], list | tuple | set | range):
        raise UsageError(
            f"choice({options[0]!r}) has one option", hint="a star before it: ds.choice(*options)"
        )
    labels = tuple(_label(one) for one in options)
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise UsageError(f"choice has {twice} twice", hint="leave one of them out")
    if default is _UNSET:
        default = options[0]
    if (word := _label(default)) not in labels:
        raise UsageError(
            f"the default {word} is none of the options {', '.join(labels)}", hint=f"default={labels[0]}"
        )
    chosen = _ask(Space("choice", labels=labels, default=word), name)
    return options[labels.index(str(chosen))]


def report(step: int, value: Any) -> None:
    """Say how good a trial is so far; a hopeless one ends here. Outside of a search it does nothing.

    Loops at the top level of the cell in which the metric is assigned report by themselves.

    Args:
        step: Rising from one call to the next, e.g. the epoch, from 0.
        value: The metric so far, a number.
    """
    if current is not None:
        current.report(step, value)


def epochs(num: int) -> Iterator[int]:
    """``range(num)``, for a training loop inside of a function: a small trial sees the first of them only."""
    return iter(range(num)) if current is None else current.turns(range(num), reports=False)


def subset(*data: Any) -> Any:
    """Training data of which a small trial sees a share: the same rows of each, chosen at random once.

    Args:
        data: Tensors, arrays, lists or map-style datasets of the same length.

    Returns:
        One of the same kind for each (for a dataset a ``Subset``); the object itself where one was given.
    """
    found = data if current is None else current.subset(data)
    return found[0] if len(found) == 1 else found


def validation(*data: Any) -> Any:
    """Validation data, divided: a search looks at one half, and the final comparison at the half that it never saw.

    Outside of a search everything is given back as it is.

    Args:
        data: Tensors, arrays, lists or map-style datasets of the same length.
    """
    found = data if current is None else current.validation(data)
    return found[0] if len(found) == 1 else found


def constrain(value: Any) -> None:
    """Say that a trial is allowed only where ``value`` is at most 0, e.g. ``ds.constrain(megabytes - 10)``."""
    if current is not None:
        current.constrain(value)


def _ask(space: Space, name: str | None) -> Plain:
    if current is None:
        return space.default
    if name is None:
        name = name_of_call(2)
    return current.value(name, space)


def _check_range(kind: str, low: float, high: float) -> None:
    for end in (low, high):
        if isinstance(end, bool) or not isinstance(end, int | float) or not math.isfinite(end):
            raise UsageError(f"{kind}({low!r}, {high!r}) needs two numbers", hint=f"ds.{kind}(1, 10)")
    if low >= high:
        raise UsageError(
            f"{kind}({low:g}, {high:g}) has its ends the wrong way round or equal",
            hint=f"ds.{kind}({high:g}, {low:g})" if low > high else f"write {low:g} itself",
        )


def _inside(kind: str, low: float, high: float, default: float) -> float:
    if not low <= default <= high:
        raise UsageError(
            f"the default {default:g} is outside of {kind}({low:g}, {high:g})",
            hint=f"default={min(max(default, low), high):g}",
        )
    return default


def _label(option: Any) -> str:
    name = getattr(option, "__name__", None)
    return name if isinstance(name, str) else repr(option)
