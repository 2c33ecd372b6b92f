"""Training within a limit, in text and HTML: what was predicted, what is done, what was measured."""

from __future__ import annotations

import html
from collections.abc import Sequence

from deepseek_lab.base.events import MemoryPlanned, MemoryStep
from deepseek_lab.base.memory import MemoryReport, MemoryRow
from deepseek_lab.base.sizes import words

_COLUMNS = ("what", "where", "held less", "added to a step")
_PLACES = 3
"""Modules that are named before they are counted."""


def memory_plan_line(report: MemoryReport) -> str:
    """What there is to say in one line."""
    if not report.rows:
        return "optimize  nothing in this cell trains that can be kept within a limit"
    return "\n".join(_line(row) for row in report.rows.values())


def _line(row: MemoryRow) -> str:
    planned, measured = row.planned, row.measured
    head = f"optimize  {row.target}"
    if planned is None:
        held = f"a step held {words(measured.peak_bytes)} at most" if measured else "no plan yet"
        return f"{head}  {held}"
    limit = f"limit {words(planned.limit_bytes)}"
    found = f"peak {words(planned.plain_bytes)} -> {words(planned.predicted_bytes)} predicted"
    if measured is not None:
        found += f", {words(measured.peak_bytes)} measured"
    if not planned.fits:
        return f"{head}  {limit} can't be kept: {found}"
    if not planned.steps:
        return f"{head}  {limit}  fits as it is: {words(planned.plain_bytes)} predicted" + (
            f", {words(measured.peak_bytes)} measured" if measured else ""
        )
    added = f"  {planned.extra_ms:,.0f} ms recomputed"
    if measured is not None and measured.step_ms > 0:
        added += f" of {measured.step_ms:,.0f} ms a step"
    return f"{head}  {limit}  {found}{added}"


def memory_plan_text(report: MemoryReport) -> str:
    """The line, and a table for each model."""
    parts = [memory_plan_line(report)]
    for row in report.rows.values():
        if row.planned is not None and row.planned.steps:
            parts.append(_table(_rows(row.planned.steps)))
        parts += [f"  {one}" for one in _facts(row)]
    parts += [f"note: {note}" for note in report.notes]
    return "\n".join(parts)


def memory_plan_html(report: MemoryReport) -> str:
    """The same for a page."""
    style = "white-space:pre-wrap;font-weight:bold"
    parts = [
        f'<div style="{style}">{html.escape(line)}</div>' for line in memory_plan_line(report).splitlines()
    ]
    for row in report.rows.values():
        planned = row.planned
        if planned is not None and planned.steps:
            head = "".join(f'<th style="text-align:left">{one}</th>' for one in _COLUMNS)
            body = "".join(
                "<tr>"
                + "".join(f'<td style="text-align:left">{html.escape(word)}</td>' for word in cells)
                + "</tr>"
                for cells in _rows(planned.steps)
            )
            parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
        parts += [f"<div>{html.escape(one)}</div>" for one in _facts(row)]
        if planned is not None and planned.code:
            parts.append(
                f"<details><summary>the same by hand</summary><pre>{html.escape(planned.code)}</pre></details>"
            )
    parts += [f"<div>note: {html.escape(note)}</div>" for note in report.notes]
    return "".join(parts)


def _rows(steps: Sequence[MemoryStep]) -> list[tuple[str, ...]]:
    return [
        (
            one.action,
            _places(one.where),
            words(one.saved_bytes) if one.where else "",
            f"{1e3 * one.seconds:,.0f} ms" if one.where else "",
        )
        for one in steps
    ]


def _places(where: Sequence[str]) -> str:
    if len(where) <= _PLACES:
        return ", ".join(where)
    return f"{where[0]} ... {where[-1]} ({len(where)} modules)"


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = [_COLUMNS, *rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(_COLUMNS))]
    return "\n".join(
        "  " + "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _facts(row: MemoryRow) -> list[str]:
    facts = []
    if (planned := row.planned) is not None:
        facts.append(
            f"parameters, buffers and optimiser state hold {words(planned.lasting_bytes)} throughout; "
            f"the most is held in the {planned.phase}" + ("" if planned.phase == "update" else " pass")
        )
        if planned.reason:
            facts.append(planned.reason)
        if not planned.fits:
            facts.append(_missing(planned))
    if (measured := row.measured) is not None and measured.process_bytes is not None:
        facts.append(
            f"the process took {words(measured.process_bytes)} for it at most, the libraries' own included"
        )
    return facts


def _missing(planned: MemoryPlanned) -> str:
    by = planned.predicted_bytes - planned.limit_bytes
    if by <= 0:
        return "it fits, but with less than the margin that kernels need for themselves"
    enough = words(planned.predicted_bytes * 1.05)
    return f"it is {words(by)} more than the limit: a smaller batch, or a limit of {enough}"
