"""An ordinary training cell, run data-parallel on ranks: what it needs is sent, what it has made comes back."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch

from deepseek_lab.base.errors import TargetError
from deepseek_lab.base.ranks import RankAnswer
from deepseek_lab.distributed.checkpoint import Checkpoint
from deepseek_lab.distributed.ranks import Ranks
from deepseek_lab.distributed.request import Request, Saved
from deepseek_lab.processes.travel import Luggage

SAVE_S = 30.0
EVERY = {"local": 8, "diloco": 32}
"""Updates between two agreements of ranks that train by themselves."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a training cell did on the ranks."""

    answers: dict[int, RankAnswer]
    changed: tuple[str, ...] = ()
    """Names of the notebook that were bound, or whose objects were written into."""
    notes: tuple[str, ...] = ()
    held: dict[int, dict[str, list[int]]] = dataclasses.field(default_factory=dict)
    """With sharding, by rank: bytes of ``parameters``, ``gradients`` and ``states`` that it held, and of the whole."""

    @property
    def failed(self) -> bool:
        """Whether a rank did not come to the end of the cell."""
        return any(one.status != "ok" for one in self.answers.values())


def train(
    ranks: Ranks,
    names: dict[str, Any],
    source: str,
    file: str,
    *,
    uses: Collection[str],
    binds: Collection[str],
    seed: int | None = None,
    batch: int | None = None,
    way: str = "plain",
    every: int | None = None,
    strategy: str = "ddp",
    save_s: float = SAVE_S,
    folder: Path | None = None,
    said: Callable[[int, str, str], None] | None = None,
) -> Trained:
    """Run a training cell on all ranks at once, each on its share of the data.

    Gradients are averaged by ``DistributedDataParallel``; a loop over a ``DataLoader`` sees every n-th sample. When all
    ranks have come to its end, what the cell changed is written into the notebook's own objects, as rank 0 has it;
    when one has not, the notebook's objects are as they were. A rank whose process ends is replaced.

    Args:
        ranks: Where to run.
        names: The notebook's names.
        source: The cell, as Python.
        file: File name of its code.
        uses: Names that the cell reads; those of the notebook are sent, with all that they need.
        binds: Names that the cell binds or changes; they come back, and so do lists, dicts and sets that it reads.
        seed: Of the orders in which data is read, and with the rank of its random numbers; by default PyTorch's own.
        batch: Samples of an update over all ranks; by default each rank takes the cell's own batch.
        way: How gradients go between ranks: ``plain`` (exact), ``bf16``, ``int8`` (with error feedback), ``powersgd-R``
            (as factors of rank R, with error feedback), or ``auto`` for the one of these with which updates are
            fastest, found in the first of them. With ``local`` and ``diloco`` no gradients go: ranks train by
            themselves and go on from the mean of their parameters, with ``diloco`` by an optimizer of its own.
        every: Updates from one such mean to the next, by default :data:`EVERY`.
        strategy: ``ddp`` has everything on every rank; with ``fsdp``, whose ``way`` is ``plain``, each rank holds its
            part of parameters, gradients and optimizer states, and whole tensors come back.
        save_s: How often what the training has reached is saved, between two turns of a loop at the top level of the
            cell; a rank that dies is then replaced, and the training goes on from there. 0 never.
        folder: Where what is saved is kept, from which the same cell goes on when it is run again after it did not come
            to its end, in another kernel too; its names are to be made as they were. Empty after its end.
        said: Called with rank, stream and text of what ranks print.

    Raises:
        TargetError: an object cannot be sent, or a batch cannot be shared evenly.
        KeyboardInterrupt: it was interrupted; the notebook's objects are as they were.
    """
    if batch is not None and batch % len(ranks):
        raise TargetError(
            f"an effective batch of {batch} cannot be shared by {len(ranks)} ranks",
            hint=f"--effective-batch {batch - batch % len(ranks) or len(ranks)}",
        )
    seed = torch.initial_seed() % 2**31 if seed is None else seed
    luggage = Luggage(names, sorted(name for name in uses if name in names))
    payload = luggage.pack()
    fields = {
        "source": source,
        "file": file,
        "size": len(ranks),
        "seed": seed,
        "batch": batch,
        "way": way,
        "strategy": strategy,
        "every": EVERY.get(way, 0) if every is None else every,
        # history["loss"].append(...) changes a dict that no text analysis finds for certain.
        "back": sorted({*binds, *(one for one in uses if isinstance(names.get(one), list | dict | set))}),
        "save_s": save_s,
    }
    saved: Saved | None = None
    notes: list[str] = []
    with contextlib.ExitStack() as stack:
        checkpoint = None
        if folder is not None:
            checkpoint = Checkpoint(folder, f"{strategy}\n{source}", len(ranks), luggage.kinds, seed)
            if (found := checkpoint.load()) is not None:
                saved, when = found
                fields["seed"] = checkpoint.seed
                notes.append(f"went on after {saved.num_steps:,} updates, as saved at {when}")
            stack.enter_context(checkpoint)
        keep = (lambda saved: None) if checkpoint is None else checkpoint.put
        request, happened = _run(ranks, fields, payload, saved, keep, said)
        answers = request.answers
        if any(one.status != "ok" for one in answers.values()):
            return Trained(answers)
        notes += happened
        _, *payload = request.payloads[0]
        changed = luggage.unpack(payload)
        if checkpoint is not None:
            checkpoint.remove()
            if checkpoint.failed:
                notes.append(f"the training could not be saved in {folder}: {checkpoint.failed}")
    held = {number: json.loads(bytes(parts[0])) for number, parts in sorted(request.payloads.items())}
    notes += [*_way_notes(answers, way), *_held_notes(held), *_notes(answers)]
    return Trained(answers, tuple(changed), tuple(notes), held)


def _run(
    ranks: Ranks,
    fields: dict[str, Any],
    payload: list[Any],
    saved: Saved | None,
    keep: Callable[[Saved], None],
    said: Callable[[int, str, str], None] | None,
) -> tuple[Request, list[str]]:
    """Train, and go on each time that ranks have died and were replaced, as long as that leads further."""
    notes: list[str] = []
    while True:
        resume = None
        before: list[Any] = []
        if saved is not None:
            resume = {"place": saved.place, "num_saved": len(saved.values), "num_steps": saved.num_steps}
            before = [*saved.states, *saved.values]
        everything = {**fields, "resume": resume}
        request = ranks.ask("train", everything, [*before, *payload], said=said, keep=keep)
        further = request.saved is not None or not notes
        saved = request.saved or saved
        lasts = fields["save_s"] and further and (saved is None or not saved.left)
        if not lasts or not _only_deaths(request.answers):
            return request, notes
        notes.append(_replaced(request.answers, saved))
        ranks.restart()


def _only_deaths(answers: dict[int, RankAnswer]) -> bool:
    statuses = {one.status for one in answers.values()}
    return "dead" in statuses and not statuses & {"error", "interrupted"}


def _replaced(answers: dict[int, RankAnswer], saved: Saved | None) -> str:
    dead = {rank: one for rank, one in answers.items() if one.status == "dead"}
    which = ", ".join(f"rank {rank} {one.error}" for rank, one in dead.items())
    place = f"went on after {saved.num_steps:,} updates" if saved is not None else "began again"
    return f"{which}; it was replaced, and the training {place}"


def _way_notes(answers: dict[int, RankAnswer], asked: str) -> list[str]:
    details = answers[0].details
    seconds: dict[str, float] = details["step_s"]
    if asked != "auto":
        return [] if asked == "plain" else [_words(asked)]
    if not seconds:
        return ["there were too few updates to find the fastest way for gradients, so they went in several"]
    beside = [
        f"{_words(way)} {one / seconds['plain']:.2f}x{' (expected)' if way in details['expected'] else ''}"
        for way, one in seconds.items()
        if way != "plain"
    ]
    return [f"{_words(details['way'])}; an update takes, of the time with float32: {', '.join(beside)}"]


def _held_notes(held: dict[int, dict[str, list[int]]]) -> list[str]:
    if not any(held.values()):
        return []
    words = {"parameters": "parameters", "gradients": "gradients", "states": "optimizer states"}
    parts, whole = [], []
    for what, word in words.items():
        parts.append(f"{max(one[what][0] for one in held.values()) / 1e6:,.3g} MB of {word}")
        whole.append(f"{held[0][what][1] / 1e6:,.3g}")
    return [f"each rank held at most {', '.join(parts)}; with ddp {', '.join(whole)} MB"]


def _words(way: str) -> str:
    """What a way does."""
    name, _, rank = way.partition("-")
    return _WORDS[name].format(rank)


_WORDS = {
    "plain": "gradients in float32",
    "bf16": "gradients in bfloat16",
    "int8": "gradients as int8 codes with error feedback",
    "powersgd": "gradients as factors of rank {} with error feedback",
    "local": "parameters averaged now and then",
    "diloco": "parameters averaged now and then, with momentum",
}


def _notes(answers: dict[int, RankAnswer]) -> list[str]:
    notes: list[str] = []
    first = answers[0].details
    if not first["modules"]:
        notes.append("no module was called with gradients, so each rank ran the cell by itself")
    elif len({one.details["checksum"] for one in answers.values()}) > 1:
        notes.append(
            "the parameters are not the same on all ranks: the cell changes them by something that is not averaged; "
            "those of rank 0 came back"
        )
    if first["modules"] and not first["num_shared"]:
        notes.append(
            "no DataLoader was looped over, so nothing was shared out: each rank trained on what the cell itself made"
        )
    for name, why in first["left"].items():
        notes.append(f"{name} stayed on the ranks ({why})")
    return notes
