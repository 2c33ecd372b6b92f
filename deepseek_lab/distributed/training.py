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
from deepseek_lab.base.ranks import RankAnswer, alike, spans
from deepseek_lab.distributed.checkpoint import Checkpoint
from deepseek_lab.distributed.elastic import Course, OnLoss
from deepseek_lab.distributed.mesh import Mesh
from deepseek_lab.distributed.ranks import Ranks
from deepseek_lab.distributed.request import Saved
from deepseek_lab.distributed.worker import local_steps
from deepseek_lab.distributed.worker.loaders import require_shareable
from deepseek_lab.processes.travel import Luggage

SAVE_S = 30.0
EVERY = {"local": local_steps.EVERY, "diloco": 32}
"""Updates between two agreements of ranks that train by themselves."""
_REPLACE = OnLoss()


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
    mesh: Mesh | None = None,
    save_s: float = SAVE_S,
    folder: Path | None = None,
    on_loss: OnLoss = _REPLACE,
    said: Callable[[int, str, str], None] | None = None,
) -> Trained:
    """Run a training cell on all ranks at once, each on its share of the data.

    Gradients are averaged by ``DistributedDataParallel``; a loop over a ``DataLoader`` sees every n-th sample. When all
    ranks have come to its end, what the cell changed is written into the notebook's own objects, as rank 0 has it;
    when one has not, the notebook's objects are as they were. A rank whose process ends is replaced, or the training
    goes on with those that are left, which then have the numbers from 0 on.

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
            (as factors of rank R, with error feedback), ``hierarchical`` (exact; added up on each host first) and
            ``hierarchical-bf16`` and ``hierarchical-int8`` (between hosts alone), or ``auto`` for the one of these with
            which updates are fastest, found in the first of them, and ``exact`` for the faster of the exact ones. With
            ``local`` and ``diloco`` no gradients go: ranks train by themselves and go on from the mean of their
            parameters, with ``diloco`` by an optimizer of its own. ``auto`` takes means of parameters too, without a
            ``batch`` and a ``GradScaler``, where ways for gradients take longer.
        every: Updates from one such mean to the next, by default :data:`EVERY`; but for ``diloco``, which has that
            number, fewer where the loss does not fall any more.
        strategy: ``ddp`` has everything on every rank; with ``fsdp``, whose ``way`` is ``plain``, each rank holds its
            part of parameters, gradients and optimizer states, and whole tensors come back.
        mesh: In the place of a strategy, ranks that share layers or are stages of a pipeline, and copies of the model
            that see their share of the data each.
        save_s: How often what the training has reached is saved, between two turns of a loop of the cell, or of one in
            it, with an update complete; a training that loses ranks goes on from there. 0 never.
        folder: Where what is saved is kept, from which the same cell goes on when it is run again after it did not come
            to its end, in another kernel and on more or fewer ranks too; its names are to be made as they were. Empty
            after its end.
        on_loss: What is done when ranks are lost.
        said: Called with rank, stream and text of what ranks print.

    Raises:
        TargetError: an object cannot be sent, or a batch cannot be shared.
        KeyboardInterrupt: it was interrupted; the notebook's objects are as they were.
    """
    weighs = way not in EVERY and (mesh is not None or strategy in {"ddp", "fsdp"})
    if mesh is not None and mesh.size != len(ranks):
        raise TargetError(
            f"the mesh {mesh} is for {mesh.size} ranks, and {len(ranks)} run",
            hint=f"%deepseek ranks resize {mesh.size}",
        )
    num_copies = len(ranks) if mesh is None else mesh.data
    require_shareable(batch, num_copies, weighs=weighs)
    seed = torch.initial_seed() % 2**31 if seed is None else seed
    luggage = Luggage(names, sorted(name for name in uses if name in names))
    payload = luggage.pack()
    # Ranks apart that leave out updates, each its own, would not come together; and they have no common batch.
    scales = "GradScaler" in source or any(isinstance(names.get(one), torch.amp.GradScaler) for one in uses)
    apart = way == "auto" and batch is None and not scales
    fields = {
        "source": source,
        "file": file,
        "size": len(ranks),
        "seed": seed,
        "batch": batch,
        "weighs": weighs and batch is not None,
        "way": way,
        "strategy": strategy,
        "mesh": None if mesh is None else dataclasses.asdict(mesh),
        "every": EVERY.get("local" if apart else way, 0) if every is None else every,
        "adapts": way == "local" and every is None,
        # history["loss"].append(...) changes a dict that no text analysis finds for certain.
        "back": sorted({*binds, *(one for one in uses if isinstance(names.get(one), list | dict | set))}),
        "save_s": save_s,
        "folder": None if folder is None else str(folder.absolute()),
    }
    saved: Saved | None = None
    notes: list[str] = []
    course = Course(ranks, on_loss, "" if mesh is None else f"--mesh {mesh}", batch=batch, weighs=weighs)
    with contextlib.ExitStack() as stack:
        checkpoint = None
        if folder is not None:
            checkpoint = Checkpoint(folder, f"{strategy}\n{source}", luggage.kinds, seed)
            if (found := checkpoint.load()) is not None:
                saved, when = found
                fields["seed"] = checkpoint.seed
                notes.append(f"went on after {saved.num_steps:,} updates, as saved at {when}")
                if len(saved.states) != len(ranks):
                    notes[-1] += f" by {len(saved.states)} ranks, with {len(ranks)}"
                saved = course.take_up(saved)
            stack.enter_context(checkpoint)
        keep = (lambda saved: None) if checkpoint is None else checkpoint.put
        request = course.run(fields, payload, saved, keep, said)
        answers = request.answers
        notes += course.notes
        if any(one.status != "ok" for one in answers.values()):
            return Trained(answers, notes=tuple(notes))
        _, *payload = request.payloads[0]
        changed = luggage.unpack(payload)
        if checkpoint is not None:
            checkpoint.remove()
            if checkpoint.failed:
                notes.append(f"the training could not be saved in {folder}: {checkpoint.failed}")
    held = {number: json.loads(bytes(parts[0])) for number, parts in sorted(request.payloads.items())}
    notes += course.batch_notes(answers[0].details["global_batches"])
    notes += [
        *_kept_notes(answers),
        *_way_notes(answers, way),
        *_held_notes(held),
        *_notes(answers, num_copies),
    ]
    return Trained(answers, tuple(changed), tuple(notes), held)


def _kept_notes(answers: dict[int, RankAnswer]) -> list[str]:
    """What ranks went on without, and what could not be kept for another time."""
    lost: dict[str, list[int]] = {}
    for rank, one in answers.items():
        for what in one.details["lost"]:
            lost.setdefault(what, []).append(rank)
    notes = []
    for what, ranks in lost.items():
        others = spans(answers.keys() - set(ranks))
        beside = f"; rank {others} went on with it" if others else ""
        notes.append(f"rank {spans(ranks)} went on without {what}{beside}")
    failed = {rank: one.details["not_kept"] for rank, one in answers.items()}
    return notes + [f"rank {which} could not keep error feedback: {why}" for which, why in alike(failed)]


def _way_notes(answers: dict[int, RankAnswer], asked: str) -> list[str]:
    details = answers[0].details
    seconds: dict[str, float] = details["step_s"]
    if asked == "exact" and details["way"] == "plain" and not seconds:
        return []  # on one host there is nothing to choose
    chosen = details["way"]
    if asked not in {"auto", "exact"}:
        return [] if asked == "plain" else [_words(asked) + _every_words(details)]
    if not seconds:
        apart = f"{_words(chosen)}{_every_words(details)}"
        what = apart if chosen in EVERY else "gradients went in several"
        return [f"there were too few updates to find the fastest way: {what}"]
    if chosen in EVERY:
        others = {way: one for way, one in seconds.items() if way not in EVERY}
        best = min(others, key=lambda way: others[way])
        least = " at least" if best in details["expected"] else ""
        exchange = best.replace("powersgd-", "powersgd --rank ")
        ours = (
            f"{_words(chosen)}{_every_words(details)}: an update took {1e3 * seconds[chosen]:.3g} ms at first"
        )
        ours += " (more may be needed)"
        beside = f"with {_words(best)}{least} {1e3 * others[best]:.3g} ms"
        return [f"{ours}; {beside}, where ranks never differ: --exchange {exchange}"]
    each = [
        f"{_words(way)} {one / seconds['plain']:.2f}x"
        + (" (expected)" if way in details["expected"] else "")
        + (" (more updates are needed then)" if way in EVERY else "")
        for way, one in seconds.items()
        if way != "plain"
    ]
    return [f"{_words(chosen)}; an update takes, of the time with float32: {', '.join(each)}"]


def _every_words(details: dict[str, Any]) -> str:
    return f", at the end every {details['every']} updates" if details["every"] else ""


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
    name, _, rest = way.partition("-")
    if name == "hierarchical":
        return f"{_WORDS[rest or 'plain']}{' between hosts' if rest else ''}, added up on each host first"
    return _WORDS[name].format(rest)


_WORDS = {
    "plain": "gradients in float32",
    "bf16": "gradients in bfloat16",
    "int8": "gradients as int8 codes with error feedback",
    "powersgd": "gradients as factors of rank {} with error feedback",
    "local": "parameters averaged now and then",
    "diloco": "parameters averaged now and then, with momentum",
}


def _notes(answers: dict[int, RankAnswer], num_copies: int) -> list[str]:
    notes: list[str] = []
    first = answers[0].details
    if not first["modules"]:
        notes.append("no module was called with gradients, so each rank ran the cell by itself")
    elif len({one.details["checksum"] for one in answers.values()}) > 1:
        notes.append(
            "the parameters are not the same on all ranks: the cell changes them by something that is not averaged; "
            "those of rank 0 came back"
        )
    if first["modules"] and not first["num_shared"] and num_copies > 1:
        notes.append(
            "no DataLoader was looped over, so nothing was shared out: each rank trained on what the cell itself made"
        )
    for name, why in first["left"].items():
        notes.append(f"{name} stayed on the ranks ({why})")
    return notes
