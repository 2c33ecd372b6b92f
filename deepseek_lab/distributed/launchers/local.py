"""Ranks on this machine."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from deepseek_lab.distributed.launchers.launcher import Launcher, Process, Start, tail
from deepseek_lab.processes.ends import ending


class Local(Launcher):
    """Starts ranks as processes of this machine, whose end is the notebook's at the latest.

    Args:
        host: Address of this machine at which the notebook listens.
        interface: Network interface over which ranks reach each other; by default the one that reaches the notebook.
        prefix: Words before the command of a rank, such as ``ip netns exec NAME``. What they name must become the
            command (exec), so that the process is the rank's own.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        interface: str | None = None,
        prefix: Callable[[int], Sequence[str]] | None = None,
    ) -> None:
        self.host = host
        self._interface = interface
        self._prefix = prefix

    def launch(self, starts: Sequence[Start]) -> list[Process]:
        """Start processes; their output is in the folder of the ranks."""
        made: list[Process] = []
        try:
            for start in starts:
                made.append(self._process(start))
        except OSError:
            for one in made:
                one.kill()
            raise
        return made

    def _process(self, start: Start) -> LocalProcess:
        site = self._site
        num_threads = max(1, len(os.sched_getaffinity(0)) // site.num_ranks)
        root = str(Path(__file__).resolve().parents[3])
        path = [root, *[one for one in sys.path if one and Path(one).exists()]]
        environment = {
            "TORCH_CPP_LOG_LEVEL": "ERROR",
            **os.environ,
            "DEEPSEEK_LAB_RANKS": str(site.folder),
            "OMP_NUM_THREADS": str(num_threads),
            "PYTHONPATH": os.pathsep.join(dict.fromkeys(path)),
        }
        environment.pop("PYTHONSTARTUP", None)
        if self._interface:
            environment |= {"GLOO_SOCKET_IFNAME": self._interface, "NCCL_SOCKET_IFNAME": self._interface}
        words = [sys.executable, "-m", "deepseek_lab.distributed.worker", str(site.connection)]
        words += [str(start.rank), start.identity, str(os.getpid())]
        before = [] if self._prefix is None else list(self._prefix(start.rank))
        return LocalProcess([*before, *words], environment, site.folder / f"{start.identity}.log", start)


class LocalProcess:
    """A process of this machine.

    Args:
        words: Its command.
        environment: All of it.
        log: Takes what it writes.
        start: Whom to tell when it ends.
    """

    def __init__(self, words: Sequence[str], environment: dict[str, str], log: Path, start: Start) -> None:
        self._log = log
        with log.open("wb") as file:
            # A session of its own: an interrupt of the notebook goes to whom it is meant for.
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        self._ended = start.ended
        threading.Thread(target=self._watch, name=f"deepseek-{start.identity}", daemon=True).start()

    def _watch(self) -> None:
        self._ended(ending(self._process.wait()))

    @property
    def pid(self) -> int:
        """Process number."""
        return self._process.pid

    @property
    def host(self) -> str:
        """Empty, as it is this machine."""
        return ""

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.returncode is None

    def kill(self) -> None:
        """End it and whatever it has started, now."""
        with contextlib.suppress(OSError):
            if self.alive:
                os.killpg(self.pid, 9)

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended within the time."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def last_words(self) -> str:
        """The end of what it wrote beside its cells."""
        with contextlib.suppress(OSError):
            return tail(self._log.read_bytes())
        return ""
