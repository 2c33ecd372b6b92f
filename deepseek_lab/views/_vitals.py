"""How the ranks of a training are doing, as a line, as text and as static HTML: a row a rank."""

from __future__ import annotations

import math
from collections.abc import Sequence

from deepseek_lab.base.ranks import RankVitals, spans
from deepseek_lab.views import _html, _tables, _words

_COLUMNS = (
    "rank",
    "state",
    "updates",
    "updates/s",
    "samples/s",
    "waiting",
    "loss",
    "memory",
    "on the GPU",
    "link",
    "remarks",
)


def vitals_line(vitals: Sequence[RankVitals]) -> str:
    """All ranks together, and whom they wait for."""
    losses = [one.loss for one in vitals if one.loss is not None]
    updates = [one.updates_per_s for one in vitals if one.updates_per_s is not None]
    samples = [one.samples_per_s for one in vitals if one.samples_per_s is not None]
    late = [one.rank for one in vitals if one.late_s is not None]
    dead = [one.rank for one in vitals if one.state == "dead"]
    parts = [
        f"training  {_words.plural(len(vitals), 'rank')}",
        _words.plural(min((one.num_updates for one in vitals), default=0), "update"),
        f"{_number(min(updates))} updates/s" if updates else "",
        f"{_number(math.fsum(samples))} samples/s" if samples else "",
        f"loss {math.fsum(losses) / len(losses):.4g}" if losses else "",
        f"the others wait for rank {spans(late)}" if late else "",
        f"rank {spans(dead)} is dead" if dead else "",
    ]
    return "  ".join(filter(None, parts))


def vitals_text(vitals: Sequence[RankVitals]) -> str:
    """The table as aligned text."""
    return _tables.as_text(_table(vitals))


def vitals_html(vitals: Sequence[RankVitals]) -> str:
    """The table as static HTML."""
    return f'<div class="dsl"><style>{_html.STYLE}</style>{_html.table(_table(vitals))}</div>'


FIGURES = ("updates/s", "samples/s", "waiting", "loss", "memory")


def vitals_figures(one: RankVitals | None) -> tuple[str, ...]:
    """What :data:`FIGURES` names, of one rank; empty where nothing is known."""
    if one is None:
        return ("",) * len(FIGURES)
    return (
        _number(one.updates_per_s),
        _number(one.samples_per_s),
        "" if one.waiting is None else f"{100 * one.waiting:.0f} %",
        "" if one.loss is None else f"{one.loss:.4g}",
        "" if one.memory_bytes is None else _words.memory(one.memory_bytes),
    )


def _table(vitals: Sequence[RankVitals]) -> _tables.Table:
    rows = [
        (
            str(one.rank),
            _words.clip(one.state, 20),
            f"{one.num_updates:,}",
            *vitals_figures(one),
            "" if one.device_bytes is None else _words.memory(one.device_bytes),
            "" if one.link_bytes_per_s is None else f"{_words.memory(one.link_bytes_per_s)}/s",
            _remarks(one),
        )
        for one in vitals
    ]
    return _tables.Table(_COLUMNS, tuple(rows), frozenset({0, *range(2, 10)}))


def _remarks(one: RankVitals) -> str:
    parts = [
        f"the others wait for it, {_words.milliseconds(1e3 * one.late_s)} an update"
        if one.late_s is not None
        else "",
        f"{'' if one.state == 'dead' else 'its process '}{one.why}" if one.why else "",
        "replaced" if one.num_replaced == 1 else "",
        f"replaced {one.num_replaced:,} times" if one.num_replaced > 1 else "",
    ]
    return _words.clip(", ".join(filter(None, parts)), 200)


def _number(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
