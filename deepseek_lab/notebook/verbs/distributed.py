"""``distributed``: an ordinary training cell on all ranks."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from deepseek_lab.base.errors import UsageError
from deepseek_lab.notebook import cells
from deepseek_lab.notebook.host import Cell, Host
from deepseek_lab.notebook.live_ranks import LiveRanks
from deepseek_lab.notebook.on_ranks import OnRanks, failed, name_of
from deepseek_lab.notebook.parse import Command
from deepseek_lab.notebook.plan import Plan
from deepseek_lab.notebook.show import Shown
from deepseek_lab.notebook.verbs.ranks import default_size, need, start, vars_of

if TYPE_CHECKING:
    from deepseek_lab.distributed.elastic import OnLoss

_EXACT = ("plain", "hierarchical", "auto")


def run(plan: Plan, host: Host) -> Shown:
    """There is no line form.

    Raises:
        UsageError: always.
    """
    raise UsageError("distributed stands above a cell", hint="%%deepseek distributed")


def elsewhere(plan: Plan, cell: Cell, body: str, host: Host) -> Shown:
    """Train on all ranks; those that run, or new ones."""
    command = plan.command
    need()
    from deepseek_lab.distributed import ranks, training
    from deepseek_lab.distributed.mesh import mesh_of
    from deepseek_lab.distributed.worker.low_rank import RANK

    num = command.number("num")
    running = ranks.current()
    if running is not None and num is not None and len(running) != num:
        raise UsageError(
            f"{len(running)} ranks run already",
            hint=f"%deepseek ranks resize {num:.0f}, or leave out the number",
        )
    lossy = command.has("allow-lossy")
    way = command.text("exchange") or ("auto" if lossy else "plain")
    if way not in _EXACT and not lossy:
        raise UsageError(
            f"--exchange {way} changes gradients on their way between ranks, or when they go",
            hint=f"%%deepseek distributed --exchange {way} --allow-lossy",
        )
    strategy, micro_batches = command.text("strategy"), command.number("micro-batches")
    size = len(running) if running is not None else None if num is None else int(num)
    if size is None and command.text("mesh") is None:
        size = default_size(command)
    mesh = mesh_of(
        strategy, command.text("mesh"), None if micro_batches is None else int(micro_batches), size
    )
    typed = f"--strategy {strategy}" if mesh is None or strategy else f"--mesh {mesh}"
    if mesh is not None:
        strategy = strategy or ("pipeline" if mesh.pipeline > 1 else "tensor")
    strategy = strategy or "ddp"
    if (strategy == "fsdp" or mesh is not None) and way != "plain":
        flag = f"--exchange {way}" if command.text("exchange") else "--allow-lossy"
        raise UsageError(
            f"{flag} is for ranks that hold all of the parameters; with {typed} gradients go exactly",
            hint=f"%%deepseek distributed {typed}, or %%deepseek distributed {flag}",
        )
    rank, every = command.number("rank"), command.number("every")
    for flag, given, ways in (("rank", rank, ("powersgd",)), ("every", every, ("local", "diloco"))):
        if given is not None and way not in ways:
            raise UsageError(
                f"--{flag} says nothing about --exchange {way}",
                hint=f"%%deepseek distributed --exchange {ways[0]} --{flag} {given:.0f} --allow-lossy",
            )
    if way == "powersgd":
        way = f"powersgd-{RANK if rank is None else int(rank)}"
    source = host.python(body)
    if way == ("auto" if command.text("exchange") else "plain") and not lossy and strategy == "ddp":
        way = "exact"
    running = running or start(command, None if mesh is None else mesh.size)
    if way.startswith("hierarchical"):
        _require_layers(running.hosts, way)
    seen = cells.names(source)
    seed, batch = command.number("seed"), command.number("effective-batch")
    save_s, folder = command.number("checkpoint"), command.text("checkpoint-to")
    if folder is not None and save_s == 0:
        raise UsageError(
            "--checkpoint 0 saves nothing", hint=f"%%deepseek distributed --checkpoint-to {folder}"
        )
    on_loss = _on_loss(command, len(running))
    before = len(running)
    shown = OnRanks(command, host, plain=0)
    began_s = time.perf_counter()
    with LiveRanks(command, host, running) as live:
        trained = training.train(
            running,
            vars_of(host),
            source,
            cell.name,
            uses=seen.loads | seen.changes,
            binds=seen.binds | seen.changes,
            seed=None if seed is None else int(seed),
            batch=None if batch is None else int(batch),
            way=way,
            every=None if every is None else int(every),
            strategy=strategy,
            mesh=mesh,
            save_s=training.SAVE_S if save_s is None else save_s,
            folder=None if folder is None else Path(folder).expanduser(),
            on_loss=on_loss,
            said=shown.said,
        )
        live.failed = trained.failed
    if trained.failed:
        shown.end(trained.answers)
        raise failed(trained.answers, cell.name, name_of(cell), trained.notes)
    first = trained.answers[0].details
    sizes = " or ".join(str(size) for size in first["global_batches"])
    words = [
        f"distributed  {len(running)}{f' of {before}' if len(running) != before else ''} ranks",
        f"{first['num_steps']:,} updates" if first["num_steps"] else "",
        f"batch {sizes}" if sizes else "",
        f"{time.perf_counter() - began_s:.1f} s",
        f"back in the notebook: {_listed(trained.changed)}" if trained.changed else "",
    ]
    head, notes = "  ".join(filter(None, words)), (*trained.notes, *live.notes)
    return shown.end(trained.answers, head=head, notes=notes, vitals=live.vitals)


def _require_layers(hosts: list[int], way: str) -> None:
    """Refuse a way that sends less between hosts, where there is nothing to be saved.

    Args:
        hosts: By rank; two that share one have the same number.
        way: How gradients are to go.
    """
    num = len(set(hosts))
    if not 1 < num < len(hosts):
        where = "all ranks are on one host" if num == 1 else "each rank is on a host of its own"
        flat = way.partition("-")[2] or "plain"
        lossy = " --allow-lossy" if flat != "plain" else ""
        raise UsageError(
            f"--exchange {way} adds up on each host first, and {where}",
            hint=f"%%deepseek distributed --exchange {flat}{lossy}",
        )


def _on_loss(command: Command, size: int) -> OnLoss:
    """What is to be done when ranks are lost.

    Raises:
        UsageError: it goes not together with the rest.
    """
    from deepseek_lab.distributed.elastic import OnLoss

    do = command.text("on-loss") or "replace"
    given = [flag for flag in ("on-loss", "max-restarts", "min-ranks") if command.has(flag)]
    if given and do != "stop" and command.number("checkpoint") == 0:
        raise UsageError(
            f"--checkpoint 0 saves nothing from which --{given[0]} could go on",
            hint=f"%%deepseek distributed --{given[0]} ... --checkpoint 30",
        )
    restarts, fewest = command.number("max-restarts"), command.number("min-ranks")
    if restarts is not None and (do != "replace" or restarts < 0):
        raise UsageError(
            f"--max-restarts {restarts:.0f} says nothing about --on-loss {do}"
            if restarts >= 0
            else "--max-restarts cannot be negative",
            hint="%%deepseek distributed --on-loss replace --max-restarts 3",
        )
    if fewest is not None and not 1 <= fewest <= size:
        raise UsageError(
            f"--min-ranks {fewest:.0f} is not one of 1 to {size}, which run", hint="--min-ranks 1"
        )
    return OnLoss(do, None if restarts is None else int(restarts), int(fewest or 1))


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
