"""A graph's profile as text, and as what can be laid over the graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from deepseek_lab.base.events import GraphNode
from deepseek_lab.base.profile import GraphProfile, OperationProfile, Statistics
from deepseek_lab.views import _rows, _tables, _words
from deepseek_lab.views._overlays import Overlay

_BITS = 12
"""Bits that a number keeps in a page: 1 part in 4,096, and half the bytes."""
_KINDS = 5
"""Kinds of operation that are named with their share."""
_COLUMNS = (
    "name",
    "operation",
    "module",
    "time",
    "share",
    "FLOP",
    "FLOP/s",
    "read",
    "result",
    "runs in",
    "line",
)

Of = Callable[[OperationProfile], float | None]


def profile_overlays(profile: GraphProfile) -> tuple[Overlay, ...]:
    """Everything that was measured, the most useful first; what was measured of no node is left out."""
    return tuple(
        overlay for overlay in _overlays(profile) if any(v not in (None, "") for v in overlay.values)
    )


def _overlays(profile: GraphProfile) -> Iterator[Overlay]:
    def numbers(name: str, label: str, unit: str, of: Of, *, total: bool = False) -> Overlay:
        return Overlay(name, label, unit, tuple(_short(of(one)) for one in profile.operations), total)

    yield numbers("time", "time in eager mode", "ms", lambda one: _times(one.time_s, 1e3), total=True)
    yield numbers(
        "flops", "FLOP of products, convolutions and attention", "FLOP", lambda o: o.flops, total=True
    )
    yield Overlay("backend", "runs in", "", tuple(one.backend for one in profile.operations))
    yield numbers("flop_rate", "FLOP a second in eager mode", "FLOP/s", lambda one: one.flops_per_s)
    yield numbers("read", "bytes read", "B", lambda one: one.read_bytes, total=True)
    yield numbers("result", "bytes of the result", "B", _result_bytes, total=True)
    yield from _statistics("value", "values", profile, lambda one: one.values)
    if profile.gradient_of:
        label = f"gradient of {profile.gradient_of}"
        yield from _statistics("gradient", label, profile, lambda one: one.gradient)


def _statistics(
    name: str, label: str, profile: GraphProfile, of: Callable[[OperationProfile], Statistics | None]
) -> Iterator[Overlay]:
    found = [of(one) for one in profile.operations]
    for field, words, unit, factor in (
        ("mean", "mean", "", 1.0),
        ("std", "standard deviation", "", 1.0),
        ("largest", "largest magnitude", "", 1.0),
        ("nonfinite", "NaN or infinite", "%", 100.0),
    ):
        values = (getattr(one, field) if one is not None else None for one in found)
        yield Overlay(
            f"{name}_{field}", f"{label}: {words}", unit, tuple(_short(_times(v, factor)) for v in values)
        )


def _result_bytes(one: OperationProfile) -> float | None:
    """Weights are there already: they are no result, and would hide what a module's results take."""
    return None if one.op in ("parameter", "constant") else one.result_bytes


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _short(value: float | None) -> float | None:
    """The number with as many bits as are shown; None for what is none."""
    if value is None or not math.isfinite(value):
        return None
    fraction, exponent = math.frexp(value)
    try:
        return math.ldexp(round(math.ldexp(fraction, _BITS)), exponent - _BITS)
    except OverflowError:
        return value


def profile_text(profile: GraphProfile, nodes: Sequence[GraphNode], *, count: int = 10) -> str:
    """What was measured and how, then the most expensive operations with their share, rates and cell lines.

    Args:
        profile: What was measured.
        nodes: The graph that it was measured on.
        count: Operations that are shown.
    """
    lines = [*_about(profile), *(f"note: {_words.clip(note, 240)}" for note in profile.notes)]
    shown = profile.most_expensive(count)
    if not shown:
        return "\n".join(lines)
    lines += ["", _by_kind(profile), "", _tables.as_text(_table(profile, shown, nodes))]
    return "\n".join(lines)


def _about(profile: GraphProfile) -> Iterator[str]:
    total, whole, share = profile.sum_s, profile.whole_s, profile.accounted
    if total is not None:
        rounds = _words.plural(profile.num_rounds, "round") if profile.num_rounds else "a part of a round"
        yield f"measured node by node in eager mode, without gradients: medians of {rounds}"
    if profile.inputs:
        yield f"on {_words.clip(profile.inputs, 200)}"
    if total is not None and share is not None:
        yield (
            f"the operations take {_words.seconds(total)} together, {share:.0%} of the {_words.seconds(whole or 0)} "
            f"of the graph as one call; {_words.seconds(profile.overhead_s)} of each is the measuring itself"
        )
    if profile.flops is not None:
        yield f"{_si(profile.flops)}FLOP in products, convolutions and attention; nothing else is counted"
    if profile.gradient_of:
        yield f"gradients are of {_words.clip(profile.gradient_of, 80)}, which is no loss of yours"


def _by_kind(profile: GraphProfile) -> str:
    total = profile.sum_s or 0.0
    times: dict[str, list[float]] = {}
    for one in profile.operations:
        if one.time_s is not None:
            times.setdefault(one.op or one.name, []).append(one.time_s)
    ranked = sorted(times.items(), key=lambda item: -math.fsum(item[1]))[:_KINDS]
    words = (
        f"{_words.clip(op, 40)} {_share(math.fsum(values), total)} ({len(values):,})" for op, values in ranked
    )
    return "by kind: " + ", ".join(words)


def _table(
    profile: GraphProfile, shown: Sequence[OperationProfile], nodes: Sequence[GraphNode]
) -> _tables.Table:
    known = {node.name: node for node in nodes}
    where, total = _rows.where(nodes), profile.sum_s or 0.0
    several = len({one.backend for one in profile.operations if one.backend}) > 1
    rows = []
    for one in shown:
        node = known.get(one.name, GraphNode(one.name, one.op))
        rate = one.flops_per_s
        rows.append(
            (
                _words.clip(one.name, 30),
                _words.clip(node.op, 30),
                _words.clip(node.module, 40),
                _words.seconds(one.time_s or 0.0),
                _share(one.time_s or 0.0, total),
                _si(one.flops).strip() if one.flops is not None else "",
                f"{_si(rate).strip()}/s" if rate is not None else "",
                _words.memory(one.read_bytes) if one.read_bytes is not None else "",
                _words.memory(one.result_bytes) if one.result_bytes is not None else "",
                _words.clip(one.backend, 40) if several else "",
                where(node),
            )
        )
    return _tables.Table(_COLUMNS, tuple(rows), frozenset(range(3, 9)))


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else ""


def _si(value: float) -> str:
    """A number with a decimal prefix: ``1.21 G``."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if abs(value) < 999.5 or prefix == "P":
            break
        value /= 1000
    return f"{value:.3g} {prefix}"
