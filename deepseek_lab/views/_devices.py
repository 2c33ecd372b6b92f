"""A plan for a described machine: as text and as static HTML."""

from __future__ import annotations

from html import escape

from deepseek_lab.base.devices import DevicePlan, Outcome
from deepseek_lab.views import _html, _tables, _words

PURPOSES = (
    ("parameters", "parameters", "this device's part"),
    ("gradients", "gradients", "this device's part"),
    ("moments", "optimizer states", "this device's part"),
    ("activations", "activations", "kept for the backward pass"),
    ("gathered", "gathered units", "whole parameters and gradients of the blocks at work"),
    ("working", "temporaries", "what comes and goes, and buffers"),
)


def devices_line(plan: DevicePlan) -> str:
    """One line: what fits, how, and how large it could be."""
    head = f"plan  {_words.clip(plan.model, 40)} ({count(plan.num_parameters)}) on {_words.clip(plan.devices, 60)}"
    limit = _words.memory(plan.limit_bytes)
    if plan.plain.fits:
        peak = _words.memory(plan.plain.holding.peak)
        parts = [head, f"plain FSDP2 fits: {peak} of {limit} on each device"]
    elif plan.chosen is not None:
        peak = _words.memory(plan.chosen.holding.peak)
        how, slower = plan.chosen.words, f"about {plan.chosen.slowdown:.2f}x the time"
        parts = [
            head,
            f"fits with {how}: {peak} of {limit} on each device, {slower}",
            f"plain FSDP2 needs {_words.memory(plan.plain.holding.peak)}",
        ]
    else:
        parts = [head, f"nothing fits: {_words.memory(plan.short_bytes)} too much on each device"]
    if plan.largest:
        most = max(plan.largest, key=lambda one: one.num_parameters)
        line = f"largest of its kind {count(most.num_parameters)}"
        first = plan.largest[0]
        if most is not first:
            line += f", plain {count(first.num_parameters)} ({_words.ratio(most.ratio)})"
        parts.append(line)
    return "  ".join(parts)


def devices_text(plan: DevicePlan) -> str:
    """The summary, then what each device holds, the largest models, and what was assumed."""
    parts = [devices_line(plan)]
    for title, table in _sections(plan):
        body = "\n".join(f"  {line}" for line in _tables.as_text(table).splitlines())
        parts.append(f"\n{title}\n{body}")
    if plan.remedies:
        parts.append("\nwhat would make it fit, each tried alone")
        parts += [f"  {_words.clip(one, 200)}" for one in plan.remedies]
    parts += ["", *(f"assumed: {_words.clip(one, 600)}" for one in plan.assumptions)]
    return "\n".join(parts)


def devices_html(plan: DevicePlan) -> str:
    """The same as static HTML; assumptions and the program are folded."""
    parts = [
        f'<div class="dsl"><style>{_html.STYLE}</style>',
        f'<p class="s">{escape(_words.clip(devices_line(plan), 600))}</p>',
    ]
    for title, table in _sections(plan):
        parts.append(f"<details open><summary>{escape(title)}</summary>{_html.table(table)}</details>")
    if plan.remedies:
        items = "".join(f"<li>{escape(_words.clip(one, 200))}</li>" for one in plan.remedies)
        parts.append(f"<p>what would make it fit, each tried alone</p><ul>{items}</ul>")
    items = "".join(f"<li>{escape(_words.clip(one, 600))}</li>" for one in plan.assumptions)
    parts.append(f"<details><summary>what was assumed</summary><ul>{items}</ul></details>")
    if plan.code:
        code = escape(_words.clean(plan.code, lines=True))
        parts.append(
            f"<details><summary>the plan as a program</summary><pre><code>{code}</code></pre></details>"
        )
    return "\n".join(parts) + "</div>"


def _sections(plan: DevicePlan) -> list[tuple[str, _tables.Table]]:
    found = [(f"what each device holds at its worst moment ({plan.inputs})", _held(plan))]
    if plan.largest:
        found.append(
            (
                f"the largest model of its kind on {plan.devices} ({plan.inputs}), one means after the other",
                _largest(plan),
            )
        )
    return found


def _held(plan: DevicePlan) -> _tables.Table:
    ways: list[tuple[str, Outcome]] = [("plain FSDP2", plan.plain)]
    if plan.chosen is not None and not plan.plain.fits:
        ways.append(("planned", plan.chosen))
    elif plan.chosen is None:
        ways.append(("the least", plan.smallest))
    rows = [
        (label, *(_words.memory(getattr(one.holding, name)) for _, one in ways), meaning)
        for name, label, meaning in PURPOSES
    ]
    rows.append(("together", *(_words.memory(one.holding.peak) for _, one in ways), ""))
    limit = _words.memory(plan.limit_bytes)
    rows.append(("of " + limit, *(_over(one, plan.limit_bytes) for _, one in ways), ""))
    rows.append(("worst moment", *(one.holding.moment for _, one in ways), ""))
    rows.append(
        ("hosts together", *(_words.memory(one.host_bytes) if one.host_bytes else "" for _, one in ways), "")
    )
    rows.append(("time of a step", *(f"{one.slowdown:.2f}x" for _, one in ways), "estimated"))
    kept = tuple(row for row in rows if any(row[1:-1]))
    columns = ("", *(label for label, _ in ways), " ")
    return _tables.Table(columns, kept, frozenset(range(1, len(ways) + 1)))


def _over(one: Outcome, limit: int) -> str:
    more = one.holding.peak - limit
    return "fits" if one.fits else f"{_words.memory(more)} too much" if more > 0 else "hosts too small"


def _largest(plan: DevicePlan) -> _tables.Table:
    before = ("", *(one.words for one in plan.largest))
    rows = tuple(
        (
            _added(one.words, last),
            count(one.num_parameters),
            _words.ratio(one.ratio),
            str(one.num_blocks),
            f"{one.width:,}" if one.width else "",
            _words.memory(one.peak_bytes),
            _words.memory(one.host_bytes) if one.host_bytes else "",
        )
        for one, last in zip(plan.largest, before, strict=False)
    )
    columns = ("how", "parameters", "of plain", "blocks", "features", "a device", "hosts together")
    return _tables.Table(columns, rows, frozenset(range(1, 7)))


def _added(words: str, before: str) -> str:
    """What a row has that the one before has not."""
    known = before.split(", ")
    added = [word for word in words.split(", ") if word not in known]
    return ("+ " if before else "") + ", ".join(added)


def count(number: int) -> str:
    """A number of parameters: ``52.0 B``, ``124 M``."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
