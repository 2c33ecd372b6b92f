"""``distributed``: an ordinary training cell on all ranks."""

from __future__ import annotations

import time
from pathlib import Path

from deepseek_lab.base.errors import UsageError
from deepseek_lab.notebook import cells
from deepseek_lab.notebook.host import Cell, Host
from deepseek_lab.notebook.live_ranks import LiveRanks
from deepseek_lab.notebook.on_ranks import OnRanks, failed, name_of
from deepseek_lab.notebook.plan import Plan
from deepseek_lab.notebook.show import Shown
from deepseek_lab.notebook.verbs.ranks import need, start, vars_of


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
    from deepseek_lab.distributed.worker.low_rank import RANK

    num = command.number("num")
    running = ranks.current()
    if running is not None and num is not None and len(running) != num:
        raise UsageError(
            f"{len(running)} ranks run already", hint="%deepseek ranks stop, or leave out the number"
        )
    lossy = command.has("allow-lossy")
    way = command.text("exchange") or ("auto" if lossy else "plain")
    if way != "plain" and not lossy:
        raise UsageError(
            f"--exchange {way} changes gradients on their way between ranks, or when they go",
            hint=f"%%deepseek distributed --exchange {way} --allow-lossy",
        )
    strategy = command.text("strategy") or "ddp"
    if strategy == "fsdp" and way != "plain":
        flag = f"--exchange {way}" if command.text("exchange") else "--allow-lossy"
        raise UsageError(
            f"{flag} is for ranks that hold all of the parameters; with --strategy fsdp gradients go exactly",
            hint=f"%%deepseek distributed --strategy fsdp, or %%deepseek distributed {flag}",
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
    running = running or start(command)
    seen = cells.names(source)
    seed, batch = command.number("seed"), command.number("effective-batch")
    save_s, folder = command.number("checkpoint"), command.text("checkpoint-to")
    if folder is not None and save_s == 0:
        raise UsageError(
            "--checkpoint 0 saves nothing", hint=f"%%deepseek distributed --checkpoint-to {folder}"
        )
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
            save_s=training.SAVE_S if save_s is None else save_s,
            folder=None if folder is None else Path(folder).expanduser(),
            said=shown.said,
        )
        live.failed = trained.failed
    if trained.failed:
        shown.end(trained.answers)
        raise failed(trained.answers, cell.name, name_of(cell))
    first = trained.answers[0].details
    sizes = " or ".join(str(size) for size in first["global_batches"])
    words = [
        f"distributed  {len(running)} ranks",
        f"{first['num_steps']:,} updates" if first["num_steps"] else "",
        f"batch {sizes}" if sizes else "",
        f"{time.perf_counter() - began_s:.1f} s",
        f"back in the notebook: {_listed(trained.changed)}" if trained.changed else "",
    ]
    head, notes = "  ".join(filter(None, words)), (*trained.notes, *live.notes)
    return shown.end(trained.answers, head=head, notes=notes, vitals=live.vitals)


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
