"""``doctor``: checks this machine and installation."""

from __future__ import annotations

from deepseek_lab.notebook.host import Host
from deepseek_lab.notebook.plan import Plan
from deepseek_lab.notebook.ports import as_row, engine
from deepseek_lab.notebook.show import Shown, table


def run(plan: Plan, host: Host) -> Shown:
    """Make every check, and name the next thing to type for each fault."""
    from deepseek_lab import views

    rows = [as_row(record)[:4] for record in engine().doctor()]
    built = views.explorable()
    rows.append(
        (
            "views",
            built,
            "" if built else "graphs are pictures only, the front end was not built",
            "" if built else "make setup",
        )
    )
    num_bad = sum(not row[1] for row in rows)
    title = (
        f"doctor  {num_bad} of {len(rows)} checks failed"
        if num_bad
        else f"doctor  all {len(rows)} checks passed"
    )
    return table(title, ("check", "ok", "detail", "try"), rows)
