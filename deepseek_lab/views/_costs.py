"""Where a cell's time and memory went: as text, as static HTML, and as tables to sort and filter."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from deepseek_lab.base.costs import PHASES, CellCosts, CompileCost, LineCost, ModuleCost, OperatorCost
from deepseek_lab.views import _html, _page, _tables, _words
from deepseek_lab.views._table_view import TableView

_CODE = 72
_TEXT_LINES, _TEXT_MODULES, _TEXT_OPERATORS = 30, 12, 12
_COMPILATIONS = 12
_HTML_ROWS = 200
_SENTENCES = ("because", "fix")
"""Columns that are broken into lines."""
_OVER_ROOF = 1.2
"""A share of a limit above this says that bytes came from a cache, or that the limit was measured badly."""


def costs_line(costs: CellCosts) -> str:
    """One line: time, phases, waiting, memory, arithmetic."""
    parts = [f"profile  {_words.seconds(costs.wall_s) or '0 s'}"]
    shares = [
        f"{phase} {_percent(costs.phases[phase], costs.wall_s)}"
        for phase in PHASES
        if costs.phases.get(phase, 0.0) >= 0.01 * costs.wall_s and costs.wall_s
    ]
    if shares:
        parts.append(", ".join(shares))
    if again := [one for one in costs.compilations if one.kind == "compiled again"]:
        seconds = _words.seconds(math.fsum(one.seconds for one in again))
        parts.append(f"compiled again {_words.plural(sum(one.count for one in again), 'time')} ({seconds})")
    if broken := sum(one.kind == "graph break" for one in costs.compilations):
        parts.append(_words.plural(broken, "graph break"))
    if costs.wall_s and costs.waiting_s >= 0.01 * costs.wall_s:
        parts.append(f"waiting {_percent(costs.waiting_s, costs.wall_s)}")
    if costs.peak_bytes is not None and costs.start_bytes is not None:
        more = costs.peak_bytes - costs.start_bytes
        parts.append(f"peak {_words.memory(costs.peak_bytes)} (+{_words.memory(max(0, more))})")
    if costs.limits is not None and costs.flops and costs.flops_per_s:
        share = _percent(costs.flops_per_s, costs.limits.flops_per_s)
        parts.append(f"{_words_flops(costs.flops_per_s)}/s, {share} of this machine's float32")
    if costs.error:
        parts.append(f"ended by {_words.clip(costs.error, 60)}")
    return "  ".join(parts)


@dataclasses.dataclass(frozen=True)
class _Section:
    title: str
    table: _tables.Table
    shares: tuple[float, ...]
    """What part of the whole each row is, for its bar."""
    left_out: int = 0
    text_only: _tables.Table | None = None
    """What stands in text in place of the table, where that would be too wide."""
    below: tuple[str, ...] = ()
    """Lines below it, in text."""


def costs_text(costs: CellCosts, against: CellCosts | None = None) -> str:
    """The summary, then lines, modules and operators."""
    parts = [costs_line(costs), *(f"note: {_words.clip(note, 300)}" for note in costs.notes)]
    sections = (
        [_compared(costs, against)]
        if against is not None
        else _sections(costs, _TEXT_LINES, _TEXT_MODULES, _TEXT_OPERATORS)
    )
    for section in sections:
        if section.table.rows:
            table = section.text_only or section.table
            body = "\n".join(f"  {line}" for line in [*_tables.as_text(table).splitlines(), *section.below])
            more = f"\n  … {section.left_out:,} more" if section.left_out else ""
            parts.append(f"\n{section.title}\n{body}{more}")
    return "\n".join(parts)


def costs_html(costs: CellCosts, against: CellCosts | None = None) -> str:
    """The same as static HTML; lines are open, the rest is folded."""
    parts = [
        f'<div class="dsl"><style>{_html.STYLE}</style>',
        f'<p class="s">{escape(_words.clip(costs_line(costs), 400))}</p>',
        *(f'<p class="m">{escape(_words.clip(note, 300))}</p>' for note in costs.notes),
    ]
    sections = (
        [_compared(costs, against)]
        if against is not None
        else _sections(costs, _HTML_ROWS, _HTML_ROWS, _HTML_ROWS // 4)
    )
    for number, section in enumerate(sections):
        if section.table.rows:
            opened = " open" if number == 0 else ""
            title = escape(section.title)
            parts.append(f"<details{opened}><summary>{title}</summary>{_table_html(section)}</details>")
    return "\n".join(parts) + "</div>"


def costs_bundle(costs: CellCosts, against: CellCosts | None = None) -> dict[str, Any]:
    """``text/plain``, static ``text/html``, and tables for our own front end."""
    made: dict[str, Any] = {
        "text/plain": costs_text(costs, against),
        "text/html": costs_html(costs, against),
    }
    if against is None and costs.lines:
        contents = [
            _page.content("table", title, view.packed(40_000)) for title, view in costs_views(costs).items()
        ]
        made[_page.MIME] = _page.payload("", contents)
    return made


def costs_views(costs: CellCosts) -> dict[str, TableView]:
    """Tables by title; those that would be empty are left out."""
    made: dict[str, TableView] = {}
    wall, recorded = costs.wall_s, costs.recorded_s
    lines = [line for line in costs.lines if line.self_s or line.total_s or line.allocated_bytes]
    if lines:
        made["by line"] = TableView(
            {
                "line": [_place(line) for line in lines],
                "time": [line.total_s * 1e3 for line in lines],
                "itself": [line.self_s * 1e3 for line in lines],
                "share": [_share(line.total_s, wall) for line in lines],
                "waiting": [line.waiting_s * 1e3 for line in lines],
                "allocated": [line.allocated_bytes for line in lines],
                "kept": [line.kept_bytes for line in lines],
                "code": [_words.clip(line.text.strip(), 160) for line in lines],
            },
            units={
                "time": "ms",
                "itself": "ms",
                "share": "%",
                "waiting": "ms",
                "allocated": "B",
                "kept": "B",
            },
            bars=["share"],
        )
    if costs.modules:
        made["by module"] = TableView(
            {
                "module": [_words.clip(one.path, 160) for one in costs.modules],
                "type": [_words.clip(one.type_name, 60) for one in costs.modules],
                "calls": [one.num_calls for one in costs.modules],
                "forward": [one.forward_s * 1e3 for one in costs.modules],
                "backward": [one.backward_s * 1e3 for one in costs.modules],
                "share": [_share(one.forward_s + one.backward_s, recorded) for one in costs.modules],
                "FLOP": [one.flops for one in costs.modules],
                "allocated": [one.allocated_bytes for one in costs.modules],
            },
            units={"forward": "ms", "backward": "ms", "share": "%", "allocated": "B"},
            bars=["share"],
        )
    if costs.operators:
        bounds = [costs.limits.bound(one) if costs.limits else None for one in costs.operators]
        made["by operator"] = TableView(
            {
                "operator": [_words.clip(one.name, 120) for one in costs.operators],
                "calls": [one.num_calls for one in costs.operators],
                "itself": [one.self_s * 1e3 for one in costs.operators],
                "share": [_share(one.self_s, recorded) for one in costs.operators],
                "FLOP/s": [
                    one.flops / one.self_s if one.flops and one.self_s else None for one in costs.operators
                ],
                "held back by": [bound[0] if bound else "" for bound in bounds],
                "of the limit": [100 * bound[1] if bound else None for bound in bounds],
                "allocated": [one.allocated_bytes for one in costs.operators],
            },
            units={"itself": "ms", "share": "%", "of the limit": "%", "allocated": "B"},
            bars=["share"],
        )
    if costs.compilations:
        made["by torch.compile"] = TableView(
            {
                "line": [_place(one) if one.line else "" for one in costs.compilations],
                "what": [_words.clip(one.kind, 20) for one in costs.compilations],
                "function": [_words.clip(one.function, 60) for one in costs.compilations],
                "times": [one.count for one in costs.compilations],
                "time": [one.seconds * 1e3 for one in costs.compilations],
                "share": [_share(one.seconds, wall) for one in costs.compilations],
                "because": [_words.clip(one.cause, 200) for one in costs.compilations],
                "fix": [_fix(one) for one in costs.compilations],
            },
            units={"time": "ms", "share": "%"},
            bars=["share"],
        )
    return made


# -- tables in words --------------------------------------------------------------------------------


def _sections(costs: CellCosts, num_lines: int, num_modules: int, num_operators: int) -> list[_Section]:
    recorded = _words.seconds(costs.recorded_s)
    about = f"recorded for {recorded}" if costs.recorded_s < 0.98 * costs.wall_s else "all recorded"
    looks = _words.plural(costs.num_samples, "look")
    if costs.overhead_s > 0.005 * costs.wall_s:
        looks += f"; measuring took {_words.seconds(costs.overhead_s)} more"
    lines = list(_worth_showing(costs.lines, num_lines))
    modules = _largest_modules(costs.modules, num_modules)
    compiled = _worth_compiling(costs.compilations)
    if costs.recording_s >= 0.01 * costs.recorded_s > 0:
        operators = f"{about}, less the {_percent(costs.recording_s, costs.recorded_s)} that recording took"
    else:
        operators = about
    return [
        _Section(
            f"by line ({costs.attributed:.1%} of the time is on a line of yours; {looks})",
            _line_table(costs, lines),
            tuple(line.total_s / costs.wall_s if costs.wall_s else 0.0 for line in lines),
            len(costs.lines) - len(lines),
        ),
        _Section(
            f"by module ({about})",
            _module_table(costs, modules),
            tuple((one.forward_s + one.backward_s) / (costs.recorded_s or 1.0) for one in modules),
            len(costs.modules) - len(modules),
        ),
        _Section(
            f"by operator ({operators}; {_percent(costs.operators_s, costs.recorded_s)} of that in operators)",
            _operator_table(costs, costs.operators[:num_operators]),
            tuple(one.self_s / (costs.recorded_s or 1.0) for one in costs.operators[:num_operators]),
            max(0, len(costs.operators) - num_operators),
        ),
        _Section(
            "by torch.compile (a fix was tried by capturing again; nothing of yours was called for it)",
            _compile_table(compiled),
            tuple(one.seconds / costs.wall_s if costs.wall_s else 0.0 for one in compiled),
            len(costs.compilations) - len(compiled),
            _compile_table(compiled, fixes=False),
            tuple(f"fix for {_place(one)}: {_fix(one)}" for one in compiled if one.fix),
        ),
    ]


def _worth_showing(lines: Sequence[LineCost], limit: int) -> Iterator[LineCost]:
    """In the order of the program; where there are too many, those that cost most."""
    kept = [line for line in lines if line.total_s or line.allocated_bytes]
    if len(kept) > limit:
        ranked = sorted(kept, key=lambda line: -line.total_s)[:limit]
        chosen = {(line.file, line.line) for line in ranked}
        kept = [line for line in kept if (line.file, line.line) in chosen]
    yield from kept


def _largest_modules(modules: Sequence[ModuleCost], limit: int) -> list[ModuleCost]:
    if len(modules) <= limit:
        return list(modules)
    ranked = sorted(modules, key=lambda one: -(one.forward_s + one.backward_s))[:limit]
    kept = {one.path for one in ranked}
    return [one for one in modules if one.path in kept]


def _line_table(costs: CellCosts, lines: Sequence[LineCost]) -> _tables.Table:
    rows = tuple(
        (
            _place(line),
            _words.seconds(line.total_s),
            _percent(line.total_s, costs.wall_s),
            _words.seconds(line.self_s) if line.total_s - line.self_s > 0.01 * line.total_s else "",
            _percent(line.waiting_s, costs.wall_s) if line.waiting_s > 0.01 * costs.wall_s else "",
            _words.memory(line.allocated_bytes) if line.allocated_bytes else "",
            _signed(line.kept_bytes) if line.kept_bytes else "",
            _words.clip(line.text, _CODE) if not line.text[:1].isspace() else _indented(line.text),
        )
        for line in lines
    )
    columns = ("line", "time", "share", "itself", "waiting", "allocated", "kept", "code")
    return _tables.Table(columns, rows, frozenset(range(1, 7)))


def _module_table(costs: CellCosts, modules: Sequence[ModuleCost]) -> _tables.Table:
    rows = tuple(
        (
            _words.clip(one.path, 48),
            _words.clip(one.type_name, 28),
            f"{one.num_calls:,}",
            _words.seconds(one.forward_s),
            _words.seconds(one.backward_s),
            _percent(one.forward_s + one.backward_s, costs.recorded_s),
            _words_flops(one.flops) if one.flops else "",
            _words.memory(one.allocated_bytes) if one.allocated_bytes else "",
        )
        for one in modules
    )
    columns = ("module", "type", "calls", "forward", "backward", "share", "FLOP", "allocated")
    return _tables.Table(columns, rows, frozenset(range(2, 8)))


def _operator_table(costs: CellCosts, operators: Sequence[OperatorCost]) -> _tables.Table:
    rows = tuple(
        (
            _words.clip(one.name, 48),
            f"{one.num_calls:,}",
            _words.seconds(one.self_s),
            _percent(one.self_s, costs.recorded_s),
            f"{_words_flops(one.flops / one.self_s)}/s" if one.flops and one.self_s else "",
            _bound(costs, one),
            _words.memory(one.allocated_bytes) if one.allocated_bytes else "",
        )
        for one in operators
    )
    columns = ("operator", "calls", "time", "share", "rate", "of this machine's limit", "allocated")
    return _tables.Table(columns, rows, frozenset({1, 2, 3, 4, 6}))


def _worth_compiling(compilations: Sequence[CompileCost]) -> list[CompileCost]:
    """What can be avoided first, then what took longest."""
    return sorted(compilations, key=lambda one: (one.kind == "compiled", -one.seconds))[:_COMPILATIONS]


def _compile_table(compilations: Sequence[CompileCost], *, fixes: bool = True) -> _tables.Table:
    rows = tuple(
        (
            _place(one) if one.line else "",
            _words.clip(one.kind, 20),
            _words.clip(one.function, 40),
            f"{one.count:,}",
            _words.seconds(one.seconds),
            _words.clip(one.cause, 110),
            *([_fix(one)] if fixes else []),
        )
        for one in compilations
    )
    columns = ("line", "what", "function", "times", "time", "because", *(["fix"] if fixes else []))
    return _tables.Table(columns, rows, frozenset({3, 4}))


def _fix(one: CompileCost) -> str:
    if one.fix is None:
        return ""
    found = "" if one.fix.works else "does not help: "
    return f"{found}{_words.clip(one.fix.change, 90)} ({_words.clip(one.fix.effect, 240)})"


def _bound(costs: CellCosts, one: OperatorCost) -> str:
    found = costs.limits.bound(one) if costs.limits is not None else None
    if found is None or found[1] < 0.01:
        return ""
    name, share = found
    if share <= _OVER_ROOF:
        return f"{share:.0%} of {name}"
    return "memory, from the cache" if name == "memory" else f"{share:.1f}x float32 arithmetic"


def _compared(costs: CellCosts, before: CellCosts) -> _Section:
    """Lines of the same text in both profiles, those that changed most first."""
    then: dict[str, float] = {}
    for line in before.lines:
        if line.in_cell:
            then[line.text.strip()] = then.get(line.text.strip(), 0.0) + line.total_s
    now: dict[str, float] = {}
    for line in costs.lines:
        if line.in_cell:
            now[line.text.strip()] = now.get(line.text.strip(), 0.0) + line.total_s
    words = sorted({*then, *now}, key=lambda text: -abs(now.get(text, 0.0) - then.get(text, 0.0)))
    rows = [("whole cell", before.wall_s, costs.wall_s)]
    rows += [(text, then.get(text, 0.0), now.get(text, 0.0)) for text in words[:_TEXT_LINES]]
    table = _tables.Table(
        ("line", "before", "now", "change"),
        tuple(
            (
                _words.clip(text, _CODE),
                _words.seconds(old),
                _words.seconds(new),
                _words.ratio(old / new) if old and new else "gone" if old else "new",
            )
            for text, old, new in rows
        ),
        frozenset({1, 2, 3}),
    )
    shares = tuple(new / costs.wall_s if costs.wall_s else 0.0 for _, _, new in rows)
    return _Section("against the other profile (change: above 1x is faster now)", table, shares)


def _table_html(section: _Section) -> str:
    table = section.table
    used = [at for at in range(len(table.columns)) if any(row[at].strip() for row in table.rows)]
    share = table.columns.index("share") if "share" in table.columns else -1
    code = table.columns.index("code") if "code" in table.columns else -1
    flush = [' class="n"' if at in table.numeric else "" for at in range(len(table.columns))]
    head = "".join(f"<th{flush[at]}>{escape(table.columns[at])}</th>" for at in used)
    body = []
    for row, part in zip(table.rows, section.shares, strict=True):
        cells = []
        for at in used:
            word = escape(row[at])
            if at == share:
                width = 100 * min(max(part, 0.0), 1.0)
                word = f'<span class="bar"><i style="left:0;width:{width:.1f}%"></i></span>{word}'
            elif at == code:
                word = f"<code style='white-space:pre'>{word}</code>"
            wide = ' style="white-space:normal;min-width:18em"' if table.columns[at] in _SENTENCES else ""
            cells.append(f"<td{flush[at]}{wide}>{word}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    more = f'<p class="m">… {section.left_out:,} more</p>' if section.left_out else ""
    return f'<div class="x"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>{more}'


def _place(line: LineCost | CompileCost) -> str:
    if line.in_cell:
        return f"{line.line}"
    name = _words.file_name(line.file)
    return f"{'other cell' if name == 'cell' else name}:{line.line}"


def _indented(text: str) -> str:
    """The code with its indentation, two columns for four."""
    body = text.lstrip()
    depth = (len(text.expandtabs(4)) - len(body)) // 2
    return " " * min(depth, 24) + _words.clip(body, _CODE)


def _share(part: float, whole: float) -> float:
    return 100 * part / whole if whole else 0.0


def _percent(part: float, whole: float) -> str:
    share = _share(part, whole)
    return f"{share:.0f} %" if share >= 9.95 else f"{share:.1f} %"


def _signed(value: int) -> str:
    return f"{'+' if value > 0 else '-'}{_words.memory(abs(value))}"


def _words_flops(value: float) -> str:
    """``34.2 GFLOP``."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if abs(value) < 999.5 or prefix == "P":
            break
        value /= 1000
    return f"{value:.3g} {prefix}FLOP"
