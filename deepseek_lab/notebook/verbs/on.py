"""``on``: every following cell is a region."""

from __future__ import annotations

from deepseek_lab.notebook.host import Host
from deepseek_lab.notebook.plan import Plan
from deepseek_lab.notebook.plan import plan as find
from deepseek_lab.notebook.show import Shown


def run(plan: Plan, host: Host) -> Shown:
    """From the next cell on."""
    inner = plan.command.inner
    assert inner is not None
    find(inner, host.namespace)
    host.always = inner
    return Shown(f"on  every following cell runs under {inner}, until %deepseek off", data={"on": str(inner)})
