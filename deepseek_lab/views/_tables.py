"""What a report says, as plain tables and sentences that every form of output shares."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from deepseek_lab.base.report import CandidateRow, GraphRecord, OptimizeReport
from deepseek_lab.views import _words

SIGNS = {"won": "✓", "lost": "–", "refused": "≠", "failed": "!", "skipped": "·", "building": "…"}
"""A sign beside each status, so that it is not told by colour alone."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of cells in words; ``numeric`` columns are set flush right."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[int] = frozenset()


def candidate_table(rows: Sequence[CandidateRow], *, reason_width: int = 200) -> Table:
    """One row a candidate, in the order given, under the eager time that they raced against."""
    columns = ("candidate", "status", "time", "vs eager", "95 %", "max rel", "build", "reason")
    lines = [
        (
            _words.clip(row.name, 40),
            _words.clip(f"{SIGNS.get(row.status, '?')} {row.status}", 20),
            _words.milliseconds(row.median_ms),
            _words.ratio(row.speedup),
            _words.interval(row.speedup_ci95),
            _words.error(row.max_rel_error),
            "cached" if row.cached else _words.seconds(row.build_s),
            _words.clip(row.reason, reason_width),
        )
        for row in rows
    ]
    eager = next((row for row in rows if row.eager_ms is not None), None)
    if eager is not None and all(row.name != "eager" for row in rows):
        error = _words.error(eager.eager_rel_error)
        lines.append(("eager", "  baseline", _words.milliseconds(eager.eager_ms), "1.00x", "", error, "", ""))
    return Table(columns, tuple(lines), frozenset(range(2, 7)))


def rows_of(report: OptimizeReport, record: GraphRecord) -> list[CandidateRow]:
    """Candidates of one graph, fastest first, then those without a time."""
    rows = [row for row in report.rows.values() if row.graph == record.graph]
    return sorted(rows, key=lambda row: (row.median_ms is None, row.median_ms or 0.0, row.name))


def graph_line(record: GraphRecord) -> str:
    """What became of one graph, in a line."""
    words = f"{record.graph} of {record.target}: {_words.plural(len(record.nodes), 'node')}"
    if not record.decided:
        return f"{words}, undecided, eager meanwhile"
    if record.chosen == "eager":
        return f"{words}, kept eager" + (f": {record.reason}" if record.reason else "")
    gain = f" {_words.ratio(record.speedup)}" if record.speedup is not None else ""
    span = f" (95% {_words.interval(record.speedup_ci95)})" if record.speedup_ci95 is not None else ""
    return f"{words}, runs in {record.chosen}{gain}{span}"


def remarks(report: OptimizeReport) -> list[tuple[str, str]]:
    """Graph breaks, calls that fell back and notes, as kind and sentence; equal ones are counted."""
    found: dict[tuple[str, str], int] = {}
    for item in report.breaks:
        name = item.file.replace("\\", "/").rsplit("/", 1)[-1]
        place = (
            f" ({name}:{item.line})" if item.line and name else f" (line {item.line})" if item.line else ""
        )
        line = ("graph break", f"{item.target}: {item.reason}{place}")
        found[line] = found.get(line, 0) + 1
    for fallback in report.fallbacks:
        line = ("fell back", f"{fallback.target}: {fallback.reason}")
        found[line] = found.get(line, 0) + 1
    for note in report.notes:
        found[("note", note)] = found.get(("note", note), 0) + 1
    return [(kind, text + (f" (× {count:,})" if count > 1 else "")) for (kind, text), count in found.items()]


def machine_line(report: OptimizeReport) -> str:
    """What the numbers were measured on; empty where the report does not say."""
    machine = report.machine
    if machine is None:
        return ""
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    memory = f"{machine.memory_bytes / 2**30:.1f} GiB"
    return (
        f"{machine.processor}, {_words.plural(machine.num_threads, 'thread')}, {memory}, {versions}".rstrip(
            ", "
        )
    )


def as_text(table: Table) -> str:
    """Columns filled with spaces; columns that say nothing are left out."""
    used = [at for at in range(len(table.columns)) if any(row[at].strip() for row in table.rows)]
    lines = [table.columns, *table.rows]
    widths = {at: max(_words.cells(line[at]) for line in lines) for at in used}
    return "\n".join(
        "  ".join(_words.pad(line[at], widths[at], right=at in table.numeric) for at in used).rstrip()
        for line in lines
    )


def markdown_cell(text: str) -> str:
    """``text`` as data in a Markdown table: no markup of any kind survives."""
    line = _words.clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for mark in "\\`*_[]|~$#!":
        line = line.replace(mark, "\\" + mark)
    return line


def as_markdown(table: Table) -> str:
    """A pipe table."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    rule = ("---:" if at in table.numeric else "---" for at in range(len(table.columns)))
    rows = [line(markdown_cell(cell) for cell in row) for row in table.rows]
    return "\n".join([line(table.columns), line(rule), *rows])
