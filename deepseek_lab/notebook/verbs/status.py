"""``status``: what is installed, what is under way, and whether every cell is a region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        for key, value in engine.status().items():
            rows += _runs(value) if key == "runs" else [(key.replace("_", " "), value)]
    return table("status", ("what", "state"), rows)


def _runs(runs: Sequence[Mapping[str, Any]]) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for run in runs:
        rows.append((f"run {run['id']}", f"{run['summary']}{', working' if run['working'] else ''}"))
        for target, lanes in run["targets"].items():
            states = ", ".join(f"{lane} {state}" for lane, state in lanes.items())
            rows.append((f"  {target}", states or "not called yet"))
    return rows
