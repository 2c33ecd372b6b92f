"""The input transformer: a first line ``%%deepseek ...`` becomes a call, the rest stays an ordinary cell.

Line numbers are unchanged, and await, the last value, ``;``, strings and tracebacks are the shell's own business.
"""

from __future__ import annotations

from collections.abc import Callable

from IPython.core.inputtransformer2 import cell_magic

from deepseek_lab.base.errors import DeepseekError
from deepseek_lab.notebook.cells import is_header
from deepseek_lab.notebook.grammar import VERBS
from deepseek_lab.notebook.parse import Command, parse, split

_cell_magic: Callable[[list[str]], list[str]] = cell_magic
"""The shell's own way with any cell magic."""


def command_of(header: str) -> Command:
    """The command that a header line, ``%%deepseek VERB ...`` or ``%%ds_VERB ...``, stands for.

    Raises:
        UsageError: see :func:`parse`.
    """
    name, *words = split(header)
    verb = name.removeprefix("%%").removeprefix("ds_")
    return parse(words if verb == "deepseek" else [verb, *words], "cell")


def _runs_nothing(header: str) -> bool:
    try:
        command = command_of(header)
    except DeepseekError:
        return False
    return command.has("help") or command.has("dry-run")


def _runs_elsewhere(header: str) -> bool:
    try:
        return VERBS[command_of(header).verb].elsewhere
    except DeepseekError:
        return False


class HeaderTransformer:
    """For ``shell.input_transformers_cleanup``: pure text to text, a cell without our header is untouched."""

    has_side_effects = True
    """Tells the shell to leave us out when it asks whether typed text is complete: in a terminal the
    header then keeps the cell open until a blank line, as every cell magic does."""

    def __call__(self, lines: list[str]) -> list[str]:
        """Replace the header by a call that opens the region."""
        for index, line in enumerate(lines):
            if line.startswith("%%"):
                return lines[:index] + self._open(lines[index:], index) if is_header(line) else lines
            if line.strip() and not line.lstrip().startswith("#"):
                break
        return lines

    def _open(self, lines: list[str], above: int = 0) -> list[str]:
        header, rest = lines[0].rstrip(), lines[1:]
        call = f"get_ipython().run_line_magic('deepseek', {header!r})\n"
        if _runs_nothing(header):
            return [call]
        if _runs_elsewhere(header):
            # Empty lines for what stands above the body: errors name the lines of the cell.
            return _cell_magic([f"{header}\n", *["\n"] * (above + 1), *rest])
        if not "".join(rest).strip():
            return _cell_magic([header + "\n"])
        for index, line in enumerate(rest):
            if is_header(line):
                return [call, *rest[:index], *self._open(rest[index:], above + index + 1)]
            if line.startswith("%%"):
                return [call, *rest[:index], *_cell_magic(rest[index:])]
            if line.strip():
                break
        return [call, *rest]
