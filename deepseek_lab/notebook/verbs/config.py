"""``config``: shows the settings, or sets one from the next cell on."""

from __future__ import annotations

from deepseek_lab.base.errors import UsageError, nearest
from deepseek_lab.base.settings import settings
from deepseek_lab.notebook.host import Host
from deepseek_lab.notebook.plan import Plan
from deepseek_lab.notebook.show import Shown, table


def run(plan: Plan, host: Host) -> Shown:
    """Show all settings, show one, or set one."""
    command = plan.command
    name, value = (*command.operands, None, None)[:2]
    if name is not None and value is not None:
        if command.form == "script":
            raise UsageError(
                "a setting made here would end with this command",
                hint=f"export DEEPSEEK_LAB_{name.upper()}={value}",
            )
        settings.set(name, value)
    known = settings.to_dict()
    if name is not None and name not in known:
        near = nearest(name, known)
        raise UsageError(
            f"there is no setting {name!r}", hint=f"%deepseek config {near}" if near else "%deepseek config"
        )
    rows = [(key, item) for key, item in known.items() if name in {None, key}]
    return table("config", ("setting", "value"), rows)
