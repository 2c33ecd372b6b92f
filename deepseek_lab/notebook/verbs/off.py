"""``off``: cells are plain again."""

from __future__ import annotations

from deepseek_lab.notebook.host import Host
from deepseek_lab.notebook.plan import Plan
from deepseek_lab.notebook.show import Shown


def run(plan: Plan, host: Host) -> Shown:
    """From the next cell on; what was installed keeps running."""
    was, host.always = host.always, None
    return Shown("off  cells are plain again" if was else "off  it was not on", data={"on": None})
