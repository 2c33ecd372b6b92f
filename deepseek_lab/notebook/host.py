"""Where verbs run: a notebook or a script, behind one interface."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any, Protocol

from deepseek_lab.base.errors import TargetError
from deepseek_lab.base.settings import settings
from deepseek_lab.notebook.parse import Command
from deepseek_lab.notebook.show import Shown


@dataclasses.dataclass(frozen=True)
class Cell:
    """The text that a region surrounds."""

    name: str
    """File name that the cell's frames carry."""
    source: str
    """As typed, magic lines included."""
    number: int | None = None


class Host(Protocol):
    """What a verb may ask of the place that it runs in."""

    namespace: MutableMapping[str, Any]
    always: Command | None
    """What surrounds every following cell, if anything."""
    run_cells: dict[str, int]
    """Cell number by run id."""
    updates: bool
    """Whether something already displayed can be changed."""
    shell: Any
    """The IPython shell; None in a script."""

    def display(self, shown: Shown) -> Callable[[], None]:
        """Show now; the function that is returned shows the same object again, in the same place."""

    def say(self, text: str) -> None:
        """One line that will not change."""

    def cells(self) -> list[tuple[int, str]]:
        """Numbers and texts of the cells that ran without an error."""

    def prepare(self, body: str) -> tuple[str, Callable[[], Any]]:
        """Compile text as a cell: the file name of its code, and what runs it and gives its value."""

    def python(self, body: str, *, magics: bool = False) -> str:
        """A cell's text as Python that runs without the notebook, line by line.

        ``magics``: those of IPython may be in it, as calls of ``get_ipython()``.

        Raises:
            TargetError: it is a text that only the notebook understands.
        """


def say(text: str, *, error: bool = False) -> None:
    """Print for somebody at a terminal."""
    print(text, file=sys.stderr if error else sys.stdout)


def warn(text: str) -> None:
    """One warning line on stderr."""
    print(f"deepseek_lab: {' '.join(text.split())}", file=sys.stderr)


def view_of(command: Command) -> str:
    """How this command's report is shown."""
    return command.text("view") or settings.view


def bind(command: Command, shown: Shown, host: Host) -> None:
    """Do what ``--to`` asks for."""
    if name := command.text("to"):
        host.namespace[name] = shown


def save(command: Command, shown: Shown) -> None:
    """Do what ``--save`` asks for.

    Raises:
        TargetError: the file cannot be written.
    """
    if path := command.text("save"):
        target = Path(path).expanduser()
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shown.save(target)
        except OSError as error:
            raise TargetError(
                f"{target} cannot be written ({error.strerror})", hint="--save with a path that can be"
            ) from None


class MainNamespace(MutableMapping[str, Any]):
    """The namespace of whatever ``__main__`` is when it is asked."""

    @property
    def _names(self) -> dict[str, Any]:
        return vars(sys.modules["__main__"])

    def __getitem__(self, name: str) -> Any:
        return self._names[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._names[name] = value

    def __delitem__(self, name: str) -> None:
        del self._names[name]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._names))

    def __len__(self) -> int:
        return len(self._names)


class ScriptHost:
    """A script run by ``python -m deepseek_lab``; reports go to stderr."""

    def __init__(self, source: str = "") -> None:
        self.namespace: MutableMapping[str, Any] = MainNamespace()
        self.always: Command | None = None
        self.run_cells: dict[str, int] = {}
        self.updates = False
        self.shell: Any = None
        self._source = source

    def say(self, text: str) -> None:
        """One line among the reports."""
        print(text, file=sys.stderr)

    def display(self, shown: Shown) -> Callable[[], None]:
        """Print as text."""

        def again() -> None:
            print(repr(shown), file=sys.stderr)

        again()
        return again

    def prepare(self, body: str) -> tuple[str, Callable[[], Any]]:
        """A terminal has no lines to type statements on.

        Raises:
            TargetError: always.
        """
        raise TargetError("a statement needs a notebook", hint="python -m deepseek_lab profile SCRIPT.py")

    def python(self, body: str, *, magics: bool = False) -> str:
        """Text is Python in a script."""
        return body

    def cells(self) -> list[tuple[int, str]]:
        """The script is the only cell."""
        return [(1, self._source)] if self._source else []
