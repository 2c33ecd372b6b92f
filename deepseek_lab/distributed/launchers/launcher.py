"""What a launcher promises: processes that connect to the notebook, and word of how each ends."""

from __future__ import annotations

import abc
import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from deepseek_lab.distributed.channel import Message

_MOST_WORDS = 16_000


@dataclasses.dataclass(frozen=True)
class Start:
    """A rank's process that is wanted."""

    rank: int
    """Its place: its number in the group, unless others are gone."""
    identity: str
    """What the process calls itself on its connection."""
    ended: Callable[[str], None]
    """Called once, in a thread, when the process has ended, with how it did: ``ended with exit status 3``."""


@dataclasses.dataclass(frozen=True)
class Site:
    """What the notebook has for those that launch."""

    folder: Path
    """For files, which its owner alone may read; removed with the ranks."""
    connection: Path
    """The connection file in it, which holds keys."""
    num_ranks: int
    send: Callable[[Message, bytes], None]
    """To a process that calls itself so."""


class Process(Protocol):
    """One rank's process, wherever it is."""

    @property
    def pid(self) -> int:
        """Process number where it runs; 0 while that is not known."""

    @property
    def host(self) -> str:
        """Name of its machine; empty where that is this one, and while it is not known."""

    @property
    def alive(self) -> bool:
        """Whether it has not ended, as far as is known."""

    def kill(self) -> None:
        """End it and whatever it has started, now; returns before it has ended."""

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended within the time."""

    def last_words(self) -> str:
        """The end of what it wrote beside its cells: faults of its libraries, of the interpreter."""


class Launcher(abc.ABC):
    """Starts the processes of ranks in one way."""

    host = "127.0.0.1"
    """Address of this machine at which the notebook listens for the ranks."""

    parent = Path(tempfile.gettempdir())
    """Where the folder of the ranks is made."""
    start_limit_s = 120.0
    """Ranks that have not connected after so long are given up."""
    hint = ""
    """What to type where a rank did not start."""
    most: int | None = None
    """Ranks for which there are places; None where nothing says."""

    _site: Site

    def open(self, site: Site) -> None:
        """Take note of what the notebook has; called once, before anything is started."""
        self._site = site

    @abc.abstractmethod
    def launch(self, starts: Sequence[Start]) -> list[Process]:
        """Start processes, all or none, in the order of ``starts``; returns before they have connected.

        Raises:
            DeepseekError: nothing can be started, and what to do.
        """

    def resize(self, num_ranks: int) -> None:
        """Take note that there are to be so many ranks from now on."""
        self._site = dataclasses.replace(self._site, num_ranks=num_ranks)

    def heard(self, sender: bytes, message: Message) -> None:  # noqa: B027 - most start only what is a rank
        """Called with what a process says that is no rank; in a thread."""

    def waits_for(self) -> str:
        """What processes that have not connected wait for, as far as is known."""
        return ""

    def close(self) -> None:  # noqa: B027 - most leave nothing
        """Remove what was made beside the processes, which have ended."""


def tail(text: bytes) -> str:
    """The last lines of what a process wrote; of a fault of the interpreter those that say what and where.

    A thread that no Python code runs in is none of those that faulthandler writes: then it is the main thread that is
    told, which is the last one, and what C++ has said before.
    """
    lines = text[-_MOST_WORDS:].decode(errors="replace").strip().splitlines()
    what = next((number for number, line in enumerate(lines) if line.startswith("Fatal Python error")), None)
    if what is None:
        return "\n".join(lines[-8:])
    threads = [number for number in range(what, len(lines)) if "(most recent call first)" in lines[number]]
    current = [number for number in threads if lines[number].startswith("Current thread")]
    where = (current or threads[-1:] or [what + 1])[0]
    return "\n".join([*lines[max(0, what - 2) : what + 1], *lines[where:][:7]])
