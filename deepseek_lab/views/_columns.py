"""Columns of numbers and of text, as users have them, checked and ready to be packed."""

from __future__ import annotations

import array
import dataclasses
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from deepseek_lab.base.errors import UsageError, nearest
from deepseek_lab.views import _words
from deepseek_lab.views._packed import Packer

Better = Literal["lower", "higher"]

MAX_COLUMNS, MAX_ROWS = 256, 5_000_000
"""What a page reads at most, see ``js/src/core/packed.ts``."""
_WHOLE = 2**47
_FAR = 1000
"""Numbers this many times further from zero than from each other are packed as distances to the least."""


@dataclasses.dataclass(frozen=True)
class Column:
    """One column; exactly one of ``numbers``, where NaN is missing, and ``words``, where ``""`` is."""

    name: str
    numbers: array.array[float] | None = None
    words: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.numbers if self.numbers is not None else self.words or ())

    def said(self, row: int) -> str:
        """The value in words; nothing where it is missing."""
        return number(self.numbers[row]) if self.numbers is not None else (self.words or ())[row]

    def of(self, rows: Sequence[int]) -> Column:
        """Some rows of it, in their order."""
        if self.numbers is not None:
            return Column(self.name, array.array("d", [self.numbers[row] for row in rows]))
        words = self.words or ()
        return Column(self.name, words=tuple(words[row] for row in rows))


def number(value: float) -> str:
    """A number to read: six digits, thousands in groups; nothing for NaN.

    >>> number(1234567.0), number(0.000012345678), number(float("nan"))
    ('1,234,567', '1.23457e-05', '')
    """
    if math.isnan(value):
        return ""
    if math.isfinite(value) and value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.6g}"


def extent(values: Iterable[float]) -> tuple[float, float] | None:
    """The least and the greatest finite number."""
    finite = [value for value in values if math.isfinite(value)]
    return (min(finite), max(finite)) if finite else None


def mean(values: Sequence[float]) -> float:
    """The mean, also of numbers whose sum is beyond what a float holds; NaN where there is none.

    >>> mean([1.0, 2.0]), mean([1.5e308, 1.5e308]), mean([math.inf, -math.inf])
    (1.5, 1.5e+308, nan)
    """
    if not values:
        return math.nan
    if all(map(math.isfinite, values)):
        largest = max(map(abs, values))
        scale = len(values) if largest > 1e300 else 1  # each divided by itself: fewer digits, and no overflow
        return math.fsum(value / scale for value in values) / (1 if scale > 1 else len(values))
    return sum(value for value in values if not math.isfinite(value))


def share(value: float, low: float, high: float) -> float:
    """How far a number is from ``low`` to ``high``, 0 to 1; the middle where these are one.

    >>> share(0.0, -1.7e308, 1.7e308), share(3.0, 3.0, 3.0)
    (0.5, 0.5)
    """
    span = high / 2 - low / 2  # the whole may be beyond what a float holds
    return (value / 2 - low / 2) / span if span > 0 else 0.5


def listed(values: Any) -> Any:
    """What NumPy, pandas and torch hold as plain Python; other things as they are."""
    return values.tolist() if hasattr(values, "tolist") else values


def column(name: object, values: Any) -> Column:
    """A column of what a user has; a single text among the values makes it a column of text.

    Raises:
        UsageError: a value is neither a number nor text, or the name is no text.
    """
    if not isinstance(name, str):
        raise UsageError(f"a column is called {_words.clip(name, 60)!r}, which is no text", hint="str(name)")
    said = _words.clip(name, 60)
    values = listed(values)
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise UsageError(f"column {said!r} is no sequence of values", hint=f"{{{said!r}: [1.0, 2.0]}}")
    plain = list(values)
    for row, value in enumerate(plain):
        if value is not None and not isinstance(value, (str, numbers.Real)):
            raise UsageError(
                f"column {said!r} holds a {type(value).__name__} in row {row}: a cell is a number or text",
                hint=f"[str(value) for value in {said if said.isidentifier() else 'values'}]",
            )
    if any(isinstance(value, (str, bool)) for value in plain):
        return Column(name, words=tuple("" if value is None else str(value) for value in plain))
    return Column(name, array.array("d", [_real(value) for value in plain]))


def _real(value: Any) -> float:
    try:
        return math.nan if value is None else float(value)
    except OverflowError:  # a whole number beyond what a float holds
        return math.inf if value > 0 else -math.inf


def columns(given: Mapping[str, Any]) -> tuple[Column, ...]:
    """Columns of one length.

    Raises:
        UsageError: there are none or too many, or their lengths differ.
    """
    if not isinstance(given, Mapping) or not given:
        raise UsageError("there are no columns", hint='{"step": [1, 2], "loss": [0.9, 0.5]}')
    if len(given) > MAX_COLUMNS:
        raise UsageError(f"{len(given)} columns are more than {MAX_COLUMNS}", hint="pass fewer columns")
    made = tuple(column(name, values) for name, values in given.items())
    first = made[0]
    for other in made:
        if len(other) != len(first):
            names = [_words.clip(one.name, 60) for one in (other, first)]
            raise UsageError(
                f"column {names[0]!r} has {_words.plural(len(other), 'row')}, "
                f"column {names[1]!r} {_words.plural(len(first), 'row')}",
                hint="fill the shorter one with None",
            )
    if len(first) > MAX_ROWS:
        raise UsageError(f"{len(first):,} rows are more than {MAX_ROWS:,}", hint="pass a part of the rows")
    return made


def known(name: str, among: Sequence[Column], what: str) -> None:
    """Refuse a name that no column has, and name the one that was probably meant."""
    names = [one.name for one in among]
    if name not in names:
        close = nearest(name, names) or names[0]
        raise UsageError(
            f"{what} names a column {_words.clip(name, 60)!r} that is not there",
            hint=f"{_words.clip(close, 60)!r}",
        )


def roles(
    among: Sequence[Column], units: Mapping[str, str], better: Mapping[str, Better], bars: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """What the page is told of columns beside their values.

    Raises:
        UsageError: a column is not there, holds text where a number is needed, or a way is not lower or higher.
    """
    made: dict[str, dict[str, Any]] = {}
    for name, unit in units.items():
        known(name, among, "units")
        made.setdefault(name, {})["unit"] = str(unit)
    for name, way in better.items():
        known(name, among, "better")
        if way not in ("lower", "higher"):
            raise UsageError(
                f"better[{_words.clip(name, 60)!r}] is {way!r}, not 'lower' or 'higher'", hint="'lower'"
            )
        numeric(name, among, "better")
        made.setdefault(name, {})["better"] = way
    for name in bars:
        known(name, among, "bars")
        numeric(name, among, "bars")
        made.setdefault(name, {})["bar"] = True
    return made


def numeric(name: str, among: Sequence[Column], what: str) -> Column:
    """The column of a name, which must hold numbers."""
    known(name, among, what)
    found = next(one for one in among if one.name == name)
    if found.numbers is None:
        fits = [one.name for one in among if one.numbers is not None]
        raise UsageError(
            f"{what} names column {_words.clip(name, 60)!r}, which holds text",
            hint=repr(_words.clip(fits[0], 60)) if fits else "pass a column of numbers",
        )
    return found


def best(one: Column, way: str) -> float:
    """The best number of a column; NaN where it has none."""
    present = [value for value in one.numbers or () if not math.isnan(value)]
    return (min if way == "lower" else max)(present, default=math.nan)


def add(packer: Packer, one: Column) -> dict[str, Any]:
    """Pack a column; returns what the page must know to read it as it was."""
    if one.numbers is None:
        packer.text(one.name, one.words or ())
        return {}
    values = one.numbers
    if all(value == value and abs(value) < _WHOLE and value == int(value) for value in values):
        packer.integers(one.name, [int(value) for value in values])
        return {}
    offset = 0.0
    if (span := extent(values)) and max(map(abs, span)) > _FAR * (span[1] - span[0]):
        offset = span[0]
    packer.floats(one.name, [value - offset for value in values])
    return {"offset": offset} if offset else {}


def pack(given: Sequence[Column], meta: Mapping[str, Any], said: Mapping[str, Mapping[str, Any]]) -> str:
    """Columns with their roles as a packed table."""
    packer = Packer(len(given[0]))
    told = {name: dict(role) for name, role in said.items()}
    for one in given:
        if more := add(packer, one):
            told.setdefault(one.name, {}).update(more)
    packer.meta.update(meta, columns=told)
    return packer.base64()
