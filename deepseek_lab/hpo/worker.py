"""A process that runs trials, one after the other, on what the notebook had when the search began."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import os
import sys
import threading
import time
import types
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from deepseek_lab.base.errors import DeepseekError
from deepseek_lab.hpo.spaces import Plain, Space
from deepseek_lab.processes.sealed import Sealed

_PARENT_S = 0.5
_MOST_PRINTED = 4_000


class Gone(Exception):
    """Whoever waited for the trial waits no more."""


class Bench:
    """Where trials run: the cell, and what it is made again and again from.

    Args:
        source: The cell, as Python.
        file: File name of its code.
        metrics: Names that it binds.
        final: Name of a metric on data that the search does not see.
        sealed: What :func:`deepseek_lab.processes.travel.pack` made of the names that it uses.
        binds: Names that it binds.
    """

    def __init__(
        self,
        source: str,
        file: str,
        metrics: Sequence[str],
        final: str | None,
        sealed: Sealed,
        binds: Sequence[str],
    ) -> None:
        self._source, self._file, self._metrics, self._final = source, file, metrics, final
        self._sealed, self._binds = sealed, binds
        self._kept: dict[int, list[Any]] = {}
        self._left: dict[str, str] = {}

    def run(self, job: Any, ask: Any, report: Any) -> Any:
        """Run a trial; returns its outcome.

        Raises:
            KeyboardInterrupt: it was interrupted.
        """
        from deepseek_lab.hpo.trial import Run
        from deepseek_lab.processes import travel

        before = sys.modules["__main__"]
        main = types.ModuleType("__main__")
        main.__dict__.update(
            {name: vars(before)[name] for name in ("__spec__", "__file__") if name in vars(before)}
        )
        names = vars(main)
        printed = Tail()
        sys.modules["__main__"] = main
        try:
            names |= travel.unpack(self._sealed.open(), names, copy=False).value
            names.setdefault("ds", sys.modules["deepseek_lab"])
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                outcome = Run(job, self._metrics, self._final, ask, report).cell(
                    self._source, self._file, names
                )
            if job.keep and outcome.status == "complete":
                self._keep(job.number, names)
        finally:
            sys.modules["__main__"] = before
        outcome.printed = printed.text()
        return outcome

    def _keep(self, number: int, names: dict[str, Any]) -> None:
        from deepseek_lab.processes import travel

        values = {name: names[name] for name in self._binds if name in names and not _is_module(names[name])}
        left = travel.unsendable(values, names)
        values = {name: value for name, value in values.items() if name not in left}
        self._left = left
        self._kept[number] = [bytes(part) for part in travel.pack(values, names)]

    def give(self, number: int) -> tuple[list[Any], dict[str, str]]:
        """What the cell made in a trial that was to be kept, and why names of it cannot be sent."""
        return self._kept[number], self._left

    def forget(self, numbers: Sequence[int]) -> None:
        """Keep these no more."""
        for number in numbers:
            self._kept.pop(number, None)


def _is_module(value: Any) -> bool:
    return isinstance(value, types.ModuleType)


class Tail(io.TextIOBase):
    """A stream of which the end is kept."""

    def __init__(self) -> None:
        self._text = ""

    def write(self, text: str) -> int:
        self._text += text
        if len(self._text) > 2 * _MOST_PRINTED:
            self._text = self._text[-_MOST_PRINTED:]
        return len(text)

    def writable(self) -> bool:
        return True

    def text(self) -> str:
        return self._text[-_MOST_PRINTED:]


def main(descriptor: int) -> None:
    """Serve a search until it wants no more or is gone."""
    faulthandler.enable()
    connection = Connection(descriptor)
    setup = connection.recv()
    sys.path[:] = setup["path"]
    parent = setup["parent"]
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    import torch

    torch.set_num_threads(setup["threads"])
    bench = Bench(
        setup["source"],
        setup["file"],
        setup["metrics"],
        setup["final"],
        Sealed.attach(setup["sealed"], setup["layout"]),
        setup["binds"],
    )
    connection.send(("ready", None))
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError, Gone):
        while True:
            kind, content = connection.recv()
            if kind == "run":
                connection.send(("done", _run(bench, connection, content)))
            elif kind == "give":
                connection.send(("given", bench.give(content)))
            elif kind == "forget":
                bench.forget(content)
            else:
                break
    os._exit(0)  # threads that the cell left behind do not hold the process


def _run(bench: Bench, connection: Connection, job: Any) -> Any:
    from deepseek_lab.hpo.trial import Outcome

    def ask(name: str, space: Space) -> Plain:
        answer = _answer(connection, ("ask", (name, space)))
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    def report(step: int, value: float) -> bool:
        return bool(_answer(connection, ("report", (step, value))))

    try:
        return bench.run(job, ask, report)
    except Gone:
        raise
    except DeepseekError as error:
        return Outcome("failed", error=str(error), text=str(error))
    except Exception as error:  # what the notebook defined cannot be made here
        text = f"{type(error).__name__}: {error}"
        return Outcome("failed", error=text, text=text)


def _answer(connection: Connection, question: tuple[str, Any]) -> Any:
    try:
        connection.send(question)
        return connection.recv()
    except (EOFError, OSError):
        raise Gone from None


def _follow(parent: int) -> None:
    """End with the search's process, whatever the cell is doing."""
    while os.getppid() == parent:
        time.sleep(_PARENT_S)
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
