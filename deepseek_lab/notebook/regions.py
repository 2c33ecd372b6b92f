"""Regions: opened by the call that the header became, closed by the shell's own events.

``post_run_cell`` closes the regions of the execution that it names; ``post_execute`` is the safety net for
silent runs, which have no other event. Each thread has its own stack, so cells of subshells do not mix.
"""

from __future__ import annotations

import linecache
import sys
import threading
from typing import Any

from deepseek_lab.base.errors import TargetError, UsageError
from deepseek_lab.notebook import cells, verbs
from deepseek_lab.notebook.header import command_of
from deepseek_lab.notebook.help import verb_help
from deepseek_lab.notebook.host import Cell, Host, warn
from deepseek_lab.notebook.interrupt import Interrupts
from deepseek_lab.notebook.parse import Command
from deepseek_lab.notebook.plan import Plan, plan
from deepseek_lab.notebook.show import Shown


class Execution:
    """One run of a cell and the regions open in it."""

    def __init__(self) -> None:
        self.info: Any = None
        """The shell's record of the run; None in a silent one."""
        self.regions: dict[str, tuple[verbs.Region, bool]] = {}
        """By header: a cell that runs the same header twice (``%%timeit``) has one region."""


class _Stack(threading.local):
    def __init__(self) -> None:
        self.executions: list[Execution] = []


class Regions:
    """The open regions of one shell."""

    def __init__(self, shell: Any, host: Host) -> None:
        self._shell = shell
        self._host = host
        self._stack = _Stack()
        self._interrupts = Interrupts()

    def open(self, header: str) -> Shown | None:
        """Open the region that a header line asks for; returns what is to be shown in its place, if anything.

        Raises:
            UsageError, TargetError: the header cannot be understood; nothing was opened. Anything else that
                goes wrong is a warning, and the cell runs as it is.
        """
        execution = self._current()
        if header in execution.regions:
            return None
        command = command_of(header)
        if command.has("help"):
            return Shown(verb_help(command.verb))
        cell = self._cell(execution)
        binds = cells.names(cell.source).binds if command.operands else frozenset()
        made = plan(command, self._host.namespace, binds)
        if command.has("dry-run"):
            return Shown(str(made))
        self._start(execution, header, made, cell)
        return None

    def _start(self, execution: Execution, header: str, made: Plan, cell: Cell) -> None:
        holds = self._interrupts.enter()
        try:
            execution.regions[header] = (verbs.open_region(made, cell, self._host), holds)
        except BaseException as error:
            if holds:
                self._interrupts.leave()
            if isinstance(error, UsageError | TargetError) or not isinstance(error, Exception):
                raise
            warn(
                f"{made.command.verb} did not start ({type(error).__name__}: {error}); the cell runs as it is"
            )

    def close(self, header: str, *, error: bool) -> None:
        """Close one region before its execution ends."""
        execution = self._current()
        if header in execution.regions:
            self._end(execution, header, error)
        if not execution.regions and execution.info is None and execution in self._stack.executions:
            self._stack.executions.remove(execution)

    def _end(self, execution: Execution, header: str, error: bool) -> None:
        region, holds = execution.regions.pop(header)
        try:
            region.close(error)
        except KeyboardInterrupt:
            warn("interrupted while the report was made; the cell itself had ended")
        except Exception as failure:
            warn(
                f"the report could not be made ({type(failure).__name__}: {failure}); the cell is not affected"
            )
        finally:
            if holds:
                self._interrupts.leave()

    def _end_execution(self, execution: Execution, error: bool) -> None:
        for header in reversed(list(execution.regions)):
            self._end(execution, header, error)

    def _current(self) -> Execution:
        if not self._stack.executions:
            self._stack.executions.append(Execution())
        return self._stack.executions[-1]

    # The shell's events, in the order in which they fire.

    def pre_execute(self) -> None:
        """A run begins, silent ones included."""
        self._stack.executions.append(Execution())

    def pre_run_cell(self, info: Any) -> None:
        """A run that is not silent begins; with ``%deepseek on`` its region opens here."""
        execution = self._current()
        execution.info = info
        always: Command | None = self._host.always
        lines = [
            line for line in info.raw_cell.splitlines() if line.strip() and not line.lstrip().startswith("#")
        ]
        if always is None or len(self._stack.executions) > 1 or not lines or cells.is_header(lines[0]):
            return
        if all(cells.is_ours(line) for line in lines):
            return
        number = self._number(execution)
        name = self._shell.compile.get_code_name(
            info.raw_cell, getattr(info, "transformed_cell", None) or info.raw_cell, number or 0
        )
        try:
            made = plan(
                always, self._host.namespace, cells.names(info.raw_cell).binds if always.operands else ()
            )
            self._start(execution, str(always), made, Cell(name, info.raw_cell, number))
        except (UsageError, TargetError) as error:
            warn(f"%deepseek on: {error}; the cell runs as it is")

    def post_execute(self) -> None:
        """A run ended; this is the last event of a silent one."""
        executions = self._stack.executions
        if executions and executions[-1].info is None:
            self._end_execution(executions.pop(), not getattr(self._shell, "last_execution_succeeded", True))

    def post_run_cell(self, result: Any) -> None:
        """A run that is not silent ended. Runs nested in it that never said so end with it."""
        executions = self._stack.executions
        info = getattr(result, "info", None)
        matching = [
            index
            for index, execution in enumerate(executions)
            if execution.info is not None
            and (info is None or execution.info is info or execution.info.raw_cell == info.raw_cell)
        ]
        exact = [index for index in matching if executions[index].info is info]
        if not matching:
            return
        start = (exact or matching)[-1]
        while len(executions) > start:
            self._end_execution(executions.pop(), result is None or not result.success)

    def cell(self) -> Cell:
        """The cell that is being run on this thread."""
        return self._cell(self._current())

    def close_all(self) -> None:
        """Close whatever is open on this thread: the extension is being unloaded."""
        while self._stack.executions:
            self._end_execution(self._stack.executions.pop(), False)

    def _number(self, execution: Execution) -> int | None:
        stored = getattr(execution.info, "store_history", False)
        return self._shell.execution_count - 1 if stored else None

    def _cell(self, execution: Execution) -> Cell:
        frame = sys._getframe(1)
        while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith(
            ("IPython", "deepseek_lab")
        ):
            frame = frame.f_back
        name = frame.f_code.co_filename
        source = execution.info.raw_cell if execution.info is not None else "".join(linecache.getlines(name))
        return Cell(name, source, self._number(execution))
