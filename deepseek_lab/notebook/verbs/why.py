"""``why``: for each graph what was chosen, what every candidate did, where capture broke, what fell back."""

from __future__ import annotations

import html

from deepseek_lab.base.memory import MemoryReport
from deepseek_lab.base.report import CandidateRow, GraphRecord, OptimizeReport
from deepseek_lab.notebook.host import Host
from deepseek_lab.notebook.plan import Plan
from deepseek_lab.notebook.ports import limited_runs, loaded_engine
from deepseek_lab.notebook.show import Shown, table
from deepseek_lab.notebook.verbs import chosen_run

_COLUMNS = ("candidate", "status", "ms", "speed-up", "max rel error", "build s", "reason")


def run(plan: Plan, host: Host) -> Shown:
    """Explain a report."""
    limit = chosen_limit(plan)
    return explain_limit(limit) if limit is not None else explain(chosen_run(plan).report)


def chosen_limit(plan: Plan) -> MemoryReport | None:
    """The training within a limit that was named, or where none was, the one that goes on after all else ended."""
    for value in plan.reports.values():
        named = value.report
        return named if isinstance(named, MemoryReport) else None
    limits, engine = limited_runs(), loaded_engine()
    last = engine.last_run() if engine is not None else None
    if not limits:
        return None
    began = next(iter(limits[-1].log)).at_s
    first = next(iter(last.log), None) if last is not None else None
    return None if first is not None and first.at_s > began else limits[-1].report


def explain_limit(report: MemoryReport) -> Shown:
    """How each model is kept within its limit, and why so."""
    from deepseek_lab import views

    text = views.memory_plan_text(report)
    for row in report.rows.values():
        if row.planned is not None and row.planned.code:
            text += "\n\n" + repr(_code(f"{row.target}: the same by hand", row.planned.code))
    return Shown(text, html_text=views.memory_plan_html(report), data=report.to_dict())


def explain(report: OptimizeReport) -> Shown:
    """The report's story: one section for each graph, then breaks, fallbacks and notes."""
    parts = [Shown(report.summary(), html_text="")]
    for record in report.graphs.values():
        rows = [row for row in report.rows.values() if row.graph == record.graph]
        rows.sort(key=lambda row: (row.median_ms is None, row.median_ms or 0.0, row.name))
        parts.append(table(_heading(record), _COLUMNS, [_row(row) for row in rows]))
        if record.plan and record.chosen != "eager":
            parts.append(_code("the same by hand", record.plan))
    if report.breaks:
        rows_of = [(place(item.file, item.line), item.target, item.reason) for item in report.breaks]
        parts.append(
            table("capture stopped and Python went on by itself", ("where", "target", "reason"), rows_of)
        )
    if report.fallbacks:
        counted: dict[tuple[str, str], int] = {}
        for item in report.fallbacks:
            counted[item.target, item.reason] = counted.get((item.target, item.reason), 0) + 1
        falls = [(target, reason, times) for (target, reason), times in counted.items()]
        parts.append(table("calls that ran in eager mode all the same", ("target", "reason", "calls"), falls))
    if report.notes:
        parts.append(table("notes", ("note",), [(note,) for note in report.notes]))
    text = "\n\n".join(repr(part) for part in parts)
    html_text = "".join(part.bundle().get("text/html", "") for part in parts)
    return Shown(text, html_text=html_text, data=report.to_dict())


def _code(title: str, code: str) -> Shown:
    text = "\n".join([title, *("  " + line for line in code.rstrip().splitlines())])
    return Shown(text, html_text=f"<div>{html.escape(title)}</div><pre>{html.escape(code)}</pre>")


def _heading(record: GraphRecord) -> str:
    state = f"runs in {record.chosen}" if record.decided else f"undecided, runs in {record.chosen} meanwhile"
    reason = f": {record.reason}" if record.reason else ""
    operations = sum(node.op not in {"input", "parameter", "output"} for node in record.nodes)
    return f"{record.target}({record.signature}), {operations} operations, {state}{reason}"


def _row(row: CandidateRow) -> tuple[object, ...]:
    interval = f" ({row.speedup_ci95[0]:.2f}-{row.speedup_ci95[1]:.2f})" if row.speedup_ci95 else ""
    gain = f"{row.speedup:.2f}x{interval}" if row.speedup is not None else ""
    built = "from the cache" if row.cached else f"{row.build_s:.1f}"
    return (row.name, row.status, row.median_ms, gain, row.max_rel_error, built, row.reason)


def place(file: str, line: int) -> str:
    """``file:line``, or nothing where it is not known."""
    return f"{file}:{line}" if file and line else file
