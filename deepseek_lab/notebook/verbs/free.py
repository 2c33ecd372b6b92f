"""``free``: takes the engine away from everything that it runs, and gives back the memory that it holds."""

from __future__ import annotations

from deepseek_lab.notebook.host import Host
from deepseek_lab.notebook.plan import Plan
from deepseek_lab.notebook.ports import as_row, loaded_engine
from deepseek_lab.notebook.show import Shown, table


def run(plan: Plan, host: Host) -> Shown:
    """Free, and say what that gave."""
    engine = loaded_engine()
    rows = [as_row(record)[:2] for record in engine.free()] if engine is not None else []
    total = sum(num_bytes for _, num_bytes in rows)
    title = f"free  {total / 2**20:.1f} MiB" if rows else "free  nothing was held"
    return table(title, ("what", "bytes"), rows)
