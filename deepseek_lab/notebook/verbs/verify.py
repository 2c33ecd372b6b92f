"""``verify``: what runs now is compared once more with eager and float64, on fresh inputs."""

from __future__ import annotations

from deepseek_lab.base.errors import UsageError
from deepseek_lab.notebook.host import Host
from deepseek_lab.notebook.plan import Plan
from deepseek_lab.notebook.ports import engine
from deepseek_lab.notebook.show import Shown, table
from deepseek_lab.notebook.verbs import chosen_run

_COLUMNS = ("target", "graph", "candidate", "max rel error", "eager's own", "agrees", "detail")


def run(plan: Plan, host: Host) -> Shown:
    """Verify a report's graphs again."""
    num_inputs = int(plan.command.number("inputs") or 0) if plan.command.has("inputs") else 3
    if num_inputs < 1:
        raise UsageError("--inputs needs at least one input", hint="%deepseek verify --inputs 3")
    target = chosen_run(plan)
    records = engine().verify(target, num_inputs)
    rows = [
        (r.target, r.graph, r.candidate, r.max_rel_error, r.eager_rel_error, r.ok, r.detail) for r in records
    ]
    num_bad = sum(not record.ok for record in records)
    if not records:
        title = "verify  no captured graph to check"
    elif num_bad:
        title = f"verify  {num_bad} of {len(records)} do NOT agree with eager"
    else:
        title = f"verify  all {len(records)} agree with eager on {num_inputs} fresh inputs each"
    return table(title, _COLUMNS, rows)
