"""A training cell on a rank: data-parallel, on its share of the data, and what has become of it sent back."""

from __future__ import annotations

import ast
import dataclasses
import json
import random
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepseek_lab.distributed.channel import Message
from deepseek_lab.distributed.mesh import Mesh
from deepseek_lab.distributed.worker.feedback import Kept
from deepseek_lab.distributed.worker.hosts import NAME, Hosts
from deepseek_lab.distributed.worker.loaders import Shares
from deepseek_lab.distributed.worker.replicas import Replicas
from deepseek_lab.distributed.worker.turns import Place, Turns, Updates
from deepseek_lab.distributed.worker.vitals import Vitals
from deepseek_lab.processes import cells
from deepseek_lab.processes.travel import Returning

_AGREE = "__deepseek_agree__"


def train(
    rank: int,
    message: Message,
    names: dict[str, Any],
    send: Callable[[Message], None],
    follow: Callable[[Turns | None], None],
    vitals: Vitals,
    hosts: Sequence[int] = (),
    kept: Kept | None = None,
) -> tuple[dict[str, Any], list[Any]]:
    """Run the cell, or go on with it; rank 0 sends back what the cell's names stand for.

    ``follow`` is given what is to be told where to save; ``vitals`` is open; ``hosts`` are those of all ranks; ``kept``
    is this process's, over all trainings.

    Raises:
        CellFailed: the cell raised.
    """
    wanted = message.fields
    size, seed = int(wanted["size"]), int(wanted["seed"])
    device = names.get("device", "cpu")
    place, states, saved, luggage = _parts(wanted, message.payload)
    returning = Returning(luggage, names, device)
    # NCCL finds out by itself who shares a host.
    layers = Hosts(tuple(hosts) if device == "cpu" or wanted["way"].startswith(NAME) else ())
    mesh = Mesh(**wanted["mesh"]) if wanted["mesh"] is not None else Mesh(size)
    copy = mesh.place(rank)["data"]
    """Ranks of the same copy of the model have the same data, and the same random numbers."""
    torch.manual_seed(seed + copy)
    random.seed(seed + copy)
    np.random.seed((seed + copy) % 2**32)

    kept = kept or Kept()
    folder = Path(wanted["folder"]) if wanted["folder"] is not None else None
    lost: list[str] = []

    def named(at: Place) -> str:
        return repr((wanted["source"], seed, at))

    def announce(at: Place) -> None:
        send(Message("announce", {"request": wanted["request"], "place": dataclasses.asdict(at)}))

    def save(at: Place, state: bytes) -> None:
        """What this rank alone knows, and from rank 0 what all have: copies, for training goes on."""
        replicas.agree()
        kept.put(named(at), replicas.state, folder, rank)
        parts: list[Any] = [state]
        left, undo = replicas.gather(returning, wanted["back"], ends=False)
        if rank == 0:
            values, more = returning.pack([name for name in wanted["back"] if name not in left])
            left |= more
            parts += [bytes(part) for part in values]
        undo()
        fields = {"request": wanted["request"], "place": dataclasses.asdict(at), "left": left}
        send(Message("saved", {**fields, "num_steps": replicas.num_steps}, parts))

    with (
        _replicas(wanted, vitals, layers, device) as replicas,
        Shares(copy, mesh.data, seed, wanted["batch"], names, weighs=wanted["weighs"]) as shares,
        Updates(lambda: vitals.num_backwards) as updates,
    ):
        if wanted["weighs"]:
            replicas.weigh(lambda: shares.weight)
        changes: list[Callable[[ast.Module], None]] = []
        if wanted["save_s"]:
            state, fresh = b"", False
            if place is not None:
                state, fresh = bytes(states[rank]), rank in wanted["resume"]["fresh"]
            turns = Turns(
                shares,
                updates,
                names,
                wanted["save_s"],
                announce if rank == 0 else None,
                save,
                place,
                state,
                fresh=fresh,
            )
            follow(turns)
            changes.append(turns.change)
            names |= turns.names()
        if wanted["every"]:
            changes.append(_agree_after_loops)
            names[_AGREE] = replicas.agree
        if place is not None:
            returning.go_on(saved, device)
            replicas.num_steps = wanted["resume"]["num_steps"]
            lost = replicas.take_up(kept.get(named(place), folder, rank, device))
        else:
            kept.clear()
        with vitals.counting(lambda: (replicas.num_steps, shares.num_samples)):
            try:
                value = cells.run_cell(wanted["source"], wanted["file"], names, *changes)
            except cells.CellFailed as failed:
                failed.text += replicas.hint(failed.text)
                raise
            replicas.agree()
            left, _ = replicas.gather(returning, wanted["back"], ends=True)
            every = replicas.every
        modules, way, choice = replicas.modules, replicas.way, replicas.choice
    fields: dict[str, Any] = {
        "value": cells.value_text(value),
        "modules": [type(module).__name__ for module in modules],
        "checksum": checksum([one for module in modules for one in module.parameters()]),
        "num_steps": replicas.num_steps,
        "way": way,
        "every": every,
        "lost": lost,
        "not_kept": kept.failed,
        "plans": replicas.plans,
        "step_s": choice.seconds if choice is not None else {},
        "expected": sorted(choice.expected) if choice is not None else [],
        "num_shared": shares.num_shared,
        "global_batches": sorted(shares.global_batches),
    }
    kept.clear()
    payload: list[Any] = [json.dumps(replicas.held).encode()]
    if rank == 0:
        came, more = returning.pack([name for name in wanted["back"] if name not in left])
        payload += came
        fields["left"] = left | more
    return fields, payload


def _agree_after_loops(tree: ast.Module) -> None:
    """What follows a loop of the cell, an evaluation say, is to see what all ranks have come to."""
    body: list[ast.stmt] = []
    for statement in tree.body:
        body.append(statement)
        if isinstance(statement, ast.For | ast.While):
            agree = ast.Assign(
                [ast.Name(_AGREE + "s", ast.Store())], ast.Call(ast.Name(_AGREE, ast.Load()), [], [])
            )
            body.append(ast.copy_location(agree, statement))
    tree.body = body
    ast.fix_missing_locations(tree)


def _replicas(wanted: dict[str, Any], vitals: Vitals, hosts: Hosts, device: str) -> Replicas:
    """What the cell's modules become."""
    if wanted["mesh"] is not None:
        from deepseek_lab.distributed.worker.mesh.meshed import Meshed

        return Meshed(Mesh(**wanted["mesh"]), device, vitals.waits)
    if wanted["strategy"] == "fsdp":
        # It loads parts of torch that DDP does without.
        from deepseek_lab.distributed.worker.sharded import Sharded

        return Sharded(vitals.waits)
    return Replicas(
        wanted["way"],
        wanted["every"],
        vitals.waits,
        hosts,
        adapts=wanted["adapts"],
        loss=vitals.last_loss,
    )


def _parts(wanted: dict[str, Any], payload: Sequence[Any]) -> tuple[Place | None, Any, Any, Any]:
    """Where to go on, the states of the ranks there, what rank 0 saved, and what the notebook sent."""
    if wanted["resume"] is None:
        return None, [], [], payload
    num_states, num_saved = int(wanted["size"]), wanted["resume"]["num_saved"]
    first = num_states + num_saved
    return (
        Place.of(wanted["resume"]["place"]),
        payload[:num_states],
        payload[num_states:first],
        payload[first:],
    )


def checksum(parameters: Sequence[torch.Tensor]) -> int:
    """The same number for the same values, bit by bit."""
    total = 0
    for one in parameters:
        values: Any = one.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
        total = zlib.crc32(values, total)
    return total
