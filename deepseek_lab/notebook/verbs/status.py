"""``status``: what is installed, what is under way, and whether every cell is a region."""

from __future__ import annotations

from typing import Any

from deepseek_lab.notebook.host import Host
from deepseek_lab.notebook.plan import Plan
from deepseek_lab.notebook.ports import loaded_engine
from deepseek_lab.notebook.show import Shown, table


def run(plan: Plan, host: Host) -> Shown:
    """Say what is active."""
    rows: list[tuple[str, Any]] = [("every cell is a region", str(host.always) if host.always else "no")]
    engine = loaded_engine()
    if engine is None:
        rows.append(("engine", "not in use yet"))
    else:
        rows += _flat("", engine.status())
        rows += [(f"run {run.id}", run.report.summary()) for run in engine.runs()]
    return table("status", ("what", "state"), rows)


def _flat(prefix: str, data: Any) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in data.items():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        rows += _flat(f"{name}, ", value) if isinstance(value, dict) and value else [(name, value)]
    return rows
