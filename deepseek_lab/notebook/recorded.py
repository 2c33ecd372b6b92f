"""What ranks have done together last, and how they did in a training, as tables."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from deepseek_lab.base.operations import Operation, find, group_words
from deepseek_lab.base.ranks import spans
from deepseek_lab.notebook.show import Shown, table

if TYPE_CHECKING:
    from deepseek_lab.distributed.ranks import Ranks

_NUM_SHOWN = 8
"""Operations of a rank in the table; what is saved has all that are known."""
_ALL = 10_000


def shown(running: Ranks) -> Shown:
    """The last operations of each rank, under what ranks wait for."""
    records = running.records(_ALL)
    finding = find(records)
    now = max((one.at_s for record in records.values() for one in record.operations), default=0.0)
    rows = [
        (rank, *_row(one, now), group_words(one.group, records), one.line, one.state)
        for rank, record in sorted(records.items())
        for one in record.operations[-_NUM_SHOWN:]
    ]
    columns = ("rank", "number", "operation", "bytes", "asked for", "took", "group", "line", "state")
    told = finding.sentences() if rows else ["ranks have done nothing together yet"]
    if silent := set(running.live) - records.keys():
        told.append(f"rank {spans(silent)} did not answer: something holds its interpreter")
    made = table("\n".join(["ranks  their last operations", *told]), columns, rows)
    data = {
        "found": finding.sentences(),
        "ranks": {str(rank): dataclasses.asdict(one) for rank, one in sorted(records.items())},
    }
    return Shown(repr(made), html_text=made.bundle()["text/html"], data=data)


def _row(one: Operation, now: float) -> tuple[Any, ...]:
    took = None if one.took_s is None else f"{1e3 * one.took_s:,.3g} ms"
    return one.number or None, one.text(), one.num_bytes or None, f"{one.at_s - now:+.3f} s", took


def figures(running: Ranks) -> tuple[tuple[str, ...], dict[int, tuple[str, ...]]]:
    """Names of figures, and by rank what they were in the last training; nothing where there was none."""
    from deepseek_lab import views

    known = running.figures
    if not known:
        return (), {}
    return views.FIGURES, {rank: views.vitals_figures(one) for rank, one in known.items()}
