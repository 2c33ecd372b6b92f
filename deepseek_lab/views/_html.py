"""A report as static HTML: the summary, then folded detail; no script and nothing from a network."""

from __future__ import annotations

import base64
import collections
import dataclasses
from collections.abc import Iterator, Sequence
from html import escape

from deepseek_lab.base.report import CandidateRow, GraphRecord, OptimizeReport
from deepseek_lab.views import _page, _svg, _tables, _text, _words
from deepseek_lab.views._accumulation import batch_line, batch_notes

STYLE = f"""
.dsl{_svg.THEME % _svg.LIGHT}
@media(prefers-color-scheme:dark){{.dsl{_svg.THEME % _svg.DARK}}}
[data-jp-theme-light="true"] .dsl,.vscode-light .dsl{{color-scheme:light}}
[data-jp-theme-light="false"] .dsl,.vscode-dark .dsl{{color-scheme:dark}}
.dsl{{color:var(--f);background:var(--b);padding:6px 8px;\
font:13px/1.5 system-ui,-apple-system,'Segoe UI',sans-serif}}
.dsl p{{margin:2px 0}}.dsl p.s{{font-weight:600;white-space:pre-wrap}}.dsl p.m{{opacity:.75;font-size:12px}}
.dsl details{{margin:4px 0}}.dsl details details{{margin-left:14px}}.dsl summary{{cursor:pointer}}
.dsl div.x{{overflow-x:auto}}
.dsl table{{border-collapse:collapse;margin:4px 0;font-size:12px;color:inherit;background:none;border:0}}
.dsl tr{{background:none}}
.dsl th,.dsl td{{padding:2px 6px;text-align:left;vertical-align:top;white-space:nowrap;\
border:0;border-bottom:1px solid rgba(128,128,128,.3)}}
.dsl th{{font-weight:600}}.dsl td.n,.dsl th.n{{text-align:right;font-variant-numeric:tabular-nums}}
.dsl tr.has td{{border-bottom:0}}
.dsl td.r{{white-space:normal;padding:0 8px 4px 24px;overflow-wrap:anywhere;opacity:.8}}
.dsl tr.won td:first-child,.dsl tr.won td:nth-child(2){{font-weight:600}}
.dsl span.bar{{display:inline-block;position:relative;width:72px;height:10px;margin-right:6px;\
border-bottom:1px solid rgba(128,128,128,.5)}}
.dsl span.bar i{{position:absolute;top:2px;height:6px;min-width:3px;border-radius:2px;background:#777}}
.dsl span.bar b{{position:absolute;top:0;height:10px;width:1px;background:var(--f)}}
.dsl tr.won .bar i{{background:#2f8f4e}}.dsl tr.refused .bar i,.dsl tr.failed .bar i{{background:#d1453b}}
.dsl pre{{margin:4px 0;padding:6px 8px;overflow-x:auto;font:11.5px/1.45 {_svg.MONO};color:inherit;\
background:rgba(128,128,128,.1);border-radius:4px}}
.dsl ul{{margin:2px 0;padding-left:20px}}.dsl li{{overflow-wrap:anywhere}}
"""


UNTRUSTED = '<p class="m">A notebook that is not trusted shows nothing here.</p>'
"""What stands under a frame."""


@dataclasses.dataclass(frozen=True)
class Detail:
    """How much is said; what is beyond is counted, not shown."""

    max_rows: int = 40
    max_remarks: int = 40
    reason_width: int = 300
    max_boxes: int = 80
    max_printed: int = 60
    plan_lines: int = 200
    inline: bool = False
    """Drawings as elements of a page of our own; a notebook's sanitizer passes pictures, not SVG."""


def page(report: OptimizeReport) -> str:
    """A complete page with every graph."""
    detail = Detail(
        max_rows=1000, max_remarks=1000, max_boxes=120, max_printed=400, plan_lines=5000, inline=True
    )
    sections = [
        graph_section(report, record, detail).removesuffix("</details>")
        + graph_frame(next(graph_contents(report, record), None))
        + "</details>"
        for record in report.graphs.values()
    ]
    title = escape(_words.clip(report.summary(), 120))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">'
        f"<title>{title}</title></head><body>\n{body(report, sections, detail)}\n</body></html>\n"
    )


def body(report: OptimizeReport, sections: Sequence[str], detail: Detail) -> str:
    """The whole view with the sections of its graphs."""
    parts = [
        f'<div class="dsl"><style>{STYLE}</style>',
        f'<p class="s">{escape(_words.clip(report.summary(), 400))}</p>',
    ]
    if report.batch is not None:
        parts.append(f'<p class="s">{escape(batch_line(report.batch))}</p>')
        parts += [f'<p class="m">{escape(one)}</p>' for one in batch_notes(report.batch)]
    if report.candidates:
        parts.append(_folded("candidates", _candidates(report.candidates, detail)))
    remarks = _tables.remarks(report)
    if remarks:
        items = [
            f"<li>{kind}: {escape(_words.clip(text, detail.reason_width))}</li>"
            for kind, text in remarks[: detail.max_remarks]
        ]
        more = _left_out(len(remarks) - detail.max_remarks, "more break, fallback or note")
        counts = collections.Counter(kind for kind, _ in remarks)
        title = ", ".join(f"{kind}: {count:,}" for kind, count in counts.items())
        parts.append(_folded(title, f"<ul>{''.join(items)}</ul>{more}"))
    parts += sections
    machine = _tables.machine_line(report)
    if machine:
        parts.append(f'<p class="m">measured on {escape(_words.clip(machine, 300))}</p>')
    return "\n".join(parts) + "</div>"


def graph_section(report: OptimizeReport, record: GraphRecord, detail: Detail) -> str:
    """Signature, candidates, plan and drawing of one graph; ``max_boxes`` 0 leaves the drawing out."""
    line = _words.clip(_tables.graph_line(record), 200)
    took = _words.seconds(record.capture_s)
    facts = [
        f"inputs {record.signature}" if record.signature else "",
        f"captured in {took}" if took else "",
        "dynamic shapes" if record.dynamic else "",
        f"covered {record.coverage:.0%}" if record.chosen != "eager" else "",
    ]
    words = _words.clip(", ".join(fact for fact in facts if fact), detail.reason_width)
    parts = [f'<p class="m">{escape(words)}</p>' if words else ""]
    if record is not report.main_graph and (rows := _tables.rows_of(report, record)):
        parts.append(_folded("candidates", _candidates(rows, detail)))
    if record.plan:
        lines = _words.clean(record.plan, lines=True).expandtabs().splitlines()
        shown = "\n".join(code[:300] for code in lines[: detail.plan_lines])
        more = _left_out(len(lines) - detail.plan_lines, "more line")
        parts.append(_folded("plan as Python", f"<pre><code>{escape(shown)}</code></pre>{more}"))
    if record.nodes:
        if detail.max_boxes:
            beside = " before and after" if record.plan_nodes else ""
            parts.append(_folded("graph" + beside, _drawing(record, line, detail)))
        printed = escape(_text.graph_text(record.nodes, max_rows=detail.max_printed))
        parts.append(_folded("graph as text", f"<pre>{printed}</pre>"))
    return _folded(escape(line), "".join(parts))


def graph_contents(report: OptimizeReport, record: GraphRecord) -> Iterator[dict[str, str]]:
    """A graph to explore, as data, from full to lean; none where there is nothing to explore."""
    if not record.nodes:
        return
    title = _words.clip(_tables.graph_line(record), 120)
    breaks = report.breaks_of(record.target)
    for beside in (True, False) if record.plan_nodes else (False,):
        yield _page.graph_content(record.nodes, title, record.plan_nodes, breaks=breaks, beside=beside)


def graph_frame(content: dict[str, str] | None) -> str:
    """The same, folded; empty where the front end was not built."""
    frame = _page.frame(**content) if content is not None else None
    return _folded("graph to explore", frame + UNTRUSTED) if frame else ""


def _drawing(record: GraphRecord, title: str, detail: Detail) -> str:
    plan = record.plan_nodes or None
    svg = _svg.draw(record.nodes, plan_nodes=plan, max_boxes=detail.max_boxes, standalone=not detail.inline)
    if detail.inline:
        return svg
    data = base64.b64encode(svg.encode()).decode()
    source = f"data:image/svg+xml;base64,{data}"
    return f'<img alt="drawing of {escape(title)}" style="max-width:100%" src="{source}">'


def _candidates(rows: Sequence[CandidateRow], detail: Detail) -> str:
    shown = rows[: detail.max_rows]
    table = _tables.candidate_table(shown, reason_width=detail.reason_width)
    *plain, reason = range(len(table.columns))
    used = [at for at in plain if any(line[at].strip() for line in table.rows)]
    scale = max([1.0, *(span[1] for row in shown if (span := _span(row)) is not None)]) * 1.05
    head = "".join(f"<th{_flush(at, table)}>{table.columns[at]}</th>" for at in used)
    lines = []
    for at_row, line in enumerate(table.rows):
        row = shown[at_row] if at_row < len(shown) else None
        status = row.status if row is not None and row.status in _tables.SIGNS else ""
        cells = [
            f"<td{_flush(at, table)}>{_bar(row, scale) if at == 4 else ''}{escape(line[at])}</td>"
            for at in used
        ]
        lines.append(f'<tr class="{status}{" has" if line[reason] else ""}">{"".join(cells)}</tr>')
        if line[reason]:
            lines.append(f'<tr><td class="r" colspan="{len(used)}">{escape(line[reason])}</td></tr>')
    more = _left_out(len(rows) - len(shown), "more candidate")
    table_html = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<div class="x">{table_html}</div>{more}'


def table(table: _tables.Table) -> str:
    """A table; columns that say nothing are left out."""
    used = [at for at in range(len(table.columns)) if any(row[at].strip() for row in table.rows)]
    flush = [' class="n"' if at in table.numeric else "" for at in range(len(table.columns))]
    head = "".join(f"<th{flush[at]}>{escape(table.columns[at])}</th>" for at in used)
    body = "".join(
        f"<tr>{''.join(f'<td{flush[at]}>{escape(_words.clip(row[at], 160))}</td>' for at in used)}</tr>"
        for row in table.rows
    )
    return f'<div class="x"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _flush(at: int, table: _tables.Table) -> str:
    return ' class="n"' if at in table.numeric else ""


def _span(row: CandidateRow) -> tuple[float, float] | None:
    return row.speedup_ci95 if _words.interval(row.speedup_ci95) else None


def _bar(row: CandidateRow | None, scale: float) -> str:
    """The interval as a bar from 0 to the table's largest; the thin line is eager's 1.0."""
    span = _span(row) if row is not None else None
    if span is None:
        return ""
    low, high = (min(max(bound / scale, 0.0), 1.0) * 100 for bound in span)
    return (
        f'<span class="bar"><i style="left:{low:.1f}%;width:{max(high - low, 0):.1f}%"></i>'
        f'<b style="left:{100 / scale:.1f}%"></b></span>'
    )


def _folded(title: str, inner: str) -> str:
    return f"<details><summary>{title}</summary>{inner}</details>"


def _left_out(count: int, noun: str) -> str:
    return f'<p class="m">… {_words.plural(count, noun)} left out</p>' if count > 0 else ""
