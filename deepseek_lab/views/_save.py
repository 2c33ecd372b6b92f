"""A report as a file: a page, data or Markdown, by the file's ending."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from deepseek_lab.base.errors import UsageError, nearest
from deepseek_lab.base.report import OptimizeReport
from deepseek_lab.views import _html, _tables


def save(report: OptimizeReport, path: str | os.PathLike[str]) -> None:
    """Write ``report`` to ``path``: ``.html`` a complete page, ``.json`` its data, ``.md`` its tables.

    The file is complete or not there: it is written beside ``path`` and then takes its place.

    Raises:
        UsageError: the ending is not one of these, the folder does not exist, or ``path`` is a folder.
        OSError: the system refuses to write there.

    Example: ``save(report, "report.html")``.
    """
    target = Path(path).expanduser()
    ending = target.suffix.lower()
    if ending not in WRITERS:
        allowed = ", ".join(WRITERS)
        close = nearest(ending, WRITERS) or ".html"
        stem = target.with_suffix(close) if target.name else f"report{close}"
        raise UsageError(f"cannot save to {str(path)!r}: the ending is not one of {allowed}", hint=str(stem))
    if target.is_dir():
        raise UsageError(
            f"cannot save to {str(path)!r}: it is a folder", hint=str(target / f"report{ending}")
        )
    target = target.resolve()
    if not target.parent.is_dir():
        raise UsageError(
            f"cannot save to {str(path)!r}: the folder {str(target.parent)!r} does not exist",
            hint=target.name,
        )
    _replace(target, WRITERS[ending](report))


def _replace(target: Path, text: str) -> None:
    beside = target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}")
    try:
        with beside.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def _json(report: OptimizeReport) -> str:
    return json.dumps(report.to_dict(), indent=1, allow_nan=False) + "\n"


def _markdown(report: OptimizeReport) -> str:
    cell = _tables.markdown_cell
    parts = [f"**{cell(report.summary())}**"]
    for record in report.graphs.values():
        parts.append(f"## {cell(_tables.graph_line(record))}")
        if record.signature:
            parts.append(f"Inputs: {cell(record.signature)}")
        rows = _tables.rows_of(report, record)
        if rows:
            parts.append(_tables.as_markdown(_tables.candidate_table(rows, reason_width=1000)))
    remarks = _tables.remarks(report)
    if remarks:
        parts.append("\n".join(f"- {kind}: {cell(text)}" for kind, text in remarks))
    machine = _tables.machine_line(report)
    if machine:
        parts.append(f"Measured on {cell(machine)}")
    return "\n\n".join(parts) + "\n"


WRITERS: dict[str, Callable[[OptimizeReport], str]] = {".html": _html.page, ".json": _json, ".md": _markdown}
"""What is written, by ending."""
