"""The magics: thin functions between the shell and the grammar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from IPython.core.magic import no_var_expand, output_can_be_silenced

from deepseek_lab.base.errors import DeepseekError
from deepseek_lab.notebook import verbs
from deepseek_lab.notebook.grammar import VERBS
from deepseek_lab.notebook.header import command_of
from deepseek_lab.notebook.help import overview, verb_help
from deepseek_lab.notebook.host import Host
from deepseek_lab.notebook.parse import parse, split_line
from deepseek_lab.notebook.plan import plan
from deepseek_lab.notebook.regions import Regions
from deepseek_lab.notebook.show import Shown

_NOT_RUN = "The cell was not run, so nothing has changed."


def present(error: DeepseekError, *, note: str = "") -> DeepseekError:
    """Make the shell show an error as its own words, without a traceback."""
    lines = [f"{type(error).__name__}: {error}"] + ([note] if note else [])
    error._render_traceback_ = lambda: lines  # type: ignore[attr-defined]
    return error


class Magics:
    """``%deepseek`` and ``%%deepseek``, and an alias of each verb."""

    def __init__(self, host: Host, regions: Regions) -> None:
        self._host = host
        self._regions = regions

    def line(self, text: str) -> Shown | None:
        """``%deepseek ...``, and the call that a header line has become."""
        is_header = text.startswith("%%")
        try:
            return self._regions.open(text) if is_header else self._do(split_line(text))
        except DeepseekError as error:
            raise present(error, note=_NOT_RUN if is_header else "") from None

    def _do(self, words: list[str]) -> Shown | None:
        if not words or words[0] in {"--help", "-h", "help", "?"}:
            return Shown(overview())
        command = parse(words, "line")
        if command.has("help"):
            return Shown(verb_help(command.verb))
        return verbs.run(plan(command, self._host.namespace), self._host)

    def cell(self, text: str, body: str) -> Any:
        """``run_cell_magic("deepseek", ...)``: how a notebook that was converted to a script says ``%%deepseek``.

        In a notebook the header never comes here. ``await`` at the top level is not allowed here.
        """
        __tracebackhide__ = True
        header = f"%%deepseek {text}"
        if self._is_elsewhere(header):
            return self._elsewhere(header, body)
        if (shown := self.line(header)) is not None:
            return shown
        error = True
        try:
            value = self._host.prepare(body)[1]()
            error = False
        finally:
            self._regions.close(header, error=error)
        return value

    @staticmethod
    def _is_elsewhere(header: str) -> bool:
        try:
            return VERBS[command_of(header).verb].elsewhere
        except DeepseekError:
            return False

    def _elsewhere(self, header: str, body: str) -> Shown | None:
        """Have a verb run a cell in other processes."""
        try:
            command = command_of(header)
            if command.has("help"):
                return Shown(verb_help(command.verb))
            made = plan(command, self._host.namespace)
            if command.has("dry-run"):
                return Shown(str(made))
            verbs.run_elsewhere(made, self._regions.cell(), body, self._host)
            return None
        except DeepseekError as error:
            raise present(error) from None

    def functions(self) -> dict[str, dict[str, Callable[..., Any]]]:
        """Every magic by kind and name, each with the grammar's help as its docstring."""
        lines: dict[str, Callable[..., Any]] = {"deepseek": _magic("deepseek", self.line, overview())}
        cells: dict[str, Callable[..., Any]] = {"deepseek": _magic("deepseek", self.cell, overview("cell"))}
        for verb in VERBS.values():
            name = f"ds_{verb.name}"
            if "line" in verb.forms:
                lines[name] = _magic(name, _after(verb.name, self.line), verb_help(verb.name))
            if "cell" in verb.forms:
                cells[name] = _magic(name, _after(verb.name, self.cell), verb_help(verb.name))
        return {"line": lines, "cell": cells}


def _after(verb: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def alias(text: str, *body: str) -> Any:
        __tracebackhide__ = True
        return function(f"{verb} {text}", *body)

    return alias


def _magic(name: str, function: Callable[..., Any], doc: str) -> Callable[..., Any]:
    def magic(*arguments: str) -> Any:
        __tracebackhide__ = True
        return function(*arguments)

    magic.__name__ = magic.__qualname__ = name
    magic.__doc__ = doc
    made: Callable[..., Any] = no_var_expand(output_can_be_silenced(magic))
    return made
