"""A search over the ranges of a cell: as a line, as text, as static HTML with pictures, and as an output."""

from __future__ import annotations

import base64
import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from deepseek_lab.base import events as ev
from deepseek_lab.base.search import SearchReport, TrialRow
from deepseek_lab.views import (
    _bundle,
    _html,
    _page,
    _search_line,
    _search_packed,
    _search_pictures,
    _tables,
    _words,
)

KIND = "search"
"""The view's name in ``js/src/core/kinds.ts``."""
MAX_TEXT_ROWS, MAX_HTML_ROWS = 8, 20
MAX_FAILURES, MAX_NOTES, MAX_COLUMNS = 8, 12, 10
_LINE = 600
_LIVE = 60_000
"""Characters of a live search that its output holds: a page is told the rest."""
_LEAST = 6_000
"""Characters below which there is no use in data to explore."""
_DIGITS = re.compile(r"\d+(?:\.\d+)?")


@dataclasses.dataclass(frozen=True)
class Failure:
    """Trials that failed in the same way, numbers in the error apart."""

    error: str
    trials: tuple[int, ...]


def failures(report: SearchReport) -> list[Failure]:
    """Failed trials by their error, the most frequent one first."""
    found: dict[str, list[TrialRow]] = {}
    for row in report.rows.values():
        if row.status == "failed":
            head = _words.clip(row.error, 400) or "no error was told"
            found.setdefault(_DIGITS.sub("#", head), []).append(row)
    made = [
        Failure(_words.clip(rows[0].error, 200) or "no error was told", tuple(row.trial for row in rows))
        for rows in found.values()
    ]
    return sorted(made, key=lambda one: (-len(one.trials), one.trials))


def search_text(report: SearchReport) -> str:
    """The line, then the best trials, what failed, how well small trials told whole ones, what matters, and notes."""
    parts = [_words.clip(_search_line.search_line(report), _LINE)]
    for title, table in _sections(report, MAX_TEXT_ROWS):
        body = "\n".join(f"  {line}" for line in _tables.as_text(table).splitlines())
        parts.append(f"\n{title}\n{body}")
    if known := _importances(report):
        parts.append(f"\nimportance (PED-ANOVA): {known}")
    if report.notes:
        parts.append("")
        parts += [f"note: {one}" for one in _notes(report, 240)]
    return "\n".join(parts)


def search_html(report: SearchReport) -> str:
    """The same as static HTML with pictures: no script, nothing from a network."""
    parts = [
        f'<div class="dsl"><style>{_html.STYLE}</style>',
        f'<p class="s">{escape(_words.clip(_search_line.search_line(report), _LINE))}</p>',
        *(f'<p class="m">{escape(one)}</p>' for one in _notes(report, 300)),
    ]
    parts += [_folded(title, body, is_open=is_open) for title, body, is_open in _pictures(report)]
    for title, table in _sections(report, MAX_HTML_ROWS):
        parts.append(_folded(title, _html.table(table)))
    return "\n".join(parts) + "</div>"


def _folded(title: str, body: str, *, is_open: bool = False) -> str:
    return f"<details{' open' if is_open else ''}><summary>{escape(title)}</summary>{body}</details>"


def _image(svg: str, alt: str) -> str:
    data = base64.b64encode(svg.encode("utf-8", "replace")).decode()
    return f'<img alt="{escape(alt)}" style="max-width:100%" src="data:image/svg+xml;base64,{data}">'


def _pictures(report: SearchReport) -> list[tuple[str, str, bool]]:
    """Titles, pictures, and whether they are open; what has nothing to show is left out."""
    found: list[tuple[str, Callable[[SearchReport], str], str, bool]] = []
    values = bool(_search_pictures.tried(report))
    line = _words.clip(_search_line.search_line(report), 200)
    if values or report.num("failed"):
        found.append(("history", _search_pictures.history, f"values by trial: {line}", True))
    if len(report.metrics) > 1 and report.whole():
        names = " and ".join(_words.clip(name, 40) for name in report.metrics[:2])
        found.append(("Pareto front", _search_pictures.front, f"whole trials by {names}", True))
    if report.importances:
        found.append(
            ("importance", _search_pictures.importances, f"importances: {_importances(report)}", True)
        )
    if values and report.spaces:
        alt = "values of the ranges of each configuration"
        found.append(("parallel coordinates", _search_pictures.parallel, alt, False))
        found.append(("slices", _search_pictures.slices, "values by each range", False))
    if _search_pictures.has_curves(report):
        found.append(("curves", _search_pictures.curves, "what trials reported by step", False))
    return [(title, _image(draw(report), alt), is_open) for title, draw, alt, is_open in found]


def _sections(report: SearchReport, most: int) -> list[tuple[str, _tables.Table]]:
    made = []
    best = _search_pictures.standings(report)
    if best:
        made.append((f"best of {_words.plural(len(best), 'configuration')}", _best(report, best[:most])))
    if compared := report.compared:
        made.append(("beside the defaults, by seed", _compared(report, compared)))
    if failed := failures(report):
        count = sum(len(one.trials) for one in failed)
        made.append((f"{_words.plural(count, 'failed trial')}", _failed(failed)))
    if report.ranks:
        title = "how well small trials tell what whole ones give"
        rows = [
            (size(one.cost), f"{one.correlation:.2f}", f"{one.num:,}")
            for one in report.ranks[:8]
            if math.isfinite(one.correlation)
        ]
        columns = ("size", "rank correlation (Spearman)", "configurations that ran as both")
        made.append((title, _tables.Table(columns, tuple(rows), frozenset({1, 2}))))
    return made


def size(cost: float) -> str:
    """How large a trial is.

    >>> size(1.0), size(0.25), size(0.3)
    ('whole', '1/4', '30 %')
    """
    if not cost < 1.0:
        return "whole"
    parts = round(1 / cost) if cost > 1e-6 else 0
    return f"1/{parts}" if parts > 1 and abs(1 / parts - cost) < 0.004 else f"{100 * cost:.2g} %"


def _best(report: SearchReport, rows: Sequence[TrialRow]) -> _tables.Table:
    names = _search_line.order(report)[:MAX_COLUMNS]
    metrics = report.metrics or ("value",)
    columns = ("trial", "size", *(_words.clip(name, 24) for name in metrics), "remarks", "took")
    defaults = report.defaults
    lines = []
    for row in rows:
        remarks = ", ".join(
            filter(
                None,
                (
                    "defaults" if defaults is not None and row.config == defaults.config else "",
                    "" if row.allowed else "constraints not met",
                ),
            )
        )
        values = [_search_line.number(one, 4) for one in row.values] or (
            [] if row.value is None else [_search_line.number(row.value, 4)]
        )
        values = (values + [""] * len(metrics))[: len(metrics)]
        cells = [_search_line.said(row.params[name]) if name in row.params else "" for name in names]
        took = _search_line.duration(row.seconds) if math.isfinite(row.seconds) and row.seconds else ""
        lines.append((f"{row.trial:,}", size(row.cost), *values, remarks, took, *cells))
    numeric = {0, *range(2, 2 + len(metrics)), 3 + len(metrics)}
    shift = len(columns)
    numeric |= {shift + at for at, name in enumerate(names) if _is_number(report, name)}
    return _tables.Table(
        (*columns, *(_words.clip(name, 24) for name in names)), tuple(lines), frozenset(numeric)
    )


def _is_number(report: SearchReport, name: str) -> bool:
    space = report.spaces.get(name)
    return space is not None and space.space != "choice"


def _compared(report: SearchReport, compared: ev.Compared) -> _tables.Table:
    pairs = list(zip(compared.defaults, compared.found, strict=False))[:MAX_HTML_ROWS]
    metric = _words.clip(report.metrics[0] if report.metrics else "metric", 40)
    rows = []
    for at, (one, other) in enumerate(pairs):
        before, after = _search_line.pair(one, other)
        rows.append((f"{at + 1}", before, after))
    columns = ("seed", f"{metric} with the defaults", "with the best found")
    return _tables.Table(columns, tuple(rows), frozenset({0, 1, 2}))


def _failed(found: Sequence[Failure]) -> _tables.Table:
    rows = []
    for one in found[:MAX_FAILURES]:
        trials = ", ".join(f"{trial:,}" for trial in one.trials[:6])
        rows.append((f"{len(one.trials):,}", one.error, trials + (", …" if len(one.trials) > 6 else "")))
    if len(found) > MAX_FAILURES:
        rest = sum(len(one.trials) for one in found[MAX_FAILURES:])
        rows.append((f"{rest:,}", f"{len(found) - MAX_FAILURES:,} other errors", ""))
    return _tables.Table(("failed", "error", "trials"), tuple(rows), frozenset({0}))


def _importances(report: SearchReport) -> str:
    known = [
        (name, value)
        for name, value in sorted(report.importances.items(), key=lambda one: -one[1])
        if math.isfinite(value)
    ]
    parts = [f"{_words.clip(name, 24)} {value:.0%}" for name, value in known[:8]]
    return ", ".join([*parts, f"{len(known) - 8:,} more"] if len(known) > 8 else parts)


def _notes(report: SearchReport, width: int) -> list[str]:
    found = [_words.clip(note, width) for note in dict.fromkeys(report.notes)]
    more = len(found) - MAX_NOTES
    return [*found[:MAX_NOTES], f"… {more:,} more notes"] if more > 0 else found


def search_bundle(
    run: str,
    log: ev.EventLog,
    *,
    title: str = "search",
    live: bool = False,
    report: SearchReport | None = None,
) -> dict[str, Any]:
    """A search as ``text/plain``, static ``text/html`` and data for our own front end; at most 200 kB in all.

    Args:
        run: Under what name a page asks for what comes.
        log: What happened so far.
        title: What the search is called.
        live: Whether more will come.
        report: The fold of the log, where it is at hand.
    """
    report = SearchReport.fold(log.since()) if report is None else report
    made: dict[str, Any] = {"text/plain": search_text(report), "text/html": search_html(report)}
    empty = _page.content(KIND, title, "")
    shell = "" if live else _page.frame(**empty) or ""
    room = _bundle.LIMIT_BYTES - _bundle.size(
        {**made, _page.MIME: _page.payload(run, [empty], live=live, in_cell=True)}
    )
    room -= 1_000
    framed = (room - _bundle.size(shell)) // 2 if shell else 0
    limit = min(room, _LIVE) if framed < _LEAST else framed
    if limit < _LEAST:
        return made
    packed = _search_packed.packed_search(log, limit, report, live=live)
    if len(packed) > limit:
        return made
    content = _page.content(KIND, title, packed)
    made[_page.MIME] = _page.payload(run, [content], live=live, in_cell=True)
    if framed >= _LEAST:
        frame = f"{_page.frame(**content) or ''}{_html.UNTRUSTED}</div>"
        made["text/html"] = made["text/html"].removesuffix("</div>") + frame
    return made
