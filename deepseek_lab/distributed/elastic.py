"""A training that goes on when ranks are lost: with new processes for them, or with the ranks that are left.

Either way it goes on from what all ranks have saved last, a copy of which is in the notebook's memory. With fewer ranks
a global batch of a given size is shared by those that are left, and what is left of an epoch is shared out anew
(:mod:`deepseek_lab.distributed.worker.loaders`).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deepseek_lab.base.errors import DeepseekError, TargetError
from deepseek_lab.base.ranks import RankAnswer, spans
from deepseek_lab.distributed.ranks import Ranks, RanksError
from deepseek_lab.distributed.request import Request, Saved
from deepseek_lab.distributed.worker.loaders import require_shareable

ON_LOSS = ("replace", "shrink", "stop")
_MOST_IN_VAIN = 2
"""So often ranks may be lost in a row without the training getting any further in between."""


@dataclasses.dataclass(frozen=True)
class OnLoss:
    """What is done when ranks are lost."""

    do: str = "replace"
    """``replace`` gives them new processes, and goes on without them where that fails, or does not lead further;
    ``shrink`` goes on without them at once; ``stop`` ends the training."""
    max_restarts: int | None = None
    """New processes for ranks of one training, at most; None as many as lead further."""
    min_ranks: int = 1
    """With fewer the training ends."""


@dataclasses.dataclass(frozen=True)
class Change:
    """Another number of ranks, from an update on."""

    before: int
    after: int
    num_steps: int
    """Updates that were done before."""


class _Over(Exception):
    """The training cannot go on, for this reason."""


class Course:
    """One training from its beginning to its end, over all ranks that it loses.

    Args:
        ranks: Where it runs; those that are lost for good are left out.
        on_loss: What is done then.
        fixed: What needs as many ranks as there are, as it is typed; empty where any number will do.
        batch: Samples of an update over all ranks; None where each rank has its own batch.
        weighs: Whether ranks may have unequal shares of a batch.
    """

    def __init__(self, ranks: Ranks, on_loss: OnLoss, fixed: str, *, batch: int | None, weighs: bool) -> None:
        self._ranks, self._on_loss, self._batch, self._weighs = ranks, on_loss, batch, weighs
        self._fixed = fixed
        self._num_restarts = 0
        self.notes: list[str] = []
        """What has happened."""
        self.changes: list[Change] = []

    def take_up(self, saved: Saved) -> Saved:
        """What another run has saved, for the ranks of now.

        Raises:
            TargetError: it needs as many ranks as there were.
        """
        before, after = len(saved.states), len(self._ranks)
        if before == after:
            return saved
        if self._fixed:
            raise TargetError(
                f"the training was saved by {before} ranks, and with {self._fixed} cannot go on with {after}",
                hint=f"%deepseek ranks resize {before}",
            )
        self.changes.append(Change(before, after, saved.num_steps))
        return saved.by([number if number < before else None for number in range(after)])

    def run(
        self,
        fields: Mapping[str, Any],
        payload: Sequence[Any],
        saved: Saved | None,
        keep: Callable[[Saved], None],
        said: Callable[[int, str, str], None] | None,
    ) -> Request:
        """Train, and go on each time that ranks were lost, as long as that may lead further.

        Raises:
            KeyboardInterrupt: it was interrupted.
        """
        num_in_vain = 0
        wanted = dict(fields)
        while True:
            request = self._ask(wanted, payload, saved, keep, said)
            num_in_vain = 1 if request.saved is not None else num_in_vain + 1
            saved = request.saved or saved
            lasts = fields["save_s"] and self._on_loss.do != "stop" and (saved is None or not saved.left)
            if not lasts or num_in_vain > _MOST_IN_VAIN or not _only_deaths(request.answers):
                return request
            try:
                saved = self._go_on(request.answers, saved, in_vain=num_in_vain > 1)
            except _Over as why:
                self.notes.append(str(why))
                return request
            wanted["size"] = len(self._ranks)
            way = _way_on(wanted["way"], self._ranks.hosts)
            if way != wanted["way"]:
                self.notes.append(f"no host has several of the ranks any more, so gradients went on as {way}")
                wanted["way"] = way

    def _ask(
        self,
        fields: Mapping[str, Any],
        payload: Sequence[Any],
        saved: Saved | None,
        keep: Callable[[Saved], None],
        said: Callable[[int, str, str], None] | None,
    ) -> Request:
        resume, before = None, []
        if saved is not None:
            resume = {"place": saved.place, "num_saved": len(saved.values), "num_steps": saved.num_steps}
            resume["fresh"] = list(saved.fresh)
            before = [*saved.states, *saved.values]
        try:
            everything = {**fields, "resume": resume}
            return self._ranks.ask("train", everything, [*before, *payload], said=said, keep=keep)
        except RanksError as error:
            if not self._ranks.dead:
                raise
            lost = Request(0, [])  # one was lost before the others had begun
            states = [one for one in self._ranks.states if one.state == "dead"]
            lost.answers = {
                one.rank: RankAnswer(one.rank, "dead", error=one.why, text=str(error)) for one in states
            }
            return lost

    def _go_on(
        self, answers: Mapping[int, RankAnswer], saved: Saved | None, *, in_vain: bool
    ) -> Saved | None:
        """Replace what was lost or leave it out; gives what those that are there take up.

        Raises:
            _Over: neither is possible.
        """
        whys = {one.rank: one.error for one in answers.values() if one.status == "dead"}
        why_not = "new processes have not led further" if in_vain else ""
        if self._on_loss.do == "shrink":
            why_not = "--on-loss shrink"
        while lost := self._ranks.dead:
            whys = {one.rank: one.why for one in self._ranks.states if one.state == "dead"} | whys
            most = self._on_loss.max_restarts
            if not why_not and most is not None and self._num_restarts + len(lost) > most:
                why_not = f"--max-restarts {most}"
            if why_not:
                kept = [number for number in range(len(self._ranks)) if number not in lost]
                saved = self._leave_out(kept, {number: whys[number] for number in lost}, why_not, saved)
                whys = {new: whys[old] for new, old in enumerate(kept) if old in whys}
                continue
            try:
                self._num_restarts += len(lost)
                self._ranks.restart(lost)
            except DeepseekError as error:
                why_not = str(error).splitlines()[0]
        if whys:
            self.notes.append(f"{_told(whys)} replaced, and the training {_where(saved)}")
        return saved

    def _leave_out(
        self, kept: list[int], whys: Mapping[int, str], why_not: str, saved: Saved | None
    ) -> Saved | None:
        before, after = len(self._ranks), len(kept)
        told = f"{_told(whys)} not replaced ({why_not})"
        if after < max(1, self._on_loss.min_ranks):
            fewest = f", and --min-ranks is {self._on_loss.min_ranks}" if after else ""
            raise _Over(f"{told}: {after} {'rank is' if after == 1 else 'ranks are'} left{fewest}")
        if self._fixed:
            raise _Over(f"{told}: {self._fixed} needs all {before} ranks")
        try:
            require_shareable(self._batch, after, weighs=self._weighs)
        except TargetError as error:
            raise _Over(f"{told}: {str(error).splitlines()[0]}") from None
        text = f"{told}, and {after} of {before} ranks {_where(saved)}"
        if kept != list(range(after)):
            text += (
                f"; rank {kept[0]} is rank 0 now"
                if after == 1
                else f"; ranks {spans(kept)} are ranks {spans(range(after))} now"
            )
        self._ranks.leave_out(list(whys), text)
        self.notes.append(text)
        self.changes.append(Change(before, after, 0 if saved is None else saved.num_steps))
        return None if saved is None else saved.by(kept)

    def batch_notes(self, global_batches: Sequence[int]) -> list[str]:
        """What the changes were for the size of an update.

        Args:
            global_batches: Sizes at the end.
        """
        notes: list[str] = []
        for size in global_batches if self.changes else ():
            if size == self._batch:
                notes.append(f"an update had {size:,} samples throughout (--effective-batch)")
                continue
            own = size / self.changes[-1].after
            notes += [
                f"from update {one.num_steps + 1:,} on an update had {own * one.after:,.0f} samples, before that "
                f"{own * one.before:,.0f}: each rank kept its own batch"
                + (f" (--effective-batch {own * one.before:.0f} keeps it)" if self._batch is None else "")
                for one in self.changes
            ]
        return notes


def _only_deaths(answers: Mapping[int, RankAnswer]) -> bool:
    statuses = {one.status for one in answers.values()}
    return "dead" in statuses and not statuses & {"error", "interrupted"}


def _told(whys: Mapping[int, str]) -> str:
    which = ", ".join(f"rank {number} {why}" for number, why in sorted(whys.items()))
    return f"at {time.strftime('%H:%M:%S')} {which}; {'it was' if len(whys) == 1 else 'they were'}"


def _where(saved: Saved | None) -> str:
    return f"went on after {saved.num_steps:,} updates" if saved is not None else "began again"


def _way_on(way: str, hosts: Sequence[int]) -> str:
    """A way that is for several ranks on one of several hosts, where there are still such."""
    first, _, between = way.partition("-")
    return (between or "plain") if first == "hierarchical" and not 1 < len(set(hosts)) < len(hosts) else way
