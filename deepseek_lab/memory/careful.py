"""The first step of a training: as little as it can hold, and what would help where that is too much."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from deepseek_lab.base.sizes import above, words
from deepseek_lab.memory.choice import Choice, NotRehearsed
from deepseek_lab.memory.limit import MemoryLimitError
from deepseek_lab.memory.plan import DIVISIONS, recomputing
from deepseek_lab.memory.rehearsal import Rehearsal, Rehearsed
from deepseek_lab.memory.units import Unit

Divided = Callable[[Sequence[int]], list[Unit]]


@dataclasses.dataclass(frozen=True)
class Careful:
    """A choice that holds little, and what it holds."""

    choice: Choice
    rehearsed: Rehearsed


def choices(base: Choice, divided: Divided, *, eight_bit: bool) -> Iterator[Choice]:
    """Everything recomputed, in the order of what it costs: in larger parts or smaller ones, within one another."""
    bases = [base]
    if eight_bit and not base.eight_bit:
        bases.append(dataclasses.replace(base, eight_bit=True))
    for one in bases:
        tried: list[set[str]] = []
        for levels in DIVISIONS:
            made = recomputing(divided(levels), one)
            if set(made.keeps) not in tried:
                tried.append(set(made.keeps))
                yield made


def most_careful(
    rehearsal: Rehearsal, base: Choice, divided: Divided, limit: int, *, eight_bit: bool
) -> Careful:
    """The first choice within the limit, or the one that holds least.

    Raises:
        NotRehearsed: The step can't be run without values.
    """
    least: Careful | None = None
    why = NotRehearsed("nothing was tried")
    for choice in choices(base, divided, eight_bit=eight_bit):
        try:
            found = Careful(choice, rehearsal.run(choice))
        except NotRehearsed as error:
            why = error
            continue
        if found.rehearsed.peak_bytes <= limit:
            return found
        if least is None or found.rehearsed.peak_bytes < least.rehearsed.peak_bytes:
            least = found
    if least is None:
        raise why
    return least


@dataclasses.dataclass(frozen=True)
class Case:
    """What else a refused step could be tried with."""

    limit: int
    careful: Careful
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    rehearse: Callable[[tuple[Any, ...], Mapping[str, Any], torch.dtype | None], Rehearsal]
    """Makes the rehearsal of other arguments, or in another precision."""
    can_eight_bit: bool
    """Whether the optimiser's moments could take a byte a value, and that is not allowed yet."""
    can_bf16: bool
    """Whether no precision was allowed yet."""


def refusal(name: str, case: Case) -> MemoryLimitError:
    """The error that says by how much a limit is missed, and what was rehearsed that would keep it."""
    peak, phase = case.careful.rehearsed.peak_bytes, case.careful.rehearsed.phase
    helpful = [f"--memory-limit {above(peak)}", *_helpful(case)]
    return MemoryLimitError(
        f"{name}: a step holds {words(peak)} with all of it recomputed, most of it in the {phase} pass: "
        f"{words(peak - case.limit)} more than the limit of {words(case.limit)}",
        hint=", or ".join(helpful if len(helpful) > 1 else [*helpful, "a smaller batch"]),
    )


def _helpful(case: Case) -> Iterator[str]:
    """What keeps the limit, each rehearsed."""
    choice = case.careful.choice
    eight = dataclasses.replace(choice, eight_bit=True)
    alone = False
    if case.can_eight_bit:
        peak = _peak(case, eight)
        alone = peak is not None and peak <= case.limit
        if peak is not None and alone:
            yield f"--allow 8bit-optimizer, which holds {words(peak)}"
    if case.can_bf16:
        peak = _peak(case, choice, dtype=torch.bfloat16)
        if peak is not None and peak <= case.limit:
            yield f"--precision bf16, which holds {words(peak)}"
    size = batch_size(case.args, case.kwargs)
    ways = [(choice, "")]
    if case.can_eight_bit and not alone:
        ways.append((eight, "--allow 8bit-optimizer and "))
    for way, with_ in ways:
        if found := _smaller(case, way, size):
            count, peak = found
            yield f"{with_}batches of {count} instead of {size}, which hold {words(peak)}"
            return


def _smaller(case: Case, choice: Choice, size: int) -> tuple[int, int] | None:
    """The largest half, quarter, ... of a batch that keeps the limit, and what it holds."""
    count = size // 2
    while count:
        peak = _peak(case, choice, *first(case.args, case.kwargs, size, count))
        if peak is None:
            return None
        if peak <= case.limit:
            return count, peak
        count //= 2
    return None


def _peak(
    case: Case,
    choice: Choice,
    args: tuple[Any, ...] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> int | None:
    try:
        rehearsal = case.rehearse(
            case.args if args is None else args, case.kwargs if kwargs is None else kwargs, dtype
        )
        return rehearsal.run(choice).peak_bytes
    except NotRehearsed:
        return None


def batch_size(args: Any, kwargs: Any) -> int:
    """How many examples a call is given: the size that most of its arguments begin with."""
    sizes = [one.shape[0] for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor) and one.dim()]
    return Counter(sizes).most_common(1)[0][0] if sizes else 0


def first(args: Any, kwargs: Any, size: int, count: int) -> tuple[Any, Any]:
    """A call's arguments with only its first examples."""

    def cut(one: Any) -> Any:
        return one[:count] if isinstance(one, Tensor) and one.dim() and one.shape[0] == size else one

    found: tuple[Any, Any] = tree_map(cut, (args, kwargs))
    return found
