"""``optimize --effective-batch``: a cell whose loop updates its weights once per so many samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from deepseek_lab.base import events as ev
from deepseek_lab.base.sizes import parse_limit
from deepseek_lab.notebook.host import Host, warn
from deepseek_lab.notebook.parse import Command

if TYPE_CHECKING:
    from deepseek_lab.memory.accumulation.run import Accumulation


class Batches:
    """Accumulates the gradients of a cell's loop, from now until :meth:`end`.

    Args:
        command: What was typed.
        host: Where to say what was found.
        begin: Called once the micro-batches have their size: what makes a step faster is looked for from then on.
    """

    def __init__(self, command: Command, host: Host, begin: Callable[[], None]) -> None:
        limit = command.text("memory-limit")
        size = command.get("effective-batch")
        assert isinstance(size, int)
        from deepseek_lab.memory.accumulation.run import Accumulation

        self._command, self._host, self._begin = command, host, begin
        self.optimizes = limit is None
        """Whether steps are also made faster; with a limit they are not, as what is faster may hold more."""
        self._open: Accumulation = Accumulation(
            size, limit_bytes=None if limit is None else parse_limit(limit), settled=self._settled
        ).open()

    def _settled(self) -> None:
        try:
            self.show()
            if self.optimizes:
                self._begin()
        except Exception as error:  # the loop is the user's, and goes on
            warn(f"optimize: {type(error).__name__}: {error}")

    def show(self) -> None:
        """Say what was chosen, and done."""
        if not self._command.has("quiet"):
            from deepseek_lab import views

            self._host.say(views.batch_text(self.event("")))

    def event(self, run: str) -> ev.BatchAccumulated:
        """The same as an event of a run."""
        return self._open.event(run)

    def end(self) -> None:
        """The cell has ended."""
        self._open.close()
