"""What is wrong with a training: findings first, then every module's numbers and curves; as text, HTML and tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from deepseek_lab.base.events import GraphNode
from deepseek_lab.base.inspection import KINDS, Curve, Finding, Inspection, ModuleRecord, Trial
from deepseek_lab.views import _html, _page, _tables, _words
from deepseek_lab.views._heatmap_view import HeatmapView
from deepseek_lab.views._lines_view import LinesView
from deepseek_lab.views._overlays import Overlay
from deepseek_lab.views._table_view import TableView

_TEXT_MODULES, _HTML_MODULES, _MAX_FINDINGS = 16, 120, 40
_COLUMNS = 60
"""Sampled steps that a heat map shows."""
_LIVE = 8
_STYLE = """
.dsl .fi{margin:6px 0;padding:2px 0 2px 10px;border-left:3px solid #d1453b}.dsl .fi.note{border-color:#777}
.dsl .fi b{font-weight:600}.dsl .fi .k{font-size:11px;opacity:.8;margin-right:6px}
.dsl .fi pre{margin:2px 0;padding:3px 8px}
"""


def inspection_line(seen: Inspection) -> str:
    """One line: what was found, in how many steps, and what looking took."""
    faults = [one for one in seen.findings if not one.is_note]
    notes = len(seen.findings) - len(faults)
    parts = ["inspect"]
    if not faults:
        parts.append("nothing wrong was seen" if seen.num_samples else "nothing was seen")
    else:
        kinds = sorted({one.kind for one in faults}, key=list(KINDS).index)
        counts = {kind: sum(one.kind == kind for one in faults) for kind in kinds}
        parts.append(", ".join(kind + (f" ({count})" if count > 1 else "") for kind, count in counts.items()))
        worst = faults[0]
        parts.append(f"first: {_words.clip(worst.module, 60)} since step {worst.since:,}")
    if notes:
        parts.append(_words.plural(notes, "note"))
    parts.append(f"{_words.plural(seen.num_steps, 'step')}, {seen.num_samples:,} looked at")
    if seen.wall_s and seen.spent_s:
        parts.append(f"looking took {seen.spent_s / seen.wall_s:.1%} of {_words.seconds(seen.wall_s)}")
    if seen.error:
        parts.append(f"ended by {_words.clip(seen.error, 60)}")
    return "  ".join(parts)


def live_text(findings: Sequence[Finding], steps: int) -> str:
    """What is shown while the loop runs: the newest findings, one line each."""
    lines = [f"inspect  running, step {steps:,}: {_words.plural(len(findings), 'finding')}"]
    lines += [f"  step {one.since:,}: {_words.clip(one.text, 160)}{_at(one)}" for one in findings[-_LIVE:]]
    return "\n".join(lines)


def inspection_text(seen: Inspection) -> str:
    """The summary, every finding with its fix, and the modules."""
    parts = [inspection_line(seen)]
    for one in seen.findings[:_MAX_FINDINGS]:
        parts.append("")
        parts.append(f"{'note' if one.is_note else one.kind}: {_words.clip(one.text, 200)}")
        parts.append(f"  {_where(one)}")
        parts.append(f"  seen: {_words.clip(one.evidence, 300)}")
        if one.fix:
            parts.append(f"  try: {_words.clip(one.fix, 240)}")
        parts += [f"       {line}" for line in _words.clean(one.code, lines=True).splitlines()]
        if one.trial is not None:
            parts.append(f"  tried: {_words.clip(trial_words(one.trial), 300)}")
    if len(seen.findings) > _MAX_FINDINGS:
        parts.append(f"\n… {len(seen.findings) - _MAX_FINDINGS:,} more findings")
    parts += ["", *(f"note: {_words.clip(note, 300)}" for note in seen.notes)] if seen.notes else []
    shown = _chosen(seen, _TEXT_MODULES)
    if shown:
        body = _tables.as_text(_module_table(shown))
        parts += ["", "by module, as last seen", *(f"  {line}" for line in body.splitlines())]
        if len(seen.modules) > len(shown):
            parts.append(f"  … {len(seen.modules) - len(shown):,} more")
    return "\n".join(parts)


def inspection_html(seen: Inspection) -> str:
    """The same as static HTML: findings open, the rest folded."""
    parts = [
        f'<div class="dsl"><style>{_html.STYLE}{_STYLE}</style>',
        f'<p class="s">{escape(_words.clip(inspection_line(seen), 400))}</p>',
        *(_finding_html(one) for one in seen.findings[:_MAX_FINDINGS]),
        *(f'<p class="m">{escape(_words.clip(note, 300))}</p>' for note in seen.notes),
    ]
    if len(seen.findings) > _MAX_FINDINGS:
        parts.append(f'<p class="m">… {len(seen.findings) - _MAX_FINDINGS:,} more findings</p>')
    shown = _chosen(seen, _HTML_MODULES)
    if shown:
        more = len(seen.modules) - len(shown)
        rest = f'<p class="m">… {more:,} more</p>' if more > 0 else ""
        title = "by module, as last seen"
        parts.append(
            f"<details><summary>{title}</summary>{_table_html(_module_table(shown))}{rest}</details>"
        )
    return "\n".join(parts) + "</div>"


def inspection_bundle(seen: Inspection) -> dict[str, Any]:
    """``text/plain``, static ``text/html``, and tables and curves for our own front end."""
    made: dict[str, Any] = {"text/plain": inspection_text(seen), "text/html": inspection_html(seen)}
    contents = [
        _page.content(view.kind, title, view.packed(24_000)) for title, view in inspection_views(seen).items()
    ]
    if contents:
        made[_page.MIME] = _page.payload("", contents)
    return made


def inspection_views(seen: Inspection) -> dict[str, TableView | LinesView | HeatmapView]:
    """Views by title; those that would be empty are left out."""
    made: dict[str, TableView | LinesView | HeatmapView] = {}
    if seen.findings:
        found = seen.findings
        made["findings"] = TableView(
            {
                "kind": [one.kind for one in found],
                "module": [_words.clip(one.module, 120) for one in found],
                "since step": [one.since for one in found],
                "line": [_line(one) for one in found],
                "what": [_words.clip(one.text, 200) for one in found],
                "seen": [_words.clip(one.evidence, 240) for one in found],
                "try": [_words.clip(one.fix, 240) for one in found],
            }
        )
    if seen.modules:
        made["by module"] = TableView(
            {
                "module": [_words.clip(one.path, 120) for one in seen.modules],
                "type": [_words.clip(one.type_name, 60) for one in seen.modules],
                "activation": [_finite(one.activation_rms) for one in seen.modules],
                "gradient": [_finite(one.gradient_rms) for one in seen.modules],
                "weights": [_finite(one.weight_rms) for one in seen.modules],
                "their gradient": [_finite(one.weight_gradient) for one in seen.modules],
                "update": [_finite(one.update_ratio) for one in seen.modules],
                "dead": [_hundred(one.dead_share) for one in seen.modules],
                "saturated": [_hundred(one.saturated_share) for one in seen.modules],
            },
            units={"dead": "%", "saturated": "%"},
        )
    curves = [one for one in seen.losses if len(one.steps) > 1]
    if curves:
        made["losses"] = _lines(curves)
    if len(seen.gradients) > 1:
        made["gradients by module"] = _heatmap(seen.gradients)
    return made


def _lines(curves: Sequence[Curve]) -> LinesView:
    """Curves over one axis of steps; where a line differentiates several times a step, its mean."""
    steps = sorted({step for one in curves for step in one.steps})
    series: dict[str, list[float | None]] = {}
    for one in curves:
        sums: dict[int, tuple[float, int]] = {}
        for step, value in zip(one.steps, one.values, strict=True):
            total, count = sums.get(step, (0.0, 0))
            sums[step] = (total + value, count + 1)
        series[_words.clip(one.name, 60)] = [
            _finite(sums[step][0] / sums[step][1]) if step in sums else None for step in steps
        ]
    return LinesView(steps, series, x_label="step", y_label="loss")


def _heatmap(curves: Sequence[Curve]) -> HeatmapView:
    """Logarithms of gradients, modules in the order of their calls from above, sampled steps from the left."""
    steps = sorted({step for one in curves for step in one.steps})
    if len(steps) > _COLUMNS:
        steps = [steps[at * (len(steps) - 1) // (_COLUMNS - 1)] for at in range(_COLUMNS)]
    rows = []
    for one in curves:
        known = dict(zip(one.steps, one.values, strict=True))
        rows.append(
            [
                math.log10(known[step])
                if known.get(step, 0.0) > 0 and math.isfinite(known[step])
                else math.nan
                for step in steps
            ]
        )
    return HeatmapView(
        rows,
        rows=[_words.clip(one.name, 60) for one in curves],
        columns=[f"step {step}" for step in steps],
        label="log10 of the gradient's RMS",
    )


def inspection_overlays(nodes: Sequence[GraphNode], seen: Inspection, name: str) -> tuple[Overlay, ...]:
    """What was seen of a model's modules, to be laid over its graph: each operation has its module's number.

    Args:
        nodes: The graph's operations.
        seen: What was seen.
        name: What the graph's target is called, which paths of modules begin with.
    """
    modules: dict[str, ModuleRecord] = {}
    for one in seen.modules:
        if one.path == name or one.path.startswith(f"{name}."):
            modules.setdefault(one.path.removeprefix(name).removeprefix("."), one)
    findings = {
        one.module.removeprefix(name).removeprefix("."): one.kind
        for one in reversed(seen.findings)
        if one.module == name or one.module.startswith(f"{name}.")
    }
    if not modules:
        return ()
    of = [modules.get(node.module) if node.module else None for node in nodes]
    made = [
        Overlay(
            "found",
            "found",
            "",
            tuple(findings.get(node.module, "") if node.module else "" for node in nodes),
        ),
        *(
            Overlay(f"seen_{field}", label, unit, tuple(_times(one, field, factor) for one in of))
            for field, label, unit, factor in (
                ("gradient_rms", "gradient in training: RMS by the output", "", 1.0),
                ("weight_gradient", "gradient in training: norm of the weights'", "", 1.0),
                ("update_ratio", "update of a step in sizes of the weights", "", 1.0),
                ("activation_rms", "activations in training: RMS", "", 1.0),
                ("dead_share", "dead units", "%", 100.0),
                ("saturated_share", "saturated values", "%", 100.0),
            )
        ),
    ]
    return tuple(one for one in made if any(value not in (None, "") for value in one.values))


def _times(one: ModuleRecord | None, field: str, factor: float) -> float | None:
    value = getattr(one, field) if one is not None else None
    return value * factor if value is not None and math.isfinite(value) else None


# -- words ------------------------------------------------------------------------------------------


def trial_words(trial: Trial) -> str:
    """What a trial showed."""
    if trial.failed:
        return f"not possible: {trial.failed}"
    with_it = _loss(trial.loss_with)
    words = (
        f"on copies, {_words.plural(trial.num_steps, 'step')} over the loop's first batches: "
        f"loss {_loss(trial.loss_before)} "
        f"-> {with_it}, without it {_loss(trial.loss_without)}"
    )
    if trial.gradient_with is not None and trial.gradient_without is not None:
        words += f"; gradient there {trial.gradient_with:.2g}, without it {trial.gradient_without:.2g}"
    return words


def _loss(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "not finite"


def _finding_html(one: Finding) -> str:
    kind = "note" if one.is_note else one.kind
    text = escape(_words.clip(one.text, 200))
    parts = [
        f'<div class="fi{" note" if one.is_note else ""}"><p><span class="k">{escape(kind)}</span><b>{text}</b></p>',
        f'<p class="m">{escape(_where(one))}; {escape(_words.clip(one.evidence, 300))}</p>',
    ]
    if one.fix:
        parts.append(f"<p>Try: {escape(_words.clip(one.fix, 240))}</p>")
    if one.code:
        parts.append(f"<pre>{escape(_words.clean(one.code, lines=True)[:1000])}</pre>")
    if one.trial is not None:
        parts.append(f"<p>Tried {escape(_words.clip(trial_words(one.trial), 300))}</p>")
    return "".join(parts) + "</div>"


def _where(one: Finding) -> str:
    others = [path for path in one.affected if path != one.module]
    more = f" ({_words.plural(len(others), 'other module')})" if others else ""
    return f"{_words.clip(one.module, 120)}{more}, since step {one.since:,}{_at(one)}"


def _at(one: Finding) -> str:
    line = _line(one)
    return f", {'line ' if line.isdigit() else ''}{line}" if line else ""


def _line(one: Finding) -> str:
    if not one.line:
        return ""
    name = _words.file_name(one.file)
    return f"{one.line}" if name == "cell" else f"{name}:{one.line}"


def _chosen(seen: Inspection, limit: int) -> list[ModuleRecord]:
    """Modules in order; where there are too many, those with a finding and then those that have weights."""
    if len(seen.modules) <= limit:
        return list(seen.modules)
    named = {path for one in seen.findings for path in (one.module, *one.affected)}
    ranked = sorted(
        range(len(seen.modules)),
        key=lambda at: (seen.modules[at].path not in named, seen.modules[at].weight_rms is None, at),
    )
    return [seen.modules[at] for at in sorted(ranked[:limit])]


def _module_table(shown: Sequence[ModuleRecord]) -> _tables.Table:
    rows = tuple(
        (
            _words.clip(one.path, 48),
            _words.clip(one.type_name, 28),
            _number(one.activation_rms),
            _number(one.gradient_rms),
            _number(one.weight_rms),
            _number(one.weight_gradient),
            _number(one.update_ratio),
            _percent(one.dead_share),
            _percent(one.saturated_share),
        )
        for one in shown
    )
    columns = (
        "module", "type", "activation", "gradient", "weights", "their gradient", "update", "dead", "saturated",
    )  # fmt: skip
    return _tables.Table(columns, rows, frozenset(range(2, 9)))


def _table_html(table: _tables.Table) -> str:
    used = [at for at in range(len(table.columns)) if any(row[at].strip() for row in table.rows)]
    flush = [' class="n"' if at in table.numeric else "" for at in range(len(table.columns))]
    head = "".join(f"<th{flush[at]}>{escape(table.columns[at])}</th>" for at in used)
    body = "".join(
        f"<tr>{''.join(f'<td{flush[at]}>{escape(row[at])}</td>' for at in used)}</tr>" for row in table.rows
    )
    return f'<div class="x"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _hundred(value: float | None) -> float | None:
    return None if value is None else 100 * value
