"""``free``: finds what holds tensors, lets go of what is nobody's, and says what to type for the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deepseek_lab.base.errors import TargetError, nearest
from deepseek_lab.notebook import holdings
from deepseek_lab.notebook.host import Host
from deepseek_lab.notebook.parse import Command
from deepseek_lab.notebook.plan import Plan
from deepseek_lab.notebook.ports import as_row, loaded_engine, torch_loaded
from deepseek_lab.notebook.show import Shown, table

if TYPE_CHECKING:
    from deepseek_lab.measure.holders import Holder

SMALL = 1 << 10
"""Holders of fewer bytes are not listed."""


def run(plan: Plan, host: Host) -> Shown:
    """Free, and say what that gave and what is left, with who holds it."""
    command, shell = plan.command, host.shell
    _check(command, host)
    rows: list[tuple[str, str, int, str]] = []
    before = _survey(shell)
    freed = 0
    if not command.operands:
        rows += [("engine", *row, "freed") for row in _free_engine()]
    if shell is not None:
        holdings.forget_errors(shell)
        if command.has("outputs"):
            holdings.forget_outputs(shell)
        holdings.forget_names(shell, command.operands)
    if command.has("caches") and torch_loaded():
        import torch

        torch.compiler.reset()
    after = _survey(shell, collect=True)
    if before is not None and after is not None:
        freed = before[1] - after[1]
        rows += _changes(before[0], after[0])
    else:
        freed = sum(row[2] for row in rows)
    left = after[1] if after is not None else 0
    title = (
        f"free  {_words(freed)} of tensors freed, {_words(left)} left" if rows else "free  nothing was held"
    )
    return table(title, ("holder", "what", "bytes", "now"), rows)


def _check(command: Command, host: Host) -> None:
    for name in command.operands:
        if name not in host.namespace:
            near = nearest(name, [one for one in host.namespace if not one.startswith("_")])
            raise TargetError(
                f"there is no {name!r} in the notebook; nothing was freed",
                hint=f"%deepseek free {near}" if near else "%deepseek free",
            )


def _free_engine() -> list[tuple[Any, ...]]:
    engine = loaded_engine()
    return [as_row(record)[:2] for record in engine.free()] if engine is not None else []


def _survey(shell: Any, *, collect: bool = False) -> tuple[list[Holder], int] | None:
    """Who holds what, and the bytes of all tensors; None where no tensor can be, as torch is not imported."""
    if not torch_loaded():
        return None
    try:
        from deepseek_lab.measure import holders
    except ImportError:  # a torch that is none
        return None
    if collect:
        holders.give_back()
    found: list[holdings.Held] = []
    if shell is not None:
        for part in (holdings.names, holdings.outputs, holdings.errors, holdings.hidden_names):
            found += part(shell)
    return holders.survey(holders.Root(*one) for one in found)


def _changes(before: list[Holder], after: list[Holder]) -> list[tuple[str, str, int, str]]:
    """What was let go of, then what is left, the largest first."""
    left = {(one.kind, one.name): one for one in after}
    gone = [
        (one.kind, one.name, one.num_bytes - kept, "freed")
        for one in before
        if (kept := left[one.kind, one.name].num_bytes if (one.kind, one.name) in left else 0) < one.num_bytes
    ]
    held = [(one.kind, one.name, one.num_bytes, _advice(one)) for one in after]
    by_size = [sorted(part, key=lambda row: -row[2]) for part in (gone, held)]
    return [row for part in by_size for row in part if row[2] >= SMALL]


def _advice(one: Holder) -> str:
    """What to type, or to change, for a holder to let go."""
    match one.kind:
        case "name" if one.graph_bytes * 2 > one.num_bytes:
            return (
                f"held, most of it for a backward pass: keep .item() or .detach(); %deepseek free {one.name}"
            )
        case "name":
            return f"held; %deepseek free {one.name}"
        case "output":
            return "held; %deepseek free --outputs"
        case "compiler cache":
            return "held; %deepseek free --caches"
        case "closure":
            return "held by a function; remove the hook, or delete what refers to the function"
        case "optimizer":
            return "held although no name leads to it; delete what refers to the optimizer"
        case "module":
            return f"held by a module; {one.name} = None"
        case _:
            return "held"


def _words(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB" if abs(num_bytes) >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"
