"""A plan for data-parallel training: as text and as static HTML."""

from __future__ import annotations

from html import escape

from deepseek_lab.base.scaling import ScalingPlan, WayOutcome
from deepseek_lab.views import _html, _tables, _words
from deepseek_lab.views._devices import count
from deepseek_lab.views._lines_view import LinesView


def scaling_line(plan: ScalingPlan) -> str:
    """One line: what the fastest exact way reaches, and what the fastest of all would."""
    exact, best = plan.best_exact, plan.best
    parts = [
        f"plan  {_words.clip(plan.model, 40)} ({count(plan.num_parameters)}) on {_words.clip(plan.devices, 60)}",
        f"{exact.name} {_efficiency(exact.efficiency)}, {_words.seconds(exact.step_s)} a step",
    ]
    if best is not exact:
        parts.append(f"{best.name} {_efficiency(best.efficiency)}, with --allow-lossy")
    return "  ".join(parts)


def scaling_text(plan: ScalingPlan) -> str:
    """The summary, then ways, what each rank holds, scaling, and what was assumed."""
    parts = [scaling_line(plan)]
    for title, table in _sections(plan):
        body = "\n".join(f"  {line}" for line in _tables.as_text(table).splitlines())
        parts.append(f"\n{title}\n{body}")
    parts += ["", _checked(plan), *(f"assumed: {_words.clip(one, 600)}" for one in plan.assumptions)]
    return "\n".join(parts)


def scaling_html(plan: ScalingPlan) -> str:
    """The same as static HTML with a picture of the curve; assumptions are folded."""
    parts = [
        f'<div class="dsl"><style>{_html.STYLE}</style>',
        f'<p class="s">{escape(_words.clip(scaling_line(plan), 600))}</p>',
    ]
    for title, table in _sections(plan):
        parts.append(f"<details open><summary>{escape(title)}</summary>{_html.table(table)}</details>")
    parts.append(_curve(plan).html("efficiency by number of ranks"))
    items = "".join(f"<li>{escape(_words.clip(one, 600))}</li>" for one in plan.assumptions)
    parts.append(f"<p>{escape(_checked(plan))}</p>")
    parts.append(f"<details><summary>what was assumed</summary><ul>{items}</ul></details>")
    return "\n".join(parts) + "</div>"


def _sections(plan: ScalingPlan) -> list[tuple[str, _tables.Table]]:
    held = f"what every rank holds (activations apart), of {_words.memory(plan.limit_bytes)}"
    many = f"ways of exchanging gradients on {plan.devices} ({plan.network}; {plan.num_buckets} buckets)"
    meshes = [("layers that ranks share, stages, and copies of both", _meshes(plan))] if plan.meshes else []
    return [
        *meshes,
        (f"{many}, exact ones first; {plan.inputs or 'as given'} on each", _ways(plan)),
        (held, _held(plan)),
        ("efficiency by number of ranks, as predicted", _scaling(plan)),
    ]


def _ways(plan: ScalingPlan) -> _tables.Table:
    rows = tuple(_way(one) for one in plan.ways)
    columns = ("way", "exact", "sent by a node", "kept besides", "step", "waiting", "efficiency", "how")
    return _tables.Table(columns, rows, frozenset(range(2, 7)))


def _way(one: WayOutcome) -> tuple[str, ...]:
    return (
        one.name,
        "yes" if one.is_exact else "no",
        _words.memory(one.sent_bytes),
        _words.memory(one.kept_bytes) if one.kept_bytes else "",
        _words.seconds(one.step_s),
        f"{one.waiting_share:.0%}",
        _efficiency(one.efficiency),
        one.typed or "not in %%deepseek distributed",
    )


def _meshes(plan: ScalingPlan) -> _tables.Table:
    rows = tuple(
        (
            one.mesh,
            f"{one.shared:.0%} of the parameters" if one.num_groups else "",
            _words.memory(one.held_bytes),
            _words.seconds(one.layers_s) if one.layers_s else "",
            f"{one.bubble:.0%}" if one.bubble else "",
            _words.seconds(one.copies_s) if one.copies_s else "",
            _words.seconds(one.step_s),
            _efficiency(one.efficiency),
            one.typed,
        )
        for one in plan.meshes
    )
    columns = ("mesh", "shared", "held", "within layers", "bubble", "copies", "step", "efficiency", "how")
    return _tables.Table(columns, rows, frozenset(range(2, 8)))


def _held(plan: ScalingPlan) -> _tables.Table:
    rows = [(what, _words.memory(size)) for what, size in plan.held.items()]
    rows.append(("together", _words.memory(sum(plan.held.values()))))
    return _tables.Table(("", "bytes"), tuple(rows), frozenset({1}))


def _scaling(plan: ScalingPlan) -> _tables.Table:
    names = [way.name for way in plan.ways]
    rows = tuple(
        (f"{point.num_ranks:,}", *(_efficiency(point.efficiency[name]) for name in names))
        for point in plan.curve
    )
    return _tables.Table(("ranks", *names), rows, frozenset(range(len(names) + 1)))


def _curve(plan: ScalingPlan) -> LinesView:
    series = {way.name: [point.efficiency[way.name] for point in plan.curve] for way in plan.ways}
    return LinesView(
        [float(point.num_ranks) for point in plan.curve], series, x_label="ranks", y_label="efficiency"
    )


def _efficiency(value: float) -> str:
    return f"{value:.1%}"


def _checked(plan: ScalingPlan) -> str:
    """How well predictions matched what was measured."""
    one = plan.checked
    if one is None:
        return "checked: never measured on this machine (python -m tests.benchmarks.scaling in a checkout)"
    return (
        f"checked: on {_words.clip(one.machine, 60)}, {one.when}: {one.num_steps} predicted steps were "
        f"{one.median:.1%} off what was measured in the median, {one.worst:.1%} at most"
    )
