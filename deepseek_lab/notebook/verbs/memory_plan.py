"""``memory plan``: how a model trains on devices that are described and not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepseek_lab.base.devices import DevicePlan
from deepseek_lab.base.errors import TargetError, UsageError, nearest
from deepseek_lab.notebook.host import Host, view_of
from deepseek_lab.notebook.plan import Plan
from deepseek_lab.notebook.show import Shown


class ShownPlan(Shown):
    """A plan: its fields are this object's own, and ``to_code()`` is a program."""

    def __init__(self, plan: DevicePlan, *, view: str = "auto") -> None:
        from deepseek_lab import views

        super().__init__(views.devices_text(plan), html_text=views.devices_html(plan), data=plan.to_dict())
        self.plan = plan
        self._view = view

    def to_code(self) -> str:
        """The plan as a program in plain PyTorch; empty where nothing fits."""
        return self.plan.to_code()

    def bundle(self) -> dict[str, Any]:
        """Text alone for ``--view text``."""
        made = super().bundle()
        return {"text/plain": made["text/plain"]} if self._view == "text" else made

    def save(self, path: Path) -> None:
        """Write the program as .py; .json data, an .html page or .md text.

        Raises:
            TargetError: nothing fits, so that there is no program.
        """
        if path.suffix != ".py":
            super().save(path)
        elif self.plan.code:
            path.write_text(self.plan.code, encoding="utf-8")
        else:
            hint = self.plan.remedies[0].partition(":")[0] if self.plan.remedies else "--save plan.md"
            raise TargetError("nothing fits, so there is no program to write", hint=hint)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "plan":
            raise AttributeError(name)
        return getattr(self.plan, name)


def run(plan: Plan, host: Host) -> Shown:
    """Plan for one model."""
    command = plan.command
    devices = command.text("devices")
    (target,) = command.operands
    if devices is None:
        raise UsageError(
            "memory plan needs --devices: how many of what size",
            hint=f"%deepseek memory plan {target} --devices 8x80GB",
        )
    batch, sequence = command.number("batch"), command.number("sequence")
    for flag, value in (("batch", batch), ("sequence", sequence)):
        if value is not None and value < 1:
            raise UsageError(f"--{flag} cannot be {value:.0f}", hint=f"--{flag} 1")
    from deepseek_lab.memory.devices import plan_devices

    made = plan_devices(
        plan.objects[target],
        devices,
        name=target,
        batch=int(batch) if batch else None,
        sequence=int(sequence) if sequence else None,
        example=example_of(command.text("inputs"), host),
        precision=command.text("precision"),
        host_memory=command.text("host-memory"),
    )
    return ShownPlan(made, view=view_of(command))


def example_of(name: str | None, host: Host) -> Any:
    """What ``--inputs`` names.

    Raises:
        TargetError: nothing of the notebook has that name.
    """
    if name is None:
        return None
    if name not in host.namespace:
        near = nearest(name, [one for one in host.namespace if not one.startswith("_")])
        raise TargetError(
            f"there is no {name!r} in the notebook",
            hint=f"--inputs {near}" if near else f"define {name} first",
        )
    return host.namespace[name]
