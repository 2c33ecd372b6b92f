"""``export``: the result as a plain Python package that runs without a notebook."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal, cast

from deepseek_lab.base.errors import UsageError
from deepseek_lab.notebook import cells
from deepseek_lab.notebook.host import Host
from deepseek_lab.notebook.plan import Plan
from deepseek_lab.notebook.ports import Run
from deepseek_lab.notebook.show import Shown, table
from deepseek_lab.notebook.verbs import chosen_run


def run(plan: Plan, host: Host) -> Shown:
    """Write the folder and say what is in it."""
    from deepseek_lab import export

    command, run = plan.command, chosen_run(plan)
    directory = Path(command.operands[0]).expanduser()
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory} is a file, not a folder", hint="%deepseek export out/")
    as_: Literal["module", "script"] = "script" if command.text("as") == "script" else "module"
    taken = source_cells(run, host, command.text("cells"))
    record: Any = export.write(cast(Any, run), directory, source_cells=taken, as_=as_)
    fields = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    rows = [(name.replace("_", " "), _words(value)) for name, value in fields.items()]
    return table(f"export  {directory}", ("what", "value"), rows)


def source_cells(run: Run, host: Host, wanted: str | None) -> list[tuple[str, str]]:
    """Names and plain Python of the cells to write: those asked for, or those that the run's cell needs."""
    history = host.cells()
    if wanted is not None:
        taken = cells.chosen(history, wanted)
    else:
        final = host.run_cells.get(run.id) or max((number for number, _ in history), default=0)
        taken = cells.needed(history, final)
    return [(f"cell_{number}", cells.plain(raw)) for number, raw in taken]


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {item}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)
