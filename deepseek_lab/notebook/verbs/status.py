"""``status``: what is installed, what is under way, and whether every cell is a region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deepseek_lab.base.memory import MemoryReport
from deepseek_lab.base.sizes import words
from deepseek_lab.notebook.host import Host
from deepseek_lab.notebook.plan import Plan
from deepseek_lab.notebook.ports import limited_runs, loaded_engine
from deepseek_lab.notebook.show import Shown, table


def run(plan: Plan, host: Host) -> Shown:
    """Say what is active."""
    rows: list[tuple[str, Any]] = [("every cell is a region", str(host.always) if host.always else "no")]
    engine = loaded_engine()
    if engine is None:
        rows.append(("engine", "not in use yet"))
    else:
        for key, value in engine.status().items():
            rows += _runs(value) if key == "runs" else [(key.replace("_", " "), value)]
    for limit in limited_runs():
        rows += _limits(limit.states, limit.report)
    return table("status", ("what", "state"), rows)


def _runs(runs: Sequence[Mapping[str, Any]]) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for run in runs:
        rows.append((f"run {run['id']}", f"{run['summary']}{', working' if run['working'] else ''}"))
        for target, lanes in run["targets"].items():
            states = ", ".join(f"{lane} {state}" for lane, state in lanes.items())
            rows.append((f"  {target}", states or "not called yet"))
    return rows


def _limits(states: Mapping[str, str], report: MemoryReport) -> list[tuple[str, Any]]:
    """Trainings within a limit: where each stands, and what was planned and measured."""
    rows: list[tuple[str, Any]] = []
    for name, state in states.items():
        row = report.rows.get(name)
        planned, measured = (row.planned, row.measured) if row is not None else (None, None)
        limit = planned.limit_bytes if planned is not None else report.limit_bytes
        rows.append((f"{name} within {words(limit) if limit else 'what the device has'}", state))
        if planned is not None:
            done = "; ".join(one.action for one in planned.steps) or "nothing is changed"
            rows.append(
                ("  predicted", f"{words(planned.predicted_bytes)} of {words(planned.plain_bytes)} plain")
            )
            rows.append(("  plan", done))
        if measured is not None:
            rows.append(("  measured", words(measured.peak_bytes)))
    return rows
