"""What ranks print and give, shown below the cell while it runs there."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deepseek_lab.base.errors import DeepseekError
from deepseek_lab.base.ranks import RankAnswer, RankOutput, RankVitals
from deepseek_lab.notebook.host import Cell, Host, view_of, warn
from deepseek_lab.notebook.parse import Command
from deepseek_lab.notebook.show import Shown

_PAUSE_S = 0.2
"""Shortest time between two changes of what is shown."""


class RanksFailed(DeepseekError):
    """A cell did not come to its end on all ranks; ``answers`` has what each said."""

    def __init__(self, message: str, answers: Mapping[int, RankAnswer]) -> None:
        super().__init__(message)
        self.answers = dict(answers)


class ShownRanks(Shown):
    """What ranks printed and gave, by rank."""

    def __init__(
        self,
        output: RankOutput,
        answers: Mapping[int, RankAnswer],
        *,
        hidden: Sequence[int] = (),
        head: str = "",
        notes: Sequence[str] = (),
        open_groups: bool = True,
        view: str = "auto",
        vitals: Sequence[RankVitals] = (),
    ) -> None:
        from deepseek_lab import views

        text = views.ranks_text(output, answers, hidden=hidden, head="\n".join([head, *notes]).strip())
        page = views.ranks_html(
            output, answers, hidden=hidden, head=head, open_groups=open_groups, notes=notes
        )
        super().__init__(
            text,
            html_text="" if view == "text" else page,
            data={
                "head": head,
                "notes": list(notes),
                "ranks": [
                    {
                        "rank": rank,
                        "status": one.status,
                        "seconds": one.seconds,
                        "value": one.value,
                        "output": output[rank],
                        **one.details,
                    }
                    for rank, one in sorted(answers.items())
                ],
                "vitals": [dataclasses.asdict(one) for one in vitals],
            },
        )


class OnRanks:
    """The output of a cell on ranks, as long as it runs.

    Args:
        plain: A rank whose output is the cell's own.
    """

    def __init__(self, command: Command, host: Host, *, plain: int | None = None) -> None:
        self._command, self._host, self._plain = command, host, plain
        self._quiet = command.has("quiet")
        self.output = RankOutput()
        self._now: Shown = Shown("")
        self._again: Callable[[], None] | None = None
        self._shown_s = 0.0
        self._beginning: dict[int, bool] = {}

    def said(self, rank: int, stream: str, text: str) -> None:
        """A rank printed."""
        self.output.add(rank, text)
        if self._quiet:
            return
        try:
            self._tell(rank, stream, text)
        except Exception as error:  # what is shown is ours to get right, the training goes on
            self._quiet = True
            warn(f"what ranks print is not shown any more ({type(error).__name__}: {error})")

    def _tell(self, rank: int, stream: str, text: str) -> None:
        if rank == self._plain:
            print(text, end="", file=sys.stderr if stream == "stderr" else sys.stdout, flush=True)
        elif not self._host.updates:
            if self._plain is None:
                self._host.say("\n".join(f"[{rank}] {line}" for line in text.rstrip("\n").split("\n")))
        elif time.monotonic() - self._shown_s > _PAUSE_S:
            self._shown_s = time.monotonic()
            self._show(self._shown({}))

    def _shown(self, answers: Mapping[int, RankAnswer], **options: Any) -> ShownRanks:
        hidden = [] if self._plain is None else [self._plain]
        options.setdefault("open_groups", self._plain is None)
        return ShownRanks(self.output, answers, hidden=hidden, view=view_of(self._command), **options)

    def _show(self, shown: Shown) -> None:
        self._now = shown
        if self._again is None:
            self._again = self._host.display(_Now(self))
        else:
            self._again()

    def end(self, answers: Mapping[int, RankAnswer], **options: Any) -> ShownRanks:
        """The cell has ended: what is shown now stays. Returns it."""
        shown = self._shown(answers, **options)
        if not self._quiet and (self._again is not None or repr(shown)):
            if self._host.updates:
                self._show(shown)
            elif repr(shown):
                self._host.say(_unsaid(shown, self.output, answers, self._plain))
        return shown


class _Now(Shown):
    """Whatever is to be seen at the moment."""

    def __init__(self, of: OnRanks) -> None:
        super().__init__("")
        self._of = of

    def bundle(self) -> dict[str, Any]:
        return self._of._now.bundle()

    def save(self, path: Path) -> None:
        self._of._now.save(path)

    def __repr__(self) -> str:
        return repr(self._of._now)


def _unsaid(
    shown: ShownRanks, output: RankOutput, answers: Mapping[int, RankAnswer], plain: int | None
) -> str:
    """At a terminal what was printed has been said; heads and values have not."""
    data = shown.to_dict()
    lines = [one for one in [data["head"], *data["notes"]] if one]
    from deepseek_lab import views

    hidden = [] if plain is None else [plain]
    values = views.ranks_text(RankOutput(), answers, hidden=hidden)
    return "\n".join([*lines, *([values] if values else [])])


def name_of(cell: Cell) -> str:
    """How errors name a cell."""
    return f"Cell In[{cell.number}]" if cell.number is not None else "the cell"


def failed(answers: Mapping[int, RankAnswer], file: str, cell: str, notes: Sequence[str] = ()) -> RanksFailed:
    """The error that tells what went wrong on ranks, after what ``notes`` tell."""
    from deepseek_lab import views

    return RanksFailed("\n".join([views.failure_text(answers, file, cell), *notes]), answers)
